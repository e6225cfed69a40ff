"""One problem of a benchmark: its question, its reference answers, and its answer rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AnswerRule:
    """What counts as correct for one problem, beyond equality; see `benchmarks.AnswerRuleColumns`."""

    several: bool = False
    unit: str | None = None
    tolerance: float | None = None
    relative: float = 0.0


@dataclass(frozen=True)
class BenchmarkProblem:
    """One question with its reference answer.

    Attributes:
        id: the problem's id, unique in its benchmark.
        question: the question as in the source.
        answer: the reference; each answer in `also` is correct, too.
        metadata: the values for breaking down the results.
        row: the source's row, for prompts that use more than the question.
        answer_rule: what counts as correct.
    """

    id: str
    question: str
    answer: str
    metadata: dict[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    answer_rule: AnswerRule = AnswerRule()
