"""Preference pairs for QPO: a question, and the same question made solvable or made harder.

Each question is rewritten in one direction, drawn by its id; the rewritten one is chosen, the original
rejected (paper, section 2.3).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import COUNT, SHARE
from scalequest.engines.base import Completion, EngineConfig, FinishReason, Generator, Request, Sampling
from scalequest.engines.server import Chat, ChatReply, ChatServer, ServerConfig, user
from scalequest.pages.cards import dataset_card
from scalequest.questions.language import LanguageRule, language
from scalequest.questions.pairs_page import write_page
from scalequest.questions.prompts import Prompt
from scalequest.questions.text import normalised
from scalequest.records import Row, row_seed
from scalequest.stage.block_loop import Drop, Generate, completing, stream
from scalequest.stage.folder import Stage
from scalequest.stage.launch import LAUNCH, RAY_WORKERS, Launch
from scalequest.stage.progress import Gates, Reply
from scalequest.tracking import Tracker

VERSION = 2  # raise by hand when the same configuration gives other rows
COLUMNS = ("id", "direction", "rejected", "chosen", "generator")

Direction = Literal["solvability", "difficulty"]
Q = TypeVar("Q")
A = TypeVar("A", bound=Reply)


@dataclass(frozen=True)
class PromptPaths:
    """One prompt file per direction."""

    solvability: str | None = option(None, "YAML file of the prompt", fingerprint=False)
    difficulty: str | None = option(None, "YAML file of the prompt", fingerprint=False)


@dataclass(frozen=True)
class RewriteConfig:
    """The stage that makes preference pairs."""

    input: list[str] = required("question sources, read one after the other", fingerprint=False)
    rewriter: Literal["function", "local", "server"] = required(
        "the function, the model, or the server below"
    )
    function: str | None = option(
        None,
        "rewriter function: FILE.py:NAME or MODULE:NAME, called with question, direction and a random.Random",
        fingerprint=False,  # what it is called; the recipe adds the hash of what it does
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
    chat_format: str | None = option(
        None, "its chat format: a family, a YAML file or auto", fingerprint=False
    )
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
        if self.rewriter == "function" and not self.function:
            raise ConfigError("rewriter: function needs function: FILE.py:NAME or MODULE:NAME")
        if self.rewriter == "local" and not (self.model_name_or_path and self.chat_format):
            raise ConfigError("rewriter: local needs model_name_or_path and chat_format")
        if self.rewriter == "server" and not (self.server.url and self.server.model):
            raise ConfigError("rewriter: server needs server.url and server.model")
        if self.rewriter != "function" and not (self.prompts.solvability and self.prompts.difficulty):
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
        text: the new question, "" if `fault` says why there is none.
        reply: all that the rewriter said.
        fault: `unparsed`, `truncated`, a `FormatError`'s or a `ChatReply`'s reason; None if there is a
            text to look at.
        tokens: tokens generated for it; 0 if no model was asked.
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


@dataclass(frozen=True)
class FunctionRewriter:
    """A function of the user's: it takes a question, a direction and a `random.Random`, and returns a text.

    Attributes:
        name: for messages.
        rewritten: the function.
    """

    name: str
    rewritten: Callable[[str, Direction, random.Random], str]

    def __call__(self, blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        """Rewrite every task of every block."""
        for index, tasks in blocks:
            yield index, [self.rewrite(task) for task in tasks]

    def rewrite(self, task: Task) -> Rewrite:
        """What the function makes of a task.

        Raises:
            ConfigError: it raises, or returns something else than a text.
        """
        try:
            text = self.rewritten(task.question, task.direction, random.Random(task.seed))
        except Exception as error:
            raise ConfigError(f"{self.name}: row {task.key}: {type(error).__name__}: {error}") from error
        if not isinstance(text, str):
            raise ConfigError(f"{self.name}: row {task.key}: returned {type(text).__name__}, not a string")
        return Rewrite(text, text)


@dataclass(frozen=True)
class LocalRewriter:
    """A model on an engine, asked with one prompt per direction: the paper's variant without an API."""

    chat: BoundFormat
    prompts: Mapping[Direction, Prompt]
    sampling: Sampling
    generate: Generate[Request, Completion]

    def __call__(self, blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        """Rewrite every task of every block."""
        return _rewritten(blocks, self.request, self.generate, self.rewrite)

    def request(self, task: Task) -> Request | str:
        """What the model is asked, or why it cannot be asked."""
        try:
            ids = self.chat.user_prompt_ids(self.prompts[task.direction].fill(task.question))
        except FormatError as error:
            return str(error)
        return Request(task.key, ids, task.seed if self.sampling.temperature > 0 else None)

    def rewrite(self, task: Task, completion: Completion) -> Rewrite:
        """What its completion says."""
        reply, end = self.chat.decode(completion.ids), completion.finish_reason
        text, fault = _parsed(self.prompts[task.direction], reply, end)
        return Rewrite(text, reply, fault, completion.tokens, completion.prompt_tokens, end)


def local_rewriter(
    generator: Generator, chat: BoundFormat, prompts: Mapping[Direction, Prompt], sampling: Sampling
) -> Rewriter:
    """`LocalRewriter` on a loaded model."""
    return LocalRewriter(chat, prompts, sampling, completing(generator, sampling, chat.solve_stop_ids))


@dataclass(frozen=True)
class ServerRewriter:
    """A model behind an OpenAI-compatible server: the paper's variant, and its open one with `vllm serve`."""

    server: ChatServer
    prompts: Mapping[Direction, Prompt]
    system: str | None = None

    def __call__(self, blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        """Rewrite every task of every block."""
        return _rewritten(blocks, self.request, self.server.answer, self.rewrite)

    def request(self, task: Task) -> Chat:
        """What the server is asked."""
        asked = self.prompts[task.direction].fill(task.question)
        seeded = self.server.sampling.temperature > 0
        return Chat(task.key, user(asked, self.system), task.seed if seeded else None)

    def rewrite(self, task: Task, reply: ChatReply) -> Rewrite:
        """What its reply says."""
        text, fault = _parsed(self.prompts[task.direction], reply.text, reply.finish_reason)
        if reply.fault:
            text, fault = "", reply.fault
        return Rewrite(
            text, reply.text, fault, reply.tokens, reply.prompt_tokens, reply.finish_reason, reply.requests
        )


def server_rewriter(
    server: ChatServer, prompts: Mapping[Direction, Prompt], system: str | None = None
) -> Rewriter:
    """`ServerRewriter` as a `Rewriter`."""
    return ServerRewriter(server, prompts, system)


def _rewritten(
    blocks: Iterator[tuple[int, list[Task]]],
    request: Callable[[Task], Q | str],
    generate: Generate[Q, A],
    rewrite: Callable[[Task, A], Rewrite],
) -> Iterator[tuple[int, list[Rewrite]]]:
    """Ask a model for every task that has a request; a string in place of a request is the fault."""
    taken: dict[int, list[tuple[Task, Q | str]]] = {}

    def requests() -> Iterator[tuple[int, list[Q]]]:
        for index, tasks in blocks:
            taken[index] = [(task, request(task)) for task in tasks]
            yield index, [asked for _, asked in taken[index] if not isinstance(asked, str)]

    for index, replies in generate(requests()):
        reply = iter(replies)
        yield (
            index,
            [
                Rewrite("", "", fault=asked) if isinstance(asked, str) else rewrite(task, next(reply))
                for task, asked in taken.pop(index)
            ],
        )


def _parsed(prompt: Prompt, reply: str, finish_reason: FinishReason) -> tuple[str, str | None]:
    """Text and fault of a `Rewrite`."""
    text = prompt.parse(reply)
    return text or "", "truncated" if finish_reason == "length" else "unparsed" if text is None else None


def direction(run_seed: int, row_id: str, solvability_share: float) -> Direction:
    """The one direction a question is rewritten in, drawn by its id."""
    draw = random.Random(row_seed(run_seed, "direction", row_id)).random()
    return "solvability" if draw < solvability_share else "difficulty"


@dataclass(frozen=True)
class Rewriting:
    """What is asked for each row, and what becomes of it: the hooks of `stream`.

    Attributes:
        rows: question rows.
        config: of the stage.
        run_seed: the run's.
        spent: requests to the server and their cost, by row number, until their block is written.
    """

    rows: Sequence[Row]
    config: RewriteConfig
    run_seed: int
    spent: dict[int, tuple[int, float]] = field(default_factory=dict)

    def requests(self, number: int) -> list[Task]:
        """The one rewrite of a row."""
        row = self.rows[number]
        seed = row_seed(self.run_seed, "optimize_questions", row["id"])
        return [Task(row["id"], row["question"], self._direction(row), seed)]

    def row(self, number: int, rewrites: Sequence[Rewrite]) -> Row | Drop:
        """The pair, or why there is none."""
        (rewrite,) = rewrites
        row = self.rows[number]
        if self.config.rewriter == "server":
            cost = self.config.server.cost(rewrite.prompt_tokens, rewrite.tokens)
            self.spent[number] = rewrite.requests, cost
        pair: Row = {
            "id": row["id"],
            "chosen": rewrite.text,
            "rejected": row["question"],
            "direction": self._direction(row),
            "generator": row.get("generator"),
        }
        reason = rewrite.fault or _fault(pair, self.config.language)
        return pair if reason is None else Drop(pair | {"reply": rewrite.reply}, reason)

    def counts(self, numbers: range) -> dict[str, int | float]:
        """What a block's requests to the server cost."""
        if self.config.rewriter != "server":
            return {}
        entries = [self.spent.pop(number) for number in numbers if number in self.spent]
        return {"requests": sum(n for n, _ in entries), "cost": sum(cost for _, cost in entries)}

    def _direction(self, row: Row) -> Direction:
        return direction(self.run_seed, row["id"], self.config.solvability_share)


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
    # Rewrite, block by block
    hooks = Rewriting(rows, config, run.seed)
    stream(
        stage, len(rows), run.block_size,
        requests=hooks.requests, generate=rewriter, row=hooks.row, counts=hooks.counts,
        tracker=tracker, gates=config.gates, text=lambda pair: normalised(pair["chosen"]),
    )  # fmt: skip
    # Card and page
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
