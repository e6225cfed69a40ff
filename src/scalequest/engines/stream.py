"""The loop of every data stage: rows in, questions asked in fixed blocks, rows written a block at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from scalequest import heartbeat
from scalequest.config import ConfigError
from scalequest.engines.base import Block, Completion, Generator, Request, Sampling
from scalequest.engines.progress import Gates, Progress, Reply
from scalequest.markup import shorten
from scalequest.records import Row, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

logger = logging.getLogger(__name__)

SAMPLES = 8  # rows in the tracker's table


@dataclass(frozen=True)
class Drop:
    """A row that goes no further, and why (one snake_case word or two; it is counted in the receipt)."""

    row: Row
    reason: str


Q = TypeVar("Q")
A = TypeVar("A", bound=Reply)
Answer = Callable[[Iterator[tuple[int, list[Q]]]], Iterator[tuple[int, list[A]]]]


def completing(
    generator: Generator,
    sampling: Sampling,
    stop_ids: Sequence[int],
    *,
    block_seeds: tuple[int, str] | None = None,
) -> Answer[Request, Completion]:
    """The `answer` of `stream` that is one model on one engine.

    A prompt too long for the context is not asked, and comes back as cut before its first token: one long
    question costs its row, not the run. With `block_seeds` (the run's seed, the stage) every block has a
    seed, made of these, its number and its first request: no two draw the same numbers, on any worker.

    Raises:
        ConfigError: `sampling.max_tokens` alone fills the context.
    """
    room = generator.context - sampling.max_tokens
    if room < 1:
        raise ConfigError(
            f"sampling.max_tokens: {sampling.max_tokens} fills the context of {generator.context}"
        )

    def answer(blocks: Iterator[tuple[int, list[Request]]]) -> Iterator[tuple[int, list[Completion]]]:
        asked: dict[int, list[Request]] = {}

        def fitting() -> Iterator[Block]:
            for index, requests in blocks:
                asked[index] = requests
                seed = row_seed(*block_seeds, "block", index, requests[0].key) if block_seeds else None
                yield Block(index, [request for request in requests if len(request.prompt_ids) <= room], seed)

        for block, completions in generator.generate(fitting(), sampling, stop_ids):
            done = iter(completions)
            yield (
                block.index,
                [
                    next(done)
                    if len(request.prompt_ids) <= room
                    else Completion(request.key, (), "length", len(request.prompt_ids), 0)
                    for request in asked.pop(block.index)
                ],
            )

    return answer


def stream(
    stage: Stage,
    rows: int,
    block_size: int,
    *,
    ask: Callable[[int], Sequence[Q] | Drop],
    answer: Answer[Q, A] | None,
    settle: Callable[[int, Sequence[A]], Row | Drop],
    counts: Callable[[range], Mapping[str, int | float]] | None = None,
    tracker: Tracker | None = None,
    gates: Gates | None = None,
    text: Callable[[Row], str] | None = None,
) -> None:
    """Take row numbers 0 to `rows` - 1 through a model and write what comes of each, once.

    Only this worker's blocks that have no part file yet are asked, so a restart goes on where it stopped.

    Args:
        stage: open and unfinished; it says which blocks are this worker's. The caller finishes it.
        rows: how many rows the stage has.
        block_size: rows a part file, and a batch of the `transformers` engine.
        ask: row number to what is asked for it (one entry a sample), or to a `Drop`.
        answer: takes numbered blocks of questions lazily, gives each block's replies, in any order of
            blocks; None where no row asks anything.
        settle: row number and its replies to the row that is kept, or to a `Drop`.
        counts: row numbers of a block to further numbers for the receipt, which sums them over all blocks.
        tracker: gets the rates and one table of sample rows.
        gates: rates that end the stage early when they are exceeded.
        text: a kept row's text, equal for duplicates; None does not look for them.

    Raises:
        GateError: a rate is above its limit. The blocks written so far stay.
    """
    name = str(stage.receipt["stage"])
    todo = list(stage.pending(rows, block_size))
    progress = Progress(
        name,
        rows,
        lambda: min(rows, stage.written() * block_size),
        tracker,
        gates=gates,
        text=text,
        mine=sum(len(numbers) for _, numbers in todo),
    )
    planned: dict[int, tuple[range, list[Sequence[Q] | Drop]]] = {}
    samples: list[Row] = []

    def write(index: int, replies: list[A]) -> None:
        numbers, plan = planned.pop(index)
        kept: list[Row] = []
        dropped: list[tuple[Row, str]] = []
        start = 0
        for number, asked in zip(numbers, plan, strict=True):
            if isinstance(asked, Drop):
                outcome: Row | Drop = asked
            else:
                outcome = settle(number, replies[start : start + len(asked)])
                start += len(asked)
            if isinstance(outcome, Drop):
                dropped.append((outcome.row, outcome.reason))
            else:
                kept.append(outcome)
        if start != len(replies):
            raise RuntimeError(f"{name}: block {index} got {len(replies)} replies to {start} questions")
        stage.write_block(
            index,
            kept,
            dropped,
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            tokens=sum(reply.tokens for reply in replies),
            seconds=progress.lap(),
            **(counts(numbers) if counts is not None else {}),
        )
        if not samples and kept:
            logger.info("%s: first row: %s", name, _shorten_values(kept[0]))
        samples.extend(kept[: SAMPLES - len(samples)])
        progress.add(kept, dropped, replies)

    def blocks() -> Iterator[tuple[int, list[Q]]]:
        for index, numbers in todo:
            plan = [ask(number) for number in numbers]
            planned[index] = (numbers, plan)
            questions = [question for asked in plan if not isinstance(asked, Drop) for question in asked]
            progress.ask(len(numbers), len(questions))
            if questions:
                yield index, questions
            else:
                write(index, [])

    with progress:
        if answer is None:
            for index, _ in blocks():
                raise RuntimeError(f"{name}: block {index} asks, and nobody is there to answer")
        else:
            for index, replies in answer(blocks()):
                write(index, replies)
    heartbeat.now("writing the results")
    if planned:
        raise RuntimeError(f"{name}: no replies came back for blocks {sorted(planned)}")
    if tracker is not None and samples:
        tracker.table("samples", samples)


def _shorten_values(row: Row) -> dict[str, Any]:
    return {key: value if len(str(value)) <= 300 else shorten(str(value), 300) for key, value in row.items()}
