"""Compute exact rational values of plain arithmetic, written as LaTeX or text, or parsed as a tree."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache

from scalequest.grading.latex.expressions import readings
from scalequest.grading.latex.tokens import Unreadable
from scalequest.grading.latex.trees import Node

_PLAIN = re.compile(r"([-+]?)\s?([1-9]\d{0,2}(?:,\d{3})+|\d+)?(\.\d+)?\.?")
_ARITHMETIC = re.compile(r"(?:[-+*/^(){}!\s\d.,eE]|\\(?:frac|cdot|times|div)(?![A-Za-z]))+")
_NUMERAL = re.compile(r"(-?)(?:\\text\s*)?\{?([0-9A-Z]+)(?:\.([0-9A-Z]+))?\}?_\{?\s*(\d{1,2})\s*\}?")
_MAX_LENGTH = 300
_FINITE_PLACES = 10  # a rational with at most this many decimals has a finite spelling and is not rounded
_MAX_BITS = 40_000
_MAX_FACTORIAL = 3_000


class Undefined(ValueError):
    """A formula has no value, or no real value, at this point."""


class TooLarge(ValueError):
    """The value of a formula, or the work to compute it, exceeds the limits of the grader."""


@lru_cache(maxsize=4096)  # one answer is compared with many
def value(text: str) -> Fraction | None:
    r"""Return the value of an integer, decimal or expression with `+-*/^!`, `\frac`, `\cdot`, `\times`.

    Thousands may be grouped by commas. None for everything else, and for values too large to store
    (`rational`).
    """
    text = text.strip()
    if len(text) > _MAX_LENGTH or not any(char.isdigit() for char in text):
        return None
    if "_" in text and (numeral := _NUMERAL.fullmatch(text)):
        return _in_base(numeral)
    plain = _PLAIN.fullmatch(text)
    if plain and (plain[2] or plain[3]):
        return Fraction(plain[1] + (plain[2] or "0").replace(",", "") + (plain[3] or ""))
    if not _ARITHMETIC.fullmatch(text):
        return None
    try:
        trees = readings(text)
    except Unreadable:
        return None
    return rational(trees[0]) if len(trees) == 1 else None


def _in_base(numeral: re.Match[str]) -> Fraction | None:
    """Return the value of `120_3` or `B7_{12}`; None if a digit does not belong to its base."""
    whole, part, base = numeral[2], numeral[3] or "", int(numeral[4])
    if not (2 <= base <= 36 and any(digit.isdigit() for digit in whole)):
        return None
    if any(int(digit, 36) >= base for digit in whole + part):
        return None
    size = Fraction(int(whole + part, base), base ** len(part))
    return -size if numeral[1] else size


def rational(node: Node) -> Fraction | None:
    """Return the rational value of a tree; None if it has none, or one that is too large to store."""
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
        return _factorial(first)
    if node.op == "binom":
        return _binomial(*values)
    if node.op == "^":
        return _power(*values)
    for other in values[1:]:
        first = first + other if node.op == "+" else first * other if node.op == "*" else first / other
        if first.numerator.bit_length() + first.denominator.bit_length() > 4 * _MAX_BITS:
            raise TooLarge("number")
    return first


def _factorial(n: Fraction) -> Fraction:
    if n.denominator != 1 or n < 0:
        raise Undefined("factorial")
    if n > _MAX_FACTORIAL:
        raise TooLarge("factorial")
    return Fraction(math.factorial(int(n)))


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or k < 0 or not 0 <= n <= _MAX_FACTORIAL:
        raise Undefined("binomial")
    return Fraction(math.comb(int(n), int(k)))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or (base == 0 and exponent <= 0):
        raise Undefined("power")
    if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > _MAX_BITS:
        raise TooLarge("power")
    return base ** int(exponent)


def terminates(number: Fraction) -> bool:
    """Return whether a number is exactly a decimal with at most `_FINITE_PLACES` places."""
    return bool((number * 10**_FINITE_PLACES).denominator == 1)
