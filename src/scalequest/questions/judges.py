"""Models that are asked in words, for a verdict or a rewrite: on an engine, or behind a chat server.

Both take `Ask`s and return `Said`s, in the numbered blocks of `stream`. The stage that asks reads the
replies, and a `Ledger` adds up their cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from scalequest.chat import BoundFormat, FormatError, bind, load_format, load_tokenizer, without_thoughts
from scalequest.config import ConfigError, RunOptions, to_dict
from scalequest.engines.base import Completion, EngineConfig, FinishReason, Generator, Request, Sampling
from scalequest.engines.server import Chat, ChatReply, ChatServer, ServerConfig, user
from scalequest.records import model_fingerprint, model_label
from scalequest.stage.block_loop import Generate, completing
from scalequest.stage.folder import Stage
from scalequest.stage.progress import Reply

# The values of `ChatReply.fault`: why a server gave no reply to a question
FAULTS = ("refused", "content_filter", "nonsense", "no_reply")

Q = TypeVar("Q")
A = TypeVar("A", bound=Reply)


@dataclass(frozen=True)
class Ask:
    """What a model is asked: the text of the user's turn, with a key that is unique in its stage.

    `seed` belongs to this question alone; it is None if replies are greedy.
    """

    key: str
    text: str
    seed: int | None = None


@dataclass(frozen=True)
class Said:
    """What a model replied.

    Attributes:
        text: the reply without its thoughts; "" if there is a `fault`.
        fault: why there is no reply: the reason of a `FormatError` or of a `ChatReply`; None if there is one.
        finish_reason: "stop" or "length".
        tokens: the number of generated tokens.
        prompt_tokens: the number of input tokens.
        requests: the number of attempts at a server.
        reply: the complete reply, thoughts included.
    """

    text: str
    fault: str | None = None
    finish_reason: FinishReason = "stop"
    tokens: int = 0
    prompt_tokens: int = 0
    requests: int = 0
    reply: str = ""

    @property
    def whole(self) -> str:
        """The reply, or "" if it was truncated, because a verdict in its first half may not be the last."""
        return self.text if self.finish_reason == "stop" else ""

    @property
    def why_none(self) -> str:
        """The reason why no verdict was found in the reply."""
        return self.fault or ("truncated" if self.finish_reason == "length" else "unparsed")


Judge = Generate[Ask, Said]


@dataclass(frozen=True)
class ModelJudge:
    """A `Judge` that asks a model on an engine."""

    chat: BoundFormat
    generate: Generate[Request, Completion]

    def __call__(self, blocks: Iterator[tuple[int, list[Ask]]]) -> Iterator[tuple[int, list[Said]]]:
        """Ask everything of every block."""
        return _said(blocks, self.request, self.generate, self.read)

    def request(self, ask: Ask) -> Request | str:
        """Return the request to the engine, or why the chat format cannot represent the text."""
        try:
            return Request(ask.key, self.chat.user_prompt_ids(ask.text), ask.seed)
        except FormatError as error:
            return str(error)

    def read(self, completion: Completion) -> Said:
        """Return the reply in a completion."""
        text, end = self.chat.decode_reply(completion.ids), completion.finish_reason
        return Said(text, None, end, completion.tokens, completion.prompt_tokens, reply=text)


@dataclass(frozen=True)
class ServerJudge:
    """A `Judge` that asks a model behind an OpenAI-compatible server, with a system turn if one is given."""

    server: ChatServer
    system: str | None = None

    def __call__(self, blocks: Iterator[tuple[int, list[Ask]]]) -> Iterator[tuple[int, list[Said]]]:
        """Ask everything of every block."""
        return _said(blocks, self.request, self.server.answer, self.read)

    def request(self, ask: Ask) -> Chat:
        """Return the request to the server."""
        return Chat(ask.key, user(ask.text, self.system), ask.seed)

    def read(self, reply: ChatReply) -> Said:
        """Return the reply without its thoughts."""
        end, tokens = reply.finish_reason, (reply.tokens, reply.prompt_tokens)
        return Said(without_thoughts(reply.text), reply.fault, end, *tokens, reply.requests, reply.text)


def _said(
    blocks: Iterator[tuple[int, list[Ask]]],
    request: Callable[[Ask], Q | str],
    generate: Generate[Q, A],
    read: Callable[[A], Said],
) -> Iterator[tuple[int, list[Said]]]:
    """Send everything that has a request; a string in place of a request says why there is none."""
    taken: dict[int, list[Q | str]] = {}

    def requests() -> Iterator[tuple[int, list[Q]]]:
        for index, asks in blocks:
            taken[index] = [request(ask) for ask in asks]
            yield index, [asked for asked in taken[index] if not isinstance(asked, str)]

    for index, replies in generate(requests()):
        reply = iter(replies)
        asked = taken.pop(index)
        yield index, [Said("", one) if isinstance(one, str) else read(next(reply)) for one in asked]


# ------------------------------------------------------------------------------------------------- in a stage


class Judging(Protocol):
    """The settings that name a stage's judge; they have the same names in every stage."""

    @property
    def judge(self) -> str | None:
        """`model`, `server`, or something else if neither is asked."""

    @property
    def model_name_or_path(self) -> str | None:
        """Folder or hub id of the model, for judge `model`."""

    @property
    def model_revision(self) -> str | None:
        """Its revision on the hub."""

    @property
    def chat_format(self) -> str | None:
        """Its chat format."""

    @property
    def sampling(self) -> Sampling:
        """How the judge is sampled."""

    @property
    def engine(self) -> EngineConfig:
        """What the model runs on."""

    @property
    def server(self) -> ServerConfig:
        """The server, for judge `server`."""

    @property
    def system(self) -> str | None:
        """Text of the system turn."""


def check_judge(config: Judging, where: str = "judge") -> None:
    """Check that the settings give everything that the judge needs.

    Args:
        config: the stage's settings.
        where: the key that names the judge, for error messages.

    Raises:
        ConfigError: a setting is missing.
    """
    if config.judge == "model" and not (config.model_name_or_path and config.chat_format):
        raise ConfigError(f"{where}: model needs model_name_or_path and chat_format")
    if config.judge == "server" and not (config.server.url and config.server.model):
        raise ConfigError(f"{where}: server needs server.url and server.model")


def judge_label(config: Judging) -> str:
    """Return the name of the judge's model, as it is written into rows."""
    name = config.server.model if config.judge == "server" else config.model_name_or_path
    return model_label(name or "")


@contextmanager
def open_judge(
    config: Judging, stage: Stage, run: RunOptions, worker: tuple[int, int] = (0, 1)
) -> Iterator[Judge]:
    """Load the model, or prepare to ask the server, whose answers are kept in the stage's folder.

    Args:
        config: the settings that name the judge.
        stage: an open, unfinished stage.
        run: gives the seed.
        worker: this process's number and the number of processes, which share a server's budget.
    """
    if config.judge == "server":
        journal = stage.output_dir / "parts"
        with ChatServer(config.server, config.sampling, journal=journal, worker=worker) as server:
            yield ServerJudge(server, config.system)
        return
    from scalequest.engines.loading import open_generator

    model, revision = config.model_name_or_path or "", config.model_revision
    chat = bind(load_format(config.chat_format or "", model, revision), load_tokenizer(model, revision))
    with open_generator(model, config.engine, revision=revision, seed=run.seed) as generator:
        stage.receipt["engine"] = f"{generator.name} {generator.version}"
        yield model_judge(generator, chat, config.sampling)


def model_judge(generator: Generator, chat: BoundFormat, sampling: Sampling) -> Judge:
    """Return a `ModelJudge` that uses a loaded model."""
    return ModelJudge(chat, completing(generator, sampling, chat.solve_stop_ids))


def judge_identity(config: Judging) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the model with its fingerprint, and the chat format; both are empty for a server.

    Everything else that can change a reply (the server's model, sampling, system turn) is among the settings.
    """
    if config.judge == "server":
        return {}, {}
    model, revision = config.model_name_or_path or "", config.model_revision
    chat_format = load_format(config.chat_format or "", model, revision)
    return {model: model_fingerprint(model, revision)}, {"chat_format": to_dict(chat_format)}


class Paid(Protocol):
    """What determines the price of a server's reply."""

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens read."""

    @property
    def tokens(self) -> int:
        """Number of tokens generated."""

    @property
    def requests(self) -> int:
        """Number of attempts."""


@dataclass(frozen=True)
class Ledger:
    """The cost of replies, by row number, until their block is written.

    Attributes:
        server: the server, which has the prices; None if no server is asked, and nothing is counted.
        spent: the number of requests and the money.
    """

    server: ServerConfig | None = None
    spent: dict[int, tuple[int, float]] = field(default_factory=dict)

    def add(self, number: int, replies: Sequence[Paid]) -> None:
        """Add the replies to a row's requests."""
        if self.server is not None:
            cost = self.server.cost
            money = sum(cost(reply.prompt_tokens, reply.tokens) for reply in replies)
            self.spent[number] = sum(reply.requests for reply in replies), money

    def counts(self, numbers: range) -> Mapping[str, int | float]:
        """Return `requests` and `cost` of a block, for the receipt."""
        if self.server is None:
            return {}
        entries = [self.spent.pop(number) for number in numbers if number in self.spent]
        return {"requests": sum(n for n, _ in entries), "cost": sum(cost for _, cost in entries)}
