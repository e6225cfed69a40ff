"""Scores by a user's function: of responses and of questions, and what it may not return."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, build
from scalequest.stage.folder import StageError
from stage_support import dropped, kept, receipt

ROWS = [
    {"id": "a", "question": "What is 3 + 4?", "responses": ["7", "seven is it", "cu"], "topic": "sums"},
    {"id": "b", "question": "What is 9 - 4?", "responses": ["5", "cut"], "topic": "sums"},
    {"id": "c", "question": "What is 1 + 1?", "responses": ["all", "cut"], "topic": "sums"},
    {"id": "d", "question": " ", "responses": ["x"], "topic": "none"},
]
ENDS = {"a": ["stop", "stop", "length"], "b": ["stop", "length"], "c": ["length", "length"], "d": ["stop"]}
SCORE = """
import numpy as np

def score(row):
    row["topic"] = "changed"
    numbers = [len(response) for response in row["responses"]]
    return np.array([*numbers[:-1], np.nan], np.float32)  # the last one of each row is truncated

def level(row):
    return None if row["id"] == "b" else np.float64(len(row["question"]) / 2)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "solutions.jsonl"
    path.write_text(
        "".join(json.dumps({**row, "finish_reasons": ENDS[str(row["id"])]}) + "\n" for row in ROWS)
    )
    return path


def run(source: Path, output: Path, code: str, name: str = "score", **more: Any) -> None:
    (source.parent / "my_reward.py").write_text(code)
    recipe = runpy.run_path("recipes/score.py")["RECIPE"]
    given = {"input": [str(source)], "output_dir": str(output), "track": "none", "judge": "function", **more}
    recipe(*build(recipe.configs(), {"function": f"{source.parent}/my_reward.py:{name}", **given}, "a test"))


def test_a_number_per_response(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", SCORE)
    assert [(row["rewards"], row["reward_model"], row["topic"]) for row in kept(tmp_path / "out")] == [
        ([1.0, 11.0, None], "my_reward.py:score", "sums"),
        ([1.0, None], "my_reward.py:score", "sums"),
    ]
    assert {row["id"]: row["reason"] for row in dropped(tmp_path / "out")} == {"c": "no_reward", "d": "empty"}
    assert receipt(tmp_path / "out")["fingerprint_fields"]["function"]["function"] == "score"
    with pytest.raises(StageError, match=r"function.sha256"):
        run(source, tmp_path / "out", SCORE + "# changed\n")


def test_a_number_per_question(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", SCORE, "level", what="question")
    assert [(row["id"], row["difficulty"], row["difficulty_by"]) for row in kept(tmp_path / "out")] == [
        ("a", 7.0, "my_reward.py:level"),
        ("c", 7.0, "my_reward.py:level"),
    ]
    assert receipt(tmp_path / "out")["dropped"] == {"empty": 1, "no_score": 1}


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("[1.0, float('nan'), 1.0]", r"row a, response 1: returned nan; return finite numbers"),
        ("[1.0, float('inf'), None]", r"row a, response 1: returned inf; return finite numbers"),
        ("[10 ** 400, 1.0, 1.0]", r"row a, response 0: returned 1000"),
        ("[1.0, '2', 1.0]", r"row a, response 1: returned '2'; return finite"),
        ("[1.0]", r"row a: returned 1 values; return a list with one number, or None, for each of the 3"),
        ("1.0", r"row a: returned 1\.0; return a list with one number"),
        ("(1.0 for _ in row['responses'])", r"row a: returned <generator .*; return a list"),
        ("row['rewards']", r"row a: KeyError: 'rewards' \(my_reward\.py, line 2\)"),
    ],
)
def test_what_a_scorer_may_not_return(source: Path, tmp_path: Path, returned: str, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"my_reward\.py:score: {told}") as error:
        run(source, tmp_path / "out", f"def score(row):\n    return {returned}\n")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("returned", ["[1.0]", "float('nan')", "'7'", "{}"])
def test_what_a_scorer_of_questions_may_not_return(source: Path, tmp_path: Path, returned: str) -> None:
    with pytest.raises(ConfigError, match=r"my_reward\.py:score: row a: returned .*; return a finite number"):
        run(source, tmp_path / "out", f"def score(row):\n    return {returned}\n", what="question")


def test_the_judge_function_needs_a_function() -> None:
    recipe = runpy.run_path("recipes/score.py")["RECIPE"]
    with pytest.raises(ConfigError, match=r"judge: function needs function: FILE.py:NAME or MODULE:NAME"):
        build(recipe.configs(), {"input": ["x"], "output_dir": "y", "judge": "function"}, "a test")
