"""Adapters and shards become one model that loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_support import same, weights
from transformers import GenerationConfig

from scalequest.config import ConfigError
from scalequest.training.merging import MergeConfig, merge

Train = Callable[..., Path]
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "learning_rate": 1e-2}


@pytest.mark.parametrize("chat_format", ["tinymath", "alpaca"])
def test_an_adapter_merges_to_what_the_recipe_saved(
    settings: dict[str, Any], rows: dict[str, Path], train: Train, tmp_path: Path, chat_format: str
) -> None:
    """Also where the format gave the base a pad token, and so rows that the adapter's base file lacks."""
    given = {**settings, "chat_format": chat_format, "input": [str(rows["solutions"])], "dtype": "float32"}
    out = train("sft", given, max_length=512, **LORA)
    config = MergeConfig(
        adapter=str(out / "adapter"), output_dir=str(tmp_path / "m"), chat_format=chat_format, dtype="float32"
    )
    assert same(merge(config), out)
    settings_of = [GenerationConfig.from_pretrained(folder).to_dict() for folder in (out, config.output_dir)]
    assert settings_of[0] == settings_of[1], "it stops where it was trained to stop"
    with pytest.raises(ConfigError, match="already contains a model"):
        merge(config)


def test_fsdp_shards_become_one_model(model_dir: Path, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from transformers import AutoModelForCausalLM

    shards = tmp_path / "checkpoint-5" / "pytorch_model_fsdp_0"
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    dcp.save({"model": model.state_dict()}, checkpoint_id=str(shards), no_dist=True)
    config = MergeConfig(
        checkpoint=str(shards.parent),
        model_name_or_path=str(model_dir),
        output_dir=str(tmp_path / "whole"),
        dtype="float32",
    )
    made, wanted = weights(merge(config)), weights(model_dir)
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)


def test_what_is_no_checkpoint_is_named(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="neither DeepSpeed"):
        merge(MergeConfig(checkpoint=str(model_dir), output_dir=str(tmp_path / "x")))
    with pytest.raises(ConfigError, match="either adapter or checkpoint"):
        MergeConfig(output_dir="x")
