r"""Find what questions have in common: normal forms of one text, and hashed tokens of many.

Filters process millions of questions, so tokens are never Python objects: `read_tokens` turns a batch of
texts into arrays of 64-bit token hashes, and everything else (equal texts, equal numbers, n-grams) is
arithmetic on them. Case, spacing, punctuation, Unicode forms, invisible characters and the usual spellings of
the same LaTeX (`\dfrac12` and `\frac{1}{2}`, `x^{2}` and `x^2`, `\left(` and `(`) give the same tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalequest.characters import visible

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

# Function words, and imperatives used in exercises; none of them is in FOREIGN or a common variable.
_ENGLISH = (
    "the of and how many much what is are to if with find each more has have does he she which that when "
    "evaluate compute simplify solve let determine calculate express factor suppose given prove where for "
    "be by"
)
ENGLISH = frozenset(_ENGLISH.split())

WORD, NUMBER, SIGN, BRACKET = 1, 2, 3, 4  # kinds of tokens
BATCH = 20_000  # number of texts whose arrays are in memory at a time

_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 1 << 64)
_SYMBOLS = str.maketrans(
    {
        **{
            "’": "'",
            "‘": "'",
            "“": '"',
            "”": '"',
            "—": " ",
            "–": "-",
            "−": "-",
            "×": "*",
            "·": "*",
            "÷": "/",
        },
        **{"°": "^\\circ ", "²": "^2", "³": "^3", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "√": "\\sqrt "},
        **{"π": "\\pi ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "≤": "\\le ", "≥": "\\ge "},
        **{"≠": "\\ne ", "∞": "\\infty ", "∠": "\\angle ", "△": "\\triangle "},
    }
)
# Commands that change the look of a formula but not its meaning, and commands with the same meaning.
_DECORATION = (
    "left right big bigl bigr bigg biggl biggr displaystyle textstyle text textbf textit textrm mathrm "
    "mathbf mathit mathbb mbox hbox operatorname limits quad qquad ldots dots cdots hspace vspace phantom "
    "boldsymbol"
)
_SAME = {"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "leqslant": "le", "geq": "ge"}
_SAME |= {"geqslant": "ge", "neq": "ne", "cdot": "*", "times": "*", "dbinom": "binom", "tbinom": "binom"}
_SAME |= {"lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "div": "/", "lt": "<", "gt": ">"}
_SAME |= {"rightarrow": "to"}


def normalised(question: str) -> str:
    """Return a form without differences in case, spacing, Unicode form or invisible characters."""
    if not question.isascii():
        question = unicodedata.normalize("NFKC", visible(question))
    return " ".join(question.casefold().split())


def masked(question: str) -> str:
    """Return `normalised` with numbers as # and capitalised words as @: the bare story."""

    def name(word: re.Match[str]) -> str:
        return word[0] if word[0].lower() in ENGLISH else "@"

    nameless = re.sub(r"\b[A-Z][a-z]+\b", name, unicodedata.normalize("NFKC", visible(question)))
    return normalised(re.sub(r"\d+(?:[.,]\d+)*", "#", nameless))


@dataclass(frozen=True)
class Tokens:
    """Tokens of a batch of texts, one text after the other.

    Attributes:
        hashes: the hash of each token's letters or digits.
        kinds: the kind of each token: WORD, NUMBER, SIGN or BRACKET.
        commands: whether each token is a LaTeX command.
        offsets: the position of each text's first token, and the number of all tokens (one more than texts).
    """

    hashes: U64
    kinds: NDArray[np.uint8]
    commands: NDArray[np.bool_]
    offsets: I64

    def only(self, keep: NDArray[np.bool_]) -> Tokens:
        """Return the tokens selected by `keep`, for the same texts."""
        offsets = np.concatenate(([0], np.cumsum(keep)))[self.offsets]
        return Tokens(self.hashes[keep], self.kinds[keep], self.commands[keep], offsets)

    @property
    def words(self) -> Tokens:
        """Return only words and numbers."""
        return self.only(self.kinds <= NUMBER)

    def text_hashes(self) -> U64:
        """Return one hash per text, of all its tokens in order."""
        return span_hashes(self.hashes, self.offsets[:-1], self.offsets[1:])

    def masked(self) -> Tokens:
        """Return the same texts with one token that stands for every number."""
        hashes = np.where(self.kinds == NUMBER, np.uint64(_BASE), self.hashes)
        return Tokens(hashes, self.kinds, self.commands, self.offsets)

    def ngrams(self, n: int) -> tuple[U64, I64]:
        """Return the hashes of all runs of `n` tokens within a text, and the number of each run's text."""
        lengths = np.diff(self.offsets)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        starts = np.arange(len(self.hashes))
        starts = starts[starts + n <= np.repeat(self.offsets[1:], lengths)]
        return span_hashes(self.hashes, starts, starts + n), rows[starts]


def span_hashes(values: U64, starts: I64, ends: I64) -> U64:
    """Hash the runs `values[start:end]` of any lengths in one pass.

    The hash is a polynomial in `_BASE` modulo 2**64 by prefix sums (Karp and Rabin 1987), followed by
    murmur3's finaliser.
    """
    powers, inverses = _powers(1 << max(16, len(values).bit_length()))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    spans: U64 = (sums[ends] - sums[starts]) * inverses[starts] + (ends - starts).astype(np.uint64)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        spans ^= spans >> np.uint64(shift)
        spans *= np.uint64(factor)
    spans ^= spans >> np.uint64(33)
    return spans


def known_hashes(hashes: U64, known: U64) -> NDArray[np.bool_]:
    """Return which of many hashes are among a few hundred known ones, without the sorting of `np.isin`."""
    possible = np.zeros(1 << 16, bool)
    possible[known & np.uint64(0xFFFF)] = True
    found: NDArray[np.bool_] = possible[hashes & np.uint64(0xFFFF)]
    found[found] = np.isin(hashes[found], known)
    return found


@cache
def _powers(count: int) -> tuple[U64, U64]:
    """Return the powers of the base and of its inverse, one more than requested."""
    grown = [np.full(count + 1, base, np.uint64) for base in (_BASE, _INVERSE)]
    for powers in grown:
        powers[0] = 1
        np.cumprod(powers, out=powers)
    return grown[0], grown[1]


def batches(texts: Sequence[str]) -> Iterator[tuple[int, Tokens]]:
    """Yield the tokens of all texts, `BATCH` texts at a time, with the number of each batch's first text."""
    for start in range(0, len(texts), BATCH):
        yield start, read_tokens(texts[start : start + BATCH])


def read_tokens(texts: Sequence[str]) -> Tokens:
    """Split texts into tokens: runs of letters, numbers, mathematical signs, brackets; all else separates."""
    data, ends = _bytes(texts)
    kinds = _KINDS[data]
    before, after = np.roll(kinds, 1), np.roll(kinds, -1)  # texts end in a separator, so nothing wraps around
    # 3.5 is one number, 1,000 is 1000, Ann's is one word, and only 5! is a factorial. ten-year and x-axis are
    # two words, but a-b is a difference: a hyphen has a word of at least three letters on one side.
    kinds[(data == ord(".")) & (before == NUMBER) & (after == NUMBER)] = NUMBER
    comma = np.flatnonzero((data == ord(",")) & (before == NUMBER))
    digits = kinds[np.minimum(comma[:, None] + np.arange(1, 5), len(kinds) - 1)] == NUMBER
    gone = data == ord("'")
    gone[comma[digits[:, :3].all(1) & ~digits[:, 3]]] = True
    minus = np.flatnonzero((data == ord("-")) & (before == WORD) & (after == WORD))
    near = kinds[(minus[:, None] + np.array([[[-3, -2, -1]], [[1, 2, 3]]])) % max(1, len(kinds))]
    kinds[minus[(near == WORD).all(-1).any(0)]] = 0
    kinds[(data == ord("!")) & (before != NUMBER)] = 0
    kinds[(kinds == BRACKET) & (np.roll(data, 1) == ord("\\"))] = 0  # \( and \[ open a formula, like $
    ends = np.cumsum(~gone)[ends - 1]
    data, kinds = data[~gone], kinds[~gone]

    new = kinds != np.roll(kinds, 1)
    starts = np.flatnonzero((kinds > 0) & (new | (kinds >= SIGN)))
    last = (kinds > 0) & (np.roll(new, -1) | (kinds >= SIGN))
    stops = np.flatnonzero(last) + 1
    hashes = span_hashes(data.astype(np.uint64) + np.uint64(1), starts, stops)
    kinds = kinds[starts]
    commands = (kinds == WORD) & (data[starts - 1] == ord("\\")) & (starts > 0)
    offsets = np.concatenate(([0], np.searchsorted(starts, ends)))
    tokens = Tokens(hashes, kinds, commands, offsets)
    return _same_latex(tokens) if commands.any() else tokens


def _same_latex(tokens: Tokens) -> Tokens:
    where = np.flatnonzero(tokens.commands)
    decoration, spelt, meant, meant_kinds = _latex_hashes()
    index = np.minimum(np.searchsorted(spelt, tokens.hashes[where]), len(spelt) - 1)
    hit = spelt[index] == tokens.hashes[where]
    drop = np.zeros(len(tokens.hashes), bool)
    drop[where] = known_hashes(tokens.hashes[where], decoration)
    tokens.hashes[where[hit]] = meant[index[hit]]
    tokens.kinds[where[hit]] = meant_kinds[index[hit]]
    return tokens.only(~drop)


def word_hash(word: str) -> np.uint64:
    """Return the hash that `read_tokens` assigns to a lower-case word, number or sign."""
    data = np.frombuffer(word.encode(), np.uint8).astype(np.uint64) + np.uint64(1)
    return np.uint64(span_hashes(data, np.array([0]), np.array([len(data)]))[0])


@cache
def _latex_hashes() -> tuple[U64, U64, U64, NDArray[np.uint8]]:
    decoration = np.array([word_hash(word) for word in _DECORATION.split()])
    same = sorted((word_hash(spelt), word_hash(meant), meant) for spelt, meant in _SAME.items())
    kinds = np.array([_KINDS[ord(meant[0])] for _, _, meant in same], np.uint8)
    return decoration, np.array([row[0] for row in same]), np.array([row[1] for row in same]), kinds


def _kinds() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[[*range(ord("a"), ord("z") + 1), *range(128, 256)]] = WORD
    table[list(b"0123456789")] = NUMBER
    table[list(b"+-*/=<>^|!%")] = SIGN
    table[list(b"()[]")] = BRACKET
    return table


_KINDS = _kinds()


def _bytes(texts: Sequence[str]) -> tuple[NDArray[np.uint8], I64]:
    """Return the lower-case UTF-8 bytes of all texts, each followed by a line break, and where each ends."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column: Any = pa.array(texts, pa.large_string())
    plain = pc.string_is_ascii(column)
    odd = pc.invert(plain)
    if pc.any(odd).as_py():
        spelt = [
            unicodedata.normalize("NFKC", visible(text).translate(_SYMBOLS)).casefold()
            for text in column.filter(odd).to_pylist()
        ]
        column = pc.replace_with_mask(column, odd, pa.array(spelt, pa.large_string()))
    column = pc.utf8_lower(column)
    latex = pc.or_(pc.match_substring(column, "\\"), pc.match_substring(column, "{,}"))
    if pc.any(latex).as_py():
        some = column.filter(latex)
        some = pc.replace_substring_regex(some, r"frac\s*(\d)\s*(\d)", r"frac \1 \2")
        some = pc.replace_substring_regex(some, r"\{,\}|,\\!", ",")
        some = pc.replace_substring_regex(some, r"\^?\\degrees?\b", r"^\\circ ")
        some = pc.replace_substring_regex(some, r"(\\[a-z]+)-", r"\1 -")  # not a hyphen
        column = pc.replace_with_mask(column, latex, some)
    column = pc.binary_join_element_wise(
        column, pa.scalar("\n", pa.large_string()), pa.scalar("", pa.large_string())
    )
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[1 : len(texts) + 1]
    return np.frombuffer(data, np.uint8)[: ends[-1] if len(ends) else 0], ends
