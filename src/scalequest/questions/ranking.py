"""Preference pairs without a rewriter: the better of a generator's own questions over the worse ones.

A generator writes every question from the same prompt, so any two of its questions are a pair for a
preference loss. The questions of like length are compared by a score; in each group the best one becomes
`chosen` and the worst one `rejected`. Lengths are kept alike because the loss would otherwise learn to write
longer or shorter questions, whatever the score says. This is not in the paper, which rewrites questions; it
is on-policy preference data as in Yuan et al., 2024 ("Self-Rewarding Language Models"), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import FINITE, Range
from scalequest.pages.cards import dataset_card
from scalequest.questions.pairs_page import write_page
from scalequest.questions.text import normalised
from scalequest.records import Row, row_seed
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.tracking import Tracker

VERSION = 1  # raise by hand when the same configuration gives other rows
COLUMNS = ("id", "chosen", "rejected", "direction", "generator")


@dataclass(frozen=True)
class RankConfig:
    """The stage that pairs questions by their scores."""

    input: list[str] = required("sources of judged or scored questions", fingerprint=False)
    score: dict[str, float] = required(
        "column of a number, or of true and false as 1 and 0: its weight in a question's score",
        within=FINITE,
    )
    columns: dict[str, str] = option(
        help="mapping from our column names to those of the input", default_factory=dict
    )
    candidates: int = option(
        4, "questions of like length, of which the best and the worst make a pair", within=Range(least=2)
    )
    min_margin: float = option(
        0.0, "smallest difference of two scores that makes a pair; equal ones never do", within=Range(least=0)
    )

    def __post_init__(self) -> None:
        if not self.score or not all(self.score.values()):
            raise ConfigError("score: name at least one column, with a weight that is not 0")

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns of the input that are read."""
        return "question", *self.score


def score_of(row: Row, weights: Mapping[str, float]) -> float | None:
    """The weighted sum of a row's columns; None if one of them is empty.

    Raises:
        ConfigError: a column holds something that is not a number.
    """
    total = 0.0
    for column, weight in weights.items():
        value = row.get(column)
        if value is None:
            return None
        if not isinstance(value, bool | int | float) or not math.isfinite(value):
            raise ConfigError(
                f"score: row {row['id']}: column {column} holds {value!r}, which is not a number"
            )
        total += weight * value
    return total


def pair_questions(rows: Sequence[Row], config: RankConfig, seed: int) -> list[Row | Drop]:
    """The outcome of every row, in order: a pair in the place of its chosen question, or a reason.

    Reasons: `no_score`; `duplicate` of an earlier question; `rejected`, the worse side of a pair; `between`
    the best and the worst of its group; `no_difference` between these; `alone`, the last one without a group.
    """
    outcomes: list[Row | Drop | None] = [None] * len(rows)
    values: dict[int, float] = {}  # by the number of a row that can be in a pair
    texts: set[str] = set()
    for number, row in enumerate(rows):
        text, score = normalised(row["question"]), score_of(row, config.score)
        if score is None or text in texts:
            outcomes[number] = Drop(row, "no_score" if score is None else "duplicate")
            continue
        texts.add(text)
        values[number] = score
    # Questions of one length stand in an order that is drawn, not in that of their ids.
    ranked = sorted(
        values, key=lambda n: (len(rows[n]["question"]), row_seed(seed, "rank_questions", rows[n]["id"]))
    )
    for start in range(0, len(ranked), config.candidates):
        group = ranked[start : start + config.candidates]
        best, *between = sorted(group, key=lambda number: -values[number])
        if not between:
            outcomes[best] = Drop(rows[best], "alone")
            continue
        worst = between.pop()
        margin = values[best] - values[worst]
        if margin <= 0 or margin < config.min_margin:
            between, reason = group, "no_difference"
        else:
            outcomes[best] = _pair(rows[best], rows[worst], values[best], values[worst])
            outcomes[worst] = Drop(rows[worst], "rejected")
            reason = "between"
        for number in between:
            outcomes[number] = Drop(rows[number], reason)
    return [outcome for outcome in outcomes if outcome is not None]


def rank_questions(
    stage: Stage, rows: Sequence[Row], config: RankConfig, run: RunOptions, *, tracker: Tracker | None = None
) -> dict[str, Any]:
    """Write preference rows (`chosen` scored higher than `rejected`) and finish the stage.

    `pairs.html` shows twenty pairs and some of the dropped rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    outcomes = pair_questions(rows, config, run.seed)
    stream(stage, len(rows), run.block_size, row=lambda number, _: outcomes[number], tracker=tracker)
    text = "Questions of one generator in pairs of like length: `chosen` has the higher score."
    card = dataset_card("Preference pairs", text, to_dict(config), stage.blocks.samples(8), *COLUMNS[1:4])

    def page(_: Mapping[str, Any]) -> None:
        write_page(stage.output_dir, run.seed)

    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS, beside=page)


def _pair(chosen: Row, rejected: Row, high: float, low: float) -> Row:
    return {
        "id": chosen["id"],
        "chosen": chosen["question"],
        "rejected": rejected["question"],
        "direction": "ranking",
        "generator": chosen.get("generator"),
        "rejected_id": rejected["id"],
        "scores": [high, low],
    }
