"""Scorers take token ids and return one number: reward models and difficulty scorers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from scalequest.config import ConfigError
from scalequest.engines.base import Block, FinishReason, Request


@dataclass(frozen=True)
class Score:
    """The result of one request; it has the attributes of `progress.Reply`.

    Attributes:
        key: the request's key.
        value: the output of the model's head at the last token, unchanged (no sigmoid); None if the ids
            exceed the context.
        prompt_tokens: the number of ids.
    """

    key: str
    value: float | None
    prompt_tokens: int
    tokens: int = 0

    @property
    def finish_reason(self) -> FinishReason:
        """Return `length` if there were too many ids."""
        return "stop" if self.value is not None else "length"


class Scorer(Protocol):
    """A loaded model with a head of one output. Use it as a context manager: leaving it frees the model."""

    name: str
    version: str
    context: int  # maximum number of tokens

    def score(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, list[Score]]]:
        """Score every request of every block; blocks are taken lazily and may come back in a different order.

        Request seeds are ignored. An id outside the vocabulary raises a `ConfigError`.
        """
        ...

    def __enter__(self) -> Scorer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_ids(request: Request, vocabulary: int) -> None:
    """Refuse a request that cannot be scored for a reason other than its length.

    Raises:
        ConfigError: names the request's key.
    """
    if not request.prompt_ids:
        raise ConfigError(f"request {request.key}: empty input")
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
        raise ConfigError(f"request {request.key}: token id outside the vocabulary of {vocabulary}")
