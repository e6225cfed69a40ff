"""Find questions that say the same: exact and near-duplicates, and templates with other numbers.

Near-duplicates have the same numbers, signs and variables in the same order, and similar text that asks the
same. The length of the shared text says nothing about that: "How many red marbles?" and "How many blue
marbles?" differ after any story. The words are therefore aligned, and four kinds of edit do not change a
question: a different spelling of a word, words moved as one piece, an added sentence, and an added word that
has nothing to do with what is asked. Replacing a word by another one makes a different question, whatever the
words. This misses synonyms, but losing a good question would be worse.

MinHash (Broder 1997) finds candidates. Its sketches consist of pairs of adjacent words, each combined with
everything that must be equal, so questions that differ in it share nothing and are never compared. Rows that
agree in a band of the sketch are compared with the first and the nearest row of their bucket, so the number
of comparisons grows with the number of rows, not with its square. Similarity is not transitive: a row is only
dropped in favour of a kept row that it is itself similar to.

In mathematics, the same text with other numbers is a different question. Such templates are counted, and
limited on request.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scalequest import heartbeat
from scalequest.config import option
from scalequest.config.ranges import COUNT, SHARE_ABOVE_0
from scalequest.pages import elements
from scalequest.questions.steps import Context, Outcome, StepReport, TextStep
from scalequest.questions.text import (
    BATCH,
    ENGLISH,
    I64,
    NUMBER,
    U64,
    WORD,
    Tokens,
    known_hashes,
    normalised,
    span_hashes,
    word_hash,
)
from scalequest.records import Row

U32 = NDArray[np.uint32]

# Number words, and words that make a different question when they are added. Words that replace others need
# no list.
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand "
    "million billion dozen half third quarter first second fourth fifth sixth seventh eighth ninth tenth "
    "once twice double triple"
)
_RESTRICTING = (
    "mean median average smallest largest least most greatest minimum maximum smaller larger greater shorter "
    "longer shortest longest lower higher lowest highest more fewer less exactly neither not no never cannot "
    "without only except even odd positive negative nonnegative prime composite real rational irrational "
    "consecutive last all none at same different distinct distinguishable indistinguishable increasing "
    "decreasing before after left remaining altogether total horizontal vertical opposite adjacent inscribed "
    "circumscribed square triangular rectangular both each every other"
)
# Function words that connect others: a closed class, like number words.
_JOINING = (
    "it its was were been being as at in on from into by there here this that these those they them their "
    "him his her we us our you your who whom whose will would can could may might shall should do did had or "
    "and but so then than"
)
_FUNCTION = ENGLISH | frozenset(_JOINING.split())
_COUNTING = re.compile(r"\b(?:many|much|which|what|number of)$")  # before what is counted or asked for
_NAME = re.compile(r"\b[A-Z]{2,}\b|(?<=[a-z,] )[A-HJ-Z]\b")
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_PIECE = re.compile(r"\\?[^\W\d_]+|\d+|,(?=\s)")
_ARTICLE = re.compile(r"\b[ai]\b(?=\s[^\W\d_]{2})")  # an article or a pronoun; elsewhere it is a variable
_COMMA, _FORMULA = ",", "#"
_SLOTS = 1 << 18  # slots for counting words; words that share a slot are counted as one
# A word that occurs this often, and this many times as often as the similar word, is not a misspelling.
_ESTABLISHED, _SLIPS = 5, 0.01
_SEED = 20_241_018  # seed of the sketches, fixed so that a question's sketch never changes
_SHOWN = 100  # pairs in the report; dropped/ has all of them in the column `duplicate_of`


@dataclass(frozen=True)
class DuplicateRule:
    """What counts as a duplicate of an earlier question."""

    near: bool = option(
        True,
        "also drop near-duplicates: similar text that asks the same, with the same numbers in the same order",
    )
    min_similarity: float = option(
        0.9,
        "minimum similarity of near-duplicates: 1 - edits (insertions, deletions) / "
        "total length of both texts",
        within=SHARE_ABOVE_0,
    )
    bands: int = option(20, "bands of the sketch; more bands find more candidates", within=COUNT)
    rows: int = option(
        3, "hashes per band; more hashes find fewer but more reliable candidates", within=COUNT
    )
    max_per_template: int | None = option(
        None,
        "keep only the first N of the questions that differ only in their numbers; null "
        "keeps all and counts them",
        within=COUNT,
    )

    def recall(self, jaccard: float) -> float:
        """Return the probability that two questions with this overlap of word pairs share a band."""
        return float(1 - (1 - jaccard**self.rows) ** self.bands)


@dataclass(frozen=True)
class Sketch:
    """Keys for finding the duplicates of each question, 64 bits each.

    Attributes:
        exact: the key of all tokens, ignoring case, spacing, punctuation and spelling of LaTeX.
        template: the key of all tokens with numbers masked.
        bands: [texts, bands], keys of the MinHash bands; no columns if near-duplicates are not searched for.
        seen: [slots], how often each word occurred, by the slot of its hash.
    """

    exact: U64
    template: U64
    bands: U64
    seen: U32

    @classmethod
    def joined(cls, parts: Sequence[Sketch]) -> Sketch:
        """Join the sketches of several batches."""
        columns = zip(*((part.exact, part.template, part.bands) for part in parts), strict=True)
        exact, template, bands = (np.concatenate(column) for column in columns)
        return cls(exact, template, bands, np.sum([part.seen for part in parts], axis=0, dtype=np.uint32))


def sketch(tokens: Tokens, rule: DuplicateRule) -> Sketch:
    """Sketch a batch of texts."""
    bands = _bands(tokens, rule) if rule.near else np.empty((len(tokens.offsets) - 1, 0), np.uint64)
    seen = np.bincount(_slot(tokens.hashes), minlength=_SLOTS).astype(np.uint32)
    return Sketch(tokens.text_hashes(), tokens.masked().text_hashes(), bands, seen)


def _slot(hashes: Any) -> Any:
    return (hashes & np.uint64(_SLOTS - 1)).astype(np.int64)


def _bands(tokens: Tokens, rule: DuplicateRule) -> U64:
    """Return the band keys of each text's MinHash over its word pairs, combined with numbers and signs."""
    task = _task(tokens).text_hashes()
    words = tokens.words.masked()
    shingles, rows = words.ngrams(2)
    alone = np.flatnonzero(np.diff(words.offsets) < 2)  # a text of one word is its own shingle
    shingles = np.concatenate((shingles, words.text_hashes()[alone]))
    rows = np.concatenate((rows, alone))
    order = np.argsort(rows, kind="stable")
    tied = shingles[order] ^ task[rows[order]]
    first = np.searchsorted(rows[order], np.arange(len(task)))
    minima = _minima(tied, first, rule.bands * rule.rows).ravel()
    starts = np.arange(0, len(minima), rule.rows)
    return span_hashes(minima, starts, starts + rule.rows).reshape(-1, rule.bands)


def _minima(hashes: U64, first: I64, count: int) -> U64:
    """Return MinHash values [texts, count]: the minimum of each text's hashes under `count` permutations.

    numpy takes a fifth of the time of rensa, which spends most of it on Python integers.

    Args:
        hashes: the hashes of all shingles, one text after the other; each text has at least one.
        first: [texts], the position of each text's first shingle.
        count: the number of permutations (Dietzfelbinger 1997: multiply by an odd number, add, modulo 2**32).
    """
    places = np.arange(2 * count)
    factors, addends = (
        span_hashes((places + _SEED).astype(np.uint64), places, places + 1).astype(np.uint32).reshape(2, -1)
    )
    short = (hashes >> np.uint64(32)).astype(np.uint32)
    minima = np.empty((count, len(first)), np.uint32)
    for row, factor, addend in zip(minima, factors | np.uint32(1), addends, strict=True):
        np.minimum.reduceat(short * factor + addend, first, out=row)
    return minima.T.astype(np.uint64)


def _task(tokens: Tokens) -> Tokens:
    """Return what must be equal in the same order: all of a formula, and words that change the question."""
    telling = known_hashes(tokens.hashes, _telling_words()) & (tokens.kinds == WORD)
    return tokens.only((tokens.kinds >= NUMBER) | tokens.commands | telling)


@cache
def _telling_words() -> U64:
    variables = set("bcdefghjklmnopqrstuvwxyz")  # not a and i, which are words
    return np.array(
        [word_hash(word) for word in sorted({*variables, *_NUMBERS.split(), *_RESTRICTING.split()})]
    )


@dataclass(frozen=True)
class Duplicates:
    """The duplicates found, by row number.

    Attributes:
        reasons: "duplicate", "near_duplicate", "template", or None for a row that is kept.
        kept: the row that is kept instead (the row's own number if it is kept).
        template_rows: the number of kept rows that differ from an earlier one only in numbers.
        candidates: the number of pairs compared.
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
        sketches: the sketches of all questions.
        rule: what counts as a duplicate.
        among: the rows to consider; a row that was dropped before can neither be nor have a duplicate.
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
        near = _kept(texts, sketches, pairs, rule)[left]
        drop(left[near != left], "near_duplicate", near[near != left])
        kept = kept[kept]  # an exact duplicate of a near-duplicate
        left = left[near == left]
    first = left[_first_of(sketches.template[left])]
    if rule.max_per_template is not None:
        over = _rank(first) >= rule.max_per_template
        drop(left[over], "template", first[over])
        kept = kept[kept]
        first, left = first[~over], left[~over]
    return Duplicates(reasons, kept, int((first != left).sum()), candidates)


def _first_of(keys: U64) -> I64:
    """Return, for each position, the first one with the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def _rank(groups: I64) -> I64:
    """Return how many earlier positions are in the same group."""
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
    sizes = np.diff(np.r_[starts, len(groups)])
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return rank


def _candidates(bands: U64, left: I64) -> I64:
    """Return pairs of rows [pairs, 2] that share a band: each with its bucket's first row and predecessor.

    Within a bucket, rows are ordered by their next band, so that rows that also share it are adjacent.
    """
    found = [np.empty(0, np.int64)]
    width = len(bands)
    count = bands.shape[1]
    for band in range(count):
        rows = left[_shared(bands[left, band])]
        keys, next_keys = bands[rows, band], bands[rows, (band + 1) % count]
        order = np.lexsort((next_keys, keys))  # a stable sort: rows with equal keys stay in order
        rows, sorted_keys = rows[order], keys[order]
        new = np.ones(len(rows), bool)
        new[1:] = sorted_keys[1:] != sorted_keys[:-1]
        first = rows[np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))]
        for other in (first, np.roll(rows, 1)):
            low, high = np.minimum(rows, other)[~new], np.maximum(rows, other)[~new]
            found.append((low * width + high)[low != high])
    pairs = np.unique(np.concatenate(found))
    return np.stack((pairs // width, pairs % width), axis=1)


def _shared(keys: U64) -> NDArray[np.bool_]:
    """Return which keys occur more than once; few do, and only these need the slow sort by two keys."""
    order = np.argsort(keys)
    same = keys[order[1:]] == keys[order[:-1]]
    shared = np.zeros(len(keys), bool)
    shared[order[1:][same]] = shared[order[:-1][same]] = True
    return shared


def _kept(texts: Sequence[str], sketches: Sketch, pairs: I64, rule: DuplicateRule) -> I64:
    """Return, for each row, the row kept instead: the first kept row that it is similar to, or itself.

    Args:
        texts: the questions.
        sketches: the sketches of all questions.
        pairs: the candidates [pairs, 2], with the earlier row first.
        rule: what counts as a duplicate.
    """
    from rapidfuzz.distance import Indel

    def near(one: int, other: int) -> bool:
        spelt = normalised(texts[one]), normalised(texts[other])
        similar = Indel.normalized_similarity(*spelt) >= rule.min_similarity
        return similar and _asks_the_same(_read(texts[one]), _read(texts[other]), sketches.seen)

    kept = np.arange(len(texts))
    pairs = pairs[_similar(texts, pairs, rule.min_similarity)]
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]  # so that all earlier rows are decided first
    for row, group in groupby(pairs.tolist(), key=itemgetter(1)):
        staying = sorted({int(kept[earlier]) for earlier, _ in group})
        kept[row] = next((keeper for keeper in staying if near(keeper, row)), row)
    return kept


def _similar(texts: Sequence[str], pairs: I64, min_similarity: float) -> NDArray[np.bool_]:
    """Return which pairs reach this similarity, letter by letter."""
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
    return found


# ------------------------------------------------------------------------------------------- what is asked


class _Word(NamedTuple):
    """A word, a comma or a placeholder for a formula, and the number of its sentence."""

    text: str
    sentence: int


@dataclass(frozen=True)
class _Question:
    """A question in the form in which its words are compared; numbers, signs, variables are compared before.

    Attributes:
        sentences: the words, commas and formula placeholders of each sentence.
        marked: the numbers of the sentences with a question mark.
        names: capitalised words and single capital letters, which name things; None if the whole text is
            capitalised.
    """

    sentences: list[tuple[str, ...]]
    marked: frozenset[int]
    names: list[str] | None

    @property
    def asking(self) -> frozenset[int]:
        """Return the numbers of the sentences that ask: with a question mark, or all if there are none."""
        return self.marked or frozenset(range(len(self.sentences)))

    def words(self, among: Iterable[int] | None = None) -> set[str]:
        """Return all words, or those of some sentences."""
        numbers = range(len(self.sentences)) if among is None else among
        return {word for number in numbers for word in self.sentences[number]}

    def unlike(self, other: _Question) -> list[_Word]:
        """Return the words of the sentences that the other question does not contain anywhere."""
        left = Counter(self.sentences) - Counter(other.sentences)
        found = []
        for number, sentence in enumerate(self.sentences):
            if left[sentence]:
                left[sentence] -= 1
                found += [_Word(word, number) for word in sentence]
        return found


@lru_cache(1 << 12)
def _read(text: str) -> _Question:
    sentences = _SENTENCE_END.split(normalised(text).replace("'", "").replace("’", ""))
    marked = frozenset(number for number, sentence in enumerate(sentences) if "?" in sentence)
    words = [_words(sentence) for sentence in sentences]
    return _Question(words, marked, None if text.isupper() else _NAME.findall(text))


@lru_cache(1 << 14)  # near-duplicates share most of their sentences
def _words(sentence: str) -> tuple[str, ...]:
    """Return words and commas, with one placeholder for anything else between two of them; no articles."""
    words = [
        piece if piece in "ai," or (len(piece) > 1 and piece.isalpha()) else _FORMULA
        for piece in _PIECE.findall(_ARTICLE.sub("", sentence))
    ]
    return tuple(word for before, word in pairwise(["", *words]) if not word == before == _FORMULA)


def _asks_the_same(one: _Question, other: _Question, seen: U32) -> bool:
    """Return whether two questions with equal numbers, signs and variables ask the same in similar words."""
    if one.names != other.names and None not in (one.names, other.names):
        return False
    here, there = one.unlike(other), other.unlike(one)
    known = one.words() & other.words()
    gone, come = list[range](), list[range]()
    for old, new in _edits([word.text for word in here], [word.text for word in there]):
        before, after = _texts(here, old), _texts(there, new)
        if before and after and not _respelt(before, after, known, seen):
            return False
        if not {"a", "i"}.isdisjoint(set(before) ^ set(after)):  # variables
            return False
        gone += [old] if before and not after else []
        come += [new] if after and not before else []
    if gone and come:  # one piece that was moved
        return [_texts(here, run) for run in gone] == [_texts(there, run) for run in come] and len(gone) == 1
    return all(_adds_nothing(run, here, one, other) for run in gone) and all(
        _adds_nothing(run, there, other, one) for run in come
    )


def _edits(one: Sequence[str], other: Sequence[str]) -> Iterator[tuple[range, range]]:
    """Return where two texts differ if as many words as possible are paired in order: positions in both."""
    from rapidfuzz.distance import Indel

    same = [step for step in Indel.opcodes(one, other) if step.tag == "equal"]
    starts = [(0, 0), *((step.src_end, step.dest_end) for step in same)]
    ends = [*((step.src_start, step.dest_start) for step in same), (len(one), len(other))]
    for (start, other_start), (end, other_end) in zip(starts, ends, strict=True):
        yield range(start, end), range(other_start, other_end)


def _texts(words: Sequence[_Word], run: range) -> list[str]:
    return [words[place].text for place in run if words[place].text not in (_COMMA, _FORMULA)]


def _adds_nothing(run: range, words: Sequence[_Word], longer: _Question, shorter: _Question) -> bool:
    """Return whether the words that only one question has leave unchanged what is asked.

    They change it if one of them connects the story with what is asked, because the other part has it, too.
    In a sentence that asks, they also change it if they narrow down what is counted ("how many ripe apples")
    or end it, where English puts restrictions. Otherwise, these additions change nothing: a sentence, the
    start of a sentence that asks, a part set off by a comma at either end, and a single word.

    Args:
        run: the positions of the words in `words`.
        words: the words of all sentences of `longer` that `shorter` does not have.
        longer: the question with the words.
        shorter: the question without them.
    """
    first, last, nothing = words[run[0]], words[run[-1]], _Word("", -1)
    before, after = [nothing, *words][run[0]], [*words, nothing][run[-1] + 1]
    asks = first.sentence in longer.asking
    content = set(_texts(words, run)) - _FUNCTION
    if content & (shorter.words() if asks else shorter.words(shorter.asking)):
        return False
    head, tail = before.sentence != first.sentence, after.sentence != last.sentence
    if head and tail:
        return first.sentence not in longer.marked
    if not content or (head and asks):
        return True
    if (head and _COMMA in (last.text, after.text)) or (tail and _COMMA in (first.text, before.text)):
        return True
    counts = _COUNTING.search(" ".join(word.text for word in words[max(0, run[0] - 2) : run[0]]))
    narrows = counts and after.text.isalpha() and after.text not in _FUNCTION
    ends = tail and last.text != _FORMULA
    return len(_texts(words, run)) == 1 and not (asks and (narrows or ends))


def _respelt(old: Sequence[str], new: Sequence[str], known: Set[str], seen: U32) -> bool:
    """Return whether words are equal except for where one ends and the next begins, and a typo in each.

    A typo is one letter too many, too few or wrong, or two swapped letters (Damerau 1964), inside a word of
    some length. What turns a word into another word is not a typo: an ending, or a word that occurs often
    enough in this data set.
    """
    if len(old) != len(new):
        old, new = ["".join(old)], ["".join(new)]
    return all(one == other or _slip(one, other, known, seen) for one, other in zip(old, new, strict=True))


def _slip(one: str, other: str, known: Set[str], seen: U32) -> bool:
    from rapidfuzz.distance import OSA

    short, long = sorted((one, other), key=len)
    swapped = sorted(one) == sorted(other)
    length = 3 if swapped else 4 if len(short) < len(long) else 6
    if len(short) < length or one[0] != other[0] or {one, other} <= known:
        return False
    if long.startswith(short) or one[:-1] == other[:-1]:  # an ending
        return False
    few, many = sorted(int(seen[_slot(word_hash(word))]) for word in (one, other))
    return OSA.distance(one, other) == 1 and (few < _ESTABLISHED or few < _SLIPS * many)


# ------------------------------------------------------------------------------------------------- the filter


@dataclass(frozen=True)
class DuplicatesStep(TextStep):
    """Drops questions that duplicate an earlier one, which `duplicate_of` names."""

    rule: DuplicateRule
    reasons: ClassVar[tuple[str, ...]] = ("duplicate", "near_duplicate", "template")

    @classmethod
    def of(cls, rule: DuplicateRule, context: Context) -> DuplicatesStep:
        """Require nothing else."""
        return cls(rule)

    def read(self, texts: Sequence[str], tokens: Tokens) -> Sketch:
        """Return the `sketch` of the batch."""
        return sketch(tokens, self.rule)

    def find(self, rows: Sequence[Row], batches: Sequence[Sketch], left: NDArray[np.bool_]) -> Outcome:
        """Run `find_duplicates` among the remaining rows."""
        if not batches:
            return Outcome([])
        texts = [row["question"] for row in rows]
        with heartbeat.doing(f"looking for duplicates among {len(texts):,} questions"):
            found = find_duplicates(texts, Sketch.joined(batches), self.rule, left)
        columns = {
            number: {"duplicate_of": rows[int(found.kept[number])]["id"]}
            for number, reason in enumerate(found.reasons)
            if reason is not None
        }
        return Outcome(found.reasons, columns, found)

    def report(self, rows: Sequence[Row], outcome: Outcome, receipt: Mapping[str, Any]) -> StepReport | None:
        """Report counts of each kind, and the first near-duplicates next to the rows that were kept."""
        found: Duplicates | None = outcome.found
        if found is None:
            return None
        facts = {
            **Counter(reason for reason in found.reasons if reason),
            "compared_pairs": found.candidates,
            "template_rows_kept": found.template_rows,
        }
        table = elements.table([{"what": what, "rows": facts.get(name, 0)} for what, name in _KINDS.items()])
        near = [number for number, reason in enumerate(found.reasons) if reason == "near_duplicate"]
        shown = [
            (str(rows[number]["id"]), rows[number]["question"], rows[int(found.kept[number])]["question"])
            for number in near[:_SHOWN]
        ]
        note = f"{found.candidates:,} pairs of rows were compared."
        if near:
            note += f" Below: {len(shown):,} of {len(near):,} near-duplicates, with the differences marked."
        beside = elements.pairs(shown, "dropped", "kept instead", differences=True)
        return StepReport([elements.section("Duplicates", table, beside, note=note)], facts)


_KINDS = {
    "dropped: equal except for case, spacing and spelling of LaTeX": "duplicate",
    "dropped: near-duplicates": "near_duplicate",
    "dropped: over the limit per template": "template",
    "kept, although an earlier row has the same text with other numbers": "template_rows_kept",
}
