"""A benchmark's problem, as prompts put it and judges judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AnswerRule:
    """How one problem's answer is judged; see `benchmarks.JudgingFile`."""

    several: bool = False
    unit: str | None = None
    tolerance: float | None = None
    relative: float = 0.0


@dataclass(frozen=True)
class BenchmarkProblem:
    """One question with its reference answer.

    Attributes:
        id: unique in its benchmark.
        question: as it stands in the source.
        answer: the reference; `also` are further ones, each of them right.
        metadata: what results are split by.
        row: the source's row, from which prompts take more than the question.
        judging: how an answer is judged.
    """

    id: str
    question: str
    answer: str
    metadata: dict[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    judging: AnswerRule = AnswerRule()
