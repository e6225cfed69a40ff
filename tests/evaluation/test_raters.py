"""Agreement of two raters, against values worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from scalequest.evaluation.raters import rater_agreement
from scalequest.evaluation.statistics import (
    Z95,
    Estimate,
    independent_difference,
    share_of,
    wilson_interval,
)


def raters(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """Both raters' classes from a table of counts."""
    pairs = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return [i for i, _ in pairs], [j for _, j in pairs]


def test_kappa_of_two_classes_by_hand() -> None:
    """20 both yes, 15 both no, 5 and 10 apart: 35 of 50 agree, and chance gives half of them."""
    found = rater_agreement(*raters([[20, 5], [10, 15]]), 2)
    assert found.share.value == 0.7
    assert found.kappa.value == pytest.approx(0.4)
    assert found.table == ((20, 5), (10, 15))
    # The error of Fleiss, Cohen and Everitt: cells 0.4, 0.1, 0.2, 0.3; margins 0.5, 0.5 and 0.6, 0.4
    w, k = ((1, 0), (0, 1)), Fraction(2, 5)
    p = ((Fraction(4, 10), Fraction(1, 10)), (Fraction(2, 10), Fraction(3, 10)))
    rows, columns = (Fraction(1, 2), Fraction(1, 2)), (Fraction(3, 5), Fraction(2, 5))
    spread = sum(p[i][j] * (w[i][j] - (columns[i] + rows[j]) * (1 - k)) ** 2 for i in (0, 1) for j in (0, 1))
    variance = (spread - (k - Fraction(1, 2) * (1 - k)) ** 2) / 50
    as_many = 0.7 * 0.3 / float(variance)
    low, high = wilson_interval(0.7, as_many)
    assert found.kappa.low == pytest.approx((low - 0.5) / 0.5)
    assert found.kappa.high == pytest.approx((high - 0.5) / 0.5)
    error = math.sqrt(variance) / 0.5
    assert found.kappa.low == pytest.approx(0.4 - Z95 * error, abs=0.05), "about that of the symmetric one"


def test_quadratic_weights_by_hand() -> None:
    """Weights 1, 3/4, 0: 3 of 4 observed, 9.5 of 16 by chance, so 5/13."""
    found = rater_agreement([0, 1, 2, 0], [0, 1, 2, 2], 3, quadratic=True)
    assert found.kappa.value == pytest.approx(5 / 13)
    assert found.share.value == 0.75
    near = rater_agreement([0, 1, 2, 1], [0, 1, 2, 2], 3, quadratic=True)
    assert near.kappa.value is not None
    assert near.kappa.value > 5 / 13, "one level apart is less than two"
    plain = rater_agreement([0, 1, 2, 1], [0, 1, 2, 2], 3)
    assert plain.kappa.value == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))


def test_kappa_where_there_is_none_or_all() -> None:
    whole = rater_agreement([0, 1] * 10, [0, 1] * 10, 2)
    assert whole.kappa.value == whole.kappa.high == 1
    assert whole.kappa.low is not None
    assert 0.5 < whole.kappa.low < 0.9, "twenty things cannot prove perfect agreement"
    assert rater_agreement([1] * 9, [1] * 9, 2).kappa == Estimate(None, None, None, 9)
    assert rater_agreement([], [], 2).kappa == Estimate(None, None, None, 0)
    never = rater_agreement([0, 1] * 8, [1, 0] * 8, 2).kappa
    assert (never.value, never.low) == (-1, -1)
    with pytest.raises(ValueError, match="shorter"):
        rater_agreement([0, 1], [0], 2)


@pytest.mark.parametrize(("n", "accuracy"), [(20, 0.97), (40, 0.9), (200, 0.9)])
def test_the_interval_holds_kappa_nearly_as_often_as_it_says(n: int, accuracy: float) -> None:
    """Two raters who each are right so often about things of which 80 in 100 are of one class."""
    shares = np.zeros((2, 2))
    for truth, often in ((0, 0.2), (1, 0.8)):
        right = np.array([accuracy if one == truth else 1 - accuracy for one in (0, 1)])
        shares += often * np.outer(right, right)
    chance = shares.sum(1) @ shares.sum(0)
    true = (np.trace(shares) - chance) / (1 - chance)
    draw = np.random.default_rng(7)
    found = [
        rater_agreement(*raters(draw.multinomial(n, shares.ravel()).reshape(2, 2).tolist()), 2).kappa
        for _ in range(600)
    ]
    held = [one.low <= true <= one.high for one in found if one.low is not None and one.high is not None]
    assert np.mean(held) > 0.90
    assert np.mean(held) < 0.995


def test_the_difference_of_two_shares_is_newcombes() -> None:
    """His example: 56 of 70 less 48 of 80 is 0.2, from 0.0524 to 0.3339 by method 10."""
    found = independent_difference(share_of(56, 70), share_of(48, 80))
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.0524, abs=5e-5)
    assert found.high == pytest.approx(0.3339, abs=5e-5)
    assert found.n == 70
    none = independent_difference(share_of(0, 0), share_of(1, 2))
    assert none == Estimate(None, None, None, 0)
    assert independent_difference(Estimate(1.0, None, None, 1), share_of(1, 2)).low is None
