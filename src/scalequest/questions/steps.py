"""The interface of a filter step. `filters.STEPS` lists all of them.

A text step looks at all questions at once. Its `read` gets the tokens of one batch of questions, which are
computed once for all text steps; its `find` then returns a reason or None for every row. A model step defines
what a model is asked about a question, and judges the columns made from the model's replies. Both have their
own section in the report.

To add a filter, write a module with its rule (a dataclass of options) and its step, and register them in
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
    """What steps get in addition to their own rules.

    Attributes:
        seed: the run's seed.
        benchmarks: the questions that must not be trained on.
        samples: the number of solutions per question, if agreement is measured.
        sampling: the model's sampling settings.
        keep_responses: whether the rows keep these solutions.
        prompt: the judge's prompt.
        limit: the number of rows read at most; None means all.
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
    """The findings of a text step.

    Attributes:
        reasons: one per input row: why it is dropped, or None.
        columns: new columns of rows, by row number.
        found: further data for the step's own report.
    """

    reasons: Sequence[str | None]
    columns: Mapping[int, Row] = field(default_factory=dict)
    found: Any = None


@dataclass(frozen=True)
class StepReport:
    """A step's part of the report.

    Attributes:
        sections: sections of the page, made by `pages.section`.
        facts: the step's entry in report.json; None for no entry.
    """

    sections: Sequence[str]
    facts: Any = None


class Step:
    """The interface that both kinds of step share.

    Attributes:
        reasons: the reasons for which it drops rows, in the order of the report's bars.
    """

    reasons: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, rule: Any, context: Context) -> TextStep | ModelStep:
        """Make the step from its rule, the part of the settings under its name."""
        raise NotImplementedError

    @classmethod
    def check(cls, rule: Any) -> None:
        """Refuse a rule that is not sufficient for the step to run.

        Raises:
            ConfigError: something is missing.
        """

    @classmethod
    def asks_model(cls, rule: Any) -> bool:
        """Return whether `of` makes a model step."""
        return issubclass(cls, ModelStep)


class TextStep(Step):
    """A filter that only reads the rows."""

    def read(self, texts: Sequence[str], tokens: Tokens) -> Any:
        """Return what the step needs from one batch of questions; several threads call this concurrently."""
        return None

    def find(self, rows: Sequence[Row], batches: Sequence[Any], left: NDArray[np.bool_]) -> Outcome:
        """Return a reason or None for every row.

        Args:
            rows: all input rows.
            batches: the result of `read` for each batch, in the order of the rows.
            left: [rows], whether the row is still there after the previous steps. Other rows get no reason
                here.
        """
        raise NotImplementedError

    def report(self, rows: Sequence[Row], outcome: Outcome, receipt: Mapping[str, Any]) -> StepReport | None:
        """Return the step's part of the report, given the result of `find`; None to show nothing."""
        return None


class Asking(Protocol):
    """What a model is asked about one question, and how its replies are read.

    Attributes:
        shown: columns shown in the card.
        counted: boolean columns; the receipt counts the true values.
    """

    shown: ClassVar[tuple[str, ...]]
    counted: ClassVar[tuple[str, ...]]

    def requests(self, row: Row, chat: BoundFormat | None) -> list[Any]:
        """What is asked about one row: `Request`s of a solver, or `Ask`s of a judge, who needs no format.

        Raises:
            FormatError: the chat format cannot represent the question.
        """

    def columns(self, replies: Sequence[Any], chat: BoundFormat | None) -> Row:
        """What the row gets from the solver's completions, or from what the judge said."""


class ModelStep(Step):
    """A filter that asks a model. The steps of one stage share their requests, so each is sent once."""

    asks: Asking

    def reason(self, row: Row) -> str | None:
        """Return why a row with the columns of `asks` is dropped, or None."""
        raise NotImplementedError

    def report(self, receipt: Mapping[str, Any]) -> StepReport | None:
        """Return the step's part of the report, given the stage's counts; None to show nothing."""
        return None
