r"""Sets of real numbers: their representation, and whether two contain the same numbers.

A set is a formula over spans and kinds of numbers, e.g. `x > 2` and integer. The ends of the spans of two
sets divide the line into points and gaps; the sets are equal if they agree at every point, and in every gap
on a number of each kind in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

from scalequest.grading.compare import numeric
from scalequest.grading.compare.values import evaluate
from scalequest.grading.latex.exact import TooLarge, Undefined, rational
from scalequest.grading.latex.trees import MINUS_ONE, Node, names, number

_MAX_ENDS = 40
_MAX_PARTS = 100
_MAX_MODULUS = 360
_MAX_WORK = 300_000
_MAX_BITS = 10_000
_PRIMES_WITHIN = 1_000  # how far into a gap to search for a prime of each residue
_LARGEST = 10**6  # limit for the ends of a set of primes, which have some of each residue near them
_CLOSE = Fraction(1, 10**20)


@dataclass(frozen=True)
class Reals:
    """A set: a `span` between `ends` (None: infinite), a `kind` of numbers, or `or`, `and`, `not` of `parts`.

    `kind` is Q, Z, prime, or `residue` modulo `modulus`. The whole line is an `and` of nothing.
    """

    op: Literal["span", "kind", "or", "and", "not"]
    parts: tuple[Reals, ...] = ()
    ends: tuple[Node | None, Node | None] = (None, None)
    closed: tuple[bool, bool] = (False, False)
    kind: str = ""
    modulus: int = 1
    residue: int = 0


ALL, EMPTY = Reals("and"), Reals("or")
INTEGERS, RATIONALS, PRIMES = (Reals("kind", kind=kind) for kind in ("Z", "Q", "prime"))


def union(*parts: Reals) -> Reals:
    """Return the union of the parts."""
    return Reals("or", parts)


def both(*parts: Reals) -> Reals:
    """Return the intersection of the parts."""
    return Reals("and", parts)


def without(whole: Reals, holes: Reals) -> Reals:
    """Return the numbers of one set that are not in the other."""
    return both(whole, Reals("not", (holes,)))


def span(low: Node | None, high: Node | None, closed: tuple[bool, bool] = (False, False)) -> Reals:
    """Return the numbers between two ends; None means infinite."""
    return Reals("span", ends=(low, high), closed=closed)


def point(value: Node) -> Reals:
    """Return the set of a single number."""
    return span(value, value, (True, True))


def congruent(modulus: int, residue: int) -> Reals:
    """Return the integers with a given residue."""
    return Reals("kind", kind="residue", modulus=modulus, residue=residue % modulus)


# ------------------------------------------------------------------------------------------------ comparison


@dataclass(frozen=True)
class _Sample:
    """A number in a gap (even `place`) or at an end (odd), an integer or of another kind."""

    place: int
    integer: int | None
    rational: bool


def same_set(left: Reals, right: Reals) -> bool | None:
    """Return whether two sets contain the same numbers; None if too large, or if ends cannot be ordered."""
    leaves = [*_leaves(left), *_leaves(right)]
    if len(leaves) > _MAX_PARTS:
        return None
    kinds = [leaf for leaf in leaves if leaf.op == "kind"]
    modulus = math.lcm(*(leaf.modulus for leaf in kinds))
    ends = {end for leaf in leaves if leaf.op == "span" for end in leaf.ends if end is not None}
    if modulus > _MAX_MODULUS or len(ends) > _MAX_ENDS:
        return None
    if (ordered := _ordered(ends, exact=bool(kinds))) is None:
        return _alike(_flat(left), _flat(right)) or None
    places, values = ordered
    if PRIMES in kinds and any(abs(height) > _LARGEST for _, height in values):
        return None
    within = _PRIMES_WITHIN if PRIMES in kinds else 2 * modulus if kinds else 0
    if (len(values) + 1) * (within + 2) * len(leaves) > _MAX_WORK:
        return None
    samples = _samples(values, within)
    return all(_holds(left, sample, places) == _holds(right, sample, places) for sample in samples)


def _flat(part: Reals) -> Reals:
    """Return the same formula without nested unions and the like."""
    if part.op not in ("or", "and"):
        return Reals("not", (_flat(part.parts[0]),)) if part.op == "not" else part
    parts = [_flat(inner) for inner in part.parts]
    inner = [piece for one in parts for piece in (one.parts if one.op == part.op else (one,))]
    return inner[0] if len(inner) == 1 else Reals(part.op, tuple(dict.fromkeys(inner)))


def _alike(left: Reals, right: Reals) -> bool:
    """Return whether two formulas are equal except for the order of parts and the spelling of ends."""
    shape, other = ((x.op, x.closed, x.kind, x.modulus, x.residue, len(x.parts)) for x in (left, right))
    if shape != other or not all(_same_end(*ends) for ends in zip(left.ends, right.ends, strict=True)):
        return False
    rest = list(right.parts)
    for part in left.parts:
        if (match := next((item for item in rest if _alike(part, item)), None)) is None:
            return False
        rest.remove(match)
    return True


def _same_end(left: Node | None, right: Node | None) -> bool:
    return left == right or (left is not None and right is not None and bool(numeric.same(left, right)))


def _leaves(part: Reals) -> Iterator[Reals]:
    if part.op in ("span", "kind"):
        yield part
    for inner in part.parts:
        yield from _leaves(inner)


def _ordered(ends: set[Node], *, exact: bool) -> tuple[dict[Node, int], list[tuple[Node, Any]]] | None:
    """Return the rank of every end, equal ends sharing a rank, and one end of each rank with its value."""
    origin = next((end for end in ends if names(end)), None)
    if origin is not None and exact:
        return None
    found = [(end, _height(end, origin)) for end in ends]
    if any(height is None for _, height in found):
        return None
    places: dict[Node, int] = {}
    distinct: list[tuple[Node, Any]] = []
    for end, height in sorted(found, key=lambda pair: pair[1]):
        if distinct and height - distinct[-1][1] <= _CLOSE * (1 + abs(height)):
            if (equal := numeric.same(end, distinct[-1][0])) is None:
                return None
            if equal:
                places[end] = len(distinct) - 1
                continue
        places[end] = len(distinct)
        distinct.append((end, height))
    return places, distinct


def _height(end: Node, origin: Node | None) -> Any:
    """Return the value of an end; relative to `origin`, an end with letters, if these cancel, else None."""
    if origin is None:
        found = numeric.value(end)
        return None if found is None or found.imag else _fraction(found.real)
    gap = Node("+", (end, Node("*", (MINUS_ONE, origin))))
    letters = names(gap)
    at = [{name: Fraction(k * j + 3, j + k) for j, name in enumerate(letters, 2)} for k in (3, 7, 19)]
    try:
        heights = [_fraction(evaluate(gap, here, 40, False)[0][0]) for here in at]
    except (Undefined, TooLarge):
        return None
    known = [height for height in heights if height is not None]
    if len(known) < len(heights):
        return None
    return known[0] if max(known) - min(known) <= _CLOSE else None


def _fraction(value: Any) -> Fraction | None:
    """Return the exact value of an mpmath number; None if it is not real, not finite, or too large."""
    if value.imag:
        return None
    sign, mantissa, exponent, bits = value.real._mpf_
    if (not mantissa and exponent) or abs(exponent) + bits > _MAX_BITS:
        return None
    size: Fraction = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -size if sign else size


def _samples(values: Sequence[tuple[Node, Any]], within: int) -> Iterator[_Sample]:
    """Return a number of each kind in every gap, and every end; `within` is 0 if kinds do not matter."""
    for place, (low, high) in enumerate(pairwise([None, *(height for _, height in values), None])):
        yield _Sample(2 * place, None, False)
        yield _Sample(2 * place, None, True)
        for integer in _integers(low, high, within):
            yield _Sample(2 * place, integer, True)
        if place < len(values):
            yield _at(values[place], 2 * place + 1, exact=within > 0)


def _integers(low: Any, high: Any, count: int) -> range:
    """Return the first integers of a gap; at least those up to `count` if the gap has no lower end."""
    if low is None:
        last = count if high is None else min(math.ceil(high) - 1, count)
        return range(last - 2 * count, last + 1)
    first = math.floor(low) + 1
    return range(first, first + count if high is None else min(first + count, math.ceil(high)))


def _at(end: tuple[Node, Any], place: int, *, exact: bool) -> _Sample:
    if not exact:
        return _Sample(place, None, False)
    value = rational(end[0])
    if value is None:  # possibly the root of a square
        guess = Fraction(end[1]).limit_denominator(10**6)
        value = guess if numeric.same(end[0], number(guess)) else None
    integer = int(value) if value is not None and value.denominator == 1 else None
    return _Sample(place, integer, value is not None)


def _holds(part: Reals, sample: _Sample, places: dict[Node, int]) -> bool:
    if part.op == "not":
        return not _holds(part.parts[0], sample, places)
    if part.op in ("or", "and"):
        return (any if part.op == "or" else all)(_holds(inner, sample, places) for inner in part.parts)
    if part.op == "span":
        low, high = (None if end is None else 2 * places[end] + 1 for end in part.ends)
        above = low is None or sample.place > low or (part.closed[0] and sample.place == low)
        return above and (high is None or sample.place < high or (part.closed[1] and sample.place == high))
    if part.kind == "Q":
        return sample.rational
    if sample.integer is None:
        return False
    if part.kind == "prime":
        return _is_prime(sample.integer)
    return sample.integer % part.modulus == part.residue


@lru_cache(maxsize=4096)
def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


# ---------------------------------------------------------------------------------------------------- images


def image(of: Reals, step: int, offset: int) -> Reals | None:
    """Return the set of `step * k + offset` for `k` in a set of integers; None for any other set."""
    if not _within_integers(of):
        return None
    return _moved(of, step, offset)


def _within_integers(part: Reals) -> bool:
    if part.op == "and":
        return any(map(_within_integers, part.parts))
    if part.op == "or":
        return all(map(_within_integers, part.parts))
    return (part.op == "kind" and part.kind != "Q") or (
        part.op == "span" and part.ends[0] == part.ends[1] and rational(part.ends[0] or number(0)) is not None
    )


def _moved(part: Reals, step: int, offset: int) -> Reals | None:
    if part.op == "kind":
        if part.kind in ("prime", "Q") and (step, offset) != (1, 0):
            return None
        if part.kind in ("prime", "Q"):
            return part
        return congruent(abs(step) * part.modulus, step * part.residue + offset)
    if part.op == "span":
        low, high = (
            None if end is None else Node("+", (Node("*", (number(step), end)), number(offset)))
            for end in part.ends
        )
        return span(low, high, part.closed) if step > 0 else span(high, low, part.closed[::-1])
    inner = [_moved(piece, step, offset) for piece in part.parts]
    return None if None in inner else Reals(part.op, tuple(piece for piece in inner if piece is not None))
