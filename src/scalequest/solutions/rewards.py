"""Scores from a model with a one-number head: rewards of solutions, or difficulties of questions.

A reward model reads question and response in its own chat format and gives one number at the last token.
Sequence classifiers need nothing else; InternLM2-Reward (the paper's, section 2.5) wants a line break after
the last turn and then its own token, whose id stands in its config as `reward_token_id`: `suffix` gives the
first, and the second is appended wherever a model's config has one. As in the paper the user's turn is the
bare question, so the chat format should be one without the boxed-answer instruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scalequest.cards import dataset_card
from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.base import Block, EngineConfig, Request
from scalequest.engines.scoring import Score, Scorer
from scalequest.engines.stream import Answer, Drop, stream
from scalequest.markup import inline
from scalequest.records import Row, expand, model_label
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 2  # raise by hand when the same configuration gives other rows


@dataclass(frozen=True)
class ScoreConfig:
    """The scoring stage."""

    input: list[str] = required("solution or question sources, read one after the other", fingerprint=False)
    model_name_or_path: str = required("the scorer: a model folder or hub id", fingerprint=False)
    what: Literal["responses", "question"] = option(
        "responses", "responses: one reward each (column rewards); question: its difficulty"
    )
    chat_format: str | None = option(
        None, "responses: the reward model's chat format, a family or a YAML file", fingerprint=False
    )
    tokenizer: str | None = option(None, "folder of its tokenizer; None is the model's", fingerprint=False)
    suffix: str = option("", "responses: text after the response's end (InternLM2-Reward: a line break)")
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.what == "responses" and not self.chat_format:
            raise ConfigError("chat_format: a reward model needs the format that it was trained in")


def reward_token(model: str, revision: str | None = None) -> int | None:
    """The id that a reward model wants at the end, where its config.json names one (`reward_token_id`).

    Raises:
        ConfigError: there is no config, or the id is no number.
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
    question: str, response: str, format: BoundFormat, suffix: str = "", token: int | None = None
) -> list[int]:
    """What a reward model is given.

    Raises:
        FormatError: a text cannot be put into the chat format.
    """
    prompt, target = format.solve_ids(question, response)
    tail = format.tokenizer(suffix, add_special_tokens=False)["input_ids"] if suffix else []
    return [*prompt, *target, *tail, *([] if token is None else [token])]


def scoring(scorer: Scorer) -> Answer[Request, Score]:
    """The `answer` of `stream` that is one scorer."""

    def answer(blocks: Iterator[tuple[int, list[Request]]]) -> Iterator[tuple[int, list[Score]]]:
        for block, scores in scorer.score(Block(index, requests) for index, requests in blocks):
            yield block.index, scores

    return answer


def score(
    stage: Stage,
    rows: Sequence[Row],
    scorer: Scorer,
    format: BoundFormat | None,
    tokenizer: Any,
    config: ScoreConfig,
    run: RunOptions,
    *,
    end_token: int | None = None,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Score every row and finish the stage; other columns are carried.

    A response that was cut, or cannot be read, has no reward (None), and neither has one whose score is no
    finite number, which would win or lose every comparison; the receipt counts those, `not_finite`. Dropped:
    `no_reward` (no response has one), `too_long` and `no_score` (a question), and a question's `FormatError`.

    Args:
        stage: open and unfinished.
        rows: with `question`, and with `responses` and `finish_reasons` where responses are scored.
        scorer: the model.
        format: its chat format, where responses are scored.
        tokenizer: its tokenizer.
        config: what is scored, and how.
        run: gives the block size.
        end_token: of `reward_token`.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    label = model_label(config.model_name_or_path)
    of_responses = config.what == "responses"
    odd: dict[int, int] = {}

    def responses(row: Row) -> dict[int, list[int]]:
        """Ids of the responses that can be scored, by their number."""
        assert format is not None, "responses without a chat format"
        found = {}
        for number, (response, end) in enumerate(zip(row["responses"], row["finish_reasons"], strict=True)):
            if end == "stop":
                try:
                    found[number] = reward_ids(row["question"], response, format, config.suffix, end_token)
                except FormatError:
                    continue
        return found

    def ask(number: int) -> Sequence[Request] | Drop:
        row = rows[number]
        if of_responses:
            ids = responses(row)
            requests = [Request(f"{row['id']}/{n}", given, None) for n, given in ids.items()]
            return requests or Drop(row, "no_reward")
        question = row["question"].strip()
        return (
            [Request(row["id"], tokenizer(question)["input_ids"], None)] if question else Drop(row, "empty")
        )

    def settle(number: int, scores: Sequence[Score]) -> Row | Drop:
        row = rows[number]
        finite = [one for one in scores if one.value is not None and math.isfinite(one.value)]
        odd[number] = sum(one.value is not None for one in scores) - len(finite)
        if not of_responses:
            if not finite:
                return Drop(row, "no_score" if odd[number] else "too_long")
            return row | {"difficulty": finite[0].value, "difficulty_by": label}
        if not finite:
            return Drop(row, "no_reward")
        rewards: list[float | None] = [None] * len(row["responses"])
        for one in finite:
            rewards[int(one.key.rpartition("/")[2])] = one.value
        return row | {"rewards": rewards, "reward_model": label}

    def counts(numbers: range) -> dict[str, int]:
        own = {"responses": sum(len(rows[n]["responses"]) for n in numbers)} if of_responses else {}
        return {"not_finite": sum(odd.pop(n, 0) for n in numbers), **own}

    stream(
        stage,
        len(rows),
        run.block_size,
        ask=ask,
        answer=scoring(scorer),
        settle=settle,
        counts=counts,
        tracker=tracker,
    )
    shown = ("id", "question", "rewards" if of_responses else "difficulty")
    text = f"{'Rewards of the responses' if of_responses else 'Difficulty'} by {inline(label)}."
    card = dataset_card("Scored rows", text, to_dict(config), stage.samples(4), *shown)
    return stage.finish(rows_in=len(rows), card=card, columns=("id", "question"))
