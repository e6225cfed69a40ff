"""The reward model: pairs from sampled solutions, learnt, measured, saved as a plain classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_support import recipe

from scalequest.chat import bind, load_format, load_tokenizer
from scalequest.config import ConfigError, build
from scalequest.engines.base import Block, EngineConfig, Request
from scalequest.engines.loading import open_scorer
from scalequest.training.reward import SolutionPairs, pairs_of

RIGHT, WRONG = "so \\boxed{7}", "well well well \\boxed{8}"


def row(number: int, *answers: str | None, **more: Any) -> dict[str, Any]:
    return {
        "id": f"q-{number}",
        "question": f"What is {number} and so on?",
        "responses": [f"{RIGHT if answer == '7' else WRONG} {n}" for n, answer in enumerate(answers)],
        "answers": list(answers),
        "finish_reasons": ["stop"] * len(answers),
        **more,
    }


def test_pairs_are_told_apart_by_a_clear_majority_or_a_reference() -> None:
    majority = SolutionPairs(input=["x"], chat_format="tinymath", pairs_per_question=3)
    made = pairs_of(row(1, "7", "7", "7", "8", None), majority)
    assert [one["id"] for one in made] == ["q-1/0", "q-1/1", "q-1/2"]
    assert all(one["chosen"].startswith(RIGHT) and one["rejected"].startswith(WRONG) for one in made)
    assert pairs_of(row(1, "7", "8"), majority)[0]["chosen"] is None, "half is no clear majority"
    assert pairs_of(row(1, "7", "7"), majority)[0]["chosen"] is None, "nothing to reject"
    cut = row(1, "7", "7", "8") | {"finish_reasons": ["stop", "stop", "length"]}
    assert pairs_of(cut, majority)[0]["chosen"] is None, "a cut response is neither right nor wrong"
    known = SolutionPairs(input=["x"], chat_format="tinymath", reference="answer")
    assert pairs_of(row(1, "7", "8", "8", answer="1 + 6\n#### 7"), known)[0]["chosen"].startswith(RIGHT)
    with pytest.raises(ConfigError, match="q-1: no 'answer'"):
        pairs_of(row(1, "7"), known)


@pytest.mark.parametrize(
    "lora", [{}, {"use_peft": True, "lora_r": 8, "lora_target_modules": ["q_proj", "v_proj"]}]
)
def test_it_learns_and_scores_what_it_was_not_shown(
    model_dir: Path, tmp_path: Path, lora: dict[str, Any]
) -> None:
    source = tmp_path / "solved.jsonl"
    solved = [row(n, "7", "7", "8") for n in range(40)] + [row(99, "7", "7")]
    source.write_text("".join(json.dumps(one) + "\n" for one in solved))
    out = tmp_path / "reward"
    given = {
        "model_name_or_path": str(model_dir), "chat_format": "tinymath", "input": [str(source)],
        "output_dir": str(out), "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "per_device_train_batch_size": 8, "max_length": 128, "learning_rate": 3e-3, "holdout": 10,
        "pairs_per_question": 1, "max_steps": 12, "logging_steps": 4, "save_strategy": "no", "track": "none",
        **lora,
    }  # fmt: skip
    module = recipe("reward")
    module.main(*build(module.types(), given))
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["dropped"] == {"held_out": 10, "no_pair": 1}
    assert receipt["rows_in"] == 41 == receipt["kept"] + 11
    assert (
        "On 10 held-out pairs, the correct solution has the higher reward in 100.0 %"
        in (out / "README.md").read_text()
    )

    said = (out / "metrics.jsonl").read_text().splitlines()
    assert sum("eval_accuracy" in json.loads(line) for line in said) == 1, "evaluated twice"

    chat = bind(load_format("tinymath"), load_tokenizer(str(out)))
    sides = [
        [*prompt, *target]
        for prompt, target in (chat.solve_ids("What is 5?", text) for text in (RIGHT, WRONG))
    ]
    with open_scorer(str(out), EngineConfig(name="transformers")) as scorer:
        [(_, scores)] = scorer.score([Block(0, [Request(str(n), ids, None) for n, ids in enumerate(sides)])])
    right, wrong = (score.value for score in scores)
    assert right is not None
    assert wrong is not None
    assert right > wrong
