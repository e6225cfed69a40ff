"""Evaluate trees at a point, with many digits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from mpmath import MPContext  # type: ignore[import-untyped]
from mpmath.libmp import NoConvergence  # type: ignore[import-untyped]

from scalequest.grading.latex.exact import TooLarge, Undefined
from scalequest.grading.latex.trees import Node

_MAX_EXPONENT = 10**7  # in bits; larger powers are not computed
_MAX_FACTORIAL = 10**9
_MAX_TERMS = 3_000
_MAX_NODES = 1_500

context: Any = MPContext()


Table = list[list[Any]]


def evaluate(node: Node, here: Mapping[str, Any], digits: int, imaginary: bool) -> Table:
    """Return the value of a tree at a point, as a 1 x 1 table unless it is a matrix.

    Raises:
        Undefined: it has no value there, or with `imaginary` False, no real value on the way.
        TooLarge: it exceeds the limits of this module.
    """
    if _size(node) > _MAX_NODES:
        raise TooLarge("formula")
    with context.workdps(digits):
        try:
            return _Evaluation(here, imaginary).table(node)
        except (ZeroDivisionError, OverflowError, NoConvergence, RecursionError, TypeError) as error:
            raise Undefined(str(error)) from None
        except (ValueError, MemoryError) as error:
            raise error if isinstance(error, (Undefined, TooLarge)) else Undefined(str(error)) from None


def _is_table(node: Node) -> bool:
    """Return whether a tree contains a matrix outside a determinant."""
    return node.op == "matrix" or (node.op != "det" and any(_is_table(part) for part in node.args))


def _size(node: Node) -> int:
    return 1 + sum(_size(part) for part in node.args)


class _Evaluation:
    def __init__(self, here: Mapping[str, Any], imaginary: bool) -> None:
        self.here, self.imaginary, self.terms = dict(here), imaginary, 0

    def table(self, node: Node) -> Table:
        if node.op == "matrix":
            return [[self.number(cell) for cell in row.args] for row in node.args]
        if node.op in ("+", "*", "/") and any(_is_table(part) for part in node.args):
            parts = [self.table(part) for part in node.args]
            total = parts[0]
            for part in parts[1:]:
                total = _combined(node.op, total, part)
            return total
        return [[self.number(node)]]

    def number(self, node: Node) -> Any:
        op = node.op
        if op == "num":
            return real(node.value)
        if op == "sym":
            return real(self.here[str(node.value)])
        if op in _CONSTANTS:
            return _CONSTANTS[op]()
        if op in ("sum", "prod"):
            return self.big(node)
        if op in ("pm", "mp", "row", "matrix"):
            raise Undefined(op)
        if op == "det":  # it has no meaning for a letter
            if node.args[0].op != "matrix":
                raise Undefined(op)
            return context.det(context.matrix(self.table(node.args[0])))
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
            return context.sin(first * first + sum(map(ord, str(node.value)))) + 2
        result = (
            self.power(*values)
            if op == "^"
            else self.root(*values)
            if op == "root"
            else self.function(op, values)
        )
        if not self.imaginary and isinstance(result, context.mpc):
            if result.imag != 0:
                raise Undefined("not real")
            result = result.real
        return result

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0 and _real_part(exponent) <= 0:
            raise Undefined("power of zero")
        if base != 0 and abs(exponent) * abs(context.mag(base) + 1) > _MAX_EXPONENT:
            raise TooLarge("power")
        return base**exponent

    def root(self, base: Any, degree: Any) -> Any:
        if degree == 0:
            raise Undefined("root")
        odd = context.isint(degree) and int(degree) % 2
        if odd and not isinstance(base, context.mpc) and base < 0:
            return -((-base) ** (1 / degree))
        return self.power(base, 1 / degree)

    def function(self, op: str, values: Sequence[Any]) -> Any:
        first = values[0]
        if op in ("!", "binom") and max(abs(v) for v in values) > _MAX_FACTORIAL:
            raise TooLarge("factorial")
        if op in ("!", "binom"):
            return context.factorial(first) if op == "!" else context.binomial(*values)
        if op in ("ln", "log"):
            if first == 0 or (op == "log" and values[1] in (0, 1)):
                raise Undefined("logarithm")
            return context.ln(first) / (context.ln(values[1]) if op == "log" else 1)
        if op in ("max", "min"):
            return max(values) if op == "max" else min(values)
        if op in ("gcd", "lcm"):
            if not all(context.isint(v) and abs(v) < 1e30 for v in values):
                raise Undefined(op)
            return context.mpf((math.gcd if op == "gcd" else math.lcm)(*(int(v) for v in values)))
        if op in ("floor", "ceil"):
            return _stepped(op, first)
        if context.mag(first) > 10_000:
            raise TooLarge(op)
        return _FUNCTIONS[op](first)

    def big(self, node: Node) -> Any:
        symbol = str(node.args[0].value)
        first, last = (self.number(part) for part in node.args[1:3])
        if context.isinf(last) or not (context.isint(first) and context.isint(last)):
            raise Undefined("bounds of a sum")
        self.terms += max(0, int(last) - int(first) + 1)
        if self.terms > _MAX_TERMS:
            raise TooLarge("sum")
        outer = self.here.get(symbol)
        total = context.mpf(0 if node.op == "sum" else 1)
        for k in range(int(first), int(last) + 1):
            self.here[symbol] = k
            term = self.number(node.args[3])
            total = total + term if node.op == "sum" else total * term
        self.here[symbol] = outer
        return total


def real(number: Any) -> Any:
    """Return a Python number as a number of `context`."""
    return (
        context.mpf(number.numerator) / number.denominator
        if isinstance(number, Fraction)
        else context.mpf(number)
    )


def _real_part(number: Any) -> Any:
    return number.real if isinstance(number, context.mpc) else number


def _stepped(op: str, x: Any) -> Any:
    """Return floor or ceiling without relying on the last digits: a value so close to an integer is one."""
    nearest = context.nint(x)
    if abs(x - nearest) < context.mpf(10) ** (-context.dps // 2):
        return nearest
    return context.floor(x) if op == "floor" else context.ceil(x)


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
    "pi": lambda: +context.pi,
    "e": lambda: +context.e,
    "i": lambda: context.mpc(0, 1),
    "inf": lambda: context.inf,
}
_FUNCTIONS = {
    **{
        name: getattr(context, name)
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")
    },
    **{
        f"arc{name}": getattr(context, f"a{name}")
        for name in ("sin", "cos", "tan", "cot", "sinh", "cosh", "tanh")
    },
    "abs": abs,
}
