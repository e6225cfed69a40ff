"""One solution per question, out of several: by majority, by reward, by both, or by a reference answer.

The result is the instruction-tuning set: one `query`, one `response`.
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
from scalequest.pages.cards import dataset_card
from scalequest.records import Row, row_seed
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.tracking import Tracker

VERSION = 4  # raise by hand when the same configuration gives other rows
COLUMNS = ("id", "query", "response", "answer", "agreement", "reward", "margin", "generator", "solver")

# the paper's code keeps a response that holds one
ANSWER_PHRASES = ("boxed", "he answer is", "final answer is")

Rule = Literal["majority", "first", "reward", "majority_reward", "reward_vote", "correct"]
NEED_REWARDS = ("reward", "majority_reward", "reward_vote")


@dataclass(frozen=True)
class SelectConfig:
    """The selection stage."""

    input: list[str] = required("solution sources, read one after the other", fingerprint=False)
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    rule: Rule = option(
        "majority",
        "majority: the first response with the majority's answer; first: the first response with any answer; "
        "reward: the highest reward (paper); "
        "majority_reward: the highest among those; reward_vote: the highest of the answer whose rewards, "
        "each squashed to 0..1, sum highest; correct: the best one that agrees with the column `reference`",
    )
    answer_after: str = option(
        "####", "rule correct: a reference is what follows the last of this, where there is one (GSM8K)"
    )
    min_agreement: float = option(
        0.0, "smallest share of the samples that give the majority's answer", within=SHARE
    )
    min_reward: float | None = option(
        None, "smallest reward of what is selected; the paper has none", within=FINITE
    )
    answer_phrase: bool = option(True, "keep only responses with 'boxed' or an answer phrase (paper)")
    shuffle_answers: bool = option(False, "a control: every question gets another question's response")

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that every row must have."""
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
    """The pair that a solution row gives, or why it gives none.

    The majority is taken over all samples, those that were cut or gave no answer counting against it. Ties,
    of votes or of rewards, go to the sample that came first. `margin` says how clear the choice was: by how
    much the best reward (or the majority's share) exceeds the best one that another answer has; null
    without another. A complete response without an answer is none.

    Dropped: `all_truncated`, `no_answer`, `low_agreement`, `no_correct` (rule correct), `no_reward`,
    `low_reward`, and `no_answer_phrase` where nothing that may be chosen has one.
    """
    # Complete responses, and how far all samples agree
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
    # Those that may be chosen, and the best of them
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
    """The responses that a rule may choose from, those with an answer alone, or why there are none."""
    answered = [one for one in complete if one.answer is not None]
    if config.rule == "first":
        return answered
    if config.rule == "correct":
        reference = str(row["reference"])
        if config.answer_after:
            reference = reference.rpartition(config.answer_after)[2].strip()
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
    """The answer whose rewards, each through the logistic function, have the highest sum."""
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
    """The reward, or None if it is not finite: comparing that says nothing."""
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
    """Write one pair a solution row and finish the stage.

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
