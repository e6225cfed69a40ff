"""Select one of several solutions per question: by majority, by reward, by both, or by a reference answer.

The result is the instruction-tuning set: one `query` and one `response` per row.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scalequest.config import RunOptions, option, required, to_dict
from scalequest.config.ranges import FINITE, SHARE
from scalequest.grading import equivalent, groups, majority
from scalequest.grading.extraction import reference_in
from scalequest.pages.cards import dataset_card
from scalequest.records import Row, row_seed
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.tracking import Tracker

VERSION = 4  # increase by hand when the same settings give other rows
COLUMNS = ("id", "query", "response", "answer", "agreement", "reward", "margin", "generator", "solver")

# the paper's code keeps a response that contains one of these
ANSWER_PHRASES = ("boxed", "he answer is", "final answer is")

Rule = Literal["majority", "first", "reward", "majority_reward", "reward_vote", "correct"]
NEED_REWARDS = ("reward", "majority_reward", "reward_vote")


@dataclass(frozen=True)
class SelectConfig:
    """The settings of the selection stage."""

    input: list[str] = required("sources of solutions, read one after the other", fingerprint=False)
    columns: dict[str, str] = option(
        help="mapping from our column names to those of the input", default_factory=dict
    )
    rule: Rule = option(
        "majority",
        "majority: the first response with the majority answer; first: the first response "
        "with any answer; reward: the highest "
        "reward (paper); majority_reward: the highest reward among the responses with "
        "the majority answer; reward_vote: the highest reward for the answer with the "
        "largest sum of rewards, each squashed to 0..1; correct: the best response that "
        "agrees with the column `reference`",
    )
    answer_after: str = option(
        "####",
        "rule correct: the reference is the text after the last occurrence of this "
        "marker, if it occurs (GSM8K)",
    )
    min_agreement: float = option(
        0.0, "minimum share of the samples that give the majority answer", within=SHARE
    )
    min_reward: float | None = option(
        None, "minimum reward of the selected response; the paper uses none", within=FINITE
    )
    answer_phrase: bool = option(True, "keep only responses with 'boxed' or an answer phrase (paper)")
    shuffle_answers: bool = option(
        False, "a control: each question gets the response to a different question"
    )

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        columns = ("question", "responses", "answers", "finish_reasons")
        rewards = self.rule in NEED_REWARDS or self.min_reward is not None
        return (
            *columns,
            *(["rewards"] if rewards else []),
            *(["reference"] if self.rule == "correct" else []),
        )


@dataclass(frozen=True)
class Candidate:
    """A complete response, its answer, and its reward if there is one."""

    response: str
    answer: str | None
    reward: float | None


def select(row: Row, config: SelectConfig) -> Row | Drop:
    """Return the pair selected from a solution row, or drop the row with a reason.

    The majority is taken over all samples; truncated samples and samples without an answer count against it.
    Ties, of votes or of rewards, are won by the earliest sample. `margin` says how clear the choice was: by
    how much the best reward (or the majority's share) exceeds the best one of any other answer; null if there
    is no other answer. A complete response without an answer does not count as another answer.

    Rows are dropped for `all_truncated`, `no_answer`, `low_agreement`, `no_correct` (rule correct),
    `no_reward`, `low_reward`, and for `no_answer_phrase` if no eligible response has one.
    """
    # Complete responses, and the agreement of all samples
    rewards = [_finite(reward) for reward in row.get("rewards") or [None] * len(row["responses"])]
    samples = zip(row["responses"], row["answers"], rewards, row["finish_reasons"], strict=True)
    complete = [Candidate(*sample) for *sample, reason in samples if reason == "stop"]
    if not complete:
        return Drop(row, "all_truncated")
    votes = [one.answer for one in complete]
    best, agreement = majority([*votes, *[None] * (len(row["responses"]) - len(complete))])
    if best is None:
        return Drop(row, "no_answer")
    if agreement < config.min_agreement:
        return Drop(row, "low_agreement")
    # The eligible responses, and the best of them
    chosen = _eligible(row, complete, best, config)
    if isinstance(chosen, str):
        return Drop(row, chosen)
    if config.answer_phrase:
        chosen = [one for one in chosen if any(phrase in one.response for phrase in ANSWER_PHRASES)]
        if not chosen:
            return Drop(row, "no_answer_phrase")
    by_reward = config.rule not in ("majority", "first") and all(one.reward is not None for one in chosen)
    one = max(chosen, key=_reward) if by_reward else chosen[0]  # max takes the first of equals
    if config.min_reward is not None and _reward(one) < config.min_reward:
        return Drop(row, "low_reward")
    # How clear the choice was
    others = [other for other in complete if other.answer is not None and not _same(other.answer, one.answer)]
    return {
        "id": row["id"],
        "query": row["question"],
        "response": one.response,
        "answer": one.answer,
        "agreement": agreement,
        "reward": one.reward,
        "margin": _margin(
            one, others, agreement if config.rule == "majority" else None, len(row["responses"])
        ),
        "generator": row.get("generator"),
        "solver": row.get("solver"),
        "reward_model": row.get("reward_model"),
    }


def _eligible(
    row: Row, complete: Sequence[Candidate], best: str, config: SelectConfig
) -> list[Candidate] | str:
    """Return the responses that a rule may choose from, only those with an answer, or why there are none."""
    answered = [one for one in complete if one.answer is not None]
    if config.rule == "first":
        return answered
    if config.rule == "correct":
        reference = reference_in(str(row["reference"]), config.answer_after)
        return [one for one in answered if _same(one.answer, reference)] or "no_correct"
    if config.rule in NEED_REWARDS:
        answered = [one for one in answered if one.reward is not None]
        if not answered:
            return "no_reward"
        if config.rule == "reward":
            return answered
        if config.rule == "reward_vote":
            best = _reward_vote(answered)
    return [one for one in answered if _same(one.answer, best)] or "no_reward"


def _reward_vote(answered: Sequence[Candidate]) -> str:
    """Return the answer with the highest sum of rewards, each passed through the logistic function."""
    answers = [one.answer or "" for one in answered]
    numbers = groups(answers)
    sums: dict[int | None, float] = {}
    for number, one in zip(numbers, answered, strict=True):
        sums[number] = sums.get(number, 0.0) + 1 / (1 + math.exp(-max(-60.0, min(60.0, _reward(one)))))
    return answers[numbers.index(max(sums, key=sums.__getitem__))]


def _margin(
    one: Candidate, others: Sequence[Candidate], agreement: float | None, samples: int
) -> float | None:
    if not others:
        return None
    if agreement is not None:
        answers = [other.answer for other in others]
        return agreement - majority(answers)[1] * len(answers) / samples
    rewards = [other.reward for other in others if other.reward is not None]
    return None if one.reward is None or not rewards else one.reward - max(rewards)


def _finite(reward: float | None) -> float | None:
    """Return the reward, or None if it is not finite and cannot be compared."""
    return reward if reward is not None and math.isfinite(reward) else None


def _reward(one: Candidate) -> float:
    return -math.inf if one.reward is None else one.reward


def _same(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and (one == other or equivalent(one, other))


def select_solutions(
    stage: Stage,
    rows: Sequence[Row],
    config: SelectConfig,
    run: RunOptions,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write one pair per solution row and finish the stage.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    shuffled = _shuffled([select(row, config) for row in rows], run.seed) if config.shuffle_answers else None
    stream(
        stage,
        len(rows),
        run.block_size,
        row=lambda number, _: shuffled[number] if shuffled else select(rows[number], config),
        tracker=tracker,
    )
    text = f"One response per question, selected by the rule `{config.rule}`."
    if config.shuffle_answers:
        text += " This is a control: every response belongs to a different question."
    card = dataset_card(
        "Selected solutions",
        text,
        to_dict(config),
        stage.blocks.samples(4),
        "id",
        "query",
        "response",
        "answer",
    )
    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS)


def _shuffled(outcomes: Sequence[Row | Drop], seed: int) -> list[Row | Drop]:
    """Pass responses on along one cycle through all kept rows, so that no row keeps its own."""
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
