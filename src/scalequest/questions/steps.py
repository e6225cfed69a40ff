"""What a filter step is. `filters.STEPS` names them all.

A text step looks at all questions at once. Its `read` gets the tokens of one batch of questions, which are
made once for all text steps; its `find` then gives a reason or None for every row. A model step says what a
model is asked about a question, and judges the columns that the model's replies give. Both bring their
section of the report.

To add a filter, write a module with its rule (a dataclass of options) and its step, and name them in
`filters.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from scalequest.chat import BoundFormat
from scalequest.engines.base import Sampling
from scalequest.questions.prompts import Prompt
from scalequest.questions.text import Tokens
from scalequest.records import Row

if TYPE_CHECKING:
    from scalequest.questions.contamination import TestQuestion


@dataclass(frozen=True)
class Context:
    """What steps are given beside their own rules.

    Attributes:
        seed: of the run.
        benchmarks: questions that must not be trained on.
        samples: solutions per question, if agreement is measured.
        sampling: how the model is sampled.
        keep_responses: whether the rows carry these solutions.
        prompt: of the judge.
        limit: rows that were read at most; None is all of them.
    """

    seed: int = 0
    benchmarks: Sequence[TestQuestion] = ()
    samples: int = 5
    sampling: Sampling = field(default_factory=Sampling)
    keep_responses: bool = False
    prompt: Prompt | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a text step found.

    Attributes:
        reasons: one per row of the whole input: why it goes no further, or None.
        columns: what rows get, by row number.
        found: what the step's own report shows besides.
    """

    reasons: Sequence[str | None]
    columns: Mapping[int, Row] = field(default_factory=dict)
    found: Any = None


@dataclass(frozen=True)
class StepReport:
    """A step's part of the report.

    Attributes:
        sections: of the page, made by `pages.section`.
        facts: what report.json holds under the step's name; None is no entry.
    """

    sections: Sequence[str]
    facts: Any = None


class Step:
    """What both kinds of step have.

    Attributes:
        reasons: for which it drops rows, in the order of the report's bars.
    """

    reasons: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, rule: Any, context: Context) -> TextStep | ModelStep:
        """The step that follows this rule, the part of the configuration under its name."""
        raise NotImplementedError

    @classmethod
    def check(cls, rule: Any) -> None:
        """Refuse a rule that is not enough for the step to run.

        Raises:
            ConfigError: something is missing.
        """

    @classmethod
    def asks_model(cls, rule: Any) -> bool:
        """Whether `of` gives a model step."""
        return issubclass(cls, ModelStep)


class TextStep(Step):
    """A filter that reads the rows alone."""

    def read(self, texts: Sequence[str], tokens: Tokens) -> Any:
        """What the step needs of one batch of questions; several threads call this at once."""
        return None

    def find(self, rows: Sequence[Row], batches: Sequence[Any], left: NDArray[np.bool_]) -> Outcome:
        """A reason or None for every row.

        Args:
            rows: all that came in.
            batches: what `read` gave for each batch, in the order of the rows.
            left: [rows], whether the steps before let the row go on. Others get no reason here.
        """
        raise NotImplementedError

    def report(self, rows: Sequence[Row], outcome: Outcome, receipt: Mapping[str, Any]) -> StepReport | None:
        """The step's part of the report, of what `find` gave; None has nothing to show."""
        return None


class Asking(Protocol):
    """What a model is asked about one question of ours, and what its replies say.

    Attributes:
        shown: columns that the card shows.
        counted: columns of true and false; the receipt counts the true ones.
    """

    shown: ClassVar[tuple[str, ...]]
    counted: ClassVar[tuple[str, ...]]

    def requests(self, row: Row, chat: BoundFormat | None) -> list[Any]:
        """What is asked about one row: `Request`s of a solver, or `Ask`s of a judge, who needs no format.

        Raises:
            FormatError: the chat format cannot hold the question.
        """

    def columns(self, replies: Sequence[Any], chat: BoundFormat | None) -> Row:
        """What the row gets from the solver's completions, or from what the judge said."""


class ModelStep(Step):
    """A filter that asks a model. Steps of one stage share the requests, so that each is sent once."""

    asks: Asking

    def reason(self, row: Row) -> str | None:
        """Why a row with the columns of `asks` goes no further, or None."""
        raise NotImplementedError

    def report(self, receipt: Mapping[str, Any]) -> StepReport | None:
        """The step's part of the report, of the stage's counts; None has nothing to show."""
        return None
