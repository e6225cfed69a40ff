"""The widened models of recipes/proof: equal to the tiny ones, trained in every part, fit for every stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from scalequest.config import ConfigError
from scalequest.pipeline.runner import load
from scalequest.records import read_inputs

PROOF = Path(__file__).parents[1] / "recipes/proof"
PIPELINE = "recipes/proof/pipeline.yaml"
QUESTIONS = "recipes/tiny/data/seed_questions.jsonl.gz"


@pytest.fixture(scope="module")
def recipe() -> Any:
    sys.path.insert(0, str(PROOF))
    try:
        yield import_module("make_models")
    finally:
        sys.path.remove(str(PROOF))


@pytest.fixture(scope="module")
def models(recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proof") / "models"
    recipe.main(recipe.MakeConfig(output_dir=str(folder), shape="small"))
    return folder


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def some_ids(tokenizer: Any, rows: int = 8) -> torch.Tensor:
    texts = [row["question"] for row in read_inputs([f"{QUESTIONS}[:{rows}]"], "question")]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    shortest = min(map(len, ids))
    return torch.tensor([row[:shortest] for row in ids])


@pytest.mark.parametrize("name", ["base", "solver"])
def test_a_widened_model_computes_what_the_tiny_one_does(recipe: Any, models: Path, name: str) -> None:
    tiny, wide = loaded(recipe.TINY / f"tiny-{name}"), loaded(models / f"wide-{name}")
    tokenizer = AutoTokenizer.from_pretrained(models / f"wide-{name}")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(recipe.TINY / f"tiny-{name}").get_vocab()
    shape = recipe.SHAPES["small"]
    assert (wide.config.hidden_size, wide.config.num_hidden_layers) == (shape.hidden, shape.layers)
    assert wide.num_parameters() > 5 * tiny.num_parameters()
    ids = some_ids(tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, tiny(ids).logits, atol=1e-4, rtol=0)
        greedy = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 32, "do_sample": False}
        assert torch.equal(wide.generate(ids, **greedy), tiny.generate(ids, **greedy))


def test_every_new_weight_learns(recipe: Any, models: Path) -> None:
    """What is zero gets its first gradient from random weights, and gives them theirs in the next step."""
    wide = loaded(models / "wide-base").train()
    before = {name: weight.detach().clone() for name, weight in wide.named_parameters()}
    old = {name: weight.shape for name, weight in loaded(recipe.TINY / "tiny-base").named_parameters()}
    ids = some_ids(AutoTokenizer.from_pretrained(models / "wide-base"))
    optimizer = torch.optim.Adam(wide.parameters(), lr=1e-3)  # a weight without a gradient stays as it is
    for _ in range(3):
        wide(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in wide.named_parameters():
        new = torch.ones_like(weight, dtype=torch.bool)
        if name in old:
            new[tuple(slice(size) for size in old[name])] = False
        moved = (weight.detach() != before[name])[new].float().mean()
        assert moved > 0.95, f"{name}: {moved:.2f} of the new weights moved"


def test_the_shape_is_that_of_a_1_5b_model(recipe: Any) -> None:
    config = recipe.widened(recipe.TINY / "tiny-base", recipe.SHAPES["1.5b"])
    assert (config.num_attention_heads, config.head_dim, config.vocab_size) == (48, 32, 640)
    with torch.device("meta"):
        assert 1.3e9 < AutoModelForCausalLM.from_config(config).num_parameters() < 1.5e9


@pytest.mark.parametrize(("shape", "said"), [((128, 4, 704), "smaller"), ((264, 4, 704), "not a multiple")])
def test_a_shape_that_cannot_hold_the_tiny_model_is_refused(
    recipe: Any, shape: tuple[int, int, int], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe.widened(recipe.TINY / "tiny-base", recipe.Shape(*shape))


def for_a_cpu(folder: Path) -> Path:
    """The proof's pipeline in float32 on a few rows; everything else is as it is on a GPU."""
    content = yaml.safe_load(Path(PIPELINE).read_text())
    few: dict[str, dict[str, Any]] = {
        # Steps enough that questions are questions: the solver has hardly ever begun a text with one.
        "qft": {"limit": 400, "learning_rate": 1e-3},
        "generate_qft": {"num_questions": 64},
        "qpo": {"holdout": 4},
        "generate_qpo": {"num_questions": 64},
        "sft": {"num_train_epochs": 1},
        "evaluate": {"limit": 16},
    }
    for stage in content["stages"]:
        args = stage.setdefault("args", {}) | few.get(stage["name"], {})
        if stage["name"] in ("qft", "qpo", "sft"):
            args |= {"bf16": False, "use_cpu": True}
        if stage["name"].startswith(("generate", "filter", "solve", "evaluate")):
            args["engine"] = {"name": "transformers", "dtype": "float32"}
        stage["args"] = args
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_stage_runs_on_the_small_shape(tmp_path: Path) -> None:
    output = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "recipes/run.py", str(for_a_cpu(tmp_path)), "--output", str(output)],
        env={**os.environ, "SHAPE": "small", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Every row is accounted for" in done.stdout
    for stage in load(PIPELINE).stages:
        if stage.config is not None:
            receipt = json.loads((output / stage.name / "receipt.json").read_text())
            assert receipt["finished"], stage.name
            assert receipt["kept"] > 0, stage.name
    assert (output / "report/report.md").is_file()
    # A model of the shape asked for has been trained, and it still knows what the tiny base model does.
    trained = AutoModelForCausalLM.from_pretrained(output / "sft")
    assert trained.config.num_hidden_layers == 6
