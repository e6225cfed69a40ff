"""Scores from a function that a user writes: rewards of responses, or difficulties of questions.

def score(row):
return [1.0 if answer == row["reference"] else 0.0 for answer in row["answers"]]
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scalequest.config import RunOptions
from scalequest.functions import NamedFunction, as_number, shown
from scalequest.records import Row
from scalequest.solutions.rewards import ScoreConfig, finish_scores
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.tracking import Tracker


@dataclass(frozen=True)
class FunctionScoring:
    """The hooks of `stream` if a function gives the scores. It gets copies of the rows.

    Attributes:
        rows: with `question`, and with `responses` and `finish_reasons` if responses are scored.
        function: the user's.
        of_responses: whether it scores responses and not the question.
    """

    rows: Sequence[Row]
    function: NamedFunction
    of_responses: bool

    def row(self, number: int, _: Sequence[Any]) -> Row | Drop:
        """Return the row with its rewards or its difficulty, or why it has none.

        Raises:
            ConfigError: the function raises, or returns something else than such numbers; names the row.
        """
        row = self.rows[number]
        if not row["question"].strip():
            return Drop(row, "empty")
        where = f"row {row['id']}"
        if self.of_responses and "stop" not in row["finish_reasons"]:
            return Drop(row, "no_reward")
        said = self.function(where, copy.deepcopy(row))
        if not self.of_responses:
            found = self._number(said, where, "a finite number, or None if there is none")
            row = row | {"difficulty": found, "difficulty_by": self.function.label}
            return row if found is not None else Drop(row, "no_score")
        rewards = self._rewards(row, said, where)
        row = row | {"rewards": rewards, "reward_model": self.function.label}
        return row if any(reward is not None for reward in rewards) else Drop(row, "no_reward")

    def _rewards(self, row: Row, said: Any, where: str) -> list[float | None]:
        values, count = said.tolist() if hasattr(said, "tolist") else said, len(row["responses"])
        if not isinstance(values, list | tuple) or len(values) != count:
            size = f"{len(values)} values" if isinstance(values, list | tuple) else shown(said)
            wanted = f"a list with one number, or None, for each of the {count} responses"
            raise self.function.fault(where, f"returned {size}; return {wanted}")
        wanted = "finite numbers, and None for a response without a score"
        return [
            self._number(one, f"{where}, response {place}", wanted) if end == "stop" else None
            for place, (one, end) in enumerate(zip(values, row["finish_reasons"], strict=True))
        ]

    def _number(self, said: Any, where: str, wanted: str) -> float | None:
        number = None if said is None else as_number(said)
        if said is not None and number is None:
            raise self.function.fault(where, f"returned {shown(said)}; return {wanted}")
        return number


def score_by_function(
    stage: Stage,
    rows: Sequence[Row],
    function: NamedFunction,
    config: ScoreConfig,
    run: RunOptions,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Call the function for every row and finish the stage; other columns are carried.

    A response that was truncated has no reward (None), whatever the function returns for it. Dropped:
    `empty`, `no_reward` (no response has one), and `no_score` (a question without one).

    Args:
        stage: open and unfinished.
        rows: with `question`, and with `responses` and `finish_reasons` if responses are scored.
        function: the user's.
        config: what is scored.
        run: gives the block size.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    hooks = FunctionScoring(rows, function, config.what == "responses")
    stream(stage, len(rows), run.block_size, row=hooks.row, tracker=tracker)
    return finish_scores(stage, len(rows), config, function.label)
