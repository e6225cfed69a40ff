"""The length filter: through the stage, in both units, behind another step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalequest.config import ConfigError, RunOptions, build
from scalequest.questions.filters import FilterConfig, filter_questions, read_text
from scalequest.questions.length import LengthRule
from stage_support import dropped, kept, opened

TEXTS = ["What is 3 + 4?", "Why?", "Find $x^2 + 3(x - 1)$ if $x = 5$ now.", "Ann has 3 apples. " * 4, "Why?"]
ROWS = [{"id": f"q-{number}", "question": text} for number, text in enumerate(TEXTS)]


def reasons(*steps: str, **rule: object) -> list[str | None]:
    config = build((FilterConfig,), {"input": ["x"], "steps": [*steps], "length": rule})[0]
    return read_text(ROWS, config.made()).reasons


def test_words_and_tokens_are_counted_apart() -> None:
    # words and numbers: 4, 1, 10, 16, 1; with signs and brackets: 5, 1, 16, 16, 1
    assert reasons("length", min=2, max=10) == [None, "too_short", None, "too_long", "too_short"]
    assert reasons("length", max=9, unit="tokens") == [None, None, "too_long", "too_long", None]
    assert reasons("length", min=5, unit="tokens") == [None, "too_short", None, None, "too_short"]


def test_a_row_has_one_reason_that_of_the_first_step() -> None:
    assert reasons("length", "duplicates", min=2)[4] == "too_short"
    assert reasons("duplicates", "length", min=2)[4] == "duplicate"


def test_the_stage_counts_it_and_reports_it(tmp_path: Path) -> None:
    run = RunOptions(output_dir=str(tmp_path), track="none")
    config = FilterConfig(input=["x"], steps=["length", "language"], length=LengthRule(min=2, max=10))
    receipt = filter_questions(opened("filter_questions", run, config), ROWS, config, run)
    assert receipt["dropped"] == {"too_long": 1, "too_short": 2}
    assert [row["id"] for row in kept(tmp_path)] == ["q-0", "q-2"]
    assert {row["reason"] for row in dropped(tmp_path)} == {"too_long", "too_short"}
    assert json.loads((tmp_path / "report.json").read_text())["length"]["median"] == 4
    assert ">Length<" in (tmp_path / "report.html").read_text()


def test_a_rule_that_cannot_work_says_why() -> None:
    with pytest.raises(ConfigError, match=r"length\.min"):
        FilterConfig(input=["x"], steps=["length"])
    with pytest.raises(ConfigError, match="above max"):
        LengthRule(min=3, max=2)
