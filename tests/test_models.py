"""Whatever keeps a model from being loaded is one line that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from scalequest.chat import load_tokenizer
from scalequest.config import ConfigError
from scalequest.engines.base import EngineConfig
from scalequest.engines.loading import open_generator, open_scorer
from scalequest.models import adapter_base, load_whole
from scalequest.precision import saved_dtype


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9])


def holding(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[max(weights)]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "damage",
    [
        cut("model.safetensors"),
        holding("model.safetensors", ""),
        cut("config.json"),
        holding("config.json", "[]"),
        holding("config.json", "null"),
        holding("config.json", '{"model_type": "no-such"}'),
        lambda folder: (folder / "model.safetensors").unlink(),
        without_a_weight,
    ],
)
def test_a_model_that_is_not_whole(
    tiny_model: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    damage(folder)
    saved_dtype.cache_clear()
    engine = EngineConfig(name="transformers")
    for load in (
        lambda: open_generator(str(folder), engine),
        lambda: open_scorer(str(folder), engine),
        lambda: load_whole(AutoModelForCausalLM, str(folder), attn_implementation="eager"),
    ):
        with pytest.raises(ConfigError) as caught:
            load()
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_settings_of_loading_that_do_not_suit(tiny_model: Path) -> None:
    for how in ({"attn_implementation": "foo"}, {"dtype": "float7"}):
        with pytest.raises(ConfigError, match="the model cannot be loaded"):
            load_whole(AutoModelForCausalLM, str(tiny_model), **how)


def test_a_new_head_may_be_missing(tiny_model: Path) -> None:
    assert load_whole(AutoModelForSequenceClassification, str(tiny_model), new="score", num_labels=1)
    with pytest.raises(ConfigError, match=r"the model is incomplete: score\.weight"):
        load_whole(AutoModelForSequenceClassification, str(tiny_model), num_labels=1)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"version": "1.0"}'])
def test_a_tokenizer_that_is_none(tiny_model: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model/tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=f"{tmp_path / 'model'}: no tokenizer"):
        load_tokenizer(str(tmp_path / "model"))


@pytest.mark.parametrize("content", ["", "[]", "null", json.dumps({"base": 1})])
def test_an_adapter_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"adapter_config\.json"):
        adapter_base(tmp_path)
