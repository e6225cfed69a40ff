from __future__ import annotations

import math

import pytest

from scalequest.evaluation.statistics import (
    Estimate,
    accuracy_of,
    best_of,
    majority_vote,
    mcnemar,
    mean_of,
    paired_difference,
    pass_at_k,
    share_of,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (50, 100), (1319, 1319), (873, 1000), (3, 7)])
def test_share_is_wilsons(successes: int, n: int) -> None:
    """Against Wilson's formula itself: the ends are where p lies 1.96 standard errors off."""
    estimate, p = share_of(successes, n), successes / n
    assert estimate.value == p
    for end in (estimate.low, estimate.high):
        assert end is not None
        assert abs(p - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), abs=1e-6)


def test_share_by_hand() -> None:
    """The example of Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662."""
    estimate = share_of(81, 263)
    assert (round(estimate.low or 0, 4), round(estimate.high or 0, 4)) == (0.2553, 0.3662)


def test_share_of_nothing_and_of_too_much() -> None:
    assert share_of(0, 0) == Estimate(None, None, None, 0)
    with pytest.raises(ValueError, match="5 successes out of 4"):
        share_of(5, 4)


def test_mean() -> None:
    estimate = mean_of([1.0, 2.0, 3.0, 4.0])
    assert estimate.value == 2.5
    assert estimate.high == pytest.approx(2.5 + 1.959964 * math.sqrt(5 / 3) / 2)
    assert mean_of([3.0]) == Estimate(3.0, None, None, 1)
    assert mean_of([]) == Estimate(None, None, None, 0)


def test_accuracy_of_several_samples_has_an_interval_over_problems() -> None:
    assert accuracy_of([1, 0, 1, 1]) == share_of(3, 4)
    assert accuracy_of([]) == Estimate(None, None, None, 0)
    assert accuracy_of([0.3] * 10).low is None
    assert accuracy_of([0.5, 0.5]) == Estimate(0.5, None, None, 2)  # nothing to tell how problems vary
    scores = [1.0, 0.5, 0.0, 1.0, 0.5]
    estimate = accuracy_of(scores)
    assert (estimate.value, estimate.n) == (0.6, 5)
    for end in (estimate.low, estimate.high):  # the design effect is 0.14 over 0.24, the binomial variance
        assert end is not None
        error = math.sqrt(end * (1 - end) / 5 * 0.14 / 0.24)
        assert abs(end - 0.6) == pytest.approx(1.959964 * error, abs=1e-6)


def test_accuracy_of_several_samples_covers_what_it_should() -> None:
    """Near 0, on few problems: there, a normal interval leaves the truth out of every fifth run."""
    import numpy as np

    draw = np.random.default_rng(0)
    held = normal = 0
    for _ in range(400):
        chances = draw.beta(0.15, 2.85, size=20)  # 5 % on average; most problems are out of reach
        scores = [float(score) for score in draw.binomial(2, chances) / 2]
        found, plain = accuracy_of(scores), mean_of(scores)
        held += found.low is not None and found.high is not None and found.low <= 0.05 <= found.high
        normal += plain.low is not None and plain.high is not None and plain.low <= 0.05 <= plain.high
    assert held >= 0.95 * 400
    assert normal <= 0.85 * 400


def test_pass_at_k_by_counting() -> None:
    """Against all draws of k from n."""
    from itertools import combinations

    for correct in range(5):
        marks = [True] * correct + [False] * (4 - correct)
        for k in range(1, 5):
            draws = list(combinations(marks, k))
            assert pass_at_k(correct, 4, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(ValueError, match="pass@5 of 4"):
        pass_at_k(1, 4, 5)


def test_majority_shares_ties() -> None:
    assert majority_vote([1, 1, 2], [True, True, False]) == 1.0
    assert majority_vote([1, 2, 3, None], [True, False, False, False]) == pytest.approx(1 / 3)
    assert majority_vote([1, 2, 2, 1], [True, False, False, True]) == 0.5
    assert majority_vote([None, None], [False, False]) == 0.0


def test_best_of_shares_ties() -> None:
    assert best_of([0.1, 0.9, 0.3], [True, False, True]) == 0.0
    assert best_of([0.9, 0.9, 0.3], [True, False, True]) == 0.5


def test_mcnemar_by_hand() -> None:
    """3 against 12: twice the binomial tail of 15 fair coins."""
    tail = sum(math.comb(15, i) for i in range(4)) / 2**15
    assert mcnemar(3, 12) == pytest.approx(2 * tail)
    assert mcnemar(12, 3) == mcnemar(3, 12)
    assert mcnemar(0, 0) == 1.0


def test_paired_difference_with_few_flips_is_tangos() -> None:
    """Its ends are where Tango's score statistic, with the likelihood maximised by search, is 1.96."""
    import numpy as np

    for gained, lost, n in ((7, 2, 60), (1, 1, 40), (0, 2, 44), (6, 3, 200)):
        estimate = paired_difference([1.0] * gained + [-1.0] * lost + [0.0] * (n - gained - lost))
        assert estimate.value == pytest.approx((gained - lost) / n)
        for end in (estimate.low, estimate.high):
            assert end is not None
            shares = np.linspace(max(0.0, -end), min(1.0, (1 - end) / 2 + max(0.0, -end)), 200_001)[1:-1]
            shares = shares[(shares + end > 0) & (2 * shares + end < 1)]
            likely = gained * np.log(shares + end) + lost * np.log(shares)
            likely += (n - gained - lost) * np.log(1 - 2 * shares - end)
            q = shares[np.argmax(likely)]
            score = (gained - lost - n * end) / math.sqrt(n * (2 * q + end - end**2))
            assert abs(score) == pytest.approx(1.96, abs=0.005)


def test_paired_difference_without_flips_has_a_width() -> None:
    """With none, Wilson's upper end on either side; with nothing but flips, too."""
    none = paired_difference([0.0] * 50)
    assert none.value == 0
    assert none.high == pytest.approx(share_of(0, 50).high)
    assert none.low == pytest.approx(-(share_of(0, 50).high or 0))
    every = paired_difference([-1] * 50)
    assert (every.value, every.low) == (-1, pytest.approx(-1))
    assert every.high is not None
    assert -0.95 < every.high < -0.8
    with pytest.raises(ValueError, match="at least two"):
        paired_difference([1.0])


def test_paired_difference_covers_what_it_should() -> None:
    """With few flips on few problems, where the bootstrap's interval leaves out the truth too often."""
    import numpy as np

    draw = np.random.default_rng(0)
    for n, gained, lost in ((30, 0.05, 0.02), (100, 0.01, 0.01), (200, 0.02, 0.005)):
        held = 0
        for _ in range(1_000):
            one, other, _ = draw.multinomial(n, [gained, lost, 1 - gained - lost])
            found = paired_difference([1] * one + [-1] * other + [0] * (n - one - other))
            held += (
                found.low is not None
                and found.high is not None
                and (found.low <= gained - lost <= found.high)
            )
        assert held >= 920


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_paired_difference_is_the_bootstraps(step: float) -> None:
    differences = [step] * 60 + [-step] * 20 + [0.0] * 120
    estimate = paired_difference(differences, seed=3)
    assert estimate.value == pytest.approx(0.2 * step)
    spread = 1.959964 * step * math.sqrt((80 / 200 - 0.04) / 200)  # the normal interval, close at this n
    assert estimate.low == pytest.approx(0.2 * step - spread, abs=0.02 * step)
    assert estimate.high == pytest.approx(0.2 * step + spread, abs=0.02 * step)
    assert paired_difference(differences, seed=3) == estimate
    assert paired_difference([0.5] * 9) == Estimate(0.5, None, None, 9)
