"""The chat protocol of OpenAI-compatible servers: a request's body, and what a response says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from scalequest.engines.base import FinishReason, Sampling


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
    """An attempt that may be repeated: HTTP status (0 is none), tokens billed for it, seconds to wait."""

    def __init__(self, why: str, status: int, billed: tuple[int, int] = (0, 0), wait: float = 0.0) -> None:
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


def read_reply(response: Any) -> tuple[ChatReply, bool]:
    """The reply (without a key) in an `httpx.Response` of status 200, and whether it counts its tokens.

    Raises:
        Again: it is no answer.
    """
    billed, counted = (0, 0), False
    try:
        content = response.json()
        if usage := content.get("usage"):
            billed, counted = (int(usage["prompt_tokens"]), int(usage["completion_tokens"])), True
        choice = content["choices"][0]
        text, reason = choice["message"].get("content"), choice["finish_reason"]
        if reason == "length" and text is None:
            text = ""  # all its tokens went into reasoning
        if reason == "content_filter":
            return ChatReply("", "", "stop", *billed, fault="content_filter"), counted
        if reason not in ("stop", "length") or not isinstance(text, str):
            raise ValueError(f"finish_reason {reason!r}, content of type {type(text).__name__}")
        text.encode()  # half of a surrogate pair is valid JSON, but no text that a file can hold
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Again(f"no answer in its reply: {error!r}", 200, billed) from None
    return ChatReply("", text, reason, *billed), counted


def error_message(response: Any) -> str:
    """What the server says is wrong."""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, TypeError, LookupError):
        return str(response.text)


def retry_after(header: str | None) -> float:
    """Seconds that a `Retry-After` header asks for, given as a number or a date; 0 where there is none."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
