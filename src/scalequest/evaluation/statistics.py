"""Intervals and tests for shares, means and differences, and metrics over several samples per problem."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

Z95 = NormalDist().inv_cdf(0.975)
RESAMPLES = 10_000
FEW = 10  # with fewer flips, the bootstrap's interval is too narrow


@dataclass(frozen=True)
class Estimate:
    """A share (0 to 1) or a mean over `n` observations, with its 95 % interval; all None if `n` is 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def share_of(successes: int, n: int) -> Estimate:
    """Return a share with Wilson's score interval (1927), which stays in [0, 1] and is accurate at its ends.

    Raises:
        ValueError: more successes than trials, or a negative count.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n}")
    if n == 0:
        return Estimate(None, None, None, 0)
    return Estimate(successes / n, *wilson_interval(successes / n, n), n)


def wilson_interval(p: float, n: float) -> tuple[float, float]:
    """Wilson's score interval: both shares from which `p` is `Z95` standard errors of n trials away."""
    middle, half = p + Z95**2 / (2 * n), Z95 * math.sqrt(p * (1 - p) / n + (Z95 / (2 * n)) ** 2)
    scale = 1 + Z95**2 / n
    return (middle - half) / scale if p else 0.0, (middle + half) / scale if p < 1 else 1.0


def mean_of(values: Sequence[float]) -> Estimate:
    """Return a mean with its normal interval; suitable for hundreds of values, not for a handful."""
    n = len(values)
    if n < 2:
        value = float(values[0]) if values else None
        return Estimate(value, None, None, n)
    middle, half = fmean(values), Z95 * stdev(values) / math.sqrt(n)
    return Estimate(middle, middle - half, middle + half, n)


def mean_over_runs(values: Sequence[float]) -> Estimate:
    """Return the mean of one value per run (seed) with Student's t interval (1908), meant for a few runs.

    For a comparison that is paired by seed, the values are the differences. There is no interval for a single
    run, nor if all runs give the same value, because nothing is then known about how they vary.
    """
    n = len(values)
    if n < 2 or max(values) - min(values) < 1e-12:
        return Estimate(fmean(values) if values else None, None, None, n)
    from scipy.stats import t

    middle, half = fmean(values), float(t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)
    return Estimate(middle, middle - half, middle + half, n)


def accuracy_of(scores: Sequence[float]) -> Estimate:
    """Return the accuracy from one score (0 to 1) per problem, with Wilson's interval over problems.

    Several samples of one problem are not independent, so their mean is one observation. Such means vary less
    than single outputs, as if there were more problems: the interval is Wilson's for as many problems as
    would have this variance (the effective sample size of Korn and Graubard, 1998); for scores of 0 and 1,
    this is the number of problems. A normal interval would be too narrow near 0 and 1.
    """
    n = len(scores)
    if all(score in (0, 1) for score in scores):
        return share_of(int(sum(scores)), n)
    p = fmean(scores)
    variance = fmean([(score - p) ** 2 for score in scores])
    if variance < 1e-12:  # if all problems have equal shares, nothing is known about how problems vary
        return Estimate(p, None, None, n)
    return Estimate(p, *wilson_interval(p, n * p * (1 - p) / variance), n)


def paired_difference(differences: Sequence[float], seed: int = 0) -> Estimate:
    """Return the mean of one difference per problem, with the percentile bootstrap interval over problems.

    The bootstrap interval is too narrow if few problems flip, and has no width if none does. With one output
    per problem (each difference is -1, 0 or 1) and fewer than `FEW` flips, or hardly anything else, the
    interval is Tango's for paired proportions (Statistics in Medicine 17, 1998): all differences that a score
    test does not reject; at zero, the test is McNemar's. Means of several outputs have no interval if all
    problems have the same difference, because nothing is then known about how problems vary.

    Args:
        differences: the first model's score minus the second's, one per problem.
        seed: the seed of the bootstrap.

    Raises:
        ValueError: there are fewer than two problems.
    """
    n = len(differences)
    if n < 2:
        raise ValueError("a paired difference requires at least two problems")
    if all(difference in (-1, 0, 1) for difference in differences):
        gained, lost = (sum(difference == flip for difference in differences) for flip in (1, -1))
        if min(gained + lost, n - max(gained, lost)) < FEW:
            low, high = -_tango_bound_of(lost, gained, n), _tango_bound_of(gained, lost, n)
            return Estimate((gained - lost) / n, low, high, n)
    if max(differences) - min(differences) < 1e-12:
        return Estimate(fmean(differences), None, None, n)
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(differences, dtype=float),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1 + 2_000_000 // n,  # 16 MB at a time
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in found.confidence_interval)
    return Estimate(fmean(differences), low, high, n)


def independent_difference(first: Estimate, second: Estimate) -> Estimate:
    """The first minus the second, of two samples that have nothing to do with each other.

    The interval is made of theirs (Zou and Donner, Statistics in Medicine 27, 2008), which for shares with
    Wilson's is Newcombe's (Statistics in Medicine 17, 1998, method 10). `n` is the smaller one. There is no
    interval if one of them has none.
    """
    n = min(first.n, second.n)
    if first.value is None or second.value is None:
        return Estimate(None, None, None, n)
    difference = first.value - second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Estimate(difference, None, None, n)
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(difference, difference - below, difference + above, n)


def _tango_bound_of(gained: int, lost: int, n: int) -> float:
    """Return the largest difference at most `Z95` standard errors from the observed one, by bisection.

    The variance at a difference d is that of the most likely shares of gained and lost that differ by d.
    """
    seen = (gained - lost) / n
    inside, outside = seen, 1.0
    for _ in range(50):
        d = (inside + outside) / 2
        b, c = (2 * n - gained + lost) * d - gained - lost, -lost * d * (1 - d)
        share_lost = (math.sqrt(b * b - 8 * n * c) - b) / (4 * n)
        if n * (d - seen) ** 2 <= Z95**2 * (2 * share_lost + d * (1 - d)):
            inside = d
        else:
            outside = d
    return inside


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, whose null hypothesis is that half are gained.

    Args:
        gained: the number of problems that only the first model solves.
        lost: the number of problems that only the second model solves.
    """
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue)


# -------------------------------------------------------------------------------- several samples per problem


def pass_at_k(correct: int, n: int, k: int) -> float:
    """Return the chance that k of n samples, without replacement, include a correct one (Chen et al., 2021).

    Raises:
        ValueError: k is not between 1 and n, or more samples are correct than there are.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} of {n} samples, {correct} of them correct")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority_vote(groups: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """Return the probability that the most frequent answer is correct; a tie is broken at random.

    Args:
        groups: the answer of each sample (equal answers have equal groups); None if it has no answer.
        correct: whether each sample's answer is correct.
    """
    votes = Counter(group for group in groups if group is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    right = {group for group, good in zip(groups, correct, strict=True) if good}
    winners = [group for group, count in votes.items() if count == most]
    return sum(group in right for group in winners) / len(winners)


def best_of(scores: Sequence[float], correct: Sequence[bool]) -> float:
    """Return the probability that the sample with the highest score is correct; ties are broken at random."""
    top = max(scores)
    best = [good for score, good in zip(scores, correct, strict=True) if score == top]
    return sum(best) / len(best)
