"""The choice of diverse questions: against a brute-force one, through the stage, and its errors."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scalequest.config import ConfigError, RunOptions
from scalequest.questions.diversity import DiversityRule, WordPairs, most_diverse
from scalequest.questions.filters import FilterConfig, filter_questions, read_text
from scalequest.questions.text import batches, read_tokens
from stage_support import dropped, kept, opened

TEXTS = [
    "Ann has 3 apples and buys 4 more. How many apples does she have?",
    "Ann has 5 apples and buys 9 more. How many apples does she have?",
    "Bob runs around a lake of radius 2. How far does he run?",
    "Ann has 7 apples and eats 2. How many apples does she have?",
    "Solve x^2 = 9 for x.",
    "Bob has 7 apples and buys 2 more. How many apples does she have?",
    "Hm?",
]
ROWS = [{"id": f"q-{number}", "question": text} for number, text in enumerate(TEXTS)]


def brute_force(texts: list[str], keep: int) -> list[int]:
    """The same choice without hashes, counters or a heap."""

    def words(text: str) -> list[str]:
        for sign in "?.^=":
            text = text.replace(sign, f" {sign} " if sign in "^=" else " ")
        return ["#" if word.isdigit() else word.lower() for word in text.split()]

    pairs = [list(pairwise(words(text))) for text in texts]
    counts: dict[tuple[str, str], int] = {}
    chosen: list[int] = []
    while len(chosen) < keep:

        def novelty(text: int) -> float:
            shares = [1 / (1 + counts.get(pair, 0)) for pair in pairs[text]]
            return sum(shares) / len(shares) if shares else 0.0

        best = max((text for text in range(len(texts)) if text not in chosen), key=novelty)
        chosen.append(best)
        for pair in set(pairs[best]):
            counts[pair] = counts.get(pair, 0) + 1
    return chosen


@pytest.mark.parametrize("keep", range(len(TEXTS) + 1))
def test_the_heap_finds_what_looking_at_all_finds(keep: int) -> None:
    found = most_diverse(WordPairs.of(read_tokens(TEXTS)), range(len(TEXTS)), keep)
    assert found.tolist() == brute_force(TEXTS, keep)


def test_many_random_texts_too() -> None:
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(list("bcdfgh"), random.integers(1, 9))) for _ in range(120)]
    found = most_diverse(WordPairs.of(read_tokens(texts)), range(120), 60)
    assert found.tolist() == brute_force(texts, 60)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = WordPairs.of(read_tokens(TEXTS))
    monkeypatch.setattr("scalequest.questions.text.BATCH", 3)
    parts = WordPairs.joined([WordPairs.of(tokens) for _, tokens in batches(TEXTS)])
    assert all((whole[text] == parts[text]).all() for text in range(len(TEXTS)))
    assert parts.offsets.tolist() == whole.offsets.tolist()


def test_other_numbers_are_no_other_question() -> None:
    rule = DiversityRule(keep=4)
    config = FilterConfig(input=["x"], steps=["diversity"], diversity=rule)
    reasons = read_text(ROWS, config.made()).reasons
    assert reasons[0] is None
    assert reasons[1] == "redundant", "the same as the first, with other numbers"
    assert [reasons[number] for number in (2, 4)] == [None, None]


def test_it_chooses_among_what_is_left(tmp_path: Path) -> None:
    run = RunOptions(output_dir=str(tmp_path), track="none")
    rows = [*ROWS, {"id": "q-7", "question": TEXTS[2]}]
    config = FilterConfig(input=["x"], steps=["duplicates", "diversity"], diversity=DiversityRule(keep=3))
    receipt = filter_questions(opened("filter_questions", run, config), rows, config, run)
    assert receipt["dropped"] == {"duplicate": 1, "redundant": 4}
    assert len(kept(tmp_path)) == 3
    assert {row["id"] for row in dropped(tmp_path) if row["reason"] == "duplicate"} == {"q-7"}
    facts = json.loads((tmp_path / "report.json").read_text())["diversity"]
    assert (facts["seen"], facts["kept"]) == (7, 3)
    assert facts["pairs_first"] < facts["pairs_kept"] < facts["pairs_seen"]
    assert ">Diversity<" in (tmp_path / "report.html").read_text()


def test_too_few_rows_are_an_error_unless_a_limit_is_why() -> None:
    config = FilterConfig(input=["x"], steps=["diversity"], diversity=DiversityRule(keep=8))
    with pytest.raises(ConfigError, match=r"diversity\.keep asks for 8 rows, and 7 are left"):
        read_text(ROWS, config.made())
    assert read_text(ROWS, config.made(limit=7)).reasons == [None] * 7
    with pytest.raises(ConfigError, match=r"diversity\.keep"):
        FilterConfig(input=["x"], steps=["diversity"])
