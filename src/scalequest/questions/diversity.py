"""Keep the questions that have the least in common: greedy choice by the rarity of their word pairs.

The next question kept is always the one whose pairs of adjacent words have been kept least often so far: the
greatest mean of 1 / (1 + count) over its pairs. Unlike the sum, the mean does not prefer long questions, of
which more are broken. All numbers count as the same word, since other numbers make no other kind of question.
Keeping a question only ever makes others less novel, so the maximum is found without looking at all of them
each time (lazy greedy choice, Minoux 1978).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scalequest import heartbeat
from scalequest.config import ConfigError, option
from scalequest.config.ranges import COUNT
from scalequest.pages import elements
from scalequest.questions.steps import Context, Outcome, StepReport, TextStep
from scalequest.questions.text import I64, Tokens
from scalequest.records import Row, quota

_SLOT_BITS = 22  # four million counters; word pairs that share one are counted as one
U32 = NDArray[np.uint32]


@dataclass(frozen=True)
class DiversityRule:
    """How many questions are kept."""

    keep: int | None = option(
        None, "keep exactly so many, those whose word pairs are rarest among the kept ones", within=COUNT
    )


@dataclass(frozen=True)
class WordPairs:
    """The word pairs of texts, one text after the other.

    Attributes:
        slots: the counter of each pair.
        offsets: the position of each text's first pair, and the number of all pairs (one more than texts).
    """

    slots: U32
    offsets: I64

    @classmethod
    def of(cls, tokens: Tokens) -> WordPairs:
        """Return the pairs of adjacent words, numbers or signs in each text."""
        hashes, rows = tokens.masked().ngrams(2)
        offsets = np.searchsorted(rows, np.arange(len(tokens.offsets)))
        return cls((hashes >> np.uint64(64 - _SLOT_BITS)).astype(np.uint32), offsets)

    @classmethod
    def joined(cls, batches: Sequence[WordPairs]) -> WordPairs:
        """Put batches together."""
        starts = np.cumsum([0, *(len(batch.slots) for batch in batches)])
        offsets = [batch.offsets[:-1] + start for batch, start in zip(batches, starts, strict=False)]
        slots = [np.empty(0, np.uint32), *(batch.slots for batch in batches)]
        return cls(np.concatenate(slots), np.concatenate([*offsets, starts[-1:]]))

    def __getitem__(self, text: int) -> U32:
        """Return the pairs of one text."""
        return self.slots[self.offsets[text] : self.offsets[text + 1]]

    def distinct(self, texts: I64) -> int:
        """Return how many different pairs some texts have together."""
        seen = np.zeros(1 << _SLOT_BITS, bool)
        for text in texts.tolist():
            seen[self[text]] = True
        return int(seen.sum())


def most_diverse(pairs: WordPairs, texts: Sequence[int], keep: int) -> I64:
    """Return the numbers of the chosen texts, in the order of choice; of equals, the earlier text goes first.

    Args:
        pairs: the word pairs of all texts.
        texts: the numbers of the texts to choose from.
        keep: how many of them; at most all.
    """
    counts = np.zeros(1 << _SLOT_BITS, np.uint32)  # in how many kept texts each pair is

    def novelty(text: int) -> float:
        own = counts[pairs[text]]
        return float((1 / (1 + own)).mean()) if len(own) else 0.0

    heap = [(-novelty(text), text) for text in texts]
    heapq.heapify(heap)
    chosen: list[int] = []
    with heartbeat.doing("choosing the most diverse questions", total=keep, unit="questions") as work:
        while len(chosen) < keep:
            _, text = heap[0]
            now = -novelty(text)
            if len(heap) > 1 and (now, text) > min(heap[1:3]):  # another one may be more novel
                heapq.heapreplace(heap, (now, text))
                continue
            heapq.heappop(heap)
            chosen.append(text)
            counts[np.unique(pairs[text])] += 1
            work.done = len(chosen)
    return np.array(chosen, np.int64)


class _Found(NamedTuple):
    """Facts for the report: numbers of questions, and of their distinct word pairs."""

    seen: int
    kept: int
    pairs_seen: int
    pairs_kept: int
    pairs_first: int


@dataclass(frozen=True)
class DiversityStep(TextStep):
    """Keeps a number of questions that have the least in common."""

    rule: DiversityRule
    limit: int | None = None
    reasons: ClassVar[tuple[str, ...]] = ("redundant",)

    @classmethod
    def of(cls, rule: DiversityRule, context: Context) -> DiversityStep:
        """Require the number of rows read at most, which excuses too few rows."""
        return cls(rule, context.limit)

    @classmethod
    def check(cls, rule: DiversityRule) -> None:
        """Require a number."""
        if rule.keep is None:
            raise ConfigError("diversity.keep: step diversity needs it")

    def read(self, texts: Sequence[str], tokens: Tokens) -> WordPairs:
        """Return the word pairs of the batch."""
        return WordPairs.of(tokens)

    def find(self, rows: Sequence[Row], batches: Sequence[WordPairs], left: NDArray[np.bool_]) -> Outcome:
        """Choose among the remaining rows.

        Raises:
            ConfigError: there are fewer rows than `keep`, and no limit is why.
        """
        pairs, there = WordPairs.joined(batches), np.flatnonzero(left)
        keep = quota(self.rule.keep or 0, len(there), "diversity.keep", limit=self.limit)
        chosen = most_diverse(pairs, there.tolist(), keep)
        gone = left.copy()
        gone[chosen] = False
        found = _Found(
            len(there), keep, pairs.distinct(there), pairs.distinct(chosen), pairs.distinct(there[:keep])
        )
        return Outcome(["redundant" if drop else None for drop in gone.tolist()], found=found)

    def report(self, rows: Sequence[Row], outcome: Outcome, receipt: Mapping[str, Any]) -> StepReport | None:
        """Report how many different word pairs the kept questions have, beside the first so many."""
        found: _Found = outcome.found
        facts = found._asdict()
        lines = [
            {"questions": f"all {found.seen:,}", "distinct word pairs": found.pairs_seen},
            {"questions": f"the {found.kept:,} kept", "distinct word pairs": found.pairs_kept},
            {"questions": f"the first {found.kept:,}", "distinct word pairs": found.pairs_first},
        ]
        return StepReport([elements.section("Diversity", elements.table(lines))], facts)
