"""A judge's reply about a question's difficulty, on five levels, or its topic.

The levels and their scores are those that the paper uses (its Fig. 13, after Magpie): "very easy" is 20, and
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

# Quotes, bold, brackets, boxes and the like, on either side of a value
_OPENERS = r"(?:[\s*_`\"'“”‘’\[\](){}<>$|]|\\[a-z]+\{)*"
_CLOSERS = r"[*_`\"'“”‘’\])}>$]*"
_LEVEL = r"(?:(?:very[\s_-]+)?(?:easy|hard)|medium)\b"
# "difficulty": "hard" and similar
_SAID = re.compile(
    rf"\bdifficulty(?:[\s_-]+(?:level|rating))?{_OPENERS}(?:[:=]|\b(?:is|of|as)\b){_OPENERS}(?P<level>{_LEVEL})",
    re.IGNORECASE,
)
# What may follow a level that is the verdict. A range ("easy to medium", "hard/very hard"), a list of choices
# ("easy, medium or hard") and "hard to judge" give no level.
_ENDS = re.compile(
    rf"{_CLOSERS}(?!\s*(?:[-–—/|,]|\b(?:to|or|and)\b){_OPENERS}(?:(?:or|and)\b{_OPENERS})?{_LEVEL})"
    r"(?:\s*(?:[.,;!(–—}]|$|-\s|because\b|since\b)|[ \t]*\n)",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"{_OPENERS}(?P<level>{_LEVEL})[.\s*_`\"'“”‘’\])}}>$]*", re.IGNORECASE)
_TOPIC = re.compile(r"<topic>(.*?)</topic>", re.IGNORECASE | re.DOTALL)


def read_level(text: str) -> Level | None:
    """Return the last level that a reply states as the difficulty; None if that is not one of the five.

    A reply that consists of a level counts as well. A range ("easy to medium") does not.
    """
    found = [*_SAID.finditer(text)]
    last = found[-1] if found else _ALONE.fullmatch(text)
    if last is None or (found and not _ENDS.match(text, last.end())):
        return None
    return cast(Level, " ".join(re.split(r"[\s_-]+", last["level"].lower())))


def read_topic(text: str, topics: Sequence[str]) -> str | None:
    """Return the topic between the last TOPIC tags, as spelled in `topics`; None for any other text."""
    found = _TOPIC.findall(text)
    if not found:
        return None
    said = " ".join(found[-1].split()).strip("*_`\"'. ").casefold()
    return next((topic for topic in topics if topic.casefold() == said), None)


@dataclass(frozen=True)
class Levels:
    """Asks a judge once per question for its level, as a model step of the filter.

    `seed` is the seed of the run.
    """

    prompt: Prompt | None
    sampling: Sampling
    seed: int
    shown: ClassVar[tuple[str, ...]] = ("difficulty_level",)
    counted: ClassVar[tuple[str, ...]] = ()

    def requests(self, row: Row, chat: BoundFormat | None = None) -> list[Ask]:
        """Return the single request."""
        assert self.prompt is not None, "a judge without a prompt"
        seed = row_seed(self.seed, "level", row["id"]) if self.sampling.temperature > 0 else None
        return [Ask(f"{row['id']}/level", self.prompt.fill(row["question"]), seed)]

    def columns(self, replies: Sequence[Said], chat: BoundFormat | None = None) -> Row:
        """Return the columns of `level_columns`."""
        return level_columns(replies[0])


def level_columns(said: Said) -> Row:
    """Return the columns of a judged question: the level, its score, the reply, and why there is no level."""
    level = read_level(said.whole)
    return {
        "difficulty_level": level,
        "difficulty_score": SCORES[level] if level else None,
        "difficulty_text": said.text,
        "difficulty_fault": None if level else said.why_none,
    }
