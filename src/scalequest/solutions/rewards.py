"""Scores from a model with a one-number head: rewards of solutions, or difficulties of questions.

A judge that is asked in words gives them in `judged_scores`. A reward model reads question and response in
its own chat format and gives one number at the last token.
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
from scalequest.engines.scoring import Score, Scorer
from scalequest.engines.server import ServerConfig
from scalequest.functions import FunctionKey, function_option, needs_function
from scalequest.pages.cards import dataset_card
from scalequest.pages.markup import inline
from scalequest.questions.judges import check_judge
from scalequest.records import Row, expand, model_label
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
        "the reward model's, or judge's, chat format: a family, a YAML file or auto",
        fingerprint=False,
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
        if self.what == "responses" and not self.chat_format:
            raise ConfigError("chat_format: a reward model needs the format that it was trained in")


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
    prompt, target = chat.solve_ids(question, response)
    tail = chat.tokenizer(suffix, add_special_tokens=False)["input_ids"] if suffix else []
    return [*prompt, *target, *tail, *([] if token is None else [token])]


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
        chat: the reward model's chat format.
        config: of the stage.
        end_token: of `reward_token`.
        not_finite: scores that are not finite, by row number, until their block is written.
    """

    rows: Sequence[Row]
    chat: BoundFormat
    config: ScoreConfig
    end_token: int | None = None
    not_finite: dict[int, int] = field(default_factory=dict)

    def requests(self, number: int) -> list[Request] | Drop:
        """One request per complete response that the chat format can hold; its key ends in its number."""
        row = self.rows[number]
        requests = []
        for place, (response, end) in enumerate(zip(row["responses"], row["finish_reasons"], strict=True)):
            if end != "stop":
                continue
            try:
                ids = reward_ids(row["question"], response, self.chat, self.config.suffix, self.end_token)
            except FormatError:
                continue
            requests.append(Request(f"{row['id']}/{place}", ids, None))
        return requests or Drop(row, "no_reward")

    def row(self, number: int, scores: Sequence[Score]) -> Row | Drop:
        """The row with its rewards, None for a response without one."""
        row, finite = self.rows[number], _finite(scores)
        self.not_finite[number] = sum(one.value is not None for one in scores) - len(finite)
        if not finite:
            return Drop(row, "no_reward")
        rewards: list[float | None] = [None] * len(row["responses"])
        for one in finite:
            rewards[int(one.key.rpartition("/")[2])] = one.value
        return row | {"rewards": rewards, "reward_model": model_label(self.config.model_name_or_path or "")}

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
    return [one for one in scores if one.value is not None and math.isfinite(one.value)]


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
        chat: its chat format, if responses are scored.
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
        assert chat is not None, "responses without a chat format"
        hooks = ResponseScoring(rows, chat, config, end_token)
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
