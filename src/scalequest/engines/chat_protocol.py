"""The chat protocol of OpenAI-compatible servers: building request bodies and reading responses."""

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

# Limits far above any real reply, so that a broken server costs one question and not the run.
MOST_BYTES = 16 << 20
MOST_TOKENS = 10_000_000  # more than the context of any model
LONGEST_WAIT = 3600.0  # seconds; after that we ask again, and the server may ask to wait once more
_AGAIN = frozenset((408, 409, 425, 429))  # and every 5xx
_SLOWER = frozenset((429, 503))  # these ask everyone to wait, with or without a Retry-After
_REFUSED = frozenset((400, 413, 422))  # concern one question; other 4xx codes concern all
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")
# Exceptions raised if a text is not JSON, has an unexpected form, or is nested a thousand levels deep.
_NONSENSE = (ValueError, TypeError, LookupError, RecursionError)


@dataclass(frozen=True)
class Chat:
    """One question: the caller's key, its messages as (role, text), and its own seed, if any."""

    key: str
    messages: Sequence[tuple[str, str]]
    seed: int | None = None


@dataclass(frozen=True)
class ChatReply:
    """The answer to one question, or the reason why there is none.

    Attributes:
        key: the question's key.
        text: the answer; "" if `fault` is set.
        finish_reason: "stop" or "length".
        prompt_tokens: input tokens billed, over all attempts, including those before a restart; under a
            budget, an attempt without any response counts with its maximum cost.
        tokens: output tokens billed, counted likewise.
        fault: None, or `refused` (the server rejects this question), `content_filter`, `nonsense` (all
            attempts came back without an answer), `no_reply` (an error every time, while other questions were
            answered).
        requests: the number of attempts.
    """

    key: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    tokens: int
    fault: str | None = None
    requests: int = 1


class Again(Exception):
    """An attempt that may be repeated: HTTP status (0: none), tokens billed for it, seconds to wait.

    `billed` is None if the attempt had a cost that the server did not report.
    """

    def __init__(
        self, why: str, status: int, billed: tuple[int, int] | None = (0, 0), wait: float = 0.0
    ) -> None:
        super().__init__(why)
        self.status, self.billed, self.wait = status, billed, wait


class Refused(Exception):
    """The server rejects this question."""


class Rejected(Exception):
    """The server rejects every question sent in this form; holds the HTTP status."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


def user(text: str, system: str | None = None) -> list[tuple[str, str]]:
    """Return the messages for one user turn, after a system turn if one is given."""
    return [*([("system", system)] if system else []), ("user", text)]


def request_body(
    chat: Chat, model: str, sampling: Sampling, token_limit: str, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the request body; `token_limit` names the field for max_tokens, `extra` overrides any field."""
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
    """Send one request; return the reply (without a key) and whether it reports token usage.

    Args:
        client: an `httpx.AsyncClient`.
        body: the request body.
        timeout: the timeout in seconds for the whole attempt.
        pause: the number of seconds to wait if an overloaded server does not say how long.
        shown: prepares a text of the server for display.

    Raises:
        Again: there is no answer, but the request may be repeated.
        Refused: the server rejects this question.
        Rejected: the server rejects every request of this form.
    """
    import httpx

    sent = False

    async def trace(event: str, _: Any) -> None:
        nonlocal sent
        sent = sent or event.endswith("send_request_body.complete")

    # Exchange request and response, with limits on time and size
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
        # A request that was not sent is not the question's fault and costs nothing, like a 503 without a
        # message.
        told = shown(f"{type(error).__name__} {error}".strip())
        raise (Again(told, 0, None) if sent else Again(told, 503)) from None
    # Interpret the response
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
    """Return the decompressed body of an `httpx.Response` that was opened as a stream.

    Raises:
        ValueError: it is longer than `MOST_BYTES`, before or after decompression, or its encoding is wrong.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise ValueError(f"content-encoding {encoding!r} was not requested")
    body = bytearray()
    async for chunk in response.aiter_raw():  # httpx would decompress a whole chunk, however large the result
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
    """Return the reply (without a key) from the body of a status 200 response, and whether it reports usage.

    Raises:
        Again: it is not an answer, or reports impossible token counts.
    """
    billed: tuple[int, int] | None = None
    try:
        content = json.loads(body)
        if usage := content.get("usage"):
            billed = _count(usage["prompt_tokens"]), _count(usage["completion_tokens"])
        choice = content["choices"][0]
        text, reason = choice["message"].get("content"), choice["finish_reason"]
        if reason == "length" and text is None:
            text = ""  # all its tokens were spent on reasoning
        if reason == "content_filter":
            return ChatReply("", "", "stop", *(billed or (0, 0)), fault="content_filter"), billed is not None
        if reason not in ("stop", "length") or not isinstance(text, str):
            raise ValueError(f"finish_reason {reason!r}, content of type {type(text).__name__}")
        text.encode()  # a lone surrogate is valid JSON, but no file can store it
    except (*_NONSENSE, AttributeError) as error:
        raise Again(f"no usable answer in the reply: {error!r}", 200, billed) from None
    return ChatReply("", text, reason, *(billed or (0, 0))), billed is not None


def _count(value: Any) -> int:
    """Return a token count; some servers write all numbers with a decimal point."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        raise ValueError("an impossible token count")
    return int(value)


def error_message(body: bytes) -> str:
    """Return the server's error message."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except _NONSENSE:
        return body.decode(errors="replace")


def retry_after(header: str | None) -> float:
    """Return the seconds requested by a `Retry-After` header, a number or a date, at most `LONGEST_WAIT`.

    Returns 0 if there is no such header or it is invalid; fractions are accepted, although RFC 9110 has none.
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
