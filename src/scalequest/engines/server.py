"""A client for any OpenAI-compatible chat server: many questions in flight, every paid answer kept.

    with ChatServer(config, sampling) as server:
        for index, replies in server.answer(iter([(0, [Chat("row-1", user("What is 2 + 2?"))])])):
            ...

Timeouts, lost connections, 408, 429, 5xx and answers that are no answer are asked again, after waits that
double with jitter, and not before the server's `Retry-After`. Who is put off goes on for as long as others
are answered; a question is given up alone only if the server has demonstrably been well in the meantime. A
budget is never overdrawn: a question is sent only where the most that it can cost is still there, and what
timed out, was cut off, came back unreadable or was in flight when the process was killed is charged at that
most, for nobody says what it came to. The key comes from the environment and appears in nothing that is
written or raised.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from scalequest import heartbeat
from scalequest.config import ConfigError, option
from scalequest.engines.base import Sampling
from scalequest.engines.chat_protocol import (
    Again,
    Chat,
    ChatReply,
    Refused,
    error_message,
    read_body,
    read_reply,
    request_body,
    retry_after,
    user,
)
from scalequest.engines.journal import Journal
from scalequest.interrupts import Interrupts
from scalequest.ranges import COUNT, NOT_NEGATIVE, POSITIVE

__all__ = ["BudgetSpent", "Chat", "ChatReply", "ChatServer", "ServerConfig", "ServerError", "user"]

HOPELESS = 20  # questions given up without a single answer before it is the server's or the config's fault
_AGAIN = frozenset((408, 409, 425, 429))  # and every 5xx
_SLOWER = frozenset((429, 503))  # these ask everyone to wait, with or without a Retry-After
_ITS_OWN = frozenset((0, 200, 500))  # may be the question's own fault; the rest of those asked again is not
_REFUSED = frozenset((400, 413, 422))  # this question, e.g. it is too long; other 4xx concern every question

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TELL_EVERY = 30.0  # seconds between two lines of log about attempts that failed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerConfig:
    """Which server is asked, how hard, and what it may cost."""

    url: str | None = option(None, "up to its version, e.g. http://localhost:8000/v1", fingerprint=False)
    model: str | None = option(None, "what the server calls the model")
    key_variable: str = option(
        "OPENAI_API_KEY", "environment variable that holds the key; unset: none is sent", fingerprint=False
    )
    concurrency: int = option(32, "questions in flight, by each worker", fingerprint=False, within=COUNT)
    timeout: float = option(
        120.0, "seconds after which an attempt is given up", fingerprint=False, within=POSITIVE
    )
    attempts: int = option(
        8,
        "how often a question is asked before it is given up; being put off counts while nobody is answered",
        fingerprint=False,
        within=COUNT,
    )
    max_wait: float = option(
        60.0, "most seconds between attempts of our own accord", fingerprint=False, within=NOT_NEGATIVE
    )
    token_limit: str = option("max_tokens", "the request's field for sampling.max_tokens", fingerprint=False)
    price_in: float = option(0.0, "money for a million tokens read", fingerprint=False, within=NOT_NEGATIVE)
    price_out: float = option(
        0.0, "money for a million tokens generated", fingerprint=False, within=NOT_NEGATIVE
    )
    budget: float | None = option(
        None, "most money this stage may cost, restarts included", fingerprint=False, within=NOT_NEGATIVE
    )
    budget_tokens: int | None = option(
        None, "most tokens it may read and generate", fingerprint=False, within=NOT_NEGATIVE
    )
    extra: dict[str, Any] = option(help="further fields of the request", default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot work, and an address that holds a secret."""
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError("server.url: expected http://host[:port]/v1 or https://...")
            if parts.username or parts.password or parts.query:
                raise ConfigError("server.url: no user, password or query; the key goes into key_variable")
        if not _NAME.fullmatch(self.key_variable):  # not shown: it may be the key itself
            raise ConfigError("server.key_variable: expected the name of an environment variable")
        if self.budget is not None and not self.price_in + self.price_out:
            raise ConfigError("server.budget: needs server.price_in and server.price_out")

    def cost(self, prompt_tokens: int, tokens: int) -> float:
        """Money for so many tokens read and generated."""
        return (prompt_tokens * self.price_in + tokens * self.price_out) / 1e6


class ServerError(ConfigError):
    """Why the server cannot be asked any further, in one line that says what to do."""


class BudgetSpent(ServerError):
    """The budget does not cover another question."""


class ChatServer:
    """Asks a server; `answer` fits `stream` as it is. Use as a context manager."""

    def __init__(
        self,
        config: ServerConfig,
        sampling: Sampling,
        *,
        journal: Path | None = None,
        worker: tuple[int, int] = (0, 1),
    ) -> None:
        """Take the settings; nothing is asked yet.

        Args:
            config: with `url` and `model`.
            sampling: of every question.
            journal: folder in which answers are kept as they come, and found again; None keeps none.
            worker: this process's number and how many there are; they share the budget, see `_share`.

        Raises:
            ConfigError: there is no url or no model.
        """
        if not config.url or not config.model:
            raise ConfigError("server: url and model are needed, e.g. http://localhost:8000/v1")
        self.config, self.sampling = config, sampling
        # A secret read from a file often ends in a line break, which no header may hold.
        self._key = os.environ.get(config.key_variable, "").strip() or None
        if self._key and not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(
                f"environment variable {config.key_variable}: it holds characters that no key can have"
            )
        self._journal = Journal(journal, worker[0]) if journal is not None else None
        spent = self._journal.spent if self._journal else {}
        self._money = _share(config.budget, {n: config.cost(*tokens) for n, tokens in spent.items()}, *worker)
        self._tokens = _share(config.budget_tokens, {n: sum(tokens) for n, tokens in spent.items()}, *worker)
        self._billed = (0, 0)  # tokens read and generated for this process since it began
        self._reserved = (0, 0)  # the most that attempts in flight can come to
        self._answered = self._given_up = 0
        self._well = 0.0  # when the latest attempt that was answered had been sent
        self._in_flight = self._in_vain = 0  # questions; attempts that failed since any was answered
        self._why: Exception | None = None  # everything is being stopped
        self._answering: Generator[tuple[int, list[ChatReply]], None, None] | None = None
        self._not_before = self._tell_at = 0.0

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is in flight, and close the journal."""
        if self._answering is not None:  # an error's traceback may still hold it open
            self._answering.close()
        if self._journal is not None:
            self._journal.close()

    def answer(self, blocks: Iterator[tuple[int, list[Chat]]]) -> Iterator[tuple[int, list[ChatReply]]]:
        """Ask every question of every numbered block.

        Blocks are taken lazily and come back in the order in which their last question is answered; the
        replies of one stand in the order of its questions.

        Whatever ends it, also where nobody takes its replies any more, questions in flight are waited for
        first, and what they brought is in the journal: it is paid for.

        Raises:
            ServerError: the server cannot be reached or refuses everything, or the budget is spent.
        """
        self._answering = self._answers(blocks)
        return self._answering

    def _answers(
        self, blocks: Iterator[tuple[int, list[Chat]]]
    ) -> Generator[tuple[int, list[ChatReply]], None, None]:
        import httpx

        opened: dict[int, list[ChatReply | None]] = {}
        tasks: dict[asyncio.Task[ChatReply], tuple[int, int]] = {}
        waiting, interrupts = _each(blocks, opened), Interrupts()

        def send() -> list[tuple[int, list[ChatReply]]]:
            """Have as many in flight as may be; returns a block in which nothing is asked."""
            while len(tasks) < self.config.concurrency and (item := next(waiting, None)):
                index, position, chat = item
                if chat is None:
                    return [(index, [])]
                tasks[runner.get_loop().create_task(self._ask(client, chat))] = index, position
            self._in_flight = len(tasks)
            return []

        def receive() -> list[tuple[int, list[ChatReply]]]:
            """Take what has come by now; returns the blocks that this completes."""
            complete = []
            for task in runner.run(_first(tasks)):
                index, position = tasks.pop(task)
                opened[index][position] = reply = task.result()
                heartbeat.finished(tokens=reply.tokens)
                if None not in opened[index]:
                    complete.append((index, [reply for reply in opened.pop(index) if reply is not None]))
            return complete

        with asyncio.Runner() as runner:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            limits = httpx.Limits(max_connections=self.config.concurrency)
            client = httpx.AsyncClient(
                base_url=str(self.config.url), headers=headers, timeout=self.config.timeout, limits=limits
            )
            try:
                done = False
                while not done:
                    with interrupts:  # not while others have the replies: theirs is to be ended at once
                        complete = send()
                        done = not complete and not tasks
                        if not complete and tasks:
                            complete = receive()
                    interrupts.check()
                    yield from complete
            except BaseException as error:  # a gate or Ctrl-C, too
                why = self._stop(error if isinstance(error, Exception) else ServerError("stopped"))
                with interrupts:
                    before = interrupts.count
                    while tasks:
                        for task in runner.run(_first(tasks)):
                            del tasks[task]
                            if not task.cancelled():
                                task.exception()
                        if interrupts.count > before:  # once more: what is in flight is waited for no longer
                            for task in tasks:
                                task.cancel()
                raise why if isinstance(error, Exception) else error from None
            finally:
                runner.run(client.aclose())

    # ------------------------------------------------------------------------------------------- one question

    async def _ask(self, client: Any, chat: Chat) -> ChatReply:
        """One question until it is answered or given up."""
        import tenacity

        limit = self.config.token_limit
        body = request_body(chat, str(self.config.model), self.sampling, limit, self.config.extra)
        asked = hashlib.sha256(json.dumps([chat.key, body], sort_keys=True).encode()).hexdigest()[:24]
        billed = (0, 0)
        if self._journal:
            known = self._journal.take(asked)
            if "text" in known:
                del known["asked"]
                return ChatReply(key=chat.key, **known)
            billed = (known["prompt_tokens"], known["tokens"])
        most = (sum(len(text.encode()) + 16 for _, text in chat.messages), self.sampling.max_tokens)
        requests = suspect = 0  # attempts: all of them, those with a fault that may be its own
        since, its_own = (0.0, 0), False
        reply: ChatReply | None = None
        trouble: Again | None = None

        def over(_: object) -> bool:
            return self._why is not None or its_own or self._hopeless(requests)

        try:
            async for attempt in tenacity.AsyncRetrying(
                stop=over,
                wait=tenacity.wait_random_exponential(multiplier=0.5, max=self.config.max_wait),
                retry=tenacity.retry_if_exception_type(Again),
                sleep=self._sleep,
                reraise=True,
            ):
                with attempt:
                    requests += 1
                    try:
                        reply = await self._attempt(client, body, asked, most, requests)
                    except Again as again:
                        now = time.monotonic()
                        billed = _added(billed, again.billed or (0, 0))
                        self._not_before = max(self._not_before, now + again.wait)
                        self._in_vain += 1
                        self._tell(again)
                        if again.status in _ITS_OWN:
                            suspect += 1
                            since = since if suspect > 1 else (now, self._answered)
                            its_own = suspect >= self.config.attempts and (
                                again.status == 200 or self._well_since(*since)
                            )
                        raise
        except Again as again:
            trouble = again
        except Refused as refused:
            reply = _lost(chat, "refused")
            self._give_up(str(refused))
        if trouble is not None:
            if self._why or not its_own:
                raise self._stop(
                    ServerError(
                        f"server {self.config.url}: no answer in {requests} attempts, last: {trouble}; "
                        "what was answered is kept: run again to go on"
                    )
                )
            reply = _lost(chat, "nonsense" if trouble.status == 200 else "no_reply")
            self._give_up(str(trouble))
            if trouble.status == 200 and any(billed):  # else one may come after a restart, and costs nothing
                self._write(asked, (0, 0), _kept(reply, requests))
        assert reply is not None
        self._answered += reply.fault is None
        prompt_tokens, tokens = _added(billed, (reply.prompt_tokens, reply.tokens))
        return replace(reply, key=chat.key, prompt_tokens=prompt_tokens, tokens=tokens, requests=requests)

    async def _attempt(
        self, client: Any, body: Mapping[str, Any], asked: str, most: tuple[int, int], requests: int
    ) -> ChatReply:
        """Ask once the budget covers the most that it can cost; the answer is in the journal at once."""
        while self._overdrawn(most):
            if self._reserved == (0, 0):
                raise self._stop(
                    BudgetSpent(
                        "server: what is left of the budget, or of this worker's share, does not cover "
                        f"another question of up to {sum(most)} tokens; what was answered is kept: "
                        "raise server.budget or server.budget_tokens and run again to go on"
                    )
                )
            await asyncio.sleep(0.02)
        # A line charges the most before anything is sent, and the next takes back what was not used.
        held = most if self._budgeted else (0, 0)
        self._reserved = _added(self._reserved, most)
        self._write(asked, held, {})
        used, kept = held, {}
        try:
            reply = await self._post(client, body)
            used, kept = (reply.prompt_tokens, reply.tokens), _kept(reply, requests)
            return reply
        except Exception as error:
            used = (0, 0)
            if isinstance(error, Again):
                used = error.billed = held if error.billed is None else error.billed
            raise
        finally:
            self._reserved = _added(self._reserved, most, -1)
            self._billed = _added(self._billed, used)
            self._write(asked, _added(used, held, -1), kept)

    @property
    def _budgeted(self) -> bool:
        return self._money is not None or self._tokens is not None

    def _overdrawn(self, most: tuple[int, int]) -> bool:
        read, generated = (
            billed + reserved + more
            for billed, reserved, more in zip(self._billed, self._reserved, most, strict=True)
        )
        return (self._money is not None and self.config.cost(read, generated) > self._money) or (
            self._tokens is not None and read + generated > self._tokens
        )

    async def _post(self, client: Any, body: Mapping[str, Any]) -> ChatReply:
        import httpx

        await self._sleep(self._not_before - time.monotonic())
        if self._why:
            raise Again("the others had been stopped", 0)
        sent, start = False, time.monotonic()
        unreadable: ValueError | None = None

        async def trace(event: str, _: Any) -> None:
            nonlocal sent
            sent = sent or event.endswith("send_request_body.complete")

        try:
            async with (
                asyncio.timeout(self.config.timeout),
                client.stream("POST", "chat/completions", json=body, extensions={"trace": trace}) as response,
            ):
                try:
                    content = await read_body(response)
                except ValueError as error:
                    content, unreadable = str(error).encode(), error
        except (httpx.TransportError, TimeoutError) as error:
            # What was not sent is no question's fault, and costs nothing: a 503 without the words.
            raise Again(
                self._shown(f"{type(error).__name__} {error}".strip()),
                0 if sent else 503,
                None if sent else (0, 0),
            ) from None
        status = response.status_code
        if status == 200:
            try:
                if unreadable is not None:
                    raise Again(f"no answer in its reply: {unreadable}", 200, None)
                reply, counted = read_reply(content)
            except Again as again:
                raise Again(self._shown(str(again)), 200, again.billed) from None
            self._well, self._in_vain = max(self._well, start), 0
            if not counted and self._budgeted:
                raise self._stop(
                    ServerError(
                        f"server {self.config.url}: its replies do not count their tokens, so no budget "
                        "can be kept: unset server.budget and server.budget_tokens"
                    )
                )
            return reply
        said = self._shown(f"{status} {error_message(content)}")
        if status in _AGAIN or status >= 500:
            pause = min(1.0, self.config.max_wait) if status in _SLOWER else 0.0
            raise Again(said, status, wait=retry_after(response.headers.get("retry-after")) or pause)
        if status in _REFUSED:
            raise Refused(said)
        hint = f" (is the environment variable {self.config.key_variable} right?)" if status == 401 else ""
        raise self._stop(ServerError(f"server {self.config.url}: {said}{hint}"))

    def _well_since(self, moment: float, answered: int) -> bool:
        """Whether the server has answered others since a moment, when it had answered so many.

        What was sent earlier shows nothing, a dying server may still finish it; but where nothing fresh is
        left to be sent, it has to do.
        """
        fresh = self._in_flight >= self.config.concurrency
        return self._well > moment or (not fresh and self._answered > answered)

    def _hopeless(self, requests: int) -> bool:
        """Whether a question was asked often enough, and so were all in flight since any was answered."""
        attempts = self.config.attempts
        return requests >= attempts and self._in_vain >= attempts * self._in_flight

    def _stop(self, why: Exception) -> Exception:
        """Have all questions given up; the first to say why is heard."""
        self._why = self._why or why
        return self._why

    async def _sleep(self, seconds: float) -> None:
        """Sleep so long, or until the others have been stopped."""
        until = time.monotonic() + seconds
        while not self._why and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.25))

    def _write(self, asked: str, billed: tuple[int, int], more: Mapping[str, Any]) -> None:
        if self._journal is not None and (more or any(billed)):
            self._journal.add({"asked": asked, "prompt_tokens": billed[0], "tokens": billed[1], **more})

    def _tell(self, again: Again) -> None:
        """Say what is being waited for, now and then: a long `Retry-After` should not look like a hang."""
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + _TELL_EVERY
            left = self._not_before - now
            logger.warning("server: %s; asking again%s", again, f" in {left:.0f} s" if left > 0.5 else "")

    def _give_up(self, why: str) -> None:
        self._given_up += 1
        if self._given_up >= HOPELESS and not self._answered:
            raise self._stop(
                ServerError(
                    f"server {self.config.url}: the first {HOPELESS} questions brought no answer: {why}"
                )
            )
        logger.warning("server: gave a question up: %s", why)

    def _shown(self, text: str) -> str:
        """Text of the server's that may be shown: on one line, short, and without the key."""
        words = (text.replace(self._key, "***") if self._key else text).split()
        return "".join(char if char.isprintable() else "?" for char in " ".join(words)[:300])


def _share(whole: float | None, spent: Mapping[int, float], worker: int, workers: int) -> float | None:
    """What a worker may still spend of the whole, where `spent` is what each has spent already.

    All may reach the same level: the one at which they come to the whole together with those that were above
    it before and those that are no more. Spending up to it does not move it, so whoever starts again in the
    middle of a launch finds the same level.
    """
    if whole is None:
        return None
    whole -= sum(of for number, of in spent.items() if number >= workers)
    below = sorted(spent.get(number, 0.0) for number in range(workers))
    while below and below[-1] * len(below) > whole:
        whole -= below.pop()
    return whole / len(below) - spent.get(worker, 0.0) if below else 0.0


def _lost(chat: Chat, fault: str) -> ChatReply:
    return ChatReply(chat.key, "", "stop", 0, 0, fault=fault)


def _kept(reply: ChatReply, requests: int) -> dict[str, Any]:
    """What the journal holds of a reply beside its tokens."""
    return {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "fault": reply.fault,
        "requests": requests,
    }


def _added(one: tuple[int, int], other: tuple[int, int], sign: int = 1) -> tuple[int, int]:
    return one[0] + sign * other[0], one[1] + sign * other[1]


async def _first(tasks: Iterable[asyncio.Task[ChatReply]]) -> set[asyncio.Task[ChatReply]]:
    """Those that are done first; none, if for a while none is, so that the caller sees an interrupt."""
    done, _ = await asyncio.wait(tasks, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
    return done


def _each(
    blocks: Iterator[tuple[int, list[Chat]]], opened: dict[int, list[ChatReply | None]]
) -> Iterator[tuple[int, int, Chat | None]]:
    """Every question with its block and place; an empty block once, without one."""
    for index, chats in blocks:
        if not chats:
            yield index, 0, None
            continue
        opened[index] = [None] * len(chats)
        for position, chat in enumerate(chats):
            yield index, position, chat
