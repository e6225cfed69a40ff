"""Exact rational value of plain arithmetic in LaTeX or text."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from scalequest.grading.expressions import readings
from scalequest.grading.tokens import Unreadable

_PLAIN = re.compile(r"([-+]?)\s?([1-9]\d{0,2}(?:,\d{3})+|\d+)?(\.\d+)?\.?")
_ARITHMETIC = re.compile(r"(?:[-+*/^(){}!\s\d.,eE]|\\(?:frac|cdot|times|div)(?![A-Za-z]))+")
_NUMERAL = re.compile(r"(-?)(?:\\text\s*)?\{?([0-9A-Z]+)(?:\.([0-9A-Z]+))?\}?_\{?\s*(\d{1,2})\s*\}?")
_MAX_LENGTH = 300


@lru_cache(maxsize=4096)  # one answer is compared with many
def value(text: str) -> Fraction | None:
    r"""Value of an integer, decimal, fraction, or expression over `+ - * / ^ !`, `\frac`, `\cdot`, `\times`.

    Thousands are grouped by commas. None for everything else, and for what is too large to hold (`numeric`).
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
    from scalequest.grading.values import rational

    try:
        trees = readings(text)
    except Unreadable:
        return None
    return rational(trees[0]) if len(trees) == 1 else None


def _in_base(numeral: re.Match[str]) -> Fraction | None:
    """Value of `120_3` or `B7_{12}`; None where a digit is not one of its base."""
    whole, part, base = numeral[2], numeral[3] or "", int(numeral[4])
    if not (2 <= base <= 36 and any(digit.isdigit() for digit in whole)):
        return None
    if any(int(digit, 36) >= base for digit in whole + part):
        return None
    size = Fraction(int(whole + part, base), base ** len(part))
    return -size if numeral[1] else size
