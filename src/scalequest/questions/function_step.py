"""A filter step that a user writes: a function of a row that returns None, to keep it, or a reason.

    def keep(row):
        return "too_many_digits" if sum(map(str.isdigit, row["question"])) > 20 else None

What it returns may only depend on the row, so that every worker finds the same, also after an interruption. A
function whose argument is called `rows` gets a list of all rows that are still there, and returns a list with
None or a reason for each.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalequest import heartbeat
from scalequest.functions import FunctionKey, NamedFunction, Reasons, shown
from scalequest.pages import elements
from scalequest.questions.steps import Outcome, StepReport, TextStep
from scalequest.records import Row

_EXAMPLES = 3  # questions per reason in the report


def step_function(name: str) -> FunctionKey:
    """Return the key of a function in `steps`."""
    return FunctionKey("steps", name, ("row",))


@dataclass(frozen=True)
class FunctionStep(TextStep):
    """Drops the questions for which a user's function gives a reason. It gets copies of the rows."""

    function: NamedFunction

    @classmethod
    def named(cls, name: str) -> FunctionStep:
        """Load the function of a name in `steps`.

        Raises:
            ConfigError: it cannot be loaded.
        """
        return cls(step_function(name).load())

    @property
    def in_batches(self) -> bool:
        """Whether the function takes all rows at once."""
        try:
            return next(iter(inspect.signature(self.function.call).parameters), "") == "rows"
        except ValueError:  # written in C, without names of arguments
            return False

    def find(self, rows: Sequence[Row], batches: Sequence[Any], left: NDArray[np.bool_]) -> Outcome:
        """Call the function for the remaining rows.

        Raises:
            ConfigError: it raises, or returns something else than None or a reason; names the row.
        """
        numbers = np.flatnonzero(left).tolist()
        said = self._said_of_all([rows[n] for n in numbers]) if self.in_batches else None
        reading = Reasons(self.function)
        reasons: list[str | None] = [None] * len(rows)
        label = f"step {self.function.label}"
        with heartbeat.doing(label, total=len(numbers), unit="questions") as work:
            for place, number in enumerate(numbers):
                row, where = rows[number], f"row {rows[number]['id']}"
                one = self.function(where, copy.deepcopy(row)) if said is None else said[place]
                reasons[number] = reading.read(one, where)
                work.done = place + 1
        return Outcome(reasons, found=len(numbers))

    def _said_of_all(self, rows: Sequence[Row]) -> Sequence[Any]:
        where = f"{len(rows)} rows"
        said = self.function(where, copy.deepcopy(list(rows)))
        if not isinstance(said, list | tuple) or len(said) != len(rows):
            size = f"{len(said)} values" if isinstance(said, list | tuple) else shown(said)
            raise self.function.fault(
                where, f"returned {size}; return a list with None or a reason for each row"
            )
        return said

    def report(self, rows: Sequence[Row], outcome: Outcome, receipt: Mapping[str, Any]) -> StepReport:
        """Report how many rows the function saw and dropped, with examples of each reason."""
        counts = Counter(reason for reason in outcome.reasons if reason)
        facts = {
            **self.function.identity,
            "seen": outcome.found,
            "kept": outcome.found - counts.total(),
            "dropped": dict(counts.most_common()),
        }
        table = [{"reason": reason, "rows": count} for reason, count in counts.most_common()]
        shown_rows = self._examples(rows, outcome)
        note = f"{outcome.found:,} rows came in; {counts.total():,} were dropped by a function of yours."
        tables = [elements.table(part) for part in (table, shown_rows) if part]
        return StepReport([elements.section(f"Step {self.function.label}", *tables, note=note)], facts)

    def _examples(self, rows: Sequence[Row], outcome: Outcome) -> list[dict[str, Any]]:
        left = dict.fromkeys((reason for reason in outcome.reasons if reason), _EXAMPLES)
        found = []
        for row, reason in zip(rows, outcome.reasons, strict=True):
            if reason and left[reason]:
                left[reason] -= 1
                found.append({"reason": reason, "id": row["id"], "question": row["question"]})
        return found
