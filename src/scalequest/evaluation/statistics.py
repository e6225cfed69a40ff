"""How far a measured share, mean or difference can be trusted: 95 % intervals in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A share (0 to 1) or a mean, over `n` observations, with its 95 % interval; all None where `n` is 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def share(successes: int, n: int) -> Estimate:
    """A share with Wilson's score interval (1927), which stays inside 0 and 1 and holds near both ends.

    Raises:
        ValueError: more successes than trials, or a negative count.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Estimate(None, None, None, 0)
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Estimate(p, low, high, n)


def mean(values: Sequence[float]) -> Estimate:
    """A mean with its normal interval; for the hundreds of values of our tables, not for a handful."""
    n = len(values)
    if n < 2:
        value = float(values[0]) if values else None
        return Estimate(value, None, None, n)
    middle, half = fmean(values), Z95 * stdev(values) / math.sqrt(n)
    return Estimate(middle, middle - half, middle + half, n)


def difference(first: tuple[int, int], second: tuple[int, int]) -> tuple[Estimate, float]:
    """First share minus second, of two independent samples given as (successes, n).

    Returns:
        The difference with Newcombe's hybrid score interval (1998, method 10), and the two-sided p-value of
        the pooled z-test. `n` is the smaller sample's. Two models on the same problems are paired: this
        test is then too careful.

    Raises:
        ValueError: a sample is empty or its counts are impossible.
    """
    a, b = share(*first), share(*second)
    if (
        a.value is None
        or a.low is None
        or a.high is None
        or b.value is None
        or b.low is None
        or b.high is None
    ):
        raise ValueError("a difference needs two samples that are not empty")
    gap = a.value - b.value
    low = gap - math.hypot(a.value - a.low, b.high - b.value)
    high = gap + math.hypot(a.high - a.value, b.value - b.low)
    pooled = (first[0] + second[0]) / (first[1] + second[1])
    error = math.sqrt(pooled * (1 - pooled) * (1 / first[1] + 1 / second[1]))
    p_value = 1.0 if error == 0 else 2 * (1 - NormalDist().cdf(abs(gap) / error))
    return Estimate(gap, low, high, min(first[1], second[1])), p_value
