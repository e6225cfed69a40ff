"""Scores from a model with a classifier's head: rewards of solutions, or difficulties of questions.

A judge that is asked in words gives them in `judged_scores`. A reward model reads question and response in
its own chat format and gives one number at the last token, or the probability of its positive label if it has
two. A process reward model does so at every step, and `aggregate` makes one reward of these.
Sequence classifiers need nothing else; InternLM2-Reward (the paper's, section 2.5) wants a line break after
the last turn and then its own token, whose id its config gives as `reward_token_id`: `suffix` gives the
first, and the second is appended whenever a model's config has one. As in the paper the user's turn is the
bare question, so the chat format should be one without the boxed-answer instruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.base import Block, EngineConfig, Request, Sampling
from scalequest.engines.scoring import Head, Score, Scorer
from scalequest.engines.server import ServerConfig
from scalequest.functions import FunctionKey, function_option, needs_function
from scalequest.pages.cards import dataset_card
from scalequest.pages.markup import inline
from scalequest.questions.judges import check_judge
from scalequest.records import Row, expand, model_label
from scalequest.solutions.reward_inputs import AGGREGATES, Aggregate, RewardInputs
from scalequest.stage.block_loop import Drop, Generate, stream
from scalequest.stage.folder import Stage
from scalequest.stage.progress import Gates
from scalequest.tracking import Tracker

VERSION = 2  # raise by hand when the same configuration gives other rows


@dataclass(frozen=True)
class ScoreConfig:
    """The scoring stage."""

    input: list[str] = required("solution or question sources, read one after the other", fingerprint=False)
    judge: Literal["scorer", "function", "model", "server"] = option(
        "scorer",
        "scorer: a model with a one-number head; function: a function of yours; model, server: a judge that "
        "is asked in words",
    )
    function: str | None = function_option(
        "judge function",
        "called with a row; returns a list with one number per response, or, with what: question, one number",
    )
    model_name_or_path: str | None = option(
        None, "the scorer or judge: a model folder or hub id", fingerprint=False
    )
    prompt: str | None = option(
        None,
        "judge model and server: YAML file of what it is asked; its reply gives marks (responses) or a level",
        fingerprint=False,
    )
    what: Literal["responses", "question"] = option(
        "responses", "responses: one reward each (column rewards); question: its difficulty"
    )
    chat_format: str | None = option(
        None,
        "the reward model's, or judge's, chat format: a family, a YAML file or auto; null: the chat "
        "template of the "
        "reward model's tokenizer, without an instruction of ours",
        fingerprint=False,
    )
    aggregate: Aggregate | None = option(
        None,
        "responses: how the scores of the steps of a process reward model become one; null: it scores wholes",
    )
    step_break: str = option("\n", "aggregate: what stands between two steps of a response")
    step_separator: str = option(
        "\n", "aggregate: what the reward model reads after each step, a line break or its own token"
    )
    positive_label: str | None = option(
        None,
        "a head of two labels: name or number of the one whose probability is the score; null: the second",
    )
    tokenizer: str | None = option(None, "folder of its tokenizer; None is the model's", fingerprint=False)
    suffix: str = option("", "responses: text after the response's end (InternLM2-Reward: a line break)")
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)
    sampling: Sampling = option(
        help="judge model and server: how", default_factory=lambda: Sampling(0.0, 1.0, 2048)
    )
    server: ServerConfig = option(help="judge server: which", default_factory=ServerConfig)
    system: str | None = option(None, "judge server: text of the system turn; None sends none")
    gates: Gates = option(
        help="judge model and server: rates that end it early", default_factory=Gates, fingerprint=False
    )

    @property
    def places(self) -> tuple[str, ...]:
        """What the judge's prompt has to have a place for."""
        return ("question", "response") if self.what == "responses" else ("question",)

    @property
    def head(self) -> Head:
        """Which outputs of the scorer count."""
        return Head(self.aggregate is not None, self.positive_label)

    @property
    def functions(self) -> list[FunctionKey]:
        """The function that scores, if one does."""
        return [FunctionKey("function", self.function or "", ("row",))] if self.judge == "function" else []

    def __post_init__(self) -> None:
        if self.judge == "function":
            if not self.function:
                raise ConfigError(needs_function("judge"))
            return
        if self.judge != "scorer":
            check_judge(self)
            if not self.prompt:
                raise ConfigError(f"prompt: judge: {self.judge} needs a prompt file")
            return
        if not self.model_name_or_path:
            raise ConfigError("model_name_or_path: name the scorer, a model folder or hub id")
        if self.aggregate is None:
            return
        if self.what == "question" or self.suffix:
            raise ConfigError(
                "aggregate: only responses have steps, and nothing follows the last one (suffix)"
            )
        if not self.step_break or not self.step_separator:
            raise ConfigError("step_break, step_separator: must not be empty with aggregate")


def reward_token(model: str, revision: str | None = None) -> int | None:
    """The id that a reward model wants at the end, if its config.json names one (`reward_token_id`).

    Raises:
        ConfigError: there is no config, or the id is not an integer.
    """
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(str(expand(model)), revision=revision)
    except OSError as error:
        raise ConfigError(f"{model}: no config.json: {error}") from None
    token = config.get("reward_token_id")
    if token is not None and not isinstance(token, int):
        raise ConfigError(f"{model}: reward_token_id is {token!r}, not a number")
    return token


def reward_ids(
    question: str, response: str, chat: BoundFormat, suffix: str = "", token: int | None = None
) -> list[int]:
    """What a reward model is given.

    Raises:
        FormatError: the chat format cannot hold a text.
    """
    inputs = RewardInputs(chat.tokenizer, chat, suffix=suffix, end_token=token)
    return list(inputs.whole("", question, response).prompt_ids)


def scoring(scorer: Scorer) -> Generate[Request, Score]:
    """The `generate` hook of `stream` for one scorer."""

    def generate(blocks: Iterator[tuple[int, list[Request]]]) -> Iterator[tuple[int, list[Score]]]:
        for block, scores in scorer.score(Block(index, requests) for index, requests in blocks):
            yield block.index, scores

    return generate


@dataclass(frozen=True)
class ResponseScoring:
    """What is asked for each row of responses, and what becomes of it: the hooks of `stream`.

    Attributes:
        rows: with `question`, `responses` and `finish_reasons`.
        inputs: what the reward model reads.
        config: of the stage.
        not_finite: scores that are not finite, by row number, until their block is written.
    """

    rows: Sequence[Row]
    inputs: RewardInputs
    config: ScoreConfig
    not_finite: dict[int, int] = field(default_factory=dict)

    def requests(self, number: int) -> list[Request] | Drop:
        """One request per complete response that the chat format can hold; its key ends in its number."""
        row = self.rows[number]
        requests = []
        for place, (response, end) in enumerate(zip(row["responses"], row["finish_reasons"], strict=True)):
            if end != "stop":
                continue
            try:
                requests.append(self._request(f"{row['id']}/{place}", row["question"], response))
            except FormatError:
                continue
        return requests or Drop(row, "no_reward")

    def _request(self, key: str, question: str, response: str) -> Request:
        if self.config.aggregate is None:
            return self.inputs.whole(key, question, response)
        return self.inputs.steps(key, question, response, self.config.step_break, self.config.step_separator)

    def row(self, number: int, scores: Sequence[Score]) -> Row | Drop:
        """The row with its rewards, None for a response without one."""
        row, finite = self.rows[number], _finite(scores)
        self.not_finite[number] = sum(one.value is not None for one in scores) - len(finite)
        if not finite:
            return Drop(row, "no_reward")
        by_place = {int(one.key.rpartition("/")[2]): one for one in finite}
        scores_of = [by_place.get(place) for place in range(len(row["responses"]))]
        made: Row = {"rewards": [one and self._reward(one) for one in scores_of]}
        if self.config.aggregate is not None:
            made["step_rewards"] = [one and list(one.steps) for one in scores_of]
        return row | made | {"reward_model": model_label(self.config.model_name_or_path or "")}

    def _reward(self, score: Score) -> float | None:
        return (
            score.value if self.config.aggregate is None else AGGREGATES[self.config.aggregate](score.steps)
        )

    def counts(self, numbers: range) -> dict[str, int]:
        """Scores that are not finite, and responses."""
        return {
            "not_finite": sum(self.not_finite.pop(number, 0) for number in numbers),
            "responses": sum(len(self.rows[number]["responses"]) for number in numbers),
        }


@dataclass(frozen=True)
class QuestionScoring:
    """The same for rows of questions, which the scorer reads bare.

    Attributes:
        rows: with `question`.
        tokenizer: the scorer's.
        config: of the stage.
        not_finite: scores that are not finite, by row number, until their block is written.
    """

    rows: Sequence[Row]
    tokenizer: Any
    config: ScoreConfig
    not_finite: dict[int, int] = field(default_factory=dict)

    def requests(self, number: int) -> list[Request] | Drop:
        """The question."""
        row = self.rows[number]
        question = row["question"].strip()
        if not question:
            return Drop(row, "empty")
        return [Request(row["id"], self.tokenizer(question)["input_ids"], None)]

    def row(self, number: int, scores: Sequence[Score]) -> Row | Drop:
        """The row with its difficulty."""
        row, finite = self.rows[number], _finite(scores)
        self.not_finite[number] = sum(one.value is not None for one in scores) - len(finite)
        if not finite:
            return Drop(row, "no_score" if self.not_finite[number] else "too_long")
        label = model_label(self.config.model_name_or_path or "")
        return row | {"difficulty": finite[0].value, "difficulty_by": label}

    def counts(self, numbers: range) -> dict[str, int]:
        """Scores that are not finite."""
        return {"not_finite": sum(self.not_finite.pop(number, 0) for number in numbers)}


def _finite(scores: Sequence[Score]) -> list[Score]:
    return [
        one for one in scores if one.value is not None and all(map(math.isfinite, (one.value, *one.steps)))
    ]


def score(
    stage: Stage,
    rows: Sequence[Row],
    scorer: Scorer,
    chat: BoundFormat | None,
    tokenizer: Any,
    config: ScoreConfig,
    run: RunOptions,
    *,
    end_token: int | None = None,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Score every row and finish the stage; other columns are carried.

    A response that was cut, or that the chat format cannot hold, has no reward (None), and neither has one
    whose score is not finite, which would win or lose every comparison; the receipt counts those as
    `not_finite`. Dropped:
    `no_reward` (no response has one), `too_long` and `no_score` (a question), and a question's `FormatError`.

    Args:
        stage: open and unfinished.
        rows: with `question`, and with `responses` and `finish_reasons` if responses are scored.
        scorer: the model.
        chat: its chat format, if responses are scored; None: the chat template of its tokenizer.
        tokenizer: its tokenizer.
        config: what is scored, and how.
        run: gives the block size.
        end_token: of `reward_token`.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    hooks: ResponseScoring | QuestionScoring
    if config.what == "responses":
        inputs = RewardInputs(tokenizer, chat, suffix=config.suffix, end_token=end_token)
        hooks = ResponseScoring(rows, inputs, config)
    else:
        hooks = QuestionScoring(rows, tokenizer, config)
    stream(
        stage, len(rows), run.block_size,
        requests=hooks.requests, generate=scoring(scorer), row=hooks.row, counts=hooks.counts,
        tracker=tracker,
    )  # fmt: skip
    return finish_scores(stage, len(rows), config, model_label(config.model_name_or_path or ""))


def finish_scores(stage: Stage, rows_in: int, config: ScoreConfig, label: str) -> dict[str, Any]:
    """Write the card and finish the stage; `label` names the scorer or judge."""
    of_responses = config.what == "responses"
    shown = ("id", "question", "rewards" if of_responses else "difficulty")
    text = f"{'Rewards of the responses' if of_responses else 'Difficulty'} by {inline(label)}."
    card = dataset_card("Scored rows", text, to_dict(config), stage.blocks.samples(4), *shown)
    return stage.finish(rows_in=rows_in, card=card, columns=("id", "question"))
