"""Select one of several solutions per question: by majority, reward, reference answer, or a function.

The result is the instruction-tuning set: one `query` and one `response` per row.
"""

from __future__ import annotations

import copy
import math
import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scalequest import grading
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import FINITE, SHARE
from scalequest.functions import (
    FunctionKey,
    NamedFunction,
    Reasons,
    function_option,
    needs_function,
    shown,
)
from scalequest.grading.extraction import reference_in
from scalequest.pages.cards import dataset_card
from scalequest.pages.markup import inline
from scalequest.records import Row, row_seed
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.tracking import Tracker

VERSION = 4  # increase by hand when the same settings give other rows
COLUMNS = ("id", "query", "response", "answer", "agreement", "reward", "margin", "generator", "solver")

# the paper's code keeps a response that contains one of these
ANSWER_PHRASES = ("boxed", "he answer is", "final answer is")

Rule = Literal["majority", "first", "reward", "majority_reward", "reward_vote", "correct", "function"]
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
        "agrees with the column `reference`; function: the response that a function of yours chooses",
    )
    function: str | None = function_option(
        "rule function",
        "called with a row that holds its candidates (question, responses, answers, finish_reasons, and "
        "rewards if there are any); returns the index of a response, or None or a reason to drop the row",
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

    def __post_init__(self) -> None:
        if self.rule == "function" and not self.function:
            raise ConfigError(needs_function("rule"))

    @property
    def functions(self) -> list[FunctionKey]:
        """The function that chooses, if one does."""
        return [FunctionKey("function", self.function or "", ("row",))] if self.rule == "function" else []

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


Choose = Callable[[Row], "Candidate | str"]  # a response, or the reason why there is none


def choosing(function: NamedFunction) -> Choose:
    """Return what a user's function makes of a row: the chosen response, or the reason to drop the row.

    The function gets a copy of the row. If it returns None the reason is `none_chosen`, and if it chooses a
    truncated response, which has no end to learn from, `chosen_truncated`.

    Raises:
        ConfigError: when called, if the function raises, or returns something else; names the row.
    """
    reasons = Reasons(function)

    def choose(row: Row) -> Candidate | str:
        where, count = f"row {row['id']}", len(row["responses"])
        said = function(where, copy.deepcopy(row))
        if said is None or isinstance(said, str):
            return reasons.read(said, where) or "none_chosen"
        place = _index(said)
        if place is None or not 0 <= place < count:
            known = f"the index of a response, 0 to {count - 1}, or None or a reason to drop the row"
            raise function.fault(where, f"returned {shown(said)}; return {known}")
        if row["finish_reasons"][place] != "stop":
            return "chosen_truncated"
        reward = _finite((row.get("rewards") or [None] * count)[place])
        return Candidate(row["responses"][place], row["answers"][place], reward)

    return choose


def _index(said: Any) -> int | None:
    """Return an integer, also of numpy, but no truth value, which would be 0 or 1."""
    try:
        return None if isinstance(said, bool) else operator.index(said)
    except TypeError:
        return None


def select(row: Row, config: SelectConfig, choose: Choose | None = None) -> Row | Drop:
    """Return the pair selected from a solution row, or drop the row with a reason.

    The majority is taken over all samples; truncated samples and samples without an answer count against it.
    Ties, of votes or of rewards, are won by the earliest sample. `margin` says how clear the choice was: by
    how much the best reward (or the majority's share) exceeds the best one of any other answer; null if there
    is no other answer. A complete response without an answer does not count as another answer.

    Rows are dropped for `all_truncated`, `no_answer`, `low_agreement`, `no_correct` (rule correct),
    `no_reward`, `low_reward`, and for `no_answer_phrase` if no eligible response has one. With the rule
    function, the reasons are those of `choosing`, and a response without an answer may be chosen;
    `min_agreement` still drops rows before that, and `min_reward` and `answer_phrase` after it.

    Args:
        row: with the columns of `config.needed`.
        config: the settings.
        choose: of `choosing`, for the rule function.
    """
    # Complete responses, and the agreement of all samples
    rewards = [_finite(reward) for reward in row.get("rewards") or [None] * len(row["responses"])]
    samples = zip(row["responses"], row["answers"], rewards, row["finish_reasons"], strict=True)
    complete = [Candidate(*sample) for *sample, reason in samples if reason == "stop"]
    if not complete:
        return Drop(row, "all_truncated")
    votes = [one.answer for one in complete]
    best, agreement = grading.majority([*votes, *[None] * (len(row["responses"]) - len(complete))])
    if best is None and choose is None:
        return Drop(row, "no_answer")
    if agreement < config.min_agreement:
        return Drop(row, "low_agreement")
    # The eligible responses, and the best of them
    chosen = _eligible(row, complete, best, config) if choose is None else _chosen(choose(row))
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


def _chosen(one: Candidate | str) -> list[Candidate] | str:
    return one if isinstance(one, str) else [one]


def _eligible(
    row: Row, complete: Sequence[Candidate], best: str | None, config: SelectConfig
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
    numbers = grading.groups(answers)
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
        return agreement - grading.majority(answers)[1] * len(answers) / samples
    rewards = [other.reward for other in others if other.reward is not None]
    return None if one.reward is None or not rewards else one.reward - max(rewards)


def _finite(reward: float | None) -> float | None:
    """Return the reward, or None if it is not finite and cannot be compared."""
    return reward if reward is not None and math.isfinite(reward) else None


def _reward(one: Candidate) -> float:
    return -math.inf if one.reward is None else one.reward


def _same(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and (one == other or grading.equivalent(one, other))


def select_solutions(
    stage: Stage,
    rows: Sequence[Row],
    config: SelectConfig,
    run: RunOptions,
    *,
    function: NamedFunction | None = None,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write one pair per solution row and finish the stage.

    Args:
        stage: open and unfinished.
        rows: with the columns of `config.needed`.
        config: the rule and its limits.
        run: gives the seed and the block size.
        function: the user's, for the rule function.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    choose = None if function is None else choosing(function)
    shuffled = None
    if config.shuffle_answers:
        shuffled = _shuffled([select(row, config, choose) for row in rows], run.seed)
    stream(
        stage,
        len(rows),
        run.block_size,
        row=lambda number, _: shuffled[number] if shuffled else select(rows[number], config, choose),
        tracker=tracker,
    )
    by = f"the rule `{config.rule}`" if function is None else inline(function.label)
    text = f"One response per question, selected by {by}."
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
