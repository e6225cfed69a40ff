"""The chat protocol of OpenAI-compatible servers: a request's body, and what a response says."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from scalequest.engines.base import FinishReason, Sampling

# Bounds far above any real reply, so that a broken server costs a question and not the run.
MOST_BYTES = 16 << 20
MOST_TOKENS = 10_000_000  # no model's context holds more
LONGEST_WAIT = 3600.0  # seconds; then it is asked again, and may say once more that it wants to be left alone
_AGAIN = frozenset((408, 409, 425, 429))  # and every 5xx
_SLOWER = frozenset((429, 503))  # these ask everyone to wait, with or without a Retry-After
_REFUSED = frozenset((400, 413, 422))  # this question, e.g. it is too long; other 4xx concern every question
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")
# What reading raises if a text is not JSON, not as expected, or nested a thousand deep.
_NONSENSE = (ValueError, TypeError, LookupError, RecursionError)


@dataclass(frozen=True)
class Chat:
    """One question: what the caller knows it by, its messages as (role, text), and its own seed if any."""

    key: str
    messages: Sequence[tuple[str, str]]
    seed: int | None = None


@dataclass(frozen=True)
class ChatReply:
    """What came back for one question, or why nothing did.

    Attributes:
        key: the question's.
        text: the answer, "" if `fault` is set.
        finish_reason: "stop" or "length".
        prompt_tokens: billed for reading, over all attempts, those before a restart included; under a
            budget, one of which nothing was heard counts as the most that it can have come to.
        tokens: billed for generating, likewise.
        fault: None, or `refused` (the server does not take this question), `content_filter`, `nonsense`
            (never an answer, in all attempts), `no_reply` (an error every time, while others were answered).
        requests: attempts made.
    """

    key: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    tokens: int
    fault: str | None = None
    requests: int = 1


class Again(Exception):
    """An attempt that may be repeated: HTTP status (0 is none), tokens billed for it, seconds to wait.

    `billed` is None if it cost something and nobody says what.
    """

    def __init__(
        self, why: str, status: int, billed: tuple[int, int] | None = (0, 0), wait: float = 0.0
    ) -> None:
        super().__init__(why)
        self.status, self.billed, self.wait = status, billed, wait


class Refused(Exception):
    """The server does not take this question."""


class Rejected(Exception):
    """The server takes no question as it is asked: HTTP status."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


def user(text: str, system: str | None = None) -> list[tuple[str, str]]:
    """Messages of one user's turn, after a system turn if one is given."""
    return [*([("system", system)] if system else []), ("user", text)]


def request_body(
    chat: Chat, model: str, sampling: Sampling, token_limit: str, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """What is sent; `token_limit` is the field's name for the most tokens, `extra` may overwrite any."""
    return {
        "model": model,
        "messages": [{"role": role, "content": text} for role, text in chat.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        token_limit: sampling.max_tokens,
        **({"seed": chat.seed} if chat.seed is not None else {}),
        **extra,
    }


async def post(
    client: Any, body: Mapping[str, Any], timeout: float, pause: float, shown: Callable[[str], str]
) -> tuple[ChatReply, bool]:
    """Ask once: the reply (without a key), and whether it counts its tokens.

    Args:
        client: an `httpx.AsyncClient`.
        body: of the request.
        timeout: seconds for the whole attempt.
        pause: seconds for which a server that is too busy is left alone unless it says for how long.
        shown: makes a text of the server's fit to be shown.

    Raises:
        Again: there is no answer, and it may be asked again.
        Refused: the server does not take this question.
        Rejected: the server takes no question like this.
    """
    import httpx

    sent = False

    async def trace(event: str, _: Any) -> None:
        nonlocal sent
        sent = sent or event.endswith("send_request_body.complete")

    # The exchange, bounded in time and size
    try:
        async with (
            asyncio.timeout(timeout),
            client.stream("POST", "chat/completions", json=body, extensions={"trace": trace}) as response,
        ):
            status, wait = response.status_code, retry_after(response.headers.get("retry-after"))
            try:
                content = await read_body(response)
            except ValueError as error:
                if status == 200:
                    raise Again(shown(f"no usable answer in the reply: {error}"), 200, None) from None
                content = str(error).encode()
    except (httpx.TransportError, TimeoutError) as error:
        # What was not sent is not the question's fault, and costs nothing: a 503 without the words.
        told = shown(f"{type(error).__name__} {error}".strip())
        raise (Again(told, 0, None) if sent else Again(told, 503)) from None
    # What it says
    if status == 200:
        try:
            return read_reply(content)
        except Again as again:
            raise Again(shown(str(again)), 200, again.billed) from None
    said = shown(f"{status} {error_message(content)}")
    if status in _AGAIN or status >= 500:
        raise Again(said, status, wait=wait or (pause if status in _SLOWER else 0.0))
    raise Refused(said) if status in _REFUSED else Rejected(said, status)


async def read_body(response: Any) -> bytes:
    """The body of an `httpx.Response` that was opened as a stream, unpacked.

    Raises:
        ValueError: it is longer than `MOST_BYTES`, packed or unpacked, or not packed as its headers say.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise ValueError(f"content-encoding {encoding!r} was not requested")
    body = bytearray()
    async for chunk in response.aiter_raw():  # httpx would unpack a whole chunk, whatever comes of it
        body += chunk
        if len(body) > MOST_BYTES:
            break
    if encoding not in ("", "identity"):
        try:
            body = bytearray(zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MOST_BYTES + 1))
        except zlib.error as error:
            raise ValueError(f"not {encoding}: {error}") from None
    if len(body) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES >> 20} MiB")
    return bytes(body)


def read_reply(body: bytes) -> tuple[ChatReply, bool]:
    """The reply (without a key) in the body of a response of status 200, and whether it counts its tokens.

    Raises:
        Again: it is not an answer, or counts tokens in a way that cannot be.
    """
    billed: tuple[int, int] | None = None
    try:
        content = json.loads(body)
        if usage := content.get("usage"):
            billed = _count(usage["prompt_tokens"]), _count(usage["completion_tokens"])
        choice = content["choices"][0]
        text, reason = choice["message"].get("content"), choice["finish_reason"]
        if reason == "length" and text is None:
            text = ""  # all its tokens went into reasoning
        if reason == "content_filter":
            return ChatReply("", "", "stop", *(billed or (0, 0)), fault="content_filter"), billed is not None
        if reason not in ("stop", "length") or not isinstance(text, str):
            raise ValueError(f"finish_reason {reason!r}, content of type {type(text).__name__}")
        text.encode()  # half of a surrogate pair is valid JSON, but no file can hold it
    except (*_NONSENSE, AttributeError) as error:
        raise Again(f"no usable answer in the reply: {error!r}", 200, billed) from None
    return ChatReply("", text, reason, *(billed or (0, 0))), billed is not None


def _count(value: Any) -> int:
    """A number of tokens; some servers write all numbers with a decimal point."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        raise ValueError("an impossible token count")
    return int(value)


def error_message(body: bytes) -> str:
    """What the server says is wrong."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except _NONSENSE:
        return body.decode(errors="replace")


def retry_after(header: str | None) -> float:
    """Seconds that a `Retry-After` header asks for, given as a number or a date, at most `LONGEST_WAIT`.

    0 if there is none, or it is neither; servers also write fractions, which RFC 9110 does not have.
    """
    text = (header or "").strip()
    try:
        if _SECONDS.fullmatch(text):
            seconds = float(text)
        else:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, LookupError, ArithmeticError):
        return 0.0
    return min(max(0.0, seconds), LONGEST_WAIT)
