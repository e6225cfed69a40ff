"""Scorers: token ids in, one number out, for reward models and difficulty scorers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from scalequest.config import ConfigError
from scalequest.engines.base import Block, FinishReason, Request


@dataclass(frozen=True)
class Score:
    """What came back for one request; it counts as a `stream.Reply` does.

    Attributes:
        key: the request's.
        value: of the model's one-number head at the last token, as it is (no sigmoid); None where the ids do
            not fit the context.
        prompt_tokens: how many ids there were.
    """

    key: str
    value: float | None
    prompt_tokens: int
    tokens: int = 0

    @property
    def finish_reason(self) -> FinishReason:
        """`length` where the ids were too many."""
        return "stop" if self.value is not None else "length"


class Scorer(Protocol):
    """A loaded model with a one-number head. Use as a context manager: leaving it frees the model."""

    name: str
    version: str
    context: int  # most tokens that it takes

    def score(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, list[Score]]]:
        """Score every request of every block; blocks are taken lazily and may come back in another order.

        Request seeds are not looked at. An id outside the vocabulary is a `ConfigError`.
        """
        ...

    def __enter__(self) -> Scorer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_ids(request: Request, vocabulary: int) -> None:
    """Refuse a request that no context is too small for and that cannot be scored all the same.

    Raises:
        ConfigError: naming the request's key.
    """
    if not request.prompt_ids:
        raise ConfigError(f"request {request.key}: empty input")
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
        raise ConfigError(f"request {request.key}: token id outside the vocabulary of {vocabulary}")
