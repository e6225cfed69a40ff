from __future__ import annotations

import math

import pytest

from scalequest.evaluation.statistics import Estimate, difference, mean, share


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (50, 100), (1319, 1319), (873, 1000), (3, 7)])
def test_share_is_wilsons(successes: int, n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    estimate = share(successes, n)
    assert estimate.value == successes / n
    assert estimate.low == pytest.approx(interval.low, abs=1e-9)
    assert estimate.high == pytest.approx(interval.high, abs=1e-9)


def test_share_by_hand() -> None:
    """The example of Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662."""
    estimate = share(81, 263)
    assert (round(estimate.low or 0, 4), round(estimate.high or 0, 4)) == (0.2553, 0.3662)


def test_share_of_nothing_and_of_too_much() -> None:
    assert share(0, 0) == Estimate(None, None, None, 0)
    with pytest.raises(ValueError, match="5 successes of 4"):
        share(5, 4)


def test_mean() -> None:
    estimate = mean([1.0, 2.0, 3.0, 4.0])
    assert estimate.value == 2.5
    assert estimate.high == pytest.approx(2.5 + 1.959964 * math.sqrt(5 / 3) / 2)
    assert mean([3.0]) == Estimate(3.0, None, None, 1)
    assert mean([]) == Estimate(None, None, None, 0)


def test_difference_by_hand() -> None:
    """Newcombe (1998), table II, example a, method 10: 56/70 - 48/80 gives 0.0524 to 0.3339."""
    estimate, p_value = difference((56, 70), (48, 80))
    assert (round(estimate.low or 0, 4), round(estimate.high or 0, 4)) == (0.0524, 0.3339)
    assert estimate.value == pytest.approx(0.2)
    assert p_value == pytest.approx(0.0081, abs=2e-4)  # pooled z = 2.646


def test_difference_without_one() -> None:
    assert difference((10, 10), (10, 10))[1] == 1.0
    with pytest.raises(ValueError, match="not empty"):
        difference((0, 0), (1, 2))
