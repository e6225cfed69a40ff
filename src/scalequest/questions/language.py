"""Keep English questions, by a rule on scripts and function words, and by an identifier in cases of doubt.

Mathematics, names and typographic characters are no reason to drop a question. The identifier is py3langid
(after Lui and Baldwin 2012), whose model is part of its wheel. It reads about 10,000 questions per second, so
it only gets the questions that the rule cannot decide: those without an English function word, or with a
foreign one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scalequest.config import option
from scalequest.config.ranges import SHARE
from scalequest.pages import elements
from scalequest.questions.steps import Context, Outcome, StepReport, TextStep
from scalequest.questions.text import ENGLISH, WORD, Tokens, word_hash
from scalequest.records import Row

# Function words that identify questions in plain ASCII; none of them is in ENGLISH or a common variable.
_FOREIGN = (
    "der das und wie viele hat ist ein eine jetzt le les et en de du il elle une est combien que "
    "el los las una tiene es con por cuántos cuántas cuantos cuantas ahora che quanti"
)
FOREIGN = frozenset(_FOREIGN.split())
_MATHEMATICS = re.compile(r"\$\$.*?\$\$|\$.*?\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[a-zA-Z]+", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
# Cyrillic letters typed by mistake for similar Latin ones (GSM8K has such a question).
_LOOKALIKES = frozenset("АВЕКМНОРСТХаеорсухіѕј")
_ALEPHS = re.compile("[ℵ-ℸ]")  # cardinals, which NFKC turns into Hebrew letters
_FEW = 3  # fewer words say nothing about the language
_EXAMPLES = 10  # examples in the report of the rows on which the two rules disagree, in each direction


@dataclass(frozen=True)
class LanguageRule:
    """What counts as English."""

    paper_exact: bool = option(
        False, "drop questions with any character above 127, including curly quotes and ° (paper)"
    )
    max_accented: float = option(
        0.1, "maximum share of accented letters among a question's letters", within=SHARE
    )
    identifier: bool = option(True, "ask the language identifier when the rule is in doubt")
    min_confidence: float = option(
        0.5,
        "the identifier drops a question if it assigns at least this probability to another language",
        within=SHARE,
    )


def language(question: str, rule: LanguageRule) -> str | None:
    """Return why a question is not English, by its script, accents, function words or the identifier.

    Greek letters and mathematical alphabets count as mathematics and are kept. With `rule.paper_exact`, every
    character must be ASCII, as in the authors' code, and nothing else is checked.
    """
    if not question.strip():
        return "empty"
    if rule.paper_exact:
        return None if question.isascii() else "language"
    words = _words(question)
    foreign, english = (sum(word in known for word in words) for known in (FOREIGN, ENGLISH))
    if foreign > max(1, english):
        return "language"
    if not question.isascii():
        text = _ALEPHS.sub("", question)
        letters = [letter for letter in unicodedata.normalize("NFKC", text) if letter.isalpha()]
        names = [
            "LATIN" if letter in _LOOKALIKES else unicodedata.name(letter, "UNKNOWN")
            for letter in letters
            if not letter.isascii()
        ]
        if any(not name.startswith(("LATIN", "GREEK", "MODIFIER LETTER")) for name in names):
            return "language"
        if sum(name.startswith("LATIN") for name in names) > rule.max_accented * len(letters):
            return "language"
    if rule.identifier and foreign >= english and len([word for word in words if len(word) > 1]) >= _FEW:
        code, confidence = identified(" ".join(words))
        return "language" if code != "en" and confidence >= rule.min_confidence else None
    return None


def languages(questions: Sequence[str], tokens: Tokens, rule: LanguageRule) -> list[str | None]:
    """Return `language` for every question; plain ASCII with more English than foreign words passes at once.

    Args:
        questions: the texts.
        tokens: the tokens of the same texts.
        rule: what counts as English.
    """
    if rule.paper_exact:
        return [language(question, rule) for question in questions]
    plain = (tokens.kinds == WORD) & ~tokens.commands
    balance = _counts(tokens, plain, ENGLISH) - _counts(tokens, plain, FOREIGN)
    return [
        None if sure and question.isascii() else language(question, rule)
        for question, sure in zip(questions, balance > 0, strict=True)
    ]


def identified(text: str) -> tuple[str, float]:
    """Return the most likely language (ISO 639) of a text, and its probability among the known languages."""
    code, confidence = _identifier().classify(text)
    return str(code), float(confidence)


def _words(question: str) -> list[str]:
    """Return the lower-case words outside formulas; all words if nearly all of the text is a formula."""
    text = question.casefold()
    for begin, end in (("\\(", "\\)"), ("\\[", "\\]")):  # a missing end is searched for once
        closed = text.rfind(end) + 1
        text = text[:closed] + text[closed:].replace(begin, " ")
    return [match[0] for match in _WORD.finditer(_MATHEMATICS.sub(" ", text))]


def _counts(tokens: Tokens, where: NDArray[np.bool_], words: frozenset[str]) -> NDArray[np.int64]:
    """Return how many tokens of each text are in a list of words."""
    hashes = np.sort(np.array([word_hash(word) for word in words]))
    low = np.zeros(1 << 16, bool)  # a token whose low bits match no word cannot be in the list
    low[(hashes & np.uint64(0xFFFF)).astype(np.int64)] = True
    maybe = np.flatnonzero(low[(tokens.hashes & np.uint64(0xFFFF)).astype(np.int64)] & where)
    found = np.zeros(len(tokens.hashes) + 1, np.int64)
    found[maybe + 1] = np.isin(tokens.hashes[maybe], hashes)
    return np.diff(np.cumsum(found)[tokens.offsets])


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


# ------------------------------------------------------------------------------------------------- the filter


@dataclass(frozen=True)
class LanguageStep(TextStep):
    """Drops questions that are empty or not English."""

    rule: LanguageRule
    reasons: ClassVar[tuple[str, ...]] = ("empty", "language")

    @classmethod
    def of(cls, rule: LanguageRule, context: Context) -> LanguageStep:
        """Require nothing else."""
        return cls(rule)

    def read(self, texts: Sequence[str], tokens: Tokens) -> list[str | None]:
        """Return `languages` for the batch."""
        return languages(texts, tokens, self.rule)

    def find(self, rows: Sequence[Row], batches: Sequence[Any], left: NDArray[np.bool_]) -> Outcome:
        """Return the reasons of all batches."""
        reasons = chain.from_iterable(batches)
        return Outcome([why if here else None for why, here in zip(reasons, left.tolist(), strict=True)])

    def report(self, rows: Sequence[Row], outcome: Outcome, receipt: Mapping[str, Any]) -> StepReport:
        """Report how this rule and the paper's rule divide the rows, with examples."""
        plain = [row["question"].isascii() for row in rows]
        table = _confusion(outcome.reasons, plain)
        examples = _examples(rows, outcome.reasons, plain)
        note = "Rows: the rule in use. Columns: the paper's rule, which keeps only plain ASCII."
        return StepReport([elements.section("Language", elements.table(table), examples, note=note)], table)


def _confusion(reasons: Sequence[str | None], plain: Sequence[bool]) -> list[dict[str, Any]]:
    """Return how this rule and the paper's ASCII rule divide the rows."""
    names = {True: "ASCII rule keeps", False: "ASCII rule drops"}
    table = Counter((reason is not None, names[ours]) for reason, ours in zip(reasons, plain, strict=True))
    return [
        {"ours": label, **{name: table[dropped, name] for name in names.values()}}
        for dropped, label in ((False, "keeps"), (True, "drops"))
    ]


def _examples(rows: Sequence[Row], reasons: Sequence[str | None], plain: Sequence[bool]) -> str:
    """Return the first rows of each kind that the step dropped, or kept against the ASCII rule."""
    examples = []
    for label, dropped in (("drops", True), ("kept, not ASCII", False)):
        numbers = [
            number
            for number, (reason, ours) in enumerate(zip(reasons, plain, strict=True))
            if (reason == "language") is dropped and (dropped or not ours)
        ]
        examples += [
            {"ours": label, "id": rows[number]["id"], "question": rows[number]["question"]}
            for number in numbers[:_EXAMPLES]
        ]
    return elements.table(examples) if examples else ""
