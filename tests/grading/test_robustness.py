"""Respelled, nearly equal and broken answers: accepted, refused, survived."""

from __future__ import annotations

import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from variants import mutated, near_misses, respelled

from scalequest.grading import Grader

# What is no near miss: zero has no sign, and 1 is written so in every base.
EQUAL_AFTER_ALL = {("-0", "0"), ("1_8", "1_7"), ("1_7", "1_6")}


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(folder / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _references(folder: Path) -> list[str]:
    olympiad = [
        answer for row in _rows(folder, "olympiadbench_test.jsonl.gz") for answer in row["final_answer"]
    ]
    college = [row["answer"] for row in _rows(folder, "college_math_test.jsonl.gz")]
    return [str(answer) for answer in (*olympiad, *college)]


def _math_answers(folder: Path) -> list[str]:
    rows = _rows(folder, "math_test.jsonl.gz") + _rows(folder, "math_train.jsonl.gz")
    answers = list(dict.fromkeys(str(row["answer"]) for row in rows if row["answer"]))
    random.Random(0).shuffle(answers)
    return answers


@pytest.mark.data
@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_references_equal_their_other_spellings(step: int, data_dir: Path) -> None:
    refused = []
    with Grader() as grader:
        for answer in _references(data_dir)[::step]:
            spellings = [("itself", answer), *respelled(answer)]
            refused += [
                (kind, text, answer) for kind, text in spellings if not grader.grade(text, answer).correct
            ]
    print(*refused, sep="\n")
    assert len(refused) <= 20 // step, refused


@pytest.mark.data
@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_near_misses_are_refused(count: int, data_dir: Path) -> None:
    accepted = set()
    with Grader() as grader:
        for answer in _math_answers(data_dir)[:count]:
            accepted |= {
                (text, answer) for _, text in near_misses(answer) if grader.grade(text, answer).correct
            }
    assert accepted <= EQUAL_AFTER_ALL


@pytest.mark.data
@pytest.mark.parametrize(
    "count", [1_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])]
)
def test_mutated_answers_are_survived(count: int, data_dir: Path) -> None:
    """No exception, no hang, the same verdict both ways round, and every answer is itself."""
    rng = random.Random(count)
    answers = _math_answers(data_dir) + _references(data_dir)
    uneven, slowest = [], 0.0
    with Grader() as grader:
        for _ in range(count):
            answer = rng.choice(answers)
            left, right = mutated(answer, rng), rng.choice((answer, mutated(answer, rng)))
            there, back = grader.grade(left, right), grader.grade(right, left)
            slowest = max(slowest, there.seconds, back.seconds)
            if there.correct != back.correct and not (there.timed_out or back.timed_out):
                uneven.append((left, right))
            assert grader.grade(left, left).correct or not left.strip()
        print(
            f"slowest {slowest:.2f} s, {len(grader.timeouts)} killed, {len(uneven)} uneven", *uneven, sep="\n"
        )
        assert len(grader.timeouts) <= count / 1_000
    assert len(uneven) <= count / 5_000, uneven
    assert slowest < 10


PIECES = [*"0123456789abcinxyzABC+-*/^_(){}[]|!,.;:=<>%$ ", "\\", "\n", "\\frac", "\\sqrt", "∞", "½"]
MATHS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(left=MATHS | st.text(max_size=30), right=MATHS)
def test_any_text_is_survived(left: str, right: str) -> None:
    began = time.monotonic()
    assert GRADER.grade(left, right).correct == GRADER.grade(right, left).correct
    assert GRADER.grade(left, left).correct == bool(left.strip())
    assert time.monotonic() - began < 60


GRADER = Grader()
