from __future__ import annotations

from typing import Any

import pytest

from scalequest.evaluation.comparison import compare, comparison_tables


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
    differences, flips = comparison_tables([found], {"b": "B"}, flips=True)
    assert differences.rows[0][:4] == ("new", "old", "B", "10")
    assert differences.rows[0][4].startswith("+70.0 [+")
    assert ("new", "old", "B", "lost", "p1", "0", "1") in flips.rows


def test_several_outputs_are_one_observation_a_problem() -> None:
    (found,) = compare(rows("1100", 2), rows("1010", 2), ("old", "new"))
    assert (found.gained, found.lost, found.p_value) == (("p1",), ("p0",), None)
    assert found.difference.n == 2


def test_only_shared_problems_count() -> None:
    (found,) = compare(rows("110"), rows("0101"), ("old", "new"))
    assert found.difference.n == 3
    assert compare(rows("1"), rows("0"), ("old", "new")) == []
