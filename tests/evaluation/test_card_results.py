"""Results in a model's card: what the hub's own parser reads is what was measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from test_results import ROWS, summary

from scalequest.config import ConfigError
from scalequest.evaluation.card_results import add_to_card
from scalequest.evaluation.results import Result, write_results
from scalequest.recipe import load_recipe
from scalequest.records import model_fingerprint

SOLVER = Path("recipes/tiny/models/tiny-solver")
CARD = """---
library_name: transformers
base_model: Qwen/Qwen2-Math-7B
base_model_relation: finetune
tags: [scalequest, sft]
---

# mine

## Evaluation

Not evaluated yet: `eval/evaluate.py` on this folder.

## Where it comes from

Stage.
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(SOLVER, folder)
    (folder / "README.md").write_text(CARD)
    return folder


def result(folder: Path, **changes: Any) -> Result:
    return replace(summary(ROWS, score="reward"), model_fingerprint=model_fingerprint(folder), **changes)


def test_the_hub_reads_what_was_measured(model: Path) -> None:
    before, measured = model_fingerprint(model), result(model)
    add_to_card(model, [measured])
    card = ModelCard.load(model / "README.md")
    assert card.data.model_name == "mine"
    assert card.data.base_model == "Qwen/Qwen2-Math-7B"
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    by_metric = {one.metric_type: one for one in card.data.eval_results}
    assert by_metric["accuracy"].metric_value == pytest.approx(measured.accuracy.value, abs=1e-4)
    assert by_metric["accuracy"].dataset_name == "B"
    assert by_metric["accuracy"].metric_args["protocol"] == measured.fingerprint
    assert by_metric.keys() >= {"accuracy", "pass@4", "maj@4"}
    assert "Not evaluated yet" not in card.text
    assert f"| B | accuracy | {100 * measured.accuracy.value:.1f} |" in card.text
    assert card.text.index("## Evaluation") < card.text.index("| B |") < card.text.index("## Where it comes")
    assert model_fingerprint(model) == before


def test_the_same_again_changes_nothing_and_a_new_number_replaces_the_old(model: Path) -> None:
    add_to_card(model, [result(model), result(model, benchmark="c", title="C")])
    once = (model / "README.md").read_text()
    add_to_card(model, [result(model)])
    again = ModelCard.load(model / "README.md")
    assert {one.dataset_type for one in again.data.eval_results} == {"b", "c"}
    assert sorted(once.splitlines()) == sorted((model / "README.md").read_text().splitlines())
    better = result(model, accuracy=replace(result(model).accuracy, value=0.75))
    add_to_card(model, [better])
    text = (model / "README.md").read_text()
    assert text.count("| B | accuracy |") == 1
    assert "| B | accuracy | 75.0 |" in text


def test_results_of_another_model_are_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="are of another model"):
        add_to_card(model, [replace(result(model), model_fingerprint="f")])
    (model / "README.md").unlink()
    with pytest.raises(ConfigError, match="not a model card"):
        add_to_card(model, [result(model)])


def test_the_script_takes_the_models_own_results(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("scripts/add_results.py")
    assert recipe is not None
    other = replace(result(model), model_fingerprint="f", model="other")
    for name, one in (("other", other), ("mine", result(model))):
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_results(tmp_path / "runs" / name, [one])
    recipe(*recipe.parse(["--model", str(model), "--results", str(tmp_path / "runs")]))
    assert "b; 1 results left aside" in capsys.readouterr().out
    assert ModelCard.load(model / "README.md").data.eval_results
    with pytest.raises(ConfigError, match="no results of this model"):
        recipe(*recipe.parse(["--model", str(model), "--results", str(tmp_path / "runs/other")]))
