"""Questions that say the same: equal ones, near ones, and templates filled in with other numbers.

Near-duplicates have the same numbers, signs, variables and telling words in the same order, and otherwise
similar words. MinHash (Broder 1997) finds candidates: the sketches are rensa's, over pairs of neighbouring
words, each tied to all that has to be the same, so that questions of which it is not share nothing and never
meet. Rows that agree in a band of the sketch are compared with the first and the nearest of their bucket, so
the number of comparisons grows with the rows, not with their square; rapidfuzz verifies them. What hangs
together is one group, and its first row stays, whatever ran where.

In mathematics the same text with other numbers is another question. Such templates are counted, and capped on
request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from scalequest import heartbeat
from scalequest.config import option
from scalequest.questions.text import (
    BATCH,
    I64,
    NUMBER,
    U64,
    WORD,
    Tokens,
    normalised,
    span_hashes,
    word_hash,
)
from scalequest.ranges import COUNT, SHARE_ABOVE_0

# Words that make another question of the same text, and names of things (RADII, triangle ABC), which do too.
_CONTRAST = (
    "sum product difference quotient ratio mean median average smallest largest least most greatest minimum "
    "maximum smaller larger greater shorter longer shortest longest lower higher lowest highest more fewer "
    "less exactly neither not no never cannot without only except even odd positive negative nonnegative "
    "prime composite real rational irrational consecutive first second third fourth fifth last all none at "
    "same different distinct distinguishable indistinguishable increase decrease increasing decreasing "
    "before after left remaining altogether total area perimeter volume radius diameter length width height "
    "circumference horizontal vertical opposite adjacent hypotenuse altitude bisector inscribed "
    "circumscribed row column edges vertices faces diagonals triangle square rectangle circle pentagon "
    "hexagon octagon triangular rectangular pentagonal hexagonal octagonal parallelogram trapezoid rhombus "
    "ellipse hyperbola sphere cube cylinder cone pyramid prism inches feet yards miles meters centimeters "
    "kilometers seconds minutes hours days weeks months years boys girls men women both half quarter once "
    "twice double triple one two three four five six seven eight nine ten eleven twelve"
)
_NAME = re.compile(r"\b[A-Z]{2,}\b")
_SEED = 20_241_018  # of the sketches; fixed, so that a question's sketch never changes


@dataclass(frozen=True)
class DuplicateRule:
    """What counts as a duplicate of an earlier question."""

    near: bool = option(True, "drop near-duplicates too: same numbers in the same order, similar text")
    min_similarity: float = option(
        0.9,
        "of near-duplicates: 1 - edits (insertions, deletions) / length of both texts",
        within=SHARE_ABOVE_0,
    )
    bands: int = option(20, "of the sketch: more find more candidates", within=COUNT)
    rows: int = option(3, "hashes a band: more find fewer and surer candidates", within=COUNT)
    max_per_template: int | None = option(
        None,
        "questions that differ in their numbers alone: keep the first N; None keeps all and counts them",
        within=COUNT,
    )

    def recall(self, jaccard: float) -> float:
        """The chance that two questions whose word pairs overlap so much meet in a band."""
        return float(1 - (1 - jaccard**self.rows) ** self.bands)


@dataclass(frozen=True)
class Sketch:
    """What is kept of each question to find its duplicates: 64-bit keys.

    Attributes:
        exact: of all tokens: case, spacing, punctuation and spelling of LaTeX aside.
        template: of all tokens with numbers masked.
        bands: [texts, bands], of the MinHash bands; no columns where near-duplicates are not looked for.
    """

    exact: U64
    template: U64
    bands: U64

    @classmethod
    def joined(cls, parts: Sequence[Sketch]) -> Sketch:
        """The sketches of several batches as one."""
        columns = zip(*((part.exact, part.template, part.bands) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


def sketch(tokens: Tokens, rule: DuplicateRule) -> Sketch:
    """Sketch a batch of texts."""
    bands = _bands(tokens, rule) if rule.near else np.empty((len(tokens.offsets) - 1, 0), np.uint64)
    return Sketch(tokens.text_hashes(), tokens.masked().text_hashes(), bands)


def _bands(tokens: Tokens, rule: DuplicateRule) -> U64:
    """Keys of the bands of each text's MinHash over its word pairs, all tied to its numbers and signs."""
    from rensa import RMinHash

    task = _task(tokens).text_hashes()
    words = tokens.words.masked()
    shingles, rows = words.ngrams(2)
    alone = np.flatnonzero(np.diff(words.offsets) < 2)  # a text of one word is its own shingle
    shingles = np.concatenate((shingles, words.text_hashes()[alone]))
    rows = np.concatenate((rows, alone))
    order = np.argsort(rows, kind="stable")
    tied = shingles[order] ^ task[rows[order]]
    offsets = np.searchsorted(rows[order], np.arange(len(task) + 1))
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(tied, offsets, rule.bands * rule.rows, _SEED)
    digests = np.array(matrix.to_rows(), np.uint64).ravel()
    starts = np.arange(0, len(digests), rule.rows)
    return span_hashes(digests, starts, starts + rule.rows).reshape(-1, rule.bands)


def _task(tokens: Tokens) -> Tokens:
    """What has to be the same in the same order: all of a formula, and words that change the question."""
    telling = np.isin(tokens.hashes, _telling_words()) & (tokens.kinds == WORD)
    return tokens.only((tokens.kinds >= NUMBER) | tokens.commands | telling)


@cache
def _telling_words() -> U64:
    variables = set("bcdefghjklmnopqrstuvwxyz")  # not a and i, which are words
    return np.array([word_hash(word) for word in sorted(variables | set(_CONTRAST.split()))])


@dataclass(frozen=True)
class Duplicates:
    """What was found, by row number.

    Attributes:
        reasons: "duplicate", "near_duplicate", "template", or None for a row that stays.
        kept: the row that stays in its stead (its own number where it stays).
        template_rows: how many rows that stay have an earlier one that differs in numbers alone.
        candidates: pairs that were compared.
    """

    reasons: list[str | None]
    kept: I64
    template_rows: int
    candidates: int


def find_duplicates(
    texts: Sequence[str], sketches: Sketch, rule: DuplicateRule, among: NDArray[np.bool_] | None = None
) -> Duplicates:
    """Find the rows that duplicate an earlier one.

    Args:
        texts: the questions.
        sketches: of all of them.
        rule: what counts.
        among: rows that take part; what was dropped before can neither be nor have a duplicate.
    """
    left = np.arange(len(texts)) if among is None else np.flatnonzero(among)
    kept = np.arange(len(texts))
    reasons: list[str | None] = [None] * len(texts)

    def drop(rows: I64, reason: str, by: I64) -> None:
        kept[rows] = by
        for row in rows.tolist():
            reasons[row] = reason

    if not len(left):
        return Duplicates(reasons, kept, 0, 0)
    first = left[_first_of(sketches.exact[left])]
    drop(left[first != left], "duplicate", first[first != left])
    left = left[first == left]
    candidates = 0
    if rule.near:
        pairs = _candidates(sketches.bands, left)
        candidates = len(pairs)
        root = _roots(pairs[_similar(texts, pairs, rule.min_similarity)], len(texts))[left]
        drop(left[root != left], "near_duplicate", root[root != left])
        kept = kept[kept]  # an exact duplicate of a near one
        left = left[root == left]
    first = left[_first_of(sketches.template[left])]
    if rule.max_per_template is not None:
        over = _rank(first) >= rule.max_per_template
        drop(left[over], "template", first[over])
        kept = kept[kept]
        first, left = first[~over], left[~over]
    return Duplicates(reasons, kept, int((first != left).sum()), candidates)


def _first_of(keys: U64) -> I64:
    """For each position the first one with the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def _rank(groups: I64) -> I64:
    """How many earlier positions are in the same group."""
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
    sizes = np.diff(np.r_[starts, len(groups)])
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return rank


def _candidates(bands: U64, left: I64) -> I64:
    """Pairs of rows [pairs, 2] that share a band: each with its bucket's first row and the one before it.

    Inside a bucket rows stand in the order of their next band, so that those which share that too are
    neighbours.
    """
    found = [np.empty(0, np.int64)]
    width = len(bands)
    count = bands.shape[1]
    for band in range(count):
        keys, next_keys = bands[left, band], bands[left, (band + 1) % count]
        order = np.lexsort((left, next_keys, keys))
        rows, sorted_keys = left[order], keys[order]
        new = np.r_[True, sorted_keys[1:] != sorted_keys[:-1]]
        first = rows[np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))]
        for other in (first, np.roll(rows, 1)):
            low, high = np.minimum(rows, other)[~new], np.maximum(rows, other)[~new]
            found.append((low * width + high)[low != high])
    pairs = np.unique(np.concatenate(found))
    return np.stack((pairs // width, pairs % width), axis=1)


def _similar(texts: Sequence[str], pairs: I64, min_similarity: float) -> NDArray[np.bool_]:
    """Which pairs are as similar as that and name the same things."""
    from rapidfuzz.distance import Indel
    from rapidfuzz.process import cpdist

    found = np.zeros(len(pairs), bool)
    with heartbeat.doing("comparing candidates for near-duplicates", total=len(pairs), unit="pairs") as work:
        for start in range(0, len(pairs), BATCH):
            work.done = start
            batch = pairs[start : start + BATCH]
            known = {row: normalised(texts[row]) for row in np.unique(batch).tolist()}
            one, other = ([known[row] for row in batch[:, side].tolist()] for side in (0, 1))
            found[start : start + BATCH] = (
                cpdist(one, other, scorer=Indel.normalized_similarity, score_cutoff=min_similarity)
                >= min_similarity
            )
    for pair in np.flatnonzero(found):
        one, other = (texts[row] for row in pairs[pair].tolist())
        if not (one.isupper() or other.isupper()):  # where all is in capitals they tell nothing
            found[pair] = _NAME.findall(one) == _NAME.findall(other)
    return found


def _roots(pairs: I64, count: int) -> I64:
    """For each row the first row of its group, where pairs hang together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return _first_of(connected_components(graph, directed=False)[1].astype(np.uint64))
