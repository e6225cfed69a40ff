"""A client for OpenAI-compatible chat servers: many questions in flight, every paid answer stored.

    with ChatServer(config, sampling) as server:
        for index, replies in server.answer(iter([(0, [Chat("row-1", user("What is 2 + 2?"))])])):
            ...

Timeouts, lost connections, 408, 429, 5xx and replies without an answer are retried (tenacity), with
exponential backoff and jitter, and not before the server's `Retry-After`. A postponed question is retried for
as long as other questions are answered. The client gives up on a single question only if the server has
demonstrably been well in the meantime; too many failures in a row stop the run. A budget is never exceeded: a
question is only sent if its maximum cost is still available, and requests that timed out, were cut off, came
back unreadable or were in flight when the process was killed are charged at that maximum, because their
actual cost is unknown. The API key comes from the environment and never appears in files or error messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from scalequest import heartbeat
from scalequest.config import ConfigError
from scalequest.engines.base import Sampling
from scalequest.engines.budget import Budget, Tokens, added
from scalequest.engines.chat_protocol import (
    Again,
    Chat,
    ChatReply,
    Refused,
    Rejected,
    post,
    request_body,
    user,
)
from scalequest.engines.health import Health, Met
from scalequest.engines.journal import Journal
from scalequest.engines.server_config import ServerConfig
from scalequest.interrupts import Interrupts

__all__ = ["BudgetSpent", "Chat", "ChatReply", "ChatServer", "ServerConfig", "ServerError", "user"]

HOPELESS = 20  # questions given up without any answer before we blame the server or the config
_TELL_EVERY = 30.0  # seconds between two log lines about failed attempts
_KEPT = "answers received so far are kept"

Answers = Generator[tuple[int, list[ChatReply]], None, None]
Tasks = dict[asyncio.Task[ChatReply], tuple[int, int]]

logger = logging.getLogger(__name__)


class ServerError(ConfigError):
    """Why the server cannot be asked any further, in one line that says what to do."""


class BudgetSpent(ServerError):
    """The budget does not cover another question."""


@dataclass(frozen=True)
class _Question:
    """A question in progress: its body, its key in the journal, the maximum cost of an attempt."""

    body: dict[str, Any]
    asked: str
    most: Tokens
    met: Met = field(default_factory=Met)


class ChatServer:
    """Sends questions to a server; `answer` can be used as the `generate` hook of `stream`."""

    def __init__(
        self,
        config: ServerConfig,
        sampling: Sampling,
        *,
        journal: Path | None = None,
        worker: tuple[int, int] = (0, 1),
    ) -> None:
        """Take the settings; no request is sent yet.

        Args:
            config: settings with `url` and `model`.
            sampling: the sampling settings of every question.
            journal: the folder that stores answers as they arrive, and finds them again; None stores none.
            worker: this process's number and the number of workers, which share the budget (`budget.share`).

        Raises:
            ConfigError: there is no url or no model.
        """
        if not config.url or not config.model:
            raise ConfigError("server: set url and model, e.g. url: http://localhost:8000/v1")
        # A secret read from a file often ends in a line break, which is not allowed in headers.
        self._key = os.environ.get(config.key_variable, "").strip() or None
        if self._key and not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(
                f"environment variable {config.key_variable}: contains characters that are not "
                "allowed in an API key"
            )
        self.config, self.sampling = config, sampling
        self._journal = Journal(journal, worker[0]) if journal is not None else None
        self._budget = Budget(config, self._journal.spent if self._journal else {}, worker)
        self._health = Health(config.attempts, config.concurrency)
        self._given_up = 0
        self._why: Exception | None = None  # set when everything is being stopped
        self._answering: Answers | None = None
        self._not_before = self._tell_at = 0.0  # times

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the questions in flight and close the journal."""
        if self._answering is not None:  # an error's traceback may still keep it open
            self._answering.close()
        if self._journal is not None:
            self._journal.close()

    def answer(self, blocks: Iterator[tuple[int, list[Chat]]]) -> Iterator[tuple[int, list[ChatReply]]]:
        """Send every question of every numbered block.

        Blocks are taken lazily and yielded in the order in which their last question is answered; the replies
        of a block have the order of its questions.

        However the iteration ends, even if the caller takes no more replies, questions in flight are
        completed first and their answers stored in the journal, because they are paid for.

        Raises:
            ServerError: the server cannot be reached or refuses everything, or the budget is spent.
        """
        self._answering = self._answers(blocks)
        return self._answering

    def _answers(self, blocks: Iterator[tuple[int, list[Chat]]]) -> Answers:
        import httpx

        opened: dict[int, list[ChatReply | None]] = {}
        tasks: Tasks = {}
        waiting, interrupts = _each(blocks, opened), Interrupts()

        def step() -> list[tuple[int, list[ChatReply]]] | None:
            """Keep as many questions in flight as allowed; return complete blocks, or None at the end."""
            while len(tasks) < self.config.concurrency and (item := next(waiting, None)):
                index, position, chat = item
                if chat is None:
                    return [(index, [])]
                tasks[runner.get_loop().create_task(self._ask(client, chat))] = index, position
            self._health.in_flight = len(tasks)
            return _taken(runner.run(_first(tasks)), tasks, opened) if tasks else None

        with asyncio.Runner() as runner:
            client = httpx.AsyncClient(
                base_url=str(self.config.url),
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=self.config.timeout,
                limits=httpx.Limits(max_connections=self.config.concurrency),
            )
            # Interrupts are only counted in here; the caller is interrupted as soon as it has the replies.
            try:
                complete: list[tuple[int, list[ChatReply]]] | None = []
                while complete is not None:
                    yield from complete
                    with interrupts:
                        complete = step()
                    interrupts.check()
            # After any error, including an error of the caller or Ctrl-C, questions in flight are still paid
            # for.
            except BaseException as error:
                why = self._stop(error if isinstance(error, Exception) else ServerError("stopped"))
                with interrupts:
                    _drain(runner, tasks, interrupts)
                raise why if isinstance(error, Exception) else error from None
            finally:
                runner.run(client.aclose())

    # ------------------------------------------------------------------------------------------- one question

    async def _ask(self, client: Any, chat: Chat) -> ChatReply:
        """Ask one question until it is answered or given up."""
        import tenacity

        question = self._question(chat)
        if self._journal:
            known = self._journal.take(question.asked)
            if "text" in known:
                del known["asked"]
                return ChatReply(key=chat.key, **known)
            question.met.billed = known["prompt_tokens"], known["tokens"]
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Again),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=self.config.max_wait),
            stop=lambda _: self._why is not None or self._health.is_over(question.met),
            sleep=self._sleep,
            retry_error_callback=lambda _: self._unanswered(question),
        )
        try:
            reply: ChatReply = await retrying(self._attempt, client, question)
        except Refused as refused:
            reply = self._lost("refused", refused)
        met = question.met
        self._health.answered += reply.fault is None
        prompt_tokens, tokens = added(met.billed, (reply.prompt_tokens, reply.tokens))
        return replace(reply, key=chat.key, prompt_tokens=prompt_tokens, tokens=tokens, requests=met.requests)

    def _question(self, chat: Chat) -> _Question:
        config = self.config
        body = request_body(chat, str(config.model), self.sampling, config.token_limit, config.extra)
        asked = hashlib.sha256(json.dumps([chat.key, body], sort_keys=True).encode()).hexdigest()[:24]
        most = sum(len(text.encode()) + 16 for _, text in chat.messages), self.sampling.max_tokens
        return _Question(body, asked, most)

    async def _attempt(self, client: Any, question: _Question) -> ChatReply:
        """Send the question when the budget covers its maximum cost; store the answer at once."""
        question.met.requests += 1
        while not self._budget.covers(question.most):
            if not self._budget.in_flight:
                raise self._stop(
                    BudgetSpent(
                        "server: the rest of the budget, or of this worker's share, does not cover "
                        f"another question of up to {sum(question.most)} tokens; {_KEPT}: raise "
                        "server.budget or server.budget_tokens and run again to resume"
                    )
                )
            await asyncio.sleep(0.02)
        # One line charges the maximum cost before anything is sent, and the next one returns what was not
        # used.
        held = question.most if self._budget.limited else (0, 0)
        self._budget.hold(question.most)
        self._write(question, held, {})
        used, kept = held, {}
        try:
            reply = await self._send(client, question.body)
            used, kept = (reply.prompt_tokens, reply.tokens), _kept(reply, question.met.requests)
            return reply
        except Exception as error:
            used = (0, 0)
            if isinstance(error, Again):
                used = error.billed = held if error.billed is None else error.billed
                self._health.failed(question.met, error)
                self._put_off(error)
            raise
        finally:
            self._budget.settle(question.most, used)
            self._write(question, added(used, held, -1), kept)

    async def _send(self, client: Any, body: Mapping[str, Any]) -> ChatReply:
        """Wait as long as the server asked everyone to wait, then send the question.

        Raises:
            Again, Refused: see `post`.
            ServerError: the server rejects every question, or reports no token usage although there is a
                budget.
        """
        await self._sleep(self._not_before - time.monotonic())
        if self._why:
            raise Again("the other questions had been stopped", 0)
        start, config = time.monotonic(), self.config
        try:
            reply, counted = await post(client, body, config.timeout, min(1.0, config.max_wait), self._shown)
        except Rejected as rejected:
            hint = f" (check the environment variable {config.key_variable})"
            raise self._stop(f"{rejected}{hint if rejected.status == 401 else ''}") from None
        self._health.replied(start)
        if not counted and self._budget.limited:
            raise self._stop(
                "the server's replies do not report token usage, so a budget cannot be enforced: "
                "unset server.budget and server.budget_tokens"
            )
        return reply

    def _put_off(self, again: Again) -> None:
        """Wait as the server asks; log it now and then, because a long wait should not look like a hang."""
        now = time.monotonic()
        self._not_before = max(self._not_before, now + again.wait)
        if now >= self._tell_at:
            self._tell_at = now + _TELL_EVERY
            left = self._not_before - now
            logger.warning("server: %s; retrying%s", again, f" in {left:.0f} s" if left > 0.5 else "")

    def _write(self, question: _Question, billed: Tokens, more: Mapping[str, Any]) -> None:
        if self._journal is not None and (more or any(billed)):
            line = {"asked": question.asked, "prompt_tokens": billed[0], "tokens": billed[1]}
            self._journal.add(line | dict(more))

    # ------------------------------------------------------------------------------------------- giving up

    def _unanswered(self, question: _Question) -> ChatReply:
        """Give up on one question if it is at fault; otherwise stop everything."""
        met, trouble = question.met, question.met.latest
        assert trouble is not None
        if self._why or not self._health.is_own_fault(met):
            raise self._stop(
                f"no answer after {met.requests} attempts, last error: {trouble}; {_KEPT}: run "
                "again to resume"
            )
        reply = self._lost("nonsense" if trouble.status == 200 else "no_reply", trouble)
        if trouble.status == 200 and any(met.billed):  # otherwise a restart may bring an answer, for free
            self._write(question, (0, 0), _kept(reply, met.requests))
        return reply

    def _lost(self, fault: str, why: Exception) -> ChatReply:
        """Return the reply for a question that is given up; stop everything if the first ones all fail."""
        self._given_up += 1
        if self._given_up >= HOPELESS and not self._health.answered:
            raise self._stop(f"none of the first {HOPELESS} questions was answered: {why}")
        logger.warning("server: gave up on a question: %s", why)
        return ChatReply("", "", "stop", 0, 0, fault=fault)

    def _stop(self, why: Exception | str) -> Exception:
        """Stop all questions; return the first error, which says why."""
        error = ServerError(f"server {self.config.url}: {why}") if isinstance(why, str) else why
        self._why = self._why or error
        return self._why

    async def _sleep(self, seconds: float) -> None:
        """Sleep for this time, or until the other questions have been stopped."""
        until = time.monotonic() + seconds
        while not self._why and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.25))

    def _shown(self, text: str) -> str:
        """Return a text of the server in displayable form: one line, short, without the API key."""
        words = (text.replace(self._key, "***") if self._key else text).split()
        return "".join(char if char.isprintable() else "?" for char in " ".join(words)[:300])


def _kept(reply: ChatReply, requests: int) -> dict[str, Any]:
    """Return what the journal stores about a reply in addition to its tokens."""
    kept = {name: getattr(reply, name) for name in ("text", "finish_reason", "fault")}
    return kept | {"requests": requests}


async def _first(tasks: Iterable[asyncio.Task[ChatReply]]) -> set[asyncio.Task[ChatReply]]:
    """Return the tasks that finish first, or none after a short while, so the caller can be interrupted."""
    done, _ = await asyncio.wait(tasks, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
    return done


def _taken(
    done: Iterable[asyncio.Task[ChatReply]], tasks: Tasks, opened: dict[int, list[ChatReply | None]]
) -> list[tuple[int, list[ChatReply]]]:
    """Store replies by position; return the blocks that are now complete."""
    complete = []
    for task in done:
        index, position = tasks.pop(task)
        opened[index][position] = reply = task.result()
        heartbeat.finished(tokens=reply.tokens)
        if None not in opened[index]:
            complete.append((index, [reply for reply in opened.pop(index) if reply is not None]))
    return complete


def _drain(runner: asyncio.Runner, tasks: Tasks, interrupts: Interrupts) -> None:
    """Wait for the questions in flight, or, after another interrupt, stop waiting."""
    before = interrupts.count
    while tasks:
        for task in runner.run(_first(tasks)):
            del tasks[task]
            if not task.cancelled():
                task.exception()
        if interrupts.count > before:
            for task in tasks:
                task.cancel()


def _each(
    blocks: Iterator[tuple[int, list[Chat]]], opened: dict[int, list[ChatReply | None]]
) -> Iterator[tuple[int, int, Chat | None]]:
    """Yield every question with its block and position; for an empty block, yield once without a question."""
    for index, chats in blocks:
        if not chats:
            yield index, 0, None
            continue
        opened[index] = [None] * len(chats)
        for position, chat in enumerate(chats):
            yield index, position, chat
