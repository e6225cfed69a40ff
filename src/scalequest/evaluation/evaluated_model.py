"""The model under evaluation: loaded in an engine and given token ids, or behind a chat server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from scalequest.chat import BoundFormat, ChatFormat
from scalequest.config import ConfigError
from scalequest.engines.base import CHECK_EVERY, Completion, Generator, Request, Sampling
from scalequest.engines.server import Chat, ChatReply, ChatServer, user
from scalequest.evaluation.problems import BenchmarkProblem
from scalequest.evaluation.prompts import EvalPrompt
from scalequest.evaluation.results import sha256_of
from scalequest.grading.extraction import after_thoughts
from scalequest.stage.block_loop import Generate, completing
from scalequest.stage.progress import Reply

OPENINGS, THOUGHT = ("<think>", "<thinking>"), "</think>"
# Our chat formats add this after a question (docs/method.md 5); a server's own template does not.
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


class KeyedReply(Reply, Protocol):
    """A reply that names the request that it answers."""

    @property
    def key(self) -> str:
        """The key of the request."""


Q = TypeVar("Q")
A = TypeVar("A", bound=KeyedReply)


@dataclass(frozen=True)
class EvaluatedModel(Generic[Q, A]):
    """How to ask a model, generate its replies, and read their text.

    Attributes:
        prepare: turns a key, a prompt, a problem and a seed into a request and the hash of the model's input.
            It raises `FormatError` if the chat format cannot represent the problem.
        generate: the `generate` hook of `stream`.
        read: returns the text of a reply, and the reason if there is none.
        opens_reasoning: whether the prompt opens a reasoning block, which the output must close.
    """

    prepare: Callable[[str, EvalPrompt, BenchmarkProblem, int | None], tuple[Q, str]]
    generate: Generate[Q, A]
    read: Callable[[A], tuple[str, str | None]]
    opens_reasoning: Callable[[EvalPrompt], bool]


def connect_engine(
    generator: Generator, format: BoundFormat, sampling: Sampling
) -> EvaluatedModel[Request, Completion]:
    """Connect to a loaded model, which is asked in its chat format."""
    # The samples of one problem follow each other, so the last prompt is cached.
    last: list[tuple[EvalPrompt, BenchmarkProblem, list[int], str]] = []

    def prepare(
        key: str, prompt: EvalPrompt, problem: BenchmarkProblem, seed: int | None
    ) -> tuple[Request, str]:
        if not last or last[0][0] is not prompt or last[0][1] is not problem:
            ids = prompt.ids(problem, format)
            last[:] = [(prompt, problem, ids, sha256_of(json.dumps(ids)))]
        _, _, ids, digest = last[0]
        return Request(key, ids, seed, stop_check(prompt)), digest

    def stop_check(prompt: EvalPrompt) -> Callable[[Sequence[int]], bool] | None:
        # In a chat turn the stop ids end an output, and a stop string inside the reasoning must not end it.
        plain = prompt.turn == "plain" and not opens_reasoning(format.format, prompt)
        return stop_check_of(prompt.stops, format) if plain else None

    decode = decoder_of(format)
    return EvaluatedModel(
        prepare=prepare,
        generate=completing(generator, sampling, format.solve_stop_ids),
        read=lambda completion: (decode(completion.ids), None),
        opens_reasoning=lambda prompt: opens_reasoning(format.format, prompt),
    )


def connect_server(server: ChatServer) -> EvaluatedModel[Chat, ChatReply]:
    """Connect to a model behind an OpenAI-compatible server, which applies its own chat template."""

    def prepare(
        key: str, prompt: EvalPrompt, problem: BenchmarkProblem, seed: int | None
    ) -> tuple[Chat, str]:
        if prompt.turn == "plain":
            raise ConfigError(
                f"prompts: '{prompt.name}' is for base models, but a chat server only accepts chat turns"
            )
        messages = user(prompt.fill(problem) + (BOXED if prompt.turn == "solve" else ""))
        return Chat(key, messages, seed), sha256_of(json.dumps(messages))

    return EvaluatedModel(
        prepare=prepare,
        generate=server.answer,
        read=lambda reply: (reply.text, reply.fault),
        opens_reasoning=lambda prompt: False,
    )


def opens_reasoning(format: ChatFormat, prompt: EvalPrompt) -> bool:
    """Return whether the model's input ends by opening a reasoning block."""
    solve = format.solve.prompt if format.solve is not None else None
    given = {"solve": solve, "user": format.user, "plain": prompt.text}[prompt.turn]
    return (given or "").rstrip().endswith(OPENINGS)


def stop_check_of(stops: Sequence[str], format: BoundFormat) -> Callable[[Sequence[int]], bool] | None:
    """Return a check for stop strings in generated ids; None if there are no stop strings.

    The engine calls it every `CHECK_EVERY` tokens, so it only looks back as far as a stop string may begin
    that was incomplete at the last call: a token is at least one byte, and the first one may lose its space.
    """
    if not stops:
        return None
    window = max(len(stop.encode()) for stop in stops) + CHECK_EVERY + 1

    def contains_stop(ids: Sequence[int]) -> bool:
        said = format.decode_part(ids[-window:])
        return any(stop in said for stop in stops)

    return contains_stop


def decoder_of(format: BoundFormat) -> Callable[[Sequence[int]], str]:
    """Return a decoder of completions that keeps the end of a reasoning block, even a special token."""
    # Looked up here once: the vocabulary is a new dict at every call, which takes 19 ms for 49K tokens.
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
    """Return the text after the model's reasoning, and whether the output was truncated within the reasoning.

    Args:
        text: the complete output.
        opened: whether the prompt itself opened the reasoning block.
    """
    said = after_thoughts(text, opened=opened)
    return ("", True) if said is None else (said.strip(), False)
