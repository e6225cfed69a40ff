from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, build
from scalequest.engines.base import Block, EngineConfig, Request, Sampling
from scalequest.engines.loading import open_generator
from scalequest.evaluation.protocol import fingerprints_of_models, tokenizer_of
from scalequest.evaluation.settings import EvaluationConfig
from scalequest.models import adapter_base
from scalequest.records import model_fingerprint

QUESTION = "Ann has 3 apples and buys 4. How many apples now?"


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A LoRA adapter that changes the model, and both merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(tiny_model))
    torch.manual_seed(3)
    tuned = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    root = tmp_path_factory.mktemp("lora")
    tuned.save_pretrained(root / "adapter")
    tuned.merge_and_unload().save_pretrained(root / "merged")
    return root / "adapter", root / "merged"


def answered(model: Path, chat: Any) -> tuple[int, ...]:
    with open_generator(str(model), EngineConfig(name="transformers", dtype="float32")) as generator:
        block = Block(0, [Request("one", chat.solve_prompt_ids(QUESTION), None)])
        ((_, (completion,)),) = generator.generate(iter([block]), Sampling(0.0, 1.0, 24), chat.solve_stop_ids)
    return completion.ids


def test_an_adapter_is_loaded_on_its_base(
    folders: tuple[Path, Path], tiny_model: Path, tiny_chat: Any
) -> None:
    adapter, merged = folders
    assert adapter_base(adapter) == str(tiny_model)
    assert adapter_base(merged) is None
    assert answered(adapter, tiny_chat) == answered(merged, tiny_chat)
    assert answered(adapter, tiny_chat) != answered(tiny_model, tiny_chat)
    assert tokenizer_of(str(adapter)) == str(tiny_model)


def test_both_are_what_a_result_is_of(folders: tuple[Path, Path], tiny_model: Path) -> None:
    given = {"models": {"lora": str(folders[0])}, "benchmarks": [], "chat_format": "tinymath"}
    (config,) = build((EvaluationConfig,), given)
    found = fingerprints_of_models(config, ["lora"])
    assert list(found) == [str(folders[0]), str(tiny_model)]
    assert found[str(folders[0])] == model_fingerprint(folders[0])
    assert len(set(found.values())) == 2


def test_vllm_makes_room_for_it(folders: tuple[Path, Path], tiny_model: Path) -> None:
    pytest.importorskip("vllm")
    from scalequest.engines.vllm_engine import engine_arguments

    arguments = engine_arguments(str(folders[0]), EngineConfig(name="vllm"), revision=None, seed=0)
    assert arguments["model"] == str(tiny_model)
    assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, 8)
    assert "enable_lora" not in engine_arguments(
        str(tiny_model), EngineConfig(name="vllm"), revision=None, seed=0
    )


def test_an_adapter_without_a_base_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4}))
    with pytest.raises(ConfigError, match="no base_model_name_or_path"):
        adapter_base(tmp_path)
