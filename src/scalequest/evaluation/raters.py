"""The agreement of two raters: the share of equal ratings and Cohen's kappa, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalequest.evaluation.statistics import Estimate, share_of, wilson_interval


@dataclass(frozen=True)
class RaterAgreement:
    """The agreement of two raters.

    Attributes:
        share: the share of items that both put into the same class.
        kappa: Cohen's kappa: 1 if they always agree, 0 if they agree as often as by chance, at least -1.
        table: [class by the first][class by the second], the number of items.
    """

    share: Estimate
    kappa: Estimate
    table: tuple[tuple[int, ...], ...]


def rater_agreement(
    first: Sequence[int], second: Sequence[int], classes: int, *, quadratic: bool = False
) -> RaterAgreement:
    """Compare the classes, numbered from 0 to `classes` - 1, into which two raters put the same items.

    With `quadratic`, the classes are ordered, and two classes at a distance d count as agreement by
    1 - (d / largest distance)^2 (Cohen, 1968). Kappa does not exist if both raters only use one and the same
    class.

    The interval of kappa starts from the large-sample variance of Fleiss, Cohen and Everitt (1969). It is
    Wilson's interval of the observed agreement, for the number of items that has this variance, with the
    chance agreement held fixed. The usual symmetric interval misses kappa too often near 1 (31 times in 100
    for 20 items at a kappa of 0.83, where this one misses 8 times), and has no width if all ratings agree.

    Raises:
        ValueError: the two have not rated the same number of items.
    """
    counts = np.zeros((classes, classes), int)
    for one, other in zip(first, second, strict=True):
        counts[one, other] += 1
    n = len(first)
    table = tuple(tuple(int(cell) for cell in row) for row in counts)
    share = share_of(int(np.trace(counts)), n)
    return RaterAgreement(share, _kappa(counts / max(1, n), n, _weights(classes, quadratic)), table)


def _weights(classes: int, quadratic: bool) -> NDArray[np.float64]:
    """Return the weights [class, class]: how much a pair of classes counts as agreement."""
    if not quadratic:
        return np.eye(classes)
    place = np.arange(classes)
    apart: NDArray[np.float64] = (place[:, None] - place[None, :]) / max(1, classes - 1)
    return 1 - apart**2


def _kappa(shares: NDArray[np.float64], n: int, weights: NDArray[np.float64]) -> Estimate:
    rows, columns = shares.sum(1), shares.sum(0)
    observed = float((weights * shares).sum())
    chance = float((weights * np.outer(rows, columns)).sum())
    if not n or chance > 1 - 1e-12:
        return Estimate(None, None, None, n)
    kappa = (observed - chance) / (1 - chance)
    # Fleiss, Cohen and Everitt: the variance of the observed agreement, less what varies along with chance
    mean = (weights @ columns)[:, None] + (weights.T @ rows)[None, :]
    spread = float((shares * (weights - mean * (1 - kappa)) ** 2).sum())
    variance = (spread - (kappa - chance * (1 - kappa)) ** 2) / n
    as_many = observed * (1 - observed) / variance if variance > 1e-12 else float(n)
    low, high = wilson_interval(min(observed, 1.0), max(as_many, 1e-9))
    low, high = ((bound - chance) / (1 - chance) for bound in (low, high))
    return Estimate(kappa, max(low, -1.0), min(high, 1.0), n)
