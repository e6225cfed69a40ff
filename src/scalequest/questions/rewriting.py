"""Make preference pairs for QPO: a question, and the same question made solvable or more difficult.

Each question is rewritten in one direction, drawn by its id; the rewritten question is chosen, the original
one rejected (paper, section 2.3).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import COUNT, SHARE
from scalequest.engines.base import EngineConfig, FinishReason, Sampling
from scalequest.engines.server import ServerConfig
from scalequest.functions import FunctionKey, called, function_option, needs_function
from scalequest.pages.cards import dataset_card
from scalequest.questions.judges import Ask, Judge, Ledger, Said
from scalequest.questions.language import LanguageRule, language
from scalequest.questions.pairs_page import write_page
from scalequest.questions.prompts import Prompt
from scalequest.questions.text import normalised
from scalequest.records import Row, row_seed
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.stage.launch import LAUNCH, RAY_WORKERS, Launch
from scalequest.stage.progress import Gates
from scalequest.tracking import Tracker

VERSION = 2  # increase by hand when the same settings give other rows
COLUMNS = ("id", "direction", "rejected", "chosen", "generator")

Direction = Literal["solvability", "difficulty"]


@dataclass(frozen=True)
class PromptPaths:
    """One prompt file per direction."""

    solvability: str | None = option(None, "YAML file of the prompt", fingerprint=False)
    difficulty: str | None = option(None, "YAML file of the prompt", fingerprint=False)


@dataclass(frozen=True)
class RewriteConfig:
    """The settings of the stage that makes preference pairs."""

    input: list[str] = required("sources of questions, read one after the other", fingerprint=False)
    rewriter: Literal["function", "local", "server"] = required(
        "who rewrites: a function, a local model, or a server"
    )
    function: str | None = function_option(
        "rewriter function", "called with question, direction and a random.Random; returns the new question"
    )
    columns: dict[str, str] = option(
        help="mapping from our column names to those of the input", default_factory=dict
    )
    solvability_share: float = option(
        0.5, "share of the questions rewritten to be solvable; the rest are made more difficult", within=SHARE
    )
    language: LanguageRule = option(
        help="rule for what counts as English in a rewrite", default_factory=LanguageRule
    )
    prompts: PromptPaths = option(help="rewriters local and server: the prompts", default_factory=PromptPaths)
    model_name_or_path: str | None = option(
        None, "rewriter local: a model folder or hub id", fingerprint=False
    )
    model_revision: str | None = option(None, "revision of the model on the hub", fingerprint=False)
    chat_format: str | None = option(
        None, "chat format of the model: a family, a YAML file or auto", fingerprint=False
    )
    sampling: Sampling = option(
        help="rewriters local and server: sampling settings", default_factory=lambda: Sampling(0.0, 1.0, 2048)
    )
    engine: EngineConfig = option(
        help="rewriter local: engine and its settings", default_factory=EngineConfig
    )
    server: ServerConfig = option(
        help="rewriter server: the server and its limits", default_factory=ServerConfig
    )
    launch: Launch = option("local", LAUNCH, fingerprint=False)
    ray_workers: int | None = option(None, RAY_WORKERS, fingerprint=False, within=COUNT)
    gates: Gates = option(
        help="limits on error rates that stop the run early",
        default_factory=lambda: Gates(junk=0.99),
        fingerprint=False,
    )
    system: str | None = option(None, "rewriter server: text of the system turn; null sends none")

    def __post_init__(self) -> None:
        if self.rewriter == "function" and not self.function:
            raise ConfigError(needs_function("rewriter"))
        if self.rewriter == "local" and not (self.model_name_or_path and self.chat_format):
            raise ConfigError("rewriter: local requires model_name_or_path and chat_format")
        if self.rewriter == "server" and not (self.server.url and self.server.model):
            raise ConfigError("rewriter: server requires server.url and server.model")
        if self.rewriter != "function" and not (self.prompts.solvability and self.prompts.difficulty):
            raise ConfigError(
                f"rewriter: {self.rewriter} requires prompts.solvability and prompts.difficulty"
            )

    @property
    def judge(self) -> str | None:
        """The rewriter as `questions.judges` names those who are asked: model, server, or None."""
        return {"local": "model", "server": "server"}.get(self.rewriter)

    @property
    def functions(self) -> list[FunctionKey]:
        """The function that rewrites, if one does."""
        if self.rewriter != "function":
            return []
        return [FunctionKey("function", self.function or "", ("question", "direction", "random"))]


@dataclass(frozen=True)
class Task:
    """One question to rewrite, in one direction, with its own seed."""

    key: str
    question: str
    direction: Direction
    seed: int


@dataclass(frozen=True)
class Rewrite:
    """The result of a task.

    Attributes:
        text: the new question; "" if there is a `fault`.
        reply: the complete reply of the rewriter.
        fault: `unparsed`, `truncated`, the reason of a `FormatError` or a `ChatReply`; None if there is a
            text to check.
        tokens: the number of generated tokens; 0 if no model was asked.
        prompt_tokens: the number of input tokens.
        finish_reason: see `Completion`.
        requests: the number of attempts at a server.
    """

    text: str
    reply: str
    fault: str | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: FinishReason = "stop"
    requests: int = 0


class Rewriter(Protocol):
    """Takes numbered blocks of tasks lazily and yields each block's rewrites, in any order of blocks.

    A rewrite may only depend on its task, including the seed.
    """

    def __call__(self, blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        """Rewrite every task of every block."""


@dataclass(frozen=True)
class FunctionRewriter:
    """A user's function, which takes a question, a direction and a `random.Random` and returns a text.

    Attributes:
        name: the name for error messages.
        rewritten: the function.
    """

    name: str
    rewritten: Callable[[str, Direction, random.Random], str]

    def __call__(self, blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        """Rewrite every task of every block."""
        for index, tasks in blocks:
            yield index, [self.rewrite(task) for task in tasks]

    def rewrite(self, task: Task) -> Rewrite:
        """Return the function's result for a task.

        Raises:
            ConfigError: the function raises, or does not return a string.
        """
        given = task.question, task.direction, random.Random(task.seed)
        text = called(self.name, self.rewritten, f"row {task.key}", *given)
        if not isinstance(text, str):
            raise ConfigError(f"{self.name}: row {task.key}: returned {type(text).__name__}, not a string")
        return Rewrite(text, text)


@dataclass(frozen=True)
class AskingRewriter:
    """A model that is asked, with one prompt per direction: on an engine, or behind a chat server.

    Attributes:
        judge: passes on what is asked, and returns what the model said.
        prompts: by direction.
        greedy: whether all replies to one question are identical, so that it needs no seed.
    """

    judge: Judge
    prompts: Mapping[Direction, Prompt]
    greedy: bool

    def __call__(self, blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        """Rewrite every task of every block."""
        taken: dict[int, list[Task]] = {}

        def asks() -> Iterator[tuple[int, list[Ask]]]:
            for index, tasks in blocks:
                taken[index] = tasks
                yield index, [self.ask(task) for task in tasks]

        for index, replies in self.judge(asks()):
            tasks = taken.pop(index)
            yield index, [self.rewrite(task, said) for task, said in zip(tasks, replies, strict=True)]

    def ask(self, task: Task) -> Ask:
        """Return what the model is asked for a task."""
        text = self.prompts[task.direction].fill(task.question)
        return Ask(task.key, text, None if self.greedy else task.seed)

    def rewrite(self, task: Task, said: Said) -> Rewrite:
        """Return the rewrite in what the model said."""
        text, fault = _parsed(self.prompts[task.direction], said.text, said.finish_reason)
        if said.fault is not None:
            text, fault = "", said.fault
        spent = said.tokens, said.prompt_tokens, said.finish_reason, said.requests
        return Rewrite(text, said.reply, fault, *spent)


def asking_rewriter(judge: Judge, prompts: Mapping[Direction, Prompt], sampling: Sampling) -> Rewriter:
    """Return an `AskingRewriter` in the form of a `Rewriter`."""
    return AskingRewriter(judge, prompts, sampling.temperature == 0)


def _parsed(prompt: Prompt, reply: str, finish_reason: FinishReason) -> tuple[str, str | None]:
    """Return the text and the fault of a `Rewrite`."""
    text = prompt.parse(reply)
    return text or "", "truncated" if finish_reason == "length" else "unparsed" if text is None else None


def direction(run_seed: int, row_id: str, solvability_share: float) -> Direction:
    """Return the direction in which a question is rewritten, drawn by its id."""
    draw = random.Random(row_seed(run_seed, "direction", row_id)).random()
    return "solvability" if draw < solvability_share else "difficulty"


@dataclass(frozen=True)
class Rewriting:
    """The hooks of `stream`: what is asked for each row, and what happens to it.

    Attributes:
        rows: question rows.
        config: the stage's settings.
        run_seed: the run's seed.
        ledger: what a server costs.
    """

    rows: Sequence[Row]
    config: RewriteConfig
    run_seed: int
    ledger: Ledger = field(default_factory=Ledger)

    def requests(self, number: int) -> list[Task]:
        """Return the single rewriting task of a row."""
        row = self.rows[number]
        seed = row_seed(self.run_seed, "optimize_questions", row["id"])
        return [Task(row["id"], row["question"], self._direction(row), seed)]

    def row(self, number: int, rewrites: Sequence[Rewrite]) -> Row | Drop:
        """Return the pair, or drop the row with a reason."""
        (rewrite,) = rewrites
        row = self.rows[number]
        self.ledger.add(number, rewrites)
        pair: Row = {
            "id": row["id"],
            "chosen": rewrite.text,
            "rejected": row["question"],
            "direction": self._direction(row),
            "generator": row.get("generator"),
        }
        reason = rewrite.fault or _fault(pair, self.config.language)
        return pair if reason is None else Drop(pair | {"reply": rewrite.reply}, reason)

    def counts(self, numbers: range) -> Mapping[str, int | float]:
        """Return the number and the cost of a block's requests to the server."""
        return self.ledger.counts(numbers)

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

    Rows are dropped, with the reason, for the rewriter's own faults, then if the rewrite is `empty`,
    `unchanged` (except for case and spacing) or `non_english`.

    `pairs.html` shows twenty pairs and some of the dropped rows. With a server, the receipt's counts include
    the number of `requests` and their `cost`.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    # Rewrite, block by block
    ledger = Ledger(config.server if config.rewriter == "server" else None)
    hooks = Rewriting(rows, config, run.seed, ledger)
    stream(
        stage, len(rows), run.block_size,
        requests=hooks.requests, generate=rewriter, row=hooks.row, counts=hooks.counts,
        tracker=tracker, gates=config.gates, text=lambda pair: normalised(pair["chosen"]),
    )  # fmt: skip
    # Card and page
    text = f"Questions (rejected) and their rewrites (chosen) by `{config.rewriter}`, each in one direction."
    card = dataset_card("Preference pairs", text, to_dict(config), stage.blocks.samples(8), *COLUMNS[1:4])

    def page(_: Mapping[str, Any]) -> None:
        write_page(stage.output_dir, run.seed)

    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS, beside=page)


def _fault(pair: Row, rule: LanguageRule) -> str | None:
    if not pair["chosen"].strip():
        return "empty"
    if normalised(pair["chosen"]) == normalised(pair["rejected"]):
        return "unchanged"
    return "non_english" if language(pair["chosen"], rule) else None
