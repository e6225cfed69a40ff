"""Requests, and what a model answers when it is asked alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from scalequest.engines import Block, Completion, Generator, Request, Sampling

VOCABULARY = 300


def requests(count: int, *, seed: int = 0) -> list[Request]:
    """Prompts of 1 to 24 tokens, the same ones for the same `seed`."""
    rng = random.Random(seed)
    return [
        Request(
            f"row-{seed}-{number}",
            [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 24))],
            2**62 + 1000 * seed + number,
        )
        for number in range(count)
    ]


def blocks(rows: Sequence[Request], size: int) -> list[Block]:
    """Cut `rows` into blocks."""
    return [Block(start // size, rows[start : start + size]) for start in range(0, len(rows), size)]


def complete(
    generator: Generator, work: Iterable[Block], sampling: Sampling, stop_ids: Sequence[int] = ()
) -> dict[str, Completion]:
    """Run it all; by key."""
    done: dict[str, Completion] = {}
    for block, completions in generator.generate(work, sampling, stop_ids):
        assert [completion.key for completion in completions] == [request.key for request in block.requests]
        done |= {completion.key: completion for completion in completions}
    return done


def next_logits(model: Any, prompt: Sequence[int]) -> Any:
    """Logits of the token after `prompt`, from one unpadded forward pass."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([list(prompt)])).logits[0, -1]


def greedy(model: Any, prompt: Sequence[int], tokens: int) -> tuple[int, ...]:
    """The most likely continuation, token by token, without a cache of keys and values."""
    return _greedy(model, tuple(prompt), tokens)


@cache
def _greedy(model: Any, prompt: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(next_logits(model, ids).argmax()))
    return tuple(ids[len(prompt) :])
