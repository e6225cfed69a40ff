"""Settings of the chat server: which one to ask, how hard, and at what maximum cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scalequest.config import ConfigError, option
from scalequest.config.ranges import COUNT, NOT_NEGATIVE, POSITIVE

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class ServerConfig:
    """Which server to ask, how hard, and at what maximum cost."""

    url: str | None = option(
        None, "base URL up to the version, e.g. http://localhost:8000/v1", fingerprint=False
    )
    model: str | None = option(None, "name of the model on the server")
    key_variable: str = option(
        "OPENAI_API_KEY",
        "environment variable that holds the API key; if it is unset, no key is sent",
        fingerprint=False,
    )
    concurrency: int = option(32, "questions in flight per worker", fingerprint=False, within=COUNT)
    timeout: float = option(120.0, "timeout of an attempt in seconds", fingerprint=False, within=POSITIVE)
    attempts: int = option(
        8,
        "maximum number of attempts per question; replies that ask to wait count only if "
        "no other question is being answered",
        fingerprint=False,
        within=COUNT,
    )
    max_wait: float = option(
        60.0,
        "maximum delay in seconds between attempts, unless the server asks for more",
        fingerprint=False,
        within=NOT_NEGATIVE,
    )
    token_limit: str = option("max_tokens", "request field that takes sampling.max_tokens", fingerprint=False)
    price_in: float = option(0.0, "price per million input tokens", fingerprint=False, within=NOT_NEGATIVE)
    price_out: float = option(0.0, "price per million output tokens", fingerprint=False, within=NOT_NEGATIVE)
    budget: float | None = option(
        None, "maximum cost of this stage, restarts included", fingerprint=False, within=NOT_NEGATIVE
    )
    budget_tokens: int | None = option(
        None,
        "maximum number of input and output tokens of this stage",
        fingerprint=False,
        within=NOT_NEGATIVE,
    )
    extra: dict[str, Any] = option(help="further fields of the request", default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, and a URL that contains a secret."""
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError("server.url: expected http://host[:port]/v1 or https://...")
            if parts.username or parts.password or parts.query:
                raise ConfigError(
                    "server.url: must not contain a user, password or query; put the key into the "
                    "environment variable named by key_variable"
                )
        if not _NAME.fullmatch(self.key_variable):  # not shown, because it may be the key itself
            raise ConfigError("server.key_variable: expected the name of an environment variable")
        if self.budget is not None and not self.price_in + self.price_out:
            raise ConfigError("server.budget: also set server.price_in and server.price_out")

    def cost(self, prompt_tokens: int, tokens: int) -> float:
        """Return the cost of this many input and output tokens."""
        return (prompt_tokens * self.price_in + tokens * self.price_out) / 1e6
