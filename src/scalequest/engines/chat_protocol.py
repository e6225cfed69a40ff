"""The chat protocol of OpenAI-compatible servers: a request's body, and what a response says."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from scalequest.engines.base import FinishReason, Sampling

# What no reply can be: far above any real one, so that a broken server costs a question and not the run.
MOST_BYTES = 16 << 20
MOST_TOKENS = 10_000_000  # no model's context holds more
LONGEST_WAIT = 3600.0  # seconds; then it is asked again, and may say once more that it wants to be left alone
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")
# What comes of reading JSON that is none, is not what was expected, or is nested a thousand deep.
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
        text: the answer, "" where `fault` is set.
        finish_reason: "stop" or "length".
        prompt_tokens: billed for reading, over all attempts, those before a restart included; where there is
            a budget, one of which nothing was heard counts as the most it can have come to.
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


def user(text: str, system: str | None = None) -> list[tuple[str, str]]:
    """Messages of one user's turn, behind a system turn where one is given."""
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


async def read_body(response: Any) -> bytes:
    """The body of an `httpx.Response` that was opened as a stream, unpacked.

    Raises:
        ValueError: it is longer than `MOST_BYTES`, packed or unpacked, or not packed as its headers say.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise ValueError(f"content-encoding {encoding!r}, which was not asked for")
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
        Again: it is no answer, or counts tokens in a way that cannot be.
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
        text.encode()  # half of a surrogate pair is valid JSON, but no text that a file can hold
    except (*_NONSENSE, AttributeError) as error:
        raise Again(f"no answer in its reply: {error!r}", 200, billed) from None
    return ChatReply("", text, reason, *(billed or (0, 0))), billed is not None


def _count(value: Any) -> int:
    """A number of tokens; some servers write all numbers with a decimal point."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        raise ValueError("a number of tokens that cannot be")
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
