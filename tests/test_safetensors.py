"""A model or an adapter whose weights are pickles is refused, in one line, before anything opens them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from scalequest.config import ConfigError
from scalequest.engines.base import EngineConfig
from scalequest.engines.loading import open_generator, open_scorer
from scalequest.models import check_safetensors, loading
from scalequest.records import model_fingerprint
from scalequest.training.merging import MergeConfig, merge

ROOT = Path(__file__).parents[1]


def pickled(source: Path, folder: Path, name: str = "pytorch_model.bin") -> Path:
    """The same model with its weights in a pickle."""
    from safetensors.torch import load_file

    shutil.copytree(source, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    return folder


def adapter(base: Path, folder: Path, weights: str = "adapter_model.bin") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "LORA", "r": 1, "base_model_name_or_path": str(base), "target_modules": ["q_proj"]}
        )
    )
    (folder / weights).write_bytes(b"")
    return folder


@pytest.fixture
def bin_only(tiny_model: Path, tmp_path: Path) -> Path:
    return pickled(tiny_model, tmp_path / "bin")


def test_a_folder_of_pickles_is_refused_everywhere(bin_only: Path, tmp_path: Path, tiny_model: Path) -> None:
    on_pickles = adapter(bin_only, tmp_path / "on_pickles", "adapter_model.safetensors")
    of_pickles = adapter(tiny_model, tmp_path / "of_pickles")
    engine = EngineConfig(name="transformers")
    asked: list[Any] = [
        lambda: model_fingerprint(bin_only),
        lambda: model_fingerprint(of_pickles),
        lambda: open_generator(str(bin_only), engine),
        lambda: open_generator(str(on_pickles), engine),
        lambda: open_generator(str(of_pickles), engine),
        lambda: open_scorer(str(bin_only), engine),
        lambda: merge(MergeConfig(adapter=str(of_pickles), output_dir=str(tmp_path / "a"))),
        lambda: merge(MergeConfig(adapter=str(on_pickles), output_dir=str(tmp_path / "b"))),
    ]
    for number, ask in enumerate(asked):
        with pytest.raises(ConfigError, match=r"_model\.bin but no safetensors") as caught:
            ask()
        assert "\n" not in str(caught.value), number


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "weights.ckpt", "m.pkl"]
)
def test_every_kind_of_pickle(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=name):
        check_safetensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    check_safetensors(tmp_path)


def test_names_that_lead_to_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "x.safetensors", "b": "pytorch_model.bin", "c": "y.safetensors"}})
    )
    with pytest.raises(ConfigError, match=r"index\.json: refers to pytorch_model\.bin"):
        check_safetensors(tmp_path)
    index.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="cannot be read"):
        check_safetensors(tmp_path)
    index.unlink()
    (tmp_path / "config.json").write_text('{"transformers_weights": "adapter_model.bin"}')
    with pytest.raises(ConfigError, match=r"config\.json: refers to adapter_model\.bin"):
        check_safetensors(tmp_path)


def test_a_whole_model_with_an_adapter_of_pickles_beside_it(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(tiny_model, folder)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"adapter_model\.bin"):
        check_safetensors(folder)


def test_a_checkpoint_of_a_run_is_no_folder_of_pickles(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "rng_state.pth"):
        (tmp_path / name).write_text("{}")
    check_safetensors(tmp_path)


def test_the_trainers_load_no_pickle(bin_only: Path) -> None:
    """What the check does not see, e.g. a repository on the hub, `from_pretrained` refuses itself."""
    from transformers import AutoModelForCausalLM

    with pytest.raises(ConfigError, match="no safetensors weights") as caught, loading(bin_only):
        AutoModelForCausalLM.from_pretrained(bin_only, use_safetensors=True)
    assert "\n" not in str(caught.value)


def test_every_call_that_loads_weights_asks_for_safetensors() -> None:
    import ast

    found = 0
    for path in [
        one
        for part in ("src", "recipes", "scripts", "eval", "bench")
        for one in sorted((ROOT / part).rglob("*.py"))
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr == "from_pretrained" and (
                "Model" in owner or "ForCausalLM" in owner or owner == "auto"
            ):
                words = {word.arg or "" for word in node.keywords} | {
                    str(key.value)
                    for word in node.keywords
                    if word.arg is None and isinstance(word.value, ast.Dict)
                    for key in word.value.keys
                    if isinstance(key, ast.Constant)
                }
                if owner != "PeftModel" and "gguf_file" not in words:
                    assert "use_safetensors" in words, f"{path}: line {node.lineno}"
                    found += 1
    assert found >= 5


def test_vllm_is_told_so_too(tiny_model: Path) -> None:
    pytest.importorskip("vllm")
    from scalequest.engines.vllm_engine import engine_arguments

    def arguments(**extra: Any) -> dict[str, Any]:
        return engine_arguments(
            str(tiny_model), EngineConfig(name="vllm", extra=extra), revision=None, seed=0
        )

    assert arguments()["load_format"] == "safetensors"
    assert arguments(load_format="dummy")["load_format"] == "dummy"
    for format in ("pt", "npcache", "auto"):
        with pytest.raises(ConfigError, match=f"load_format: {format} loads pickle files"):
            arguments(load_format=format)
