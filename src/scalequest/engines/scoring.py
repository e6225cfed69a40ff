"""Scorers take token ids and return numbers: reward models, process reward models and difficulty scorers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from scalequest.config import ConfigError
from scalequest.engines.base import Block, FinishReason, Request


@dataclass(frozen=True)
class Head:
    """Which outputs of a model's head are its scores.

    Attributes:
        steps: whether the head belongs to every token and is read at the places of a `StepRequest`, as in
            process reward models; else, it is read at the last token.
        positive: the name or number of the label whose probability is the score if there are two; None: the
            second, provided that the labels have no names of their own.
    """

    steps: bool = False
    positive: str | None = None


@dataclass(frozen=True)
class StepRequest(Request):
    """A request for a score at each of several places.

    Attributes:
        places: the positions of the tokens that end the steps.
    """

    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class Score:
    """The result of one request; it has the attributes of `progress.Reply`.

    Attributes:
        key: the request's key.
        value: the score at the last token, or at the last place of a `StepRequest`; None if the ids exceed
            the context. A head of one output gives that output unchanged (no sigmoid), one of two the
            probability of the positive label.
        prompt_tokens: the number of ids.
        steps: the probability of the positive label at each place of a `StepRequest`; a single output goes
            through a sigmoid.
    """

    key: str
    value: float | None
    prompt_tokens: int
    tokens: int = 0
    steps: tuple[float, ...] = ()

    @property
    def finish_reason(self) -> FinishReason:
        """Return `length` if there were too many ids."""
        return "stop" if self.value is not None else "length"


class Scorer(Protocol):
    """A loaded model with a classifier's head. Use it as a context manager: leaving it frees the model."""

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


def positive_label(config: Any, head: Head, model: str) -> int | None:
    """Return the number of the positive label of a head of two outputs; None for a head of one.

    Args:
        config: the model's transformers config.
        head: what the settings say about it.
        model: its name, for error messages.

    Raises:
        ConfigError: there are more outputs, or the label is not known.
    """
    if config.num_labels == 1:
        return None
    if config.num_labels != 2:
        raise ConfigError(f"{model}: its head has {config.num_labels} outputs, expected one or two")
    names = [str(config.id2label[number]) for number in range(2)]
    if head.positive is not None:
        for number, name in enumerate(names):
            if head.positive in (name, str(number)):
                return number
        raise ConfigError(
            f"positive_label: {model} has the labels {' and '.join(names)}, not '{head.positive}'"
        )
    if not all(re.fullmatch(r"LABEL_\d", name) for name in names):
        raise ConfigError(
            f"positive_label: {model} has the labels {' and '.join(names)}; name the one whose "
            "probability is the score"
        )
    return 1


def score_of(outputs: Sequence[float], positive: int | None, *, probability: bool = False) -> float:
    """Return the score that a head's outputs at one token are.

    Args:
        outputs: one number or two.
        positive: the positive label of two.
        probability: put a single number through a sigmoid.
    """
    if len(outputs) == 1 and not probability:
        return float(outputs[0])
    logit = outputs[0] if len(outputs) == 1 else outputs[positive or 0] - outputs[1 - (positive or 0)]
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    small = math.exp(logit)  # NaN stays NaN
    return small / (1 + small)


def places_of(request: Request) -> tuple[int, ...]:
    """Return the places of a `StepRequest`; none for any other."""
    return request.places if isinstance(request, StepRequest) else ()
