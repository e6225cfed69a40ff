"""What a training stage removes, what it must not, and what it says of a model that it cannot load."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.stage.folder import StageError

Settings = dict[str, Any]
Rows = dict[str, Path]
Train = Callable[..., Path]


def test_fresh_leaves_nothing_of_the_old_model(settings: Settings, rows: Rows, train: Train) -> None:
    """Here the new run cannot load its model, in one line."""
    given = settings | {"input": [str(rows["questions"])], "save_strategy": "steps", "save_steps": 2}
    out = train("qft", given)
    assert (out / "model.safetensors").exists()
    (out / "notes.txt").write_text("mine")
    (out / "prepared/of_before").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"the model cannot be loaded: ValueError: .*foo") as caught:
        train("qft", given, fresh=True, attn_implementation="foo")
    assert settings["model_name_or_path"] in str(caught.value)
    left = {path.name for path in out.iterdir()}
    assert left == {".lock", "config.yaml", "metrics.jsonl", "notes.txt", "parts", "prepared", "receipt.json"}
    assert not (out / "prepared/of_before").exists()


@pytest.mark.parametrize(("stage", "source"), [("qpo", "pairs"), ("difficulty", "rates")])
@pytest.mark.parametrize("damage", ["cut", "foo"])
def test_a_model_that_cannot_be_loaded_is_one_line(
    settings: Settings, rows: Rows, train: Train, tmp_path: Path, stage: str, source: str, damage: str
) -> None:
    path = tmp_path / "rates.jsonl"
    path.write_text("".join(f'{{"question": "What is {n}?", "fail_rate": 0.5}}\n' for n in range(8)))
    model = tmp_path / "model"
    shutil.copytree(settings["model_name_or_path"], model)
    more: Settings = {"attn_implementation": "foo"}
    if damage == "cut":
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        more = {}
    given = settings | {"model_name_or_path": str(model), "input": [str(rows.get(source, path))], **more}
    with pytest.raises(ConfigError, match=f"{model}: the model cannot be loaded"):
        train(stage, given)


@pytest.mark.parametrize("output", ["model", "link", "rows", "model/deeper"])
def test_fresh_does_not_remove_what_is_trained_on(
    settings: Settings, rows: Rows, train: Train, tmp_path: Path, output: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(settings["model_name_or_path"], model)
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "rows").mkdir()
    source = shutil.copy(rows["questions"], tmp_path / "rows/holdout.jsonl")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    given = settings | {"model_name_or_path": str(model), "input": [str(source)]}
    with pytest.raises(StageError, match=r"output_dir: .* which this stage reads"):
        train("qft", given, output_dir=str(tmp_path / output), fresh=True)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
