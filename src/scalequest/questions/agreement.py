"""Measure a solver's agreement with itself over several sampled solutions per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from scalequest.chat import BoundFormat
from scalequest.engines.base import Completion, Request
from scalequest.questions.steps import Context
from scalequest.records import Row
from scalequest.samples import sample_requests, sampled


@dataclass(frozen=True)
class Agreement:
    """Asks for `samples` solutions. `fail_rate` is 1 - agreement."""

    context: Context
    shown: ClassVar[tuple[str, ...]] = ("agreement", "fail_rate")
    counted: ClassVar[tuple[str, ...]] = ()

    def requests(self, row: Row, chat: BoundFormat | None) -> list[Request]:
        """One request per sample."""
        assert chat is not None, "a solver without a chat format"
        numbers = range(self.context.samples)
        return sample_requests(
            row, numbers, self.context.seed, "filter_questions", self.context.sampling, chat
        )

    def columns(self, replies: Sequence[Completion], chat: BoundFormat | None) -> Row:
        """Agreement and fail rate, and the samples themselves if they are kept."""
        assert chat is not None, "a solver without a chat format"
        measures = sampled(replies, chat)
        kept = measures if self.context.keep_responses else {"agreement": measures["agreement"]}
        return kept | {"fail_rate": 1 - measures["agreement"]}
