from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.evaluation.comparison import compare, compare_protocols, read_outputs, tables_of_comparisons
from scalequest.evaluation.results import Result
from scalequest.evaluation.statistics import share_of
from scalequest.stage.folder import Stage


def rows(correct: str, samples: int = 1) -> list[dict[str, Any]]:
    return [
        {"benchmark": "b", "id": f"p{number // samples}", "correct": mark == "1", "extracted": mark}
        for number, mark in enumerate(correct)
    ]


def test_what_flipped_and_how_surely() -> None:
    (found,) = compare(rows("1100000000"), rows("1011111111"), ("old", "new"))
    assert found.gained == tuple(f"p{n}" for n in range(2, 10))
    assert found.lost == ("p1",)
    assert found.difference.value == pytest.approx(0.7)
    assert found.difference.low is not None
    assert found.difference.low > 0
    assert found.p_value == pytest.approx(2 * 10 / 2**9)  # 0 or 1 of 9, either way
    differences, flips = tables_of_comparisons([found], {"b": "B"}, flips=True)
    assert differences.rows[0][:4] == ("new", "old", "B", "10")
    assert differences.rows[0][4].startswith("+70.0 [+")
    assert ("new", "old", "B", "lost", "p1", "0", "1") in flips.rows


def test_an_answer_is_shown_as_one_printable_line() -> None:
    first = [{**one, "extracted": "7\n\n \x1b[31m 8\u202e"} for one in rows("11")]
    (found,) = compare(first, rows("01"), ("old", "new"))
    flips = tables_of_comparisons([found], {}, flips=True)[1]
    assert flips.rows[0][-2:] == ("0", "7 \ufffd[31m 8\ufffd")


def test_several_outputs_are_one_observation_a_problem() -> None:
    (found,) = compare(rows("1100", 2), rows("1010", 2), ("old", "new"))
    assert (found.gained, found.lost, found.p_value) == (("p1",), ("p0",), None)
    (table,) = tables_of_comparisons([found], {})
    assert "solves more often" in table.notes[0]
    assert found.difference.n == 2


def test_only_shared_problems_count() -> None:
    (found,) = compare(rows("110"), rows("0101"), ("old", "new"))
    assert found.difference.n == 3
    assert compare(rows("1"), rows("0"), ("old", "new")) == []


def test_what_was_dropped_is_wrong(tmp_path: Path) -> None:
    """As in the accuracy: a server that fails on what is hard must not look better for it."""
    stage = Stage.open(tmp_path, name="evaluate_model", version=1, config={}, fingerprint={})
    stage.blocks.cut(1, 1)
    lost = {"benchmark": "b", "id": "p9"}
    stage.blocks.write(0, rows("111000000"), [(lost, "server: 500")])
    stage.finish(rows_in=10, card="")
    second = read_outputs(tmp_path)
    assert len(second) == 10
    (found,) = compare(rows("1110000001"), second, ("old", "new"))
    assert (found.difference.n, found.difference.value) == (10, pytest.approx(-0.1))
    assert (found.lost, found.answers["p9"]) == (("p9",), ("1", None))


def test_a_dropped_sample_is_one_wrong_output() -> None:
    lost = {"benchmark": "b", "id": "p0", "correct": False, "extracted": None}
    (found,) = compare(rows("1111", 2), [*rows("1111", 2)[1:], lost], ("old", "new"))
    assert found.difference.value == pytest.approx(-0.25)


def test_other_protocols_are_marked_and_said() -> None:
    old = Result(
        **{"model": "old", "benchmark": "b", "title": "B", "n": 3, "correct": 2, "accuracy": share_of(2, 3)},
        **{"truncated": 0.0, "no_answer": 0.0, "rules": {}, "tokens_mean": 1.0, "split": {}},
        **{"protocol": {"engine": "vllm"}, "fingerprint": "f", "prompts_sha256": ""},
        **{"model_fingerprint": "m", "commit": None},
    )
    new = replace(old, model="new", protocol={"engine": "transformers"}, fingerprint="g")
    assert compare_protocols([old], [replace(old, model="new")]) == {}
    with pytest.raises(ConfigError, match="compare: b: old and new were evaluated on different problems"):
        compare_protocols([old], [replace(new, protocol={"benchmark_sha256": "1"})])
    differs = compare_protocols([old], [new])
    found = compare(rows("110"), rows("010"), ("old", "new"), differs=differs)
    (table,) = tables_of_comparisons(found, {})
    assert table.rows[0][4].endswith(" [a]")
    assert table.rows[0][-1] == "1 [a]"
    assert table.notes[1] == (
        "[a] the two results have different protocols: engine transformers instead of vllm."
    )
    (alike,) = tables_of_comparisons(compare(rows("110"), rows("010"), ("old", "new")), {})
    assert (alike.rows[0][-1], len(alike.notes)) == ("1", 1)
