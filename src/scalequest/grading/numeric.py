"""Whether two formulas have the same value: exactly where both are rational, else at sample points.

A point gives every symbol a number. Both trees are evaluated there with 50 digits, and where they differ once
more with 100: a difference that stays is a proof, one that shrinks with the precision is a zero. Points are
positive, of mixed sign, and whole; where a formula has no real value at a point, the point does not count.
That equal formulas are found equal, and others not, holds up to coincidences of 40 digits at every point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import permutations
from typing import Any

from mpmath import MPContext  # type: ignore[import-untyped]
from mpmath.libmp import NoConvergence  # type: ignore[import-untyped]

from scalequest.grading.expressions import Node

_DIGITS = (50, 100, 200)
_MAX_EXPONENT = 10**7  # bits: beyond it a power is not held
_MAX_FACTORIAL = 10**9
_MAX_TERMS = 3_000
_MAX_NODES = 1_500
_MAX_BITS = 40_000
_MAX_EXACT_FACTORIAL = 3_000

# (signs of the symbols in turn, lower end, width); the last two are whole numbers
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

ZERO = Fraction(0)

_ctx: Any = MPContext()


class Undefined(ValueError):
    """No real value (or none at all) at this point."""


class TooLarge(ValueError):
    """Its value, or the work to find it, is beyond the bounds above."""


# ----------------------------------------------------------------------------------------------------- exact


def rational(node: Node) -> Fraction | None:
    """Value of a tree over rationals; None where it has none, or one that is too large to hold."""
    try:
        return _rational(node)
    except (Undefined, TooLarge, ZeroDivisionError, RecursionError):
        return None


def _rational(node: Node) -> Fraction:
    if isinstance(node.value, Fraction):
        return node.value
    if node.op not in ("+", "*", "/", "^", "!", "binom", "abs"):
        raise Undefined(node.op)
    values = [_rational(part) for part in node.args]
    first = values[0]
    if node.op == "abs":
        return abs(first)
    if node.op == "!":
        if first.denominator != 1 or first < 0:
            raise Undefined("factorial")
        if first > _MAX_EXACT_FACTORIAL:
            raise TooLarge("factorial")
        return Fraction(math.factorial(int(first)))
    if node.op == "binom":
        n, k = values
        if n.denominator != 1 or k.denominator != 1 or k < 0 or not 0 <= n <= _MAX_EXACT_FACTORIAL:
            raise Undefined("binomial")
        return Fraction(math.comb(int(n), int(k)))
    if node.op == "^":
        power = values[1]
        if power.denominator != 1 or (first == 0 and power <= 0):
            raise Undefined("power")
        if abs(power) * max(first.numerator.bit_length(), first.denominator.bit_length()) > _MAX_BITS:
            raise TooLarge("power")
        return first ** int(power)
    for other in values[1:]:
        first = first + other if node.op == "+" else first * other if node.op == "*" else first / other
        if first.numerator.bit_length() + first.denominator.bit_length() > 4 * _MAX_BITS:
            raise TooLarge("number")
    return first


# ------------------------------------------------------------------------------------------------ comparison


def same(left: Node, right: Node, renamed: str = "") -> bool | None:
    """Whether two trees have the same value wherever both have one; None where that cannot be told.

    With `renamed` "c", the arbitrary constants of one side may be called as those of the other; with "n" also
    the letters for any integer.
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
        Undefined, TooLarge: one of them cannot be told.
    """
    previous: Any = None
    for digits in _DIGITS:
        a, b = (evaluate(side, here, digits, imaginary) for side in (left, right))
        if len(a) != len(b) or [len(row) for row in a] != [len(row) for row in b]:
            return False
        pairs = [(x, y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True)]
        with _ctx.workdps(digits):
            gaps = [_gap(x, y, digits) for x, y in pairs]
            if None in gaps:
                continue
            if not any(gaps):
                return True
            if previous is not None and any(
                gap and before and abs(gap - before) <= abs(gap) * _ctx.mpf("1e-6")
                for gap, before in zip(gaps, previous, strict=True)
            ):
                return False
            if previous is not None and all(
                abs(gap) <= abs(before) * _ctx.mpf("1e-30")
                for gap, before in zip(gaps, previous, strict=True)
            ):
                return True
            previous = gaps
    raise TooLarge("precision")


def _gap(x: Any, y: Any, digits: int) -> Any:
    """How far two values are apart: 0 where they agree to the last digits, None where more are needed."""
    if _ctx.isnan(x) or _ctx.isnan(y):
        raise Undefined("nan")
    if _ctx.isinf(x) or _ctx.isinf(y):
        return 0 if x == y else _ctx.mpf(1)
    difference = abs(x - y)
    size = max(abs(x), abs(y))
    if difference > size * _ctx.mpf(10) ** (5 - digits):
        return difference
    return None if _ctx.mag(size) > 3 * digits - 30 else 0  # too few digits to see the ones before the point


def value(node: Node, digits: int = 30) -> Any:
    """Real or complex value of a tree without symbols; None where it has none."""
    try:
        table = evaluate(node, {}, digits, True)
        return table[0][0] if len(table) == len(table[0]) == 1 else None
    except (Undefined, TooLarge):
        return None


def names(node: Node) -> list[str]:
    """Free symbols of a tree."""
    found: set[str] = set()
    _names(node, found)
    return sorted(found)


def _names(node: Node, found: set[str]) -> None:
    if node.op == "sym":
        found.add(str(node.value))
    elif node.op in ("sum", "prod"):
        inner: set[str] = set()
        for part in node.args[1:]:
            _names(part, inner)
        found |= inner - {str(node.args[0].value)}
    else:
        for part in node.args:
            _names(part, found)


def has(node: Node, op: str) -> bool:
    """Whether a tree holds a node of this kind."""
    return node.op == op or any(has(part, op) for part in node.args)


def substituted(node: Node, table: Mapping[str, Node]) -> Node:
    """Return the tree with symbols replaced."""
    if node.op == "sym":
        return table.get(str(node.value), node)
    if not node.args:
        return node
    return Node(node.op, tuple(substituted(part, table) for part in node.args), node.value)


def signs(node: Node) -> tuple[Node, Node]:
    r"""Return both values of a tree with `\pm`."""
    return _choose(node, 1), _choose(node, -1)


def _choose(node: Node, sign: int) -> Node:
    if node.op in ("pm", "mp"):
        return Node("num", value=Fraction(sign if node.op == "pm" else -sign))
    return Node(node.op, tuple(_choose(part, sign) for part in node.args), node.value) if node.args else node


def ratio(a: Node, b: Node) -> Any:
    """Real value of `a / b` at the first point where it has one that is not zero; None where it has none."""
    letters = sorted(set(names(a)) | set(names(b)))
    for point in _points(len(letters)):
        try:
            result = evaluate(Node("/", (a, b)), dict(zip(letters, point, strict=True)), 30, False)[0][0]
        except (Undefined, TooLarge):
            continue
        return result if result else None
    return None


def fixed_point(letters: Sequence[str]) -> dict[str, Node]:
    """One point at which letters are replaced by numbers."""
    return {name: constant(Fraction(7 + 5 * j * j, 4 + j)) for j, name in enumerate(letters)}


def constant(number: Fraction) -> Node:
    """Return a leaf that holds a number."""
    return Node("num", value=number)


def within(a: Fraction, b: Any, gap: Fraction) -> bool:
    """Whether a value lies no further from a rational than `gap`."""
    with _ctx.workdps(30):
        return not isinstance(b, _ctx.mpc) and bool(abs(_mpf(a) - b) <= _mpf(gap) * _ctx.mpf("1.0000000001"))


_ARBITRARY = {"c": ("c", "C", "k", "K"), "n": ("c", "C", "k", "K", "n", "m", "l")}


def _renamings(left: Node, right: Node, renamed: str) -> list[Node]:
    """Return `right` with its arbitrary constants called as those of `left`, in every order."""
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


# ------------------------------------------------------------------------------------------------ evaluation

Table = list[list[Any]]


def evaluate(node: Node, here: Mapping[str, Any], digits: int, imaginary: bool) -> Table:
    """Value of a tree at a point, as a table of 1 x 1 unless it is a matrix.

    Raises:
        Undefined: it has none there, or with `imaginary` False none that is real on the way.
        TooLarge: it is beyond the bounds of this module.
    """
    if _size(node) > _MAX_NODES:
        raise TooLarge("formula")
    with _ctx.workdps(digits):
        try:
            return _Evaluation(here, imaginary).table(node)
        except (ZeroDivisionError, OverflowError, NoConvergence, RecursionError, TypeError) as error:
            raise Undefined(str(error)) from None
        except (ValueError, MemoryError) as error:
            raise error if isinstance(error, (Undefined, TooLarge)) else Undefined(str(error)) from None


def _size(node: Node) -> int:
    return 1 + sum(_size(part) for part in node.args)


class _Evaluation:
    def __init__(self, here: Mapping[str, Any], imaginary: bool) -> None:
        self.here, self.imaginary, self.terms = dict(here), imaginary, 0

    def table(self, node: Node) -> Table:
        if node.op == "matrix":
            return [[self.number(cell) for cell in row.args] for row in node.args]
        if node.op in ("+", "*", "/") and any(has(part, "matrix") for part in node.args):
            parts = [self.table(part) for part in node.args]
            total = parts[0]
            for part in parts[1:]:
                total = _combined(node.op, total, part)
            return total
        if node.op == "det":
            return [[_ctx.det(_ctx.matrix(self.table(node.args[0])))]]
        return [[self.number(node)]]

    def number(self, node: Node) -> Any:
        op = node.op
        if op == "num":
            return _mpf(node.value)
        if op == "sym":
            return _mpf(self.here[str(node.value)])
        if op in _CONSTANTS:
            return _CONSTANTS[op]()
        if op in ("sum", "prod"):
            return self.big(node)
        if op in ("pm", "mp", "row", "matrix"):
            raise Undefined(op)
        values = [self.number(part) for part in node.args]
        first = values[0]
        if op == "+":
            return sum(values[1:], first)
        if op == "*":
            return first * values[1]
        if op == "/":
            if values[1] == 0:
                raise Undefined("division by zero")
            return first / values[1]
        if op == "index":
            return _ctx.sin(first * first + sum(map(ord, str(node.value)))) + 2
        result = (
            self.power(*values)
            if op == "^"
            else self.root(*values)
            if op == "root"
            else self.function(op, values)
        )
        if not self.imaginary and isinstance(result, _ctx.mpc):
            if result.imag != 0:
                raise Undefined("not real")
            result = result.real
        return result

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0 and _real(exponent) <= 0:
            raise Undefined("power of zero")
        if base != 0 and abs(exponent) * abs(_ctx.mag(base) + 1) > _MAX_EXPONENT:
            raise TooLarge("power")
        return base**exponent

    def root(self, base: Any, degree: Any) -> Any:
        if degree == 0:
            raise Undefined("root")
        odd = _ctx.isint(degree) and int(degree) % 2
        if odd and not isinstance(base, _ctx.mpc) and base < 0:
            return -((-base) ** (1 / degree))
        return self.power(base, 1 / degree)

    def function(self, op: str, values: Sequence[Any]) -> Any:
        first = values[0]
        if op in ("!", "binom") and max(abs(v) for v in values) > _MAX_FACTORIAL:
            raise TooLarge("factorial")
        if op in ("!", "binom"):
            return _ctx.factorial(first) if op == "!" else _ctx.binomial(*values)
        if op in ("ln", "log"):
            if first == 0 or (op == "log" and values[1] in (0, 1)):
                raise Undefined("logarithm")
            return _ctx.ln(first) / (_ctx.ln(values[1]) if op == "log" else 1)
        if op in ("max", "min"):
            return max(values) if op == "max" else min(values)
        if op in ("gcd", "lcm"):
            if not all(_ctx.isint(v) and abs(v) < 1e30 for v in values):
                raise Undefined(op)
            return _ctx.mpf((math.gcd if op == "gcd" else math.lcm)(*(int(v) for v in values)))
        if op in ("floor", "ceil"):
            return _stepped(op, first)
        if _ctx.mag(first) > 10_000:
            raise TooLarge(op)
        return _FUNCTIONS[op](first)

    def big(self, node: Node) -> Any:
        symbol = str(node.args[0].value)
        first, last = (self.number(part) for part in node.args[1:3])
        if _ctx.isinf(last) or not (_ctx.isint(first) and _ctx.isint(last)):
            raise Undefined("bounds of a sum")
        self.terms += max(0, int(last) - int(first) + 1)
        if self.terms > _MAX_TERMS:
            raise TooLarge("sum")
        outer = self.here.get(symbol)
        total = _ctx.mpf(0 if node.op == "sum" else 1)
        for k in range(int(first), int(last) + 1):
            self.here[symbol] = k
            term = self.number(node.args[3])
            total = total + term if node.op == "sum" else total * term
        self.here[symbol] = outer
        return total


def _mpf(number: Any) -> Any:
    return (
        _ctx.mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else _ctx.mpf(number)
    )


def _real(number: Any) -> Any:
    return number.real if isinstance(number, _ctx.mpc) else number


def _stepped(op: str, x: Any) -> Any:
    """Floor or ceiling, not decided by the last digits: a value that close to an integer is one."""
    nearest = _ctx.nint(x)
    if abs(x - nearest) < _ctx.mpf(10) ** (-_ctx.dps // 2):
        return nearest
    return _ctx.floor(x) if op == "floor" else _ctx.ceil(x)


def _combined(op: str, left: Table, right: Table) -> Table:
    single = (len(left) == len(left[0]) == 1, len(right) == len(right[0]) == 1)
    if op == "+":
        if [len(row) for row in left] != [len(row) for row in right]:
            raise Undefined("sum of matrices")
        return [
            [x + y for x, y in zip(row, other, strict=True)] for row, other in zip(left, right, strict=True)
        ]
    if single[1]:
        factor = right[0][0] if op == "*" else 1 / right[0][0]
        return [[x * factor for x in row] for row in left]
    if op == "*" and single[0]:
        return [[left[0][0] * x for x in row] for row in right]
    if op == "*" and len(left[0]) == len(right):
        columns = list(zip(*right, strict=True))
        return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in left]
    raise Undefined("product of matrices")


_CONSTANTS = {
    "pi": lambda: +_ctx.pi,
    "e": lambda: +_ctx.e,
    "i": lambda: _ctx.mpc(0, 1),
    "inf": lambda: _ctx.inf,
}
_FUNCTIONS = {
    **{
        name: getattr(_ctx, name)
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")
    },
    **{
        f"arc{name}": getattr(_ctx, f"a{name}")
        for name in ("sin", "cos", "tan", "cot", "sinh", "cosh", "tanh")
    },
    "abs": abs,
}
