"""Who answers: a model on an engine, given token ids, or a chat server, given messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from scalequest.chat import BoundFormat, ChatFormat
from scalequest.config import ConfigError
from scalequest.engines.base import CHECK_EVERY, Completion, Generator, Request, Sampling
from scalequest.engines.progress import Reply
from scalequest.engines.server import Chat, ChatReply, ChatServer, user
from scalequest.engines.stream import Answer, completing
from scalequest.evaluation.problems import BenchmarkProblem
from scalequest.evaluation.prompts import EvalPrompt
from scalequest.evaluation.results import sha256_of
from scalequest.grading.extraction import after_thoughts

OPENINGS, THOUGHT = ("<think>", "<thinking>"), "</think>"
# What our chat formats put behind a question (docs/method.md 5); a server's own template has none.
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


class KeyedReply(Reply, Protocol):
    """A reply that says which question it is to."""

    @property
    def key(self) -> str:
        """The question's."""


Q = TypeVar("Q")
A = TypeVar("A", bound=KeyedReply)


@dataclass(frozen=True)
class EvaluatedModel(Generic[Q, A]):
    """How problems are put, answered and read.

    Attributes:
        put: key, prompt, problem and seed to a question, and the hash of what the model is given. It raises
            `FormatError` where the problem cannot be put.
        answer: of `stream`.
        read: a reply's text, or None where there is none, with why.
        thinks: whether the prompt opens a reasoning block, which the output has to close.
    """

    put: Callable[[str, EvalPrompt, BenchmarkProblem, int | None], tuple[Q, str]]
    answer: Answer[Q, A]
    read: Callable[[A], tuple[str, str | None]]
    thinks: Callable[[EvalPrompt], bool]


def connect_engine(
    generator: Generator, format: BoundFormat, sampling: Sampling
) -> EvaluatedModel[Request, Completion]:
    """A model that is loaded, in its chat format."""
    last: list[
        tuple[EvalPrompt, BenchmarkProblem, list[int], str]
    ] = []  # samples of one problem come one by one

    def put(key: str, prompt: EvalPrompt, problem: BenchmarkProblem, seed: int | None) -> tuple[Request, str]:
        if not last or last[0][0] is not prompt or last[0][1] is not problem:
            ids = prompt.ids(problem, format)
            last[:] = [(prompt, problem, ids, sha256_of(json.dumps(ids)))]
        _, _, ids, digest = last[0]
        return Request(key, ids, seed, ends(prompt)), digest

    def ends(prompt: EvalPrompt) -> Callable[[Sequence[int]], bool] | None:
        # In turns, stop ids end an output, and a stop text may stand in the reasoning, where it ends nothing.
        plain = prompt.turn == "plain" and not opens_thoughts(format.format, prompt)
        return stop_check_of(prompt.stops, format) if plain else None

    decode = decoder_of(format)
    return EvaluatedModel(
        put=put,
        answer=completing(generator, sampling, format.solve_stop_ids),
        read=lambda completion: (decode(completion.ids), None),
        thinks=lambda prompt: opens_thoughts(format.format, prompt),
    )


def connect_server(server: ChatServer) -> EvaluatedModel[Chat, ChatReply]:
    """A model behind an OpenAI-compatible server, which has a chat template of its own."""

    def put(key: str, prompt: EvalPrompt, problem: BenchmarkProblem, seed: int | None) -> tuple[Chat, str]:
        if prompt.turn == "plain":
            raise ConfigError(f"prompts: '{prompt.name}' is for base models: a chat server has only turns")
        messages = user(prompt.fill(problem) + (BOXED if prompt.turn == "solve" else ""))
        return Chat(key, messages, seed), sha256_of(json.dumps(messages))

    return EvaluatedModel(
        put=put,
        answer=server.answer,
        read=lambda reply: (reply.text, reply.fault),
        thinks=lambda prompt: False,
    )


def opens_thoughts(format: ChatFormat, prompt: EvalPrompt) -> bool:
    """Whether what the model is given ends with the opening of a reasoning block."""
    solve = format.solve.prompt if format.solve is not None else None
    given = {"solve": solve, "user": format.user, "plain": prompt.text}[prompt.turn]
    return (given or "").rstrip().endswith(OPENINGS)


def stop_check_of(stops: Sequence[str], format: BoundFormat) -> Callable[[Sequence[int]], bool] | None:
    """Whether generated ids hold one of the texts at which an output ends; None where there are no such.

    It is asked every `CHECK_EVERY` tokens, so it looks no further back than a text may begin that was not
    whole the last time: a token is at least one byte of it, and the first may lose its space.
    """
    if not stops:
        return None
    window = max(len(stop.encode()) for stop in stops) + CHECK_EVERY + 1

    def ends(ids: Sequence[int]) -> bool:
        said = format.decode_part(ids[-window:])
        return any(stop in said for stop in stops)

    return ends


def decoder_of(format: BoundFormat) -> Callable[[Sequence[int]], str]:
    """From a completion to its text; the end of a reasoning block stays even where it is a special token."""
    # Looked up here, once: the vocabulary is a new dict at every call, 19 ms for 49K tokens.
    close = format.tokenizer.get_vocab().get(THOUGHT)
    if close not in format.special_ids:
        return format.decode

    def decode(ids: Sequence[int]) -> str:
        if close not in ids:
            return format.decode(ids)
        place = len(ids) - 1 - list(ids)[::-1].index(close)
        return f"{format.decode(ids[:place])}{THOUGHT}{format.decode(ids[place + 1 :])}"

    return decode


def strip_reasoning(text: str, *, opened: bool = False) -> tuple[str, bool]:
    """What follows a model's reasoning, and whether the output was cut inside it.

    Args:
        text: a whole output.
        opened: whether the prompt itself opened the reasoning block.
    """
    said = after_thoughts(text, opened=opened)
    return ("", True) if said is None else (said.strip(), False)
