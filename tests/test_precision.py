"""Precision follows the hardware: what is left open, what is written, what fingerprints keep."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scalequest import precision
from scalequest.precision import BF16, FP16, FP32, Native, engine_dtype, native
from scalequest.stage.folder import Stage, StageError

SOLVER = "recipes/tiny/models/tiny-solver"  # saved in bfloat16
EMULATES = Native("cpu", FP32, "this CPU (AVX2) has no native bfloat16")
HAS_IT = Native("cpu", BF16, "this CPU has AVX512 BF16")
TURING = Native("cuda", FP16, "this GPU has no native bfloat16 (compute capability 7.5)")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make this machine one of another kind."""
    return lambda kind: monkeypatch.setattr(precision, "native", lambda **_: kind)


def test_a_cpu_without_the_instructions_computes_in_float32() -> None:
    """oneDNN's own limit makes any x86 processor one of that kind."""
    code = "from scalequest.precision import native; found = native(cpu=True); print(found.dtype, found.why)"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("float32 this CPU"), done.stdout
    assert "no native bfloat16" in done.stdout


def test_this_cpu_is_judged_by_its_instructions() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx512_bf16" not in flags and "amx_bf16" not in flags and "\nFeatures" not in flags:
        assert native(cpu=True).dtype == FP32
    elif "ONEDNN_MAX_CPU_ISA" not in os.environ and "avx512_bf16" in flags:
        assert native(cpu=True).dtype == BF16


@pytest.mark.parametrize(
    ("said", "dtype"), [("9.0\n", BF16), ("8.0\n7.5\n", FP16), ("6.1\n", FP32), ("no devices\n", BF16)]
)
def test_a_gpu_is_judged_by_its_compute_capability(
    said: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lowest of the machine's, as its driver says; an answer that cannot be read counts as none."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{said}'\n".replace("\n'", "'"))
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(precision, "has_gpu", lambda: True)
    precision._gpu.cache_clear()
    try:
        assert native().dtype == dtype
        assert native(cpu=True).device == "cpu"
    finally:
        precision._gpu.cache_clear()


def made(**settings: Any) -> Any:
    """A trainer's config as a recipe makes it."""
    from trl import ModelConfig

    from scalequest.config import build
    from scalequest.training.sft import PackedSFTConfig, QuestionData

    given = {"input": ["rows.jsonl"], "chat_format": "tinymath", "output_dir": "out", **settings}
    return build((QuestionData, PackedSFTConfig, ModelConfig), given)[1]


@pytest.mark.parametrize(("kind", "bf16"), [(EMULATES, False), (HAS_IT, True)])
def test_training_left_open_follows_the_cpu(kind: Native, bf16: bool, on: Any) -> None:
    """Nobody has to write `use_cpu`, which transformers wants before it takes bf16 on a CPU."""
    on(kind)
    args = made()
    assert (args.bf16, args.fp16, args.use_cpu) == (bf16, False, True)
    assert args.device.type == "cpu"


def test_every_training_stage_can_be_left_open(on: Any) -> None:
    from scalequest.training.difficulty_scorer import ScorerConfig
    from scalequest.training.dpo import QPOConfig
    from scalequest.training.reward import RewardModelConfig

    on(EMULATES)
    for kind in (ScorerConfig, QPOConfig, RewardModelConfig):
        assert kind(output_dir="out").bf16 is False, kind


def test_what_is_written_is_obeyed_with_a_warning(on: Any, caplog: pytest.LogCaptureFixture) -> None:
    on(EMULATES)
    args = made(bf16=True, use_cpu=True)
    assert args.bf16 is True
    with caplog.at_level(logging.INFO, "scalequest"):
        precision.say_training("qft", args)
        precision.say_training("qft", made(bf16=False, use_cpu=True))
    assert "27 times slower" in caplog.records[0].getMessage()
    assert caplog.records[0].levelname == "WARNING"
    assert "qft: computing in float32 on cpu: this CPU (AVX2)" in caplog.records[1].getMessage()


def test_bf16_that_is_written_does_not_train_on_a_cpu_by_accident(on: Any) -> None:
    """A preset of a 7B model, started on a login node."""
    from scalequest.config import ConfigError

    on(HAS_IT)
    with pytest.raises(ConfigError, match=r"bf16: true, and this machine has no GPU; .* use_cpu: true"):
        made(bf16=True)
    assert made(bf16=True, use_cpu=True).bf16 is True


def saved(folder: Path, dtype: str) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": dtype}))
    return str(folder)


def test_engines_left_open_follow_checkpoint_and_hardware(tmp_path: Path, on: Any) -> None:
    models = {dtype: saved(tmp_path / dtype, dtype) for dtype in (BF16, FP16, FP32)}
    wanted = {  # of a checkpoint saved in bfloat16, float16, float32
        EMULATES: (FP32, FP32, FP32),
        HAS_IT: (BF16, FP16, FP32),
        TURING: (FP16, FP16, FP32),
        Native("mps", FP32, "untried"): (BF16, FP16, FP32),
    }
    for kind, expected in wanted.items():
        on(kind)
        assert tuple(engine_dtype("auto", model) for model in models.values()) == expected, kind
        assert {engine_dtype("native", model) for model in models.values()} == {kind.dtype}
        assert engine_dtype("bfloat16", models[FP32]) == BF16, "what is written is obeyed"


def test_an_adapter_has_its_base_s_type(tmp_path: Path, on: Any) -> None:
    on(HAS_IT)
    base = saved(tmp_path / "base", FP32)
    (tmp_path / "adapter").mkdir()
    settings = {"base_model_name_or_path": base}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    assert engine_dtype("auto", str(tmp_path / "adapter")) == FP32


def test_both_engines_load_in_what_was_decided(on: Any) -> None:
    from scalequest.engines.base import EngineConfig
    from scalequest.engines.transformers_engine import TransformersGenerator

    on(EMULATES)
    with TransformersGenerator(SOLVER, EngineConfig()) as generator:
        assert str(generator.model.dtype) == "torch.float32"
    pytest.importorskip("vllm")
    from scalequest.engines.vllm_engine import engine_arguments

    assert engine_arguments(SOLVER, EngineConfig(), revision=None, seed=0)["dtype"] == FP32


def test_a_run_that_moved_is_told_how_to_go_on(tmp_path: Path) -> None:
    """A stage begun on one kind of machine, gone on with on the other: one line, with what to type."""

    def opened(dtype: str, **more: Any) -> Stage:
        fields = {"samples": 5, "engine": {"dtype": dtype}, **more}
        return Stage.open(tmp_path / "out", name="solve", version=1, config={}, fingerprint=fields)

    opened(BF16).close()
    with pytest.raises(StageError) as error:
        opened(FP32)
    assert "give --engine.dtype bfloat16 to go on as it was begun" in str(error.value)
    with pytest.raises(StageError) as error:
        opened(FP32, samples=4)
    assert "to go on as it was" not in str(error.value), "the precision alone would not do"


def test_no_preset_for_any_machine_pins_one() -> None:
    for path in [*Path("recipes/tiny").glob("*.yaml"), *Path("recipes/smollm2_135m").glob("*.yaml")]:
        text = path.read_text()
        assert not [pin for pin in ("bf16: true", "bfloat16", "use_cpu") if pin in text], path
