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
from scalequest.engines.progress import Gates
from scalequest.engines.server import Chat, ChatReply, ChatServer, ServerConfig, user
from scalequest.engines.stream import Drop, completing, stream
from scalequest.launch import LAUNCH, RAY_WORKERS, Launch
from scalequest.questions.language import LanguageRule, language
from scalequest.questions.pairs_page import write_page
from scalequest.questions.prompts import Prompt
from scalequest.questions.text import normalised
from scalequest.ranges import COUNT, SHARE
from scalequest.records import Row, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 2  # raise by hand when the same configuration gives other rows
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
    rewriter: Literal["rules", "local", "server"] = required(
        "TinyMath's rules, the model below, or the server below"
    )
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    solvability_share: float = option(
        0.5, "share of the questions sent in that direction; the rest get harder", within=SHARE
    )
    language: LanguageRule = option(help="what counts as English in a rewrite", default_factory=LanguageRule)
    prompts: PromptPaths = option(
        help="rewriter local and server: what they are asked", default_factory=PromptPaths
    )
    model_name_or_path: str | None = option(
        None, "rewriter local: a model folder or hub id", fingerprint=False
    )
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    chat_format: str | None = option(None, "its chat format: a family or a YAML file", fingerprint=False)
    sampling: Sampling = option(
        help="rewriter local and server: how", default_factory=lambda: Sampling(0.0, 1.0, 2048)
    )
    engine: EngineConfig = option(help="rewriter local: on what", default_factory=EngineConfig)
    server: ServerConfig = option(help="rewriter server: which", default_factory=ServerConfig)
    launch: Launch = option("local", LAUNCH, fingerprint=False)
    ray_workers: int | None = option(None, RAY_WORKERS, fingerprint=False, within=COUNT)
    gates: Gates = option(
        help="rates that end it early", default_factory=lambda: Gates(junk=0.99), fingerprint=False
    )
    system: str | None = option(None, "rewriter server: text of the system turn; None sends none")

    def __post_init__(self) -> None:
        if self.rewriter == "local" and not (self.model_name_or_path and self.chat_format):
            raise ConfigError("rewriter: local needs model_name_or_path and chat_format")
        if self.rewriter == "server" and not (self.server.url and self.server.model):
            raise ConfigError("rewriter: server needs server.url and server.model")
        if self.rewriter != "rules" and not (self.prompts.solvability and self.prompts.difficulty):
            raise ConfigError(f"rewriter: {self.rewriter} needs prompts.solvability and prompts.difficulty")


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
        fault: `unparsed`, `truncated`, a `FormatError`'s or a `ChatReply`'s reason; None where there is a
            text to look at.
        tokens: tokens generated for it; 0 where no model was asked.
        prompt_tokens: tokens read for it.
        finish_reason: as a `Completion`'s.
        requests: attempts at a server.
    """

    text: str
    reply: str
    fault: str | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: FinishReason = "stop"
    requests: int = 0


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
        text, reply, fault = _parsed(
            prompts[task.direction], format.decode(completion.ids), completion.finish_reason
        )
        return Rewrite(
            text, reply, fault, completion.tokens, completion.prompt_tokens, completion.finish_reason
        )

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


def server_rewriter(
    server: ChatServer, prompts: Mapping[Direction, Prompt], system: str | None = None
) -> Rewriter:
    """A model behind an OpenAI-compatible server: the paper's variant, and its open one with `vllm serve`."""
    seeded = server.sampling.temperature > 0

    def chat(task: Task) -> Chat:
        asked = prompts[task.direction].fill(task.question)
        return Chat(task.key, user(asked, system), task.seed if seeded else None)

    def parsed(task: Task, reply: ChatReply) -> Rewrite:
        text, said, fault = _parsed(prompts[task.direction], reply.text, reply.finish_reason)
        if reply.fault:
            text, fault = "", reply.fault
        return Rewrite(
            text, said, fault, reply.tokens, reply.prompt_tokens, reply.finish_reason, reply.requests
        )

    def rewrite(blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        taken: dict[int, list[Task]] = {}

        def chats() -> Iterator[tuple[int, list[Chat]]]:
            for index, tasks in blocks:
                taken[index] = tasks
                yield index, [chat(task) for task in tasks]

        for index, replies in server.answer(chats()):
            yield index, [parsed(*pair) for pair in zip(taken.pop(index), replies, strict=True)]

    return rewrite


def _parsed(prompt: Prompt, reply: str, finish_reason: FinishReason) -> tuple[str, str, str | None]:
    """Text, reply and fault of a `Rewrite`."""
    text = prompt.parse(reply)
    fault = "truncated" if finish_reason == "length" else "unparsed" if text is None else None
    return text or "", reply, fault


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

    `pairs.html` shows twenty pairs and some of what was dropped. With a server the receipt's counts have the
    `requests` made and their `cost`.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    ledger: dict[int, tuple[int, float]] = {}

    def ask(number: int) -> Sequence[Task]:
        row = rows[number]
        way = direction(run.seed, row["id"], config.solvability_share)
        return [Task(row["id"], row["question"], way, row_seed(run.seed, "optimize_questions", row["id"]))]

    def settle(number: int, rewrites: Sequence[Rewrite]) -> Row | Drop:
        (rewrite,) = rewrites
        row = rows[number]
        if config.rewriter == "server":
            ledger[number] = rewrite.requests, config.server.cost(rewrite.prompt_tokens, rewrite.tokens)
        pair: Row = {
            "id": row["id"],
            "chosen": rewrite.text,
            "rejected": row["question"],
            "direction": direction(run.seed, row["id"], config.solvability_share),
            "generator": row.get("generator"),
        }
        reason = rewrite.fault or _fault(pair, config.language)
        return pair if reason is None else Drop(pair | {"reply": rewrite.reply}, reason)

    def counts(numbers: range) -> dict[str, int | float]:
        entries = [ledger.pop(number) for number in numbers if number in ledger]
        return {"requests": sum(n for n, _ in entries), "cost": sum(cost for _, cost in entries)}

    stream(
        stage,
        len(rows),
        run.block_size,
        ask=ask,
        answer=rewriter,
        settle=settle,
        counts=counts if config.rewriter == "server" else None,
        tracker=tracker,
        gates=config.gates,
        text=lambda pair: normalised(pair["chosen"]),
    )
    text = f"Questions (rejected) and their rewrites (chosen) by `{config.rewriter}`, each in one direction."
    card = dataset_card("Preference pairs", text, to_dict(config), stage.samples(8), *COLUMNS[1:4])

    def page(_: Mapping[str, Any]) -> None:
        write_page(stage.output_dir, run.seed)

    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS, beside=page)


def _fault(pair: Row, rule: LanguageRule) -> str | None:
    if not pair["chosen"].strip():
        return "empty"
    if normalised(pair["chosen"]) == normalised(pair["rejected"]):
        return "unchanged"
    return "non_english" if language(pair["chosen"], rule) else None
