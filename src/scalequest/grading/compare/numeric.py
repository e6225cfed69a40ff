"""Compare the values of two formulas: exactly if both are rational, else at sample points.

A point assigns a number to every symbol. Both trees are evaluated there with 50 digits, and if they differ
once more with 100: a difference that stays is a proof, one that shrinks with the precision counts as zero.
Points are positive, of mixed sign, or integers; a point at which a formula has no real value does not count.
The result is correct except for coincidences of 40 digits at every point.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import permutations
from typing import Any

from scalequest.grading.compare.values import context, evaluate, real
from scalequest.grading.latex.exact import TooLarge, Undefined, rational
from scalequest.grading.latex.trees import Node, has, number, substituted
from scalequest.grading.latex.trees import names as names  # so that callers only need this module

_DIGITS = (50, 100, 200)

# (signs of the symbols in turn, lower end, width); the last two points are integers
_POINTS = (
    (1, 0.05, 0.5),
    (1, 0.3, 0.65),
    (1, 1.1, 1.8),
    (1, 2.5, 7.0),
    (-1, 0.2, 3.0),
    (-2, 0.2, 3.0),
    (-3, 0.2, 3.0),
    (1, 30.0, 200.0),
    (-3, 30.0, 200.0),
)
_WHOLE = ((2, 5), (4, 7))
_IRRATIONAL = tuple(
    math.sqrt(p) for p in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)
)


def same(left: Node, right: Node, renamed: str = "") -> bool | None:
    """Return whether two trees have the same value wherever both have one; None if that cannot be determined.

    With `renamed` "c", arbitrary constants may have different names on the two sides; with "n", so may the
    letters for any integer.
    """
    if left == right:
        return True
    a, b = rational(left), rational(right)
    if a is not None and b is not None:
        return a == b
    verdict = _same_at_points(left, right)
    if verdict is False and renamed:
        return any(_same_at_points(left, other) for other in _renamings(left, right, renamed))
    return verdict


def _same_at_points(left: Node, right: Node) -> bool | None:
    symbols = sorted(set(names(left)) | set(names(right)))
    if len(symbols) > len(_IRRATIONAL):
        return None
    imaginary = not symbols or has(left, "i") or has(right, "i")
    met = 0
    for point in _points(len(symbols)):
        here = dict(zip(symbols, point, strict=True))
        try:
            if not _equal_here(left, right, here, imaginary):
                return False
        except (Undefined, TooLarge):
            continue
        met += 1
    return met >= (2 if symbols else 1) or None


@lru_cache(maxsize=32)
def _points(count: int) -> tuple[tuple[Any, ...], ...]:
    if not count:
        return ((),)
    if count > len(_IRRATIONAL):
        return ()
    points: list[tuple[Any, ...]] = []
    for at, (signs, low, width) in enumerate(_POINTS):
        row = []
        for j in range(count):
            size = low + width * math.modf(_IRRATIONAL[j] * (at + 1))[0]
            sign = 1 if signs == 1 else (-1) ** j if signs == -1 else (-1) ** (j + 1) if signs == -2 else -1
            row.append(Fraction(sign * size).limit_denominator(10**9))
        points.append(tuple(row))
    points += [tuple(low + (step * j) % 11 for j in range(count)) for low, step in _WHOLE]
    return tuple(points)


def _equal_here(left: Node, right: Node, here: Mapping[str, Any], imaginary: bool) -> bool:
    """Compare two values (or matrices of them) at a point.

    Raises:
        Undefined, TooLarge: one of them cannot be computed.
    """
    previous: Any = None
    for digits in _DIGITS:
        a, b = (evaluate(side, here, digits, imaginary) for side in (left, right))
        if len(a) != len(b) or [len(row) for row in a] != [len(row) for row in b]:
            return False
        pairs = [(x, y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True)]
        with context.workdps(digits):
            gaps = [_gap(x, y, digits) for x, y in pairs]
            if None in gaps:
                continue
            if not any(gaps):
                return True
            if previous is not None and any(
                gap and before and abs(gap - before) <= abs(gap) * context.mpf("1e-6")
                for gap, before in zip(gaps, previous, strict=True)
            ):
                return False
            if previous is not None and all(
                abs(gap) <= abs(before) * context.mpf("1e-30")
                for gap, before in zip(gaps, previous, strict=True)
            ):
                return True
            previous = gaps
    raise TooLarge("precision")


def _gap(x: Any, y: Any, digits: int) -> Any:
    """Return how far two values are apart: 0 if they agree to the last digits, None if more are needed."""
    if context.isnan(x) or context.isnan(y):
        raise Undefined("nan")
    if context.isinf(x) or context.isinf(y):
        return 0 if x == y else context.mpf(1)
    difference = abs(x - y)
    size = max(abs(x), abs(y))
    if difference > size * context.mpf(10) ** (5 - digits):
        return difference
    return None if context.mag(size) > 3 * digits - 30 else 0  # too few digits to see those before the point


def value(node: Node, digits: int = 30) -> Any:
    """Return the real or complex value of a tree; None if it has none, or contains symbols."""
    if names(node):
        return None
    try:
        table = evaluate(node, {}, digits, True)
        return table[0][0] if len(table) == len(table[0]) == 1 else None
    except (Undefined, TooLarge):
        return None


def ratio(a: Node, b: Node) -> Any:
    """Return the real value of `a / b` at the first point where it is not zero; None if there is none."""
    letters = sorted(set(names(a)) | set(names(b)))
    for point in _points(len(letters)):
        try:
            result = evaluate(Node("/", (a, b)), dict(zip(letters, point, strict=True)), 30, False)[0][0]
        except (Undefined, TooLarge):
            continue
        return result if result else None
    return None


def fixed_point(letters: Sequence[str]) -> dict[str, Node]:
    """A point at which letters are replaced by numbers."""
    return {name: number(Fraction(7 + 5 * j * j, 4 + j)) for j, name in enumerate(letters)}


def within(a: Fraction, b: Any, gap: Fraction) -> bool:
    """Return whether a value is at most `gap` away from a rational number."""
    with context.workdps(30):
        return not isinstance(b, context.mpc) and bool(
            abs(real(a) - b) <= real(gap) * context.mpf("1.0000000001")
        )


_PRINTED = re.compile(r"[-+]?\d*\.(\d{15,16})(?:[eE]-\d+|\s?(?:\\times|\\cdot|\*).*)")


def vanishes(text: str, value: Fraction) -> bool:
    """Return whether a decimal is the remainder of zero in double precision, as a program prints it.

    It has 16 or 17 digits, like `1.1102230246251565e-16`; terms up to about 50 leave at most 1e-14.
    """
    return _PRINTED.fullmatch(text) is not None and abs(value) < Fraction(1, 10**14)


_ELIDED = re.compile(r"[-+]?\d*\.(\d+)\\ldots")


def begins(text: str, value: Any, digits: int) -> bool:
    r"""Return whether `3.1415\ldots` shows a value's first digits, or rounded ones; at least `digits`."""
    match = _ELIDED.fullmatch(text)
    shown = text.partition("\\")[0]
    if not match or value is None or len(re.sub(r"\D", "", shown).lstrip("0")) < max(digits, 1):
        return False
    a, gap = Fraction(shown), Fraction(1, 10 ** len(match[1]))
    middle = a + (gap if a > 0 else -gap) / 2
    return within(middle, value, gap / 2) or within(a, value, gap / 2)


_ARBITRARY = {"c": ("c", "C", "k", "K"), "n": ("c", "C", "k", "K", "n", "m", "l")}


def _renamings(left: Node, right: Node, renamed: str) -> list[Node]:
    """Yield `right` with its arbitrary constants renamed to those of `left`, in every order."""
    letters = _ARBITRARY[renamed]
    sides = []
    for side in (left, right):
        free = names(side)
        mine = [name for name in free if name.partition("_")[0] in letters]
        sides.append((mine, [name for name in free if name not in mine]))
    (mine, rest), (theirs, others) = sides
    constants = renamed == "n" or any(name[0] == "C" or "_" in name for name in mine + theirs)
    if (
        not mine
        or not constants
        or (not rest and renamed == "c")
        or rest != others
        or len(mine) != len(theirs)
        or len(mine) > 4
    ):
        return []
    return [
        substituted(right, {old: Node("sym", value=new) for old, new in zip(theirs, order, strict=True)})
        for order in permutations(mine)
        if list(order) != theirs
    ]
