"""Preference pairs for QPO: a question, and the same question made solvable or made harder.

Each question is rewritten in one direction, drawn by its id; the rewritten one is chosen, the original
rejected (paper, section 2.3).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from scalequest.cards import dataset_card
from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.base import Completion, EngineConfig, FinishReason, Generator, Request, Sampling
from scalequest.engines.stream import Drop, completing, stream
from scalequest.questions.filters import LanguageRule, language, normalised
from scalequest.questions.prompts import Prompt
from scalequest.records import Row, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 1  # raise by hand when the same configuration gives other rows
COLUMNS = ("id", "direction", "rejected", "chosen", "generator")

Direction = Literal["solvability", "difficulty"]


@dataclass(frozen=True)
class PromptPaths:
    """A prompt file a direction."""

    solvability: str | None = option(None, "YAML file of the prompt", fingerprint=False)
    difficulty: str | None = option(None, "YAML file of the prompt", fingerprint=False)


@dataclass(frozen=True)
class RewriteConfig:
    """The stage that makes preference pairs."""

    input: list[str] = required("question sources, read one after the other", fingerprint=False)
    rewriter: Literal["rules", "local"] = required("TinyMath's rules, or the model below")
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    solvability_share: float = option(
        0.5, "share of the questions sent in that direction; the rest get harder"
    )
    language: LanguageRule = option(help="what counts as English in a rewrite", default_factory=LanguageRule)
    prompts: PromptPaths = option(help="rewriter local: its prompts", default_factory=PromptPaths)
    model_name_or_path: str | None = option(
        None, "rewriter local: a model folder or hub id", fingerprint=False
    )
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    chat_format: str | None = option(None, "its chat format: a family or a YAML file", fingerprint=False)
    sampling: Sampling = option(help="rewriter local: how", default_factory=lambda: Sampling(0.0, 1.0, 2048))
    engine: EngineConfig = option(help="rewriter local: on what", default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.solvability_share <= 1:
            raise ConfigError(f"solvability_share: {self.solvability_share} is not between 0 and 1")
        if self.rewriter == "local":
            if not (self.model_name_or_path and self.chat_format):
                raise ConfigError("rewriter: local needs model_name_or_path and chat_format")
            if not (self.prompts.solvability and self.prompts.difficulty):
                raise ConfigError("rewriter: local needs prompts.solvability and prompts.difficulty")


@dataclass(frozen=True)
class Task:
    """One question to rewrite, in one direction, with a seed of its own."""

    key: str
    question: str
    direction: Direction
    seed: int


@dataclass(frozen=True)
class Rewrite:
    """What a rewriter made of a task.

    Attributes:
        text: the new question, "" where `fault` says why there is none.
        reply: all that the rewriter said.
        fault: `unparsed`, `truncated` or a `FormatError`'s reason; None where there is a text to look at.
        tokens: tokens generated for it; 0 where no model was asked.
        prompt_tokens: tokens read for it.
        finish_reason: as a `Completion`'s.
    """

    text: str
    reply: str
    fault: str | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: FinishReason = "stop"


class Rewriter(Protocol):
    """Takes numbered blocks of tasks lazily and gives each block's rewrites, in any order of blocks.

    A rewrite may depend on its task alone, seed included.
    """

    def __call__(self, blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        """Rewrite every task of every block."""


def rule_rewriter(blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
    """TinyMath's rules: local edits of the text, for questions of that domain only."""
    from scalequest.tinymath.rewriter import rewrite

    for index, tasks in blocks:
        texts = [rewrite(task.question, task.direction, random.Random(task.seed)) for task in tasks]
        yield index, [Rewrite(text, text) for text in texts]


def local_rewriter(
    generator: Generator, format: BoundFormat, prompts: Mapping[Direction, Prompt], sampling: Sampling
) -> Rewriter:
    """A model on an engine, asked with one prompt a direction: the paper's variant without an API."""
    complete = completing(generator, sampling, format.solve_stop_ids)

    def request(task: Task) -> Request | str:
        try:
            ids = format.user_prompt_ids(prompts[task.direction].fill(task.question))
        except FormatError as error:
            return str(error)
        return Request(task.key, ids, task.seed if sampling.temperature > 0 else None)

    def parsed(task: Task, completion: Completion) -> Rewrite:
        reply = format.decode(completion.ids)
        text = prompts[task.direction].parse(reply)
        fault = "truncated" if completion.finish_reason == "length" else "unparsed" if text is None else None
        counts = (completion.tokens, completion.prompt_tokens, completion.finish_reason)
        return Rewrite(text or "", reply, fault, *counts)

    def rewrite(blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        taken: dict[int, list[tuple[Task, Request | str]]] = {}

        def requests() -> Iterator[tuple[int, list[Request]]]:
            for index, tasks in blocks:
                taken[index] = [(task, request(task)) for task in tasks]
                yield index, [asked for _, asked in taken[index] if isinstance(asked, Request)]

        for index, completions in complete(requests()):
            replies = iter(completions)
            yield (
                index,
                [
                    Rewrite("", "", fault=asked) if isinstance(asked, str) else parsed(task, next(replies))
                    for task, asked in taken.pop(index)
                ],
            )

    return rewrite


def direction(run_seed: int, row_id: str, solvability_share: float) -> Direction:
    """The one direction a question is rewritten in, drawn by its id."""
    draw = random.Random(row_seed(run_seed, "direction", row_id)).random()
    return "solvability" if draw < solvability_share else "difficulty"


def optimize_questions(
    stage: Stage,
    rows: Sequence[Row],
    rewriter: Rewriter,
    config: RewriteConfig,
    run: RunOptions,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write preference rows (`chosen` rewritten, `rejected` original) for question rows and finish the stage.

    Dropped, each with its reason: the rewriter's own faults, then `empty`, `unchanged` (but for case and
    spacing) and `non_english`.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """

    def ask(number: int) -> Sequence[Task]:
        row = rows[number]
        way = direction(run.seed, row["id"], config.solvability_share)
        return [Task(row["id"], row["question"], way, row_seed(run.seed, "optimize_questions", row["id"]))]

    def settle(number: int, rewrites: Sequence[Rewrite]) -> Row | Drop:
        (rewrite,) = rewrites
        row = rows[number]
        pair: Row = {
            "id": row["id"],
            "chosen": rewrite.text,
            "rejected": row["question"],
            "direction": direction(run.seed, row["id"], config.solvability_share),
            "generator": row.get("generator"),
        }
        reason = rewrite.fault or _fault(pair, config.language)
        return pair if reason is None else Drop(pair | {"reply": rewrite.reply}, reason)

    stream(stage, len(rows), run.block_size, ask=ask, answer=rewriter, settle=settle, tracker=tracker)
    text = f"Questions (rejected) and their rewrites (chosen) by `{config.rewriter}`, each in one direction."
    card = dataset_card("Preference pairs", text, to_dict(config), stage.samples(8), *COLUMNS[1:4])
    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS)


def _fault(pair: Row, rule: LanguageRule) -> str | None:
    if not pair["chosen"].strip():
        return "empty"
    if normalised(pair["chosen"]) == normalised(pair["rejected"]):
        return "unchanged"
    return "non_english" if language(pair["chosen"], rule) else None
