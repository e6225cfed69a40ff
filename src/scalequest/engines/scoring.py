"""Scorers: token ids in, one number out, for reward models and difficulty scorers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from scalequest.config import ConfigError
from scalequest.engines.base import Block, EngineConfig, FinishReason, Request

logger = logging.getLogger(__name__)


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


def open_scorer(model: str, config: EngineConfig, *, revision: str | None = None) -> Scorer:
    """Load `model` (a folder or hub id) with its head; `auto` is vLLM where it can, else transformers.

    vLLM takes sequence classifiers of one label and per-token reward models such as `InternLM2ForRewardModel`
    (the value at the last token counts); transformers takes sequence classifiers.

    Raises:
        ConfigError: the engine cannot be imported or does not know the architecture, or the head has more
            than one number.
    """
    if config.name != "transformers":
        from scalequest.engines.vllm_engine import import_vllm

        why = ""
        try:
            import_vllm()
            from scalequest.engines.vllm_scorer import VllmScorer, unsupported

            why = unsupported(model, config, revision)
        except ConfigError:
            raise
        except Exception as error:  # a broken install fails in many ways
            why = f"vllm cannot be imported: {type(error).__name__}: {error}"
        if not why:
            return VllmScorer(model, config, revision=revision)
        if config.name == "vllm":
            raise ConfigError(f"engine.name: {why}")
        logger.warning("scorer: transformers, since %s", " ".join(why.split()))
    from scalequest.engines.transformers_scorer import TransformersScorer

    return TransformersScorer(model, config, revision=revision)


def check_ids(request: Request, vocabulary: int) -> None:
    """Refuse a request that no context is too small for and that cannot be scored all the same.

    Raises:
        ConfigError: naming the request's key.
    """
    if not request.prompt_ids:
        raise ConfigError(f"request {request.key}: it is empty")
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
        raise ConfigError(f"request {request.key}: a token id is outside the vocabulary of {vocabulary}")
