"""What the launcher reads: accelerate files, and recipes on two CPU ranks over gloo, in float32."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_support import RECIPES, logged, write_yaml

CONFIGS = RECIPES.parent / "accelerate_configs"
BENCH = RECIPES.parent / "bench/ranks.py"
TINY = RECIPES / "tiny/models/tiny-base"  # it has learned: its log-probabilities are not those of zeros


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path: Path) -> None:
    from accelerate.commands.config import load_config_from_file

    config = load_config_from_file(str(path))
    nodes = 2 if path.stem == "multi_node" else 1
    assert (config.num_machines, config.num_processes) == (
        nodes,
        1 if path.stem in ("cpu", "one_gpu") else 8 * nodes,
    )
    if path.stem.startswith("zero3") or path.stem == "multi_node":
        assert config.deepspeed_config["zero3_save_16bit_model"], "the saved model would be in pieces"
    if path.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
        assert not config.fsdp_config["fsdp_activation_checkpointing"], (
            "the recipe's gradient_checkpointing does it"
        )


def test_every_topology_has_its_file() -> None:
    wanted = {"cpu", "one_gpu", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2", "multi_node"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == wanted


@pytest.fixture(scope="module")
def preferences(rows: dict[str, Path]) -> dict[str, Any]:
    """Settings of a QPO of three steps, four pairs each, on a model that has learned something."""
    return {
        "model_name_or_path": str(TINY),
        "chat_format": "tinymath",
        "input": [str(rows["pairs"])],
        "use_cpu": True,
        "bf16": False,
        "dtype": "float32",
        "gradient_checkpointing": False,
        "max_length": 128,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "track": "none",
    }


@pytest.fixture(scope="module")
def preferred_alone(
    preferences: dict[str, Any], train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """Losses of that QPO on one rank, with the plain head."""
    out = tmp_path_factory.mktemp("alone") / "out"
    return losses(train("qpo", preferences, output_dir=str(out), per_device_train_batch_size=4))


def losses(out: Path) -> list[float]:
    """What a run logged, step by step."""
    return [record["loss"] for record in logged(out) if "loss" in record]


def on_two_ranks(
    python: str, topology: str, stage: str, settings: dict[str, Any], folder: Path, head: str
) -> str:
    """Run a recipe on two CPU ranks, each in a fork of a Python that has TRL; return what it printed."""
    gloo = {"ddp_backend": "gloo"} if topology in ("ddp", "fsdp2") else {}
    config = write_yaml(folder / f"{stage}.yaml", {**settings, **gloo})
    command = [python, "-m"]
    if topology == "ddp":  # on a CPU, accelerate starts one process for its file
        command += ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    else:
        command += ["accelerate.commands.launch", "--config_file", str(CONFIGS / f"{topology}.yaml")]
        command += ["--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no"]
        command += ["--no_python"]
    command.append(python)
    # The bench tells accelerate to apply the file to CPU ranks, too.
    if topology == "zero3":
        command += [str(Path(__file__).with_name("rank_script.py"))]
    command += [str(BENCH), "--as-gpus", stage] if topology == "fsdp2" else [str(RECIPES / f"{stage}.py")]
    launcher = subprocess.Popen(
        [*command, "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SCALEQUEST_LM_HEAD": head},
        start_new_session=True,
    )
    try:
        said, error = launcher.communicate(timeout=540)
    finally:
        with contextlib.suppress(ProcessLookupError):  # its ranks, if it was given up
            os.killpg(launcher.pid, signal.SIGKILL)
    assert launcher.returncode == 0, error[-3000:]
    return said


@pytest.mark.parametrize("head", ["fused", pytest.param("plain", marks=pytest.mark.slow)])
def test_zero3_on_two_ranks_saves_a_whole_model(
    head: str,
    settings: dict[str, Any],
    rows: dict[str, Path],
    tmp_path: Path,
    train: Callable[..., Path],
    quick_python: str,
) -> None:
    """Weights are spread over two ranks, the saved model is one, with the losses of one rank's plain head."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {**settings, "input": [str(rows["solutions"])]}
    spread = {**given, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 1}
    said = on_two_ranks(quick_python, "zero3", "sft", spread, tmp_path, head)
    assert "2 process(es) x batch 1 x accumulation 1 = 2 sequences per step" in said
    out = Path(settings["output_dir"])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert all(weight.numel() for weight in model.parameters())
    ids = tokenizer("<s><|user|>How many?", add_special_tokens=False, return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=4).shape[1] > ids.shape[1]
    assert json.loads((out / "receipt.json").read_text())["kept"] == 40
    assert list(out.glob("checkpoint-4/complete.json"))
    alone = losses(train("sft", given, output_dir=str(tmp_path / "alone")))
    assert losses(out) == pytest.approx(alone, rel=1e-4), f"{head} head on two ranks, plain head on one"
    assert len(alone) == 4


@pytest.mark.parametrize(
    ("topology", "head"),
    [
        ("zero3", "fused"),
        ("fsdp2", "fused"),
        pytest.param("zero3", "plain", marks=pytest.mark.slow),
        pytest.param("ddp", "plain", marks=pytest.mark.slow),
    ],
)
def test_qpo_on_two_ranks_starts_from_its_reference_and_trains_as_on_one(
    topology: str,
    head: str,
    preferences: dict[str, Any],
    preferred_alone: list[float],
    tmp_path: Path,
    quick_python: str,
) -> None:
    """Under FSDP2 the second rank's copy of the reference used to be zeros; the first loss was 6e-14."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    given = {**preferences, "output_dir": str(out), "per_device_train_batch_size": 2}
    on_two_ranks(quick_python, topology, "qpo", given, tmp_path, head)
    first = logged(out)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    nats = [first[f"rewards/{side}"] / 0.1 for side in ("chosen", "rejected")]
    assert nats == pytest.approx([0, 0], abs=1e-3), "policy and reference differ before the first step"
    assert losses(out) == pytest.approx(preferred_alone, rel=1e-3)
    model = AutoModelForCausalLM.from_pretrained(out)
    before, after = load_file(TINY / "model.safetensors"), dict(model.named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    apart = (after[name] - before[name].float()).abs().max().item()
    assert 0 < apart < 1e-3, "not trained, or not from where it should"
