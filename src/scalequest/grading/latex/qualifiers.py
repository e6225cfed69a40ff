r"""Read words that state which numbers a letter stands for, and the letters of a formula.

`2k where k is a positive integer` and `2k, k \in \mathbb{Z}^+` state the same about `k`. The vocabulary is
that of school mathematics: kinds of numbers, bounds, and the words between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from scalequest.grading.latex.tokens import FUNCTIONS, SYMBOLS

_GREEK = "|".join(sorted(SYMBOLS, key=len, reverse=True))
LETTER = rf"(?:(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|\\(?:{_GREEK})(?![A-Za-z]))(?:_(?:\w|\{{\w+\}}))?"
LETTERS = re.compile(rf"\s*{LETTER}(?:(?:\s*(?:,|\\wedge)\s*|\s+){LETTER})*\s*")
_CONNECTING = "for where with when whenever if given provided such unless"
_KINDS_OF_NUMBERS = """
integer prime rational odd even positive negative real natural whole nonzero nonnegative nonpositive
irrational
"""
_WORDS_BETWEEN = """
all any every each some an the is are be being denotes represents that which arbitrary such let both of
set strictly
"""
CONNECTIVES = frozenset(_CONNECTING.split())

_KINDS = frozenset(_KINDS_OF_NUMBERS.split())
_NOUNS = frozenset(("number", "value", "constant", "parameter"))
_FILLING = frozenset(_WORDS_BETWEEN.split())
_QUANTITY = r"(-?\s?(?:\d[\d./]*|\\[a-z]+(?:\{[^{}]*\})*))"
_BOUNDS = (
    (">=", re.compile(r"\b(?:at least|no less than|not less than|greater than or equal to) " + _QUANTITY)),
    ("<=", re.compile(r"\b(?:at most|no more than|not more than|less than or equal to) " + _QUANTITY)),
    (">", re.compile(r"\b(?:greater|more|larger|bigger) than " + _QUANTITY)),
    ("<", re.compile(r"\b(?:less|smaller|fewer) than " + _QUANTITY)),
    ("multiple", re.compile(r"\b(?:multiples? of|divisible by) " + _QUANTITY)),
)
_WORD = re.compile(r"\\[A-Za-z]+|[A-Za-z]{2,}")
_FONT = re.compile(r"\\(?:text|mbox|textrm|mathrm|textbf|textit)\s*\{([^{}]*)\}")
_SPOKEN = re.compile(
    r",|;|\b(?:and|or|except|excluding|"
    + "|".join(sorted(CONNECTIVES | _FILLING | {f"{word}s?" for word in _KINDS | _NOUNS}))
    + r")\b",
    re.I,
)
_JUNCTIONS = (
    (re.compile(r"(?<![A-Za-z\\])(?:and|but)(?![A-Za-z])|;", re.I), r" \\wedge "),
    (re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])", re.I), r" \\vee "),
    (re.compile(r"\\not\s*\\in(?![a-z])"), r"\\notin "),
    (re.compile(rf"({LETTER})\s*(?:,|\\wedge)\s*(?={LETTER}\s*(?:,|\\wedge|\\in(?![a-z])|are\b))"), r"\1 "),
)
_RUN = re.compile(r"(?<![A-Za-z\\])([A-Za-z]+)((?:_(?:\w|\{\w+\}))?)")


@dataclass(frozen=True)
class InWords:
    """The content of a condition in words: kinds of numbers, bounds (sign and number), formulas."""

    words: frozenset[str]
    bounds: tuple[tuple[str, str], ...]
    rest: str


def in_words(text: str) -> InWords | None:
    """Parse `any integer n > 2`; None unless it contains words that all belong to the vocabulary."""
    text = re.sub(r"\b(non)[- ](?=[a-z])", r"\1", text)
    bounds: list[tuple[str, str]] = []
    for sign, pattern in _BOUNDS:
        bounds += [(sign, match[1]) for match in pattern.finditer(text)]
        text = pattern.sub(" ", text)
    text = re.sub(r"(?<![A-Za-z\\])an?(?= [A-Za-z-]{4,})", " ", text, flags=re.I)
    found = {word.casefold() for word in _WORD.findall(text) if word[0] != "\\"}
    kinds = {word if word in _KINDS else word.removesuffix("s") for word in found - _FILLING}
    if not (found or bounds) or not kinds <= _KINDS | _NOUNS:
        return None
    rest = _WORD.sub(lambda match: match[0] if match[0][0] == "\\" else " ", text)
    return InWords(frozenset(kinds & _KINDS), tuple(bounds), rest.strip(" ,"))


def spoken(text: str) -> str:
    r"""Expand `\text{...}` if it contains more than a unit or a name: a comma, "and", "for", "integer"."""
    said = _FONT.sub(lambda match: f" {match[1]} " if _SPOKEN.search(match[1]) else match[0], text)
    return text if said == text else " ".join(said.split())


def joined(text: str) -> str:
    r"""Return the text with `\wedge` and `\vee` for "and" and "or", and without fonts of words."""
    text = " ".join(_FONT.sub(r" \1 ", text).split())
    for pattern, sign in _JUNCTIONS:
        text = pattern.sub(sign, text)
    return text


def letters_of(text: str) -> set[str]:
    """Return the letters of a formula, each separately, with its index."""
    text = re.sub(r"\\math(?:bb|cal)\s*(?:\{\s*[A-Z]\s*\}|[A-Z])|\\(?:text|mbox)\s*\{[^{}]*\}", " ", text)
    found = set(re.findall(rf"\\(?:{_GREEK})(?![A-Za-z])(?:_(?:\w|\{{\w+\}}))?", text))
    for run, index in _RUN.findall(re.sub(r"\\[A-Za-z]+", " ", text)):
        if run in FUNCTIONS or len(run) > 3:
            continue
        found |= {*run[:-1], run[-1] + index}
    return found
