"""How difficult a judge says a question is, on five levels, and which topic it names.

The levels and their scores are those of the paper's measure (its Fig. 13, after Magpie): "very easy" is 20,
"very hard" is 100.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

from scalequest.chat import BoundFormat
from scalequest.engines.base import Sampling
from scalequest.questions.judges import Ask, Said
from scalequest.questions.prompts import Prompt
from scalequest.records import Row, row_seed

Level = Literal["very easy", "easy", "medium", "hard", "very hard"]
LEVELS: tuple[Level, ...] = ("very easy", "easy", "medium", "hard", "very hard")
SCORES: dict[Level, float] = {level: 20.0 * place for place, level in enumerate(LEVELS, 1)}

# Quotes, bold, brackets, boxes and the like, on either side of a word that is given as a value
_OPENERS = r"(?:[\s*_`\"'“”‘’\[\](){}<>$|]|\\[a-z]+\{)*"
_CLOSERS = r"[*_`\"'“”‘’\])}>$]*"
_LEVEL = r"(?:(?:very[\s_-]+)?(?:easy|hard)|medium)\b"
# "difficulty": "hard" and its relatives
_SAID = re.compile(
    rf"\bdifficulty(?:[\s_-]+(?:level|rating))?{_OPENERS}(?:[:=]|\b(?:is|of|as)\b){_OPENERS}(?P<level>{_LEVEL})",
    re.IGNORECASE,
)
# What follows a level that is all that is said: a range ("easy to medium", "hard/very hard"), a list to
# choose from ("easy, medium or hard") and "hard to judge" name none.
_ENDS = re.compile(
    rf"{_CLOSERS}(?!\s*(?:[-–—/|,]|\b(?:to|or|and)\b){_OPENERS}(?:(?:or|and)\b{_OPENERS})?{_LEVEL})"
    r"(?:\s*(?:[.,;!(–—}]|$|-\s|because\b|since\b)|[ \t]*\n)",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"{_OPENERS}(?P<level>{_LEVEL})[.\s*_`\"'“”‘’\])}}>$]*", re.IGNORECASE)
_TOPIC = re.compile(r"<topic>(.*?)</topic>", re.IGNORECASE | re.DOTALL)


def read_level(text: str) -> Level | None:
    """The last level that a reply gives as the difficulty; None if it gives none there.

    A reply that is a level and nothing else gives it, too. A level between others ("easy to medium") and one
    that is not of the five are none.
    """
    found = [*_SAID.finditer(text)]
    last = found[-1] if found else _ALONE.fullmatch(text)
    if last is None or (found and not _ENDS.match(text, last.end())):
        return None
    return cast(Level, " ".join(re.split(r"[\s_-]+", last["level"].lower())))


def read_topic(text: str, topics: Sequence[str]) -> str | None:
    """The topic between the last pair of TOPIC tags, as `topics` write it; None if it is none of them."""
    found = _TOPIC.findall(text)
    if not found:
        return None
    said = " ".join(found[-1].split()).strip("*_`\"'. ").casefold()
    return next((topic for topic in topics if topic.casefold() == said), None)


@dataclass(frozen=True)
class Levels:
    """Asks a judge once for the level of a question, as a model step of the filter.

    `seed` is the run's.
    """

    prompt: Prompt | None
    sampling: Sampling
    seed: int
    shown: ClassVar[tuple[str, ...]] = ("difficulty_level",)
    counted: ClassVar[tuple[str, ...]] = ()

    def requests(self, row: Row, chat: BoundFormat | None = None) -> list[Ask]:
        """The one question."""
        assert self.prompt is not None, "a judge without a prompt"
        seed = row_seed(self.seed, "level", row["id"]) if self.sampling.temperature > 0 else None
        return [Ask(f"{row['id']}/level", self.prompt.fill(row["question"]), seed)]

    def columns(self, replies: Sequence[Said], chat: BoundFormat | None = None) -> Row:
        """Those of `level_columns`."""
        return level_columns(replies[0])


def level_columns(said: Said) -> Row:
    """Columns of a question whose level a judge was asked for: level, its score, the reply, why none."""
    level = read_level(said.whole)
    return {
        "difficulty_level": level,
        "difficulty_score": SCORES[level] if level else None,
        "difficulty_text": said.text,
        "difficulty_fault": None if level else said.why_none,
    }
