"""Which chat server is asked, how hard, and what it may cost."""

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
        "most attempts per question; a reply that asks to wait counts only while none is being answered",
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
