"""Find questions that occur in a benchmark, verbatim or nearly, and measure how much of it is matched.

There are four rules, from certain to suspicious:

- `exact`: equal except for case, spacing, punctuation and the spelling of LaTeX, whatever the length;
- `inside`: a benchmark question shorter than the n-gram occurs in the text as a whole and makes up most of
it;
- `ngram`: shared runs of 13 words (Brown et al. 2020) that make up most of the shorter of the two, so that
"express your answer in the form ..." is not a match;
- `numbers`: the same text, if long enough, with other numbers.

A flagged question is dropped, or, if `drop` is false, kept together with its match. The clean ratio of a
benchmark is defined as in the paper (table 6): the share of its questions without any 13-gram in common with
any question examined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from scalequest.config import ConfigError, option, required
from scalequest.config.ranges import SHARE, Range
from scalequest.pages import elements
from scalequest.questions.steps import Context, Outcome, StepReport, TextStep
from scalequest.questions.text import I64, U64, Tokens, batches
from scalequest.records import Row

Rule = Literal["exact", "inside", "ngram", "numbers"]
RULES: tuple[Rule, ...] = get_args(Rule)
_INSIDE_WORDS, _INSIDE_SHARE = 5, 0.5  # minimum words, and share of the text
_TEMPLATE_WORDS = 8  # shorter texts may be equal except for their numbers by chance
_FILTER_BITS = 24
_SHOWN = 100  # pairs in the report; dropped/ has all of them in the column `matches`


@dataclass(frozen=True)
class BenchmarkSource:
    """Questions that must not be trained on."""

    source: str = required("file, stage folder or hub:owner/name of the benchmark")
    column: str | None = option(None, "column that holds the question; null: found by the usual names")


@dataclass(frozen=True)
class ContaminationRule:
    """The benchmarks to compare with, and what happens to flagged questions."""

    against: list[BenchmarkSource] = option(
        help="benchmarks given by source and column", default_factory=list, fingerprint=False
    )
    benchmarks: list[str] = option(
        help="benchmarks given by their YAML files; a pattern such as eval/benchmarks/*.yaml selects all",
        default_factory=list,
        fingerprint=False,
    )
    optional: list[str] = option(
        help="like benchmarks, but those whose data are missing are skipped; the log, the "
        "receipt and the report list them",
        default_factory=list,
        fingerprint=False,
    )
    rules: list[Rule] = option(help="rules that flag a question", default_factory=lambda: [*RULES])
    drop: bool = option(True, "if false, flagged questions are kept, and each row gets its match")
    ngram: int = option(
        13,
        "number of consecutive words that count as a match (paper: 13); shorter matches occur by chance",
        within=Range(least=_INSIDE_WORDS),
    )
    overlap: float = option(
        0.6,
        "rule ngram: minimum share of the shorter question that the matches cover; 0 accepts any match",
        within=SHARE,
    )

    @property
    def given(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self.against or self.benchmarks or self.optional)


@dataclass(frozen=True)
class TestQuestion:
    """A benchmark's question: `benchmark` is its name, `id` the question's number or id there."""

    __test__ = False  # tells pytest that this is not a test case

    benchmark: str
    id: str
    question: str


@dataclass(frozen=True)
class Match:
    """The benchmark question that a row matches, by the most certain rule that finds one.

    If there are several, it is the first one; for rule `ngram`, the one that shares the largest part.
    """

    rule: Rule
    test: TestQuestion

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns of a flagged row."""
        return {"matches": f"{self.test.benchmark}/{self.test.id}", "matches_by": self.rule}


class Index:
    """An index of all benchmark questions, by hashes of everything that can match."""

    def __init__(self, tests: Sequence[TestQuestion], rule: ContaminationRule) -> None:
        """Compute the hashes once."""
        self.tests, self.rule, self.ngram = tests, rule, rule.ngram
        keys: dict[Rule, list[tuple[U64, I64]]] = {rule: [] for rule in RULES}
        counted: list[I64] = []
        short_lengths: set[int] = set()
        for start, tokens in batches([test.question for test in tests]):
            words = tokens.words
            lengths = np.diff(words.offsets)
            number = start + np.arange(len(lengths))
            keys["exact"].append((tokens.text_hashes(), number))
            long = lengths >= _TEMPLATE_WORDS
            keys["numbers"].append((tokens.masked().text_hashes()[long], number[long]))
            counted.append(lengths)
            grams, rows = words.ngrams(self.ngram)
            keys["ngram"].append((grams, start + rows))
            short = (lengths >= _INSIDE_WORDS) & (lengths < self.ngram)
            keys["inside"].append((words.text_hashes()[short], number[short]))
            short_lengths.update(lengths[short].tolist())
        self._lengths = sorted(short_lengths)
        self._test_words = np.concatenate([np.empty(0, np.int64), *counted])
        self._tables = {rule: _Table(parts) for rule, parts in keys.items()}
        self._met = np.zeros(len(tests), bool)  # by a 13-gram or, without any, an equal text

    def matches(self, tokens: Tokens) -> list[Match | None]:
        """Return the match of each text of a batch; remember which test questions were matched."""
        words = tokens.words
        lengths = np.diff(words.offsets)
        count = len(lengths)
        rule_of, test_of = np.full(count, len(RULES)), np.zeros(count, np.int64)

        def found(rule: Rule, hashes: U64, rows: I64) -> None:
            if rule not in self.rule.rules:
                return
            hit, tests = self._tables[rule].find(hashes)
            hit_rows = rows[hit]
            if rule == "ngram":
                hit_rows, tests = self._overlapping(hit_rows, tests, lengths)
            matched, first = np.unique(hit_rows, return_index=True)
            new = rule_of[matched] > RULES.index(rule)
            rule_of[matched[new]], test_of[matched[new]] = RULES.index(rule), tests[first[new]]

        texts = np.arange(count)
        exact, grams = tokens.text_hashes(), words.ngrams(self.ngram)
        found("exact", exact, texts)
        for length in self._lengths:
            hashes, rows = words.ngrams(length)
            mostly = length >= _INSIDE_SHARE * lengths[rows]
            found("inside", hashes[mostly], rows[mostly])
        found("ngram", *grams)
        found("numbers", tokens.masked().text_hashes(), texts)
        self._tables["ngram"].mark(grams[0], self._met)
        self._tables["exact"].mark(exact, self._met)
        return [
            None if rank == len(RULES) else Match(RULES[rank], self.tests[test])
            for rank, test in zip(rule_of.tolist(), test_of.tolist(), strict=True)
        ]

    def _overlapping(self, rows: I64, tests: I64, lengths: I64) -> tuple[I64, I64]:
        """Return the pairs of row and test that share enough, given common runs; the largest share first."""
        pairs, hits = np.unique(rows * len(self.tests) + tests, return_counts=True)
        rows, tests = np.divmod(pairs, max(1, len(self.tests)))
        shares = (hits + self.ngram - 1) / np.minimum(self._test_words[tests], lengths[rows])
        order = np.argsort(-shares, kind="stable")
        order = order[shares[order] >= self.rule.overlap]
        return rows[order], tests[order]

    def clean_ratios(self) -> list[dict[str, Any]]:
        """Return for each benchmark name, number of questions, number of matched ones, and clean share."""
        rows = []
        for name in dict.fromkeys(test.benchmark for test in self.tests):
            own = np.array([test.benchmark == name for test in self.tests])
            met = int(self._met[own].sum())
            rows.append(
                {
                    "benchmark": name,
                    "questions": int(own.sum()),
                    "met": met,
                    "clean": 1 - met / int(own.sum()),
                }
            )
        return rows


class _Table:
    """Sorted hashes with the test questions that have them, behind a filter that rejects most others."""

    def __init__(self, parts: Sequence[tuple[U64, I64]]) -> None:
        hashes = np.concatenate([part[0] for part in parts] or [np.empty(0, np.uint64)])
        tests = np.concatenate([part[1] for part in parts] or [np.empty(0, np.int64)])
        order = np.lexsort((tests, hashes))
        hashes, tests = hashes[order], tests[order]
        new = np.ones(len(order), bool)  # count a run once even if a test question contains it twice
        new[1:] = (hashes[1:] != hashes[:-1]) | (tests[1:] != tests[:-1])
        self.hashes, self.tests = hashes[new], tests[new]
        self.filter = np.zeros(1 << _FILTER_BITS if len(hashes) > 1000 else 1 << 16, bool)
        self.filter[self._slot(self.hashes)] = True

    def _slot(self, hashes: U64) -> I64:
        return (hashes & np.uint64(len(self.filter) - 1)).astype(np.int64)

    def _hits(self, hashes: U64) -> tuple[I64, I64]:
        """Return the positions of known hashes, and where the run of tests of each one begins."""
        maybe = np.flatnonzero(self.filter[self._slot(hashes)])
        if not len(maybe):
            return maybe, maybe
        where = np.minimum(np.searchsorted(self.hashes, hashes[maybe]), len(self.hashes) - 1)
        known = self.hashes[where] == hashes[maybe]
        return maybe[known], where[known]

    def find(self, hashes: U64) -> tuple[I64, I64]:
        """Return every position of a known hash with every test that has the hash, in order."""
        hit, first = self._hits(hashes)
        counts, tests = self._runs(first)
        return np.repeat(hit, counts), tests

    def mark(self, hashes: U64, met: Any) -> None:
        """Set `met` for all tests that have one of the hashes."""
        met[self._runs(np.unique(self._hits(hashes)[1]))[1]] = True

    def _runs(self, first: I64) -> tuple[I64, I64]:
        """Return the lengths of the runs of tests that begin at these places, and all their tests."""
        counts = np.searchsorted(self.hashes, self.hashes[first], side="right") - first
        shifts = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return counts, self.tests[np.repeat(first, counts) + shifts]


# ------------------------------------------------------------------------------------------------- the filter


@dataclass(frozen=True)
class Flagged:
    """The findings of the step.

    Attributes:
        matches: the matches by row number.
        clean: the result of `Index.clean_ratios`.
    """

    matches: dict[int, Match]
    clean: list[dict[str, Any]]


@dataclass(frozen=True)
class ContaminationStep(TextStep):
    """Drops questions that match a benchmark question, or adds the columns of `Match` to them."""

    rule: ContaminationRule
    index: Index
    reasons: ClassVar[tuple[str, ...]] = ("contamination",)

    @classmethod
    def of(cls, rule: ContaminationRule, context: Context) -> ContaminationStep:
        """Index the benchmarks."""
        return cls(rule, Index(context.benchmarks, rule))

    @classmethod
    def check(cls, rule: ContaminationRule) -> None:
        """Require at least one benchmark."""
        if not rule.given:
            raise ConfigError(
                "contamination.against: step contamination needs a benchmark; set against or benchmarks"
            )

    def read(self, texts: Sequence[str], tokens: Tokens) -> list[Match | None]:
        """Return `Index.matches` for the batch."""
        return self.index.matches(tokens)

    def find(self, rows: Sequence[Row], batches: Sequence[Any], left: NDArray[np.bool_]) -> Outcome:
        """Return the matches of the remaining rows."""
        matches = {
            number: match
            for number, (match, here) in enumerate(
                zip(chain.from_iterable(batches), left.tolist(), strict=True)
            )
            if match is not None and here
        }
        flagged = matches if self.rule.drop else {}
        return Outcome(
            ["contamination" if number in flagged else None for number in range(len(rows))],
            {number: match.columns for number, match in matches.items()},
            Flagged(matches, self.index.clean_ratios()),
        )

    def report(self, rows: Sequence[Row], outcome: Outcome, receipt: Mapping[str, Any]) -> StepReport:
        """Report clean ratios, flags by rule, and flagged rows next to the benchmarks' questions."""
        found: Flagged = outcome.found
        by_rule = Counter[str](match.rule for match in found.matches.values())
        left_out = receipt.get("benchmarks_left_out", [])
        pairs = [
            (
                f"{rows[number]['id']}: {match.rule}, {match.test.benchmark}/{match.test.id}",
                rows[number]["question"],
                match.test.question,
            )
            for number, match in found.matches.items()
        ]
        sections = contamination_sections(found.clean, by_rule, pairs, "came in", left_out)
        return StepReport(sections, {"flagged": dict(by_rule), "clean": found.clean, "left_out": left_out})


def contamination_sections(
    clean: Sequence[Mapping[str, Any]],
    by_rule: Mapping[str, int],
    flagged: Sequence[tuple[str, str, str]],
    which: str,
    left_out: Sequence[str] = (),
) -> list[str]:
    """Return sections of a page: clean ratios, flags by rule, flagged pairs side by side.

    Args:
        clean: the result of `Index.clean_ratios`.
        by_rule: the number of rows flagged by each rule.
        flagged: label, question and benchmark question of every flagged row.
        which: which questions the ratios refer to, to follow "a question that".
        left_out: the names of skipped benchmarks.
    """
    without = f" Skipped, because their data were missing: {', '.join(left_out)}." if left_out else ""
    if not clean:
        return [elements.section("Contamination", note=f"No benchmark to compare with was given.{without}")]
    note = (
        "Matched: the benchmark's questions that share 13 consecutive words with a "
        f"question that {which} (or are equal to one). Clean: the share of the others, as "
        f"in the paper's table 6.{without}"
    )
    table = elements.table([{**one, "clean": f"{100 * one['clean']:.2f} %"} for one in clean])
    shown = f"{min(_SHOWN, len(flagged)):,} of {len(flagged):,} flagged rows, with the shared words marked."
    return [
        elements.section("Benchmarks", table, note=note),
        elements.section(
            "Contamination",
            elements.bars(by_rule),
            elements.pairs(flagged[:_SHOWN], "row", "benchmark's question"),
            note=shown if flagged else "No row was flagged.",
        ),
    ]
