"""Keep questions of a usual length, in words or in tokens of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from scalequest.config import ConfigError, option
from scalequest.config.ranges import COUNT
from scalequest.pages import elements
from scalequest.questions.steps import Context, Outcome, StepReport, TextStep
from scalequest.questions.text import I64, Tokens
from scalequest.records import Row


@dataclass(frozen=True)
class LengthRule:
    """Which lengths are kept."""

    min: int | None = option(None, "shorter questions are dropped", within=COUNT)
    max: int | None = option(None, "longer questions are dropped", within=COUNT)
    unit: Literal["words", "tokens"] = option(
        "words", "words: words and numbers; tokens: signs and brackets of formulas too"
    )

    def __post_init__(self) -> None:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ConfigError(f"min: {self.min} is above max, {self.max}, so no question would remain")


@dataclass(frozen=True)
class LengthStep(TextStep):
    """Drops questions that are too short or too long."""

    rule: LengthRule
    reasons: ClassVar[tuple[str, ...]] = ("too_short", "too_long")

    @classmethod
    def of(cls, rule: LengthRule, context: Context) -> LengthStep:
        """Require nothing else."""
        return cls(rule)

    @classmethod
    def check(cls, rule: LengthRule) -> None:
        """Require at least one limit."""
        if rule.min is None and rule.max is None:
            raise ConfigError("length.min, length.max: step length needs at least one of them")

    def read(self, texts: Sequence[str], tokens: Tokens) -> I64:
        """Return the lengths [texts]."""
        return np.diff((tokens.words if self.rule.unit == "words" else tokens).offsets)

    def find(self, rows: Sequence[Row], batches: Sequence[I64], left: NDArray[np.bool_]) -> Outcome:
        """Compare the lengths of the remaining rows with the limits."""
        lengths = np.concatenate([np.empty(0, np.int64), *batches])
        reasons = [
            self._reason(length) if here else None
            for length, here in zip(lengths.tolist(), left.tolist(), strict=True)
        ]
        return Outcome(reasons, found=lengths[left].tolist())

    def _reason(self, length: int) -> str | None:
        if self.rule.min is not None and length < self.rule.min:
            return "too_short"
        return "too_long" if self.rule.max is not None and length > self.rule.max else None

    def report(self, rows: Sequence[Row], outcome: Outcome, receipt: Mapping[str, Any]) -> StepReport | None:
        """Report the lengths of the rows that the step saw."""
        if not outcome.found:
            return None
        low, median, high = np.quantile(outcome.found, (0.05, 0.5, 0.95)).tolist()
        facts = {"unit": self.rule.unit, "5 %": low, "median": median, "95 %": high}
        plot = elements.histogram({"before": outcome.found}, self.rule.unit)
        return StepReport([elements.section("Length", elements.table([facts]), plot)], facts)
