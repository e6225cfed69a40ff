"""Exact rational value of plain arithmetic in LaTeX or text, by a parser: nothing is evaluated as code."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\frac|\\cdot|\\times|\\div|\*\*|[-+*/^(){}!])")
_PLAIN = re.compile(r"([-+]?)(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?\.?")
_SCIENTIFIC = re.compile(r"(?<=[\d.])[eE]([-+]?\d+)$")

# Bounds that keep a hostile expression from costing time or memory: bits of a value, n of n!, characters.
_MAX_BITS, _MAX_FACTORIAL, _MAX_LENGTH = 40_000, 3_000, 300


class _NotExact(Exception):
    """The text is not arithmetic over rationals, or its value is too large to hold."""


def value(text: str) -> Fraction | None:
    r"""Value of an integer, decimal, fraction, or expression over `+ - * / ^ !`, `\frac`, `\cdot`, `\times`.

    Thousands are grouped by commas. Returns None for everything else, and for values beyond the bounds above.
    """
    text = text.strip()
    plain = _PLAIN.fullmatch(text)
    if plain and (plain[2] or plain[3]):
        if len(text) > _MAX_LENGTH:
            return None
        return Fraction(plain[1] + (plain[2] or "0").replace(",", "") + (plain[3] or ""))
    if len(text) > _MAX_LENGTH or not any(char.isdigit() for char in text):
        return None
    text = _SCIENTIFIC.sub(r"*10^(\1)", text)
    tokens, end = [], 0
    while end < len(text):
        match = _TOKEN.match(text, end)
        if match is None:
            return None
        tokens.append(match[1])
        end = match.end()
    parser = _Parser(tokens)
    try:
        result = parser.sum()
        return result if parser.at == len(tokens) else None
    except (_NotExact, ZeroDivisionError, IndexError, RecursionError):
        return None


class _Parser:
    """Recursive descent over tokens; every method returns the value of what it consumed."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if not token or (wanted and token not in wanted):
            raise _NotExact
        self.at += 1
        return token

    def sum(self) -> Fraction:
        total = self.product()
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            total = _held(total + sign * self.product())
        return total

    def product(self) -> Fraction:
        total = self.signed()
        while True:
            if self.peek() in ("*", r"\cdot", r"\times"):
                self.take()
                total = _held(total * self.signed())
            elif self.peek() in ("/", r"\div"):
                self.take()
                total = _held(total / self.signed())
            elif self.peek() in ("(", "{", r"\frac"):
                # 3\frac{1}{2} is a mixed number; 3(4) and \frac12\frac13 are products.
                mixed = (
                    self.peek() == r"\frac" and self.tokens[self.at - 1].isdigit() and total.denominator == 1
                )
                factor = self.power()
                total = _held(total + (factor if total >= 0 else -factor) if mixed else total * factor)
            else:
                return total

    def signed(self) -> Fraction:
        if self.peek() in ("+", "-"):
            return self.signed() if self.take() == "+" else -self.signed()
        return self.power()

    def power(self) -> Fraction:
        base = self.atom()
        while self.peek() == "!":
            self.take()
            if base.denominator != 1 or not 0 <= base <= _MAX_FACTORIAL:
                raise _NotExact
            base = Fraction(math.factorial(int(base)))
        if self.peek() not in ("^", "**"):
            return base
        self.take()
        exponent = self.signed()
        if exponent.denominator != 1 or (base == 0 and exponent < 0):
            raise _NotExact
        if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > _MAX_BITS:
            raise _NotExact
        return base ** int(exponent)

    def atom(self) -> Fraction:
        token = self.take()
        if token in ("(", "{"):
            inner = self.sum()
            self.take(")" if token == "(" else "}")
            return inner
        if token == r"\frac":
            above, below = (self._group() for _ in range(2))
            return _held(above / below)
        if token[0].isdigit() or token[0] == ".":
            return Fraction(token.rstrip("."))
        raise _NotExact

    def _group(self) -> Fraction:
        if self.peek() != "{":
            raise _NotExact
        return self.atom()


def _held(number: Fraction) -> Fraction:
    if number.numerator.bit_length() + number.denominator.bit_length() > 4 * _MAX_BITS:
        raise _NotExact
    return number
