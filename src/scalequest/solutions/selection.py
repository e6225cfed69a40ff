"""One solution a question, out of several: majority agreement now (reward scores come beside it).

The result is the instruction-tuning set: one `query`, one `response`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scalequest.cards import dataset_card
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.stream import Drop, stream
from scalequest.grading import equivalent, majority
from scalequest.records import Row, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 1  # raise by hand when the same configuration gives other rows
COLUMNS = ("id", "query", "response", "answer", "agreement", "generator", "solver")

ANSWER_PHRASES = (
    "boxed",
    "he answer is",
    "final answer is",
)  # the paper's code keeps a response that holds one


@dataclass(frozen=True)
class SelectConfig:
    """The selection stage."""

    input: list[str] = required("solution sources, read one after the other", fingerprint=False)
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    rule: Literal["majority"] = option(
        "majority", "the first complete response that gives the majority's answer"
    )
    min_agreement: float = option(0.0, "smallest share of the samples that give the majority's answer")
    answer_phrase: bool = option(True, "keep only responses with 'boxed' or an answer phrase (paper)")
    shuffle_answers: bool = option(False, "a control: every question gets another question's response")

    def __post_init__(self) -> None:
        if not 0 <= self.min_agreement <= 1:
            raise ConfigError(f"min_agreement: {self.min_agreement} is not between 0 and 1")


def select(row: Row, config: SelectConfig) -> Row | Drop:
    """The pair that a solution row gives, or why it gives none.

    The majority is taken over all samples, those that were cut or gave no answer counting against it; ties
    go to the answer that came first. Dropped: `all_truncated`, `no_answer`, `low_agreement`, and
    `no_answer_phrase` where no response with the majority's answer has one.
    """
    samples = zip(row["responses"], row["answers"], row["finish_reasons"], strict=True)
    complete = [(response, answer) for response, answer, reason in samples if reason == "stop"]
    if not complete:
        return Drop(row, "all_truncated")
    missing = [None] * (len(row["responses"]) - len(complete))
    best, agreement = majority([answer for _, answer in complete] + missing)
    if best is None:
        return Drop(row, "no_answer")
    if agreement < config.min_agreement:
        return Drop(row, "low_agreement")
    for response, answer in complete:
        if config.answer_phrase and not any(phrase in response for phrase in ANSWER_PHRASES):
            continue
        if answer is not None and (answer == best or equivalent(answer, best)):
            return {
                "id": row["id"],
                "query": row["question"],
                "response": response,
                "answer": answer,
                "agreement": agreement,
                "generator": row.get("generator"),
                "solver": row.get("solver"),
            }
    return Drop(row, "no_answer_phrase")


def select_solutions(
    stage: Stage,
    rows: Sequence[Row],
    config: SelectConfig,
    run: RunOptions,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write one pair a solution row and finish the stage.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    outcomes = [select(row, config) for row in rows]
    if config.shuffle_answers:
        outcomes = _shuffled(outcomes, run.seed)
    stream(
        stage,
        len(rows),
        run.block_size,
        ask=lambda number: [],
        answer=None,
        settle=lambda number, _: outcomes[number],
        tracker=tracker,
    )
    text = f"One response a question, by the rule `{config.rule}`."
    if config.shuffle_answers:
        text += " A control: every response was given to another question."
    card = dataset_card(
        "Selected solutions", text, to_dict(config), stage.samples(4), "id", "query", "response", "answer"
    )
    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS)


def _shuffled(outcomes: Sequence[Row | Drop], seed: int) -> list[Row | Drop]:
    """Pass responses on along one cycle through all kept rows, so that none keeps its own."""
    order = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, Drop)]
    random.Random(row_seed(seed, "shuffle_answers")).shuffle(order)
    result = list(outcomes)
    for number, source in zip(order, order[1:] + order[:1], strict=True):
        own, other = outcomes[number], outcomes[source]
        assert not isinstance(own, Drop)
        assert not isinstance(other, Drop)
        result[number] = own | {
            "response": other["response"],
            "answer": other["answer"],
            "from_id": other["id"],
        }
    return result
