"""The difficulty scorer: fail rates from rows or from graded samples, learnt, measured, saved plainly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_support import logged, weights

from scalequest.config import ConfigError
from scalequest.training.difficulty_scorer import calibrate, fail_rate_of

Train = Callable[..., Path]
Settings = dict[str, Any]
NAMES = ["Ann", "Ben", "Cleo", "Dan"]


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """Questions that are the harder the more apples there are."""
    path = tmp_path / "rated.jsonl"
    rows = [
        {
            "id": f"q-{n}",
            "question": f"{NAMES[n % 4]} has {n % 10} {'apples ' * (1 + n % 10)}. How many?",
            "fail_rate": (n % 10) / 10,
        }
        for n in range(160)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_fail_rate_of_rows() -> None:
    assert fail_rate_of({"fail_rate": 0.25, "answers": ["1"], "answer": "2"}, "answer", "####") == 0.25
    row = {"id": "g", "answers": ["72", "72.0", "7", None], "answer": "48 + 24 = 72\n#### 72"}
    assert fail_rate_of(row, "answer", "####") == 0.5
    row = {"id": "m", "answers": [r"\frac{1}{2}", "0.5", "2"], "solution": r"\frac12"}
    assert fail_rate_of(row, "solution", "") == pytest.approx(1 / 3)
    assert fail_rate_of({"agreement": 0.8}, "majority", "####") == pytest.approx(0.2)
    with pytest.raises(ConfigError, match=r"row x: no fail_rate, and no 'answer'"):
        fail_rate_of({"id": "x", "answers": ["1"]}, "answer", "####")
    with pytest.raises(ConfigError, match=r"row y: fail_rate 1.5"):
        fail_rate_of({"id": "y", "fail_rate": 1.5}, "answer", "####")


def test_calibration_of_perfect_and_useless_predictions() -> None:
    held = np.linspace(0, 1, 50)
    perfect = calibrate(held, held)
    assert (perfect.mse, perfect.spearman) == (0, pytest.approx(1))
    assert all(one["predicted"] == pytest.approx(one["fail rate"]) for one in perfect.bins)
    useless = calibrate(np.full(50, 0.5), held)
    assert useless.mse == pytest.approx(useless.mse_of_mean)
    assert useless.spearman == 0


def test_the_scorer_learns_and_is_a_plain_classifier(settings: Settings, rated: Path, train: Train) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    given = {**settings, "input": [str(rated)], "holdout": 40, "max_steps": 60, "learning_rate": 3e-3}
    out = train("difficulty", given, per_device_train_batch_size=16)
    card = (out / "README.md").read_text()
    assert "Spearman" in card
    assert "![calibration](calibration.png)" in card
    assert (out / "calibration.png").stat().st_size > 5000
    held = [json.loads(line) for line in (out / "holdout.jsonl").read_text().splitlines()]
    assert len(held) == 40
    found = calibrate(np.array([r["predicted"] for r in held]), np.array([r["fail_rate"] for r in held]))
    assert found.spearman > 0.8
    assert found.mse < 0.5 * found.mse_of_mean

    # anyone's pipeline gives what was measured, padded or not: function_to_apply="none", as the authors' code
    model, tokenizer = (
        auto.from_pretrained(out) for auto in (AutoModelForSequenceClassification, AutoTokenizer)
    )
    assert model.config.num_labels == 1
    score = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    said = score([row["question"] for row in held[:8]], function_to_apply="none", batch_size=4)
    wanted = [row["predicted"] for row in held[:8]]
    assert [one["score"] for one in said] == pytest.approx(wanted, abs=1e-4)
    with torch.no_grad():
        ids = tokenizer(held[0]["question"], return_tensors="pt").input_ids
        assert model(ids).logits.item() == pytest.approx(held[0]["predicted"], abs=1e-4)


def test_lora_trains_the_head_too(settings: Settings, rated: Path, train: Train, model_dir: Path) -> None:
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]}
    out = train("difficulty", settings, input=[str(rated)], holdout=20, max_steps=4, **lora)
    from safetensors.torch import load_file

    merged = load_file(out / "model.safetensors")
    assert "score.weight" in merged
    assert (out / "adapter" / "adapter_model.safetensors").is_file()


def test_questions_without_an_answer_are_the_hardest(
    settings: Settings, train: Train, tmp_path: Path
) -> None:
    """What solve_questions drops, since no sample had an answer, is learnt as always failed."""
    from scalequest.stage.folder import Stage

    stage = Stage.open(tmp_path / "solved", name="solve_questions", version=1, config={}, fingerprint={})
    kept = [
        {"id": f"q-{n}", "question": f"Ann has {n} apples. How many?", "answers": [str(n)], "answer": str(n)}
        for n in range(12)
    ]
    lost = [({"id": f"d-{n}", "question": "What?", "answer": "1"}, "no_answer") for n in range(3)]
    stage.blocks.cut(15, 15)
    stage.blocks.write(0, kept, lost)
    stage.finish(rows_in=15, card="")
    out = train("difficulty", settings, input=[str(tmp_path / "solved")], holdout=14, max_steps=1)
    held = [json.loads(line) for line in (out / "holdout.jsonl").read_text().splitlines()]
    assert json.loads((out / "receipt.json").read_text())["rows_in"] == 15
    assert {row["fail_rate"] for row in held if row["question"] == "What?"} == {1.0}
    assert {row["fail_rate"] for row in held if row["question"] != "What?"} == {0.0}
    few = train("difficulty", settings, input=[str(tmp_path / "solved")], draw=6, max_steps=1,
                output_dir=str(tmp_path / "few"))  # fmt: skip
    assert json.loads((few / "receipt.json").read_text())["rows_in"] == 6


def test_accumulation_times_batch_is_what_counts(
    settings: Settings, rated: Path, train: Train, tmp_path: Path
) -> None:
    """Also in a last step of fewer questions; transformers takes the model's mean for a share of a sum."""
    outs = [
        train(
            "difficulty",
            {**settings, "input": [str(rated)], "limit": 28, "max_steps": 4, "optim": "sgd"},
            output_dir=str(tmp_path / f"{batch}x{steps}"),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
        )
        for batch, steps in ((3, 4), (12, 1))
    ]
    one, other = (weights(out) for out in outs)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    losses = [[record["loss"] for record in logged(out) if "loss" in record] for out in outs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
