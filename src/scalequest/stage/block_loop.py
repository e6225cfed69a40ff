"""The loop of every data stage: rows in, requests made in fixed blocks, rows written one block at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from scalequest import heartbeat
from scalequest.config import ConfigError
from scalequest.engines.base import Block, Completion, Generator, Request, Sampling
from scalequest.pages.markup import shorten
from scalequest.records import Row, row_seed
from scalequest.stage.folder import Stage
from scalequest.stage.progress import Gates, Progress, Reply
from scalequest.tracking import Tracker

logger = logging.getLogger(__name__)

SAMPLES = 8  # rows in the tracker's table


@dataclass(frozen=True)
class Drop:
    """A row that goes no further, and the reason in snake_case, which the receipt counts."""

    row: Row
    reason: str


Q = TypeVar("Q")
A = TypeVar("A", bound=Reply)
Generate = Callable[[Iterator[tuple[int, list[Q]]]], Iterator[tuple[int, list[A]]]]


def completing(
    generator: Generator,
    sampling: Sampling,
    stop_ids: Sequence[int],
    *,
    block_seeds: tuple[int, str] | None = None,
) -> Generate[Request, Completion]:
    """The `generate` hook of `stream` for one model on one engine.

    A prompt that is too long for the context is not sent, and comes back as cut before its first token: one
    long question costs its row, not the run. With `block_seeds` (the run's seed and the stage) every block
    gets a seed made of these, its number and its first request, so that no two blocks draw the same numbers,
    on any worker.

    Raises:
        ConfigError: `sampling.max_tokens` alone fills the context.
    """
    room = generator.context - sampling.max_tokens
    if room < 1:
        raise ConfigError(
            f"sampling.max_tokens: {sampling.max_tokens} leaves no room for a prompt in the "
            f"context of {generator.context}"
        )
    return _Completing(generator, sampling, stop_ids, room, block_seeds)


@dataclass(frozen=True)
class _Completing:
    """See `completing`; `room` is the longest prompt that can be sent."""

    generator: Generator
    sampling: Sampling
    stop_ids: Sequence[int]
    room: int
    block_seeds: tuple[int, str] | None

    def __call__(self, blocks: Iterator[tuple[int, list[Request]]]) -> Iterator[tuple[int, list[Completion]]]:
        asked: dict[int, list[Request]] = {}
        sent = self._sent(blocks, asked)
        for block, completions in self.generator.generate(sent, self.sampling, self.stop_ids):
            done = iter(completions)
            yield (
                block.index,
                [
                    next(done)
                    if len(request.prompt_ids) <= self.room
                    else Completion(request.key, (), "length", len(request.prompt_ids), 0)
                    for request in asked.pop(block.index)
                ],
            )

    def _sent(
        self, blocks: Iterator[tuple[int, list[Request]]], asked: dict[int, list[Request]]
    ) -> Iterator[Block]:
        """Blocks as the engine gets them; all requests of each are put into `asked`."""
        for index, requests in blocks:
            asked[index] = requests
            seed = None
            if self.block_seeds is not None:
                seed = row_seed(*self.block_seeds, "block", index, requests[0].key)
            yield Block(
                index, [request for request in requests if len(request.prompt_ids) <= self.room], seed
            )


def stream(
    stage: Stage,
    rows: int,
    block_size: int,
    *,
    row: Callable[[int, Sequence[A]], Row | Drop],
    requests: Callable[[int], Sequence[Q] | Drop] = lambda _: (),
    generate: Generate[Q, A] | None = None,
    counts: Callable[[range], Mapping[str, int | float]] | None = None,
    tracker: Tracker | None = None,
    gates: Gates | None = None,
    text: Callable[[Row], str] | None = None,
) -> None:
    """Take row numbers 0 to `rows` - 1 through a model and write what comes of each, once.

    Only this worker's blocks that have no part file yet are processed, so a restart goes on after the last
    block that was written.

    Args:
        stage: open and unfinished; it says which blocks are this worker's. The caller finishes it.
        rows: how many rows the stage has.
        block_size: rows per part file, and per batch of the `transformers` engine.
        requests: row number to what the model is asked for it (one entry per sample), or to a `Drop`.
        generate: takes numbered blocks of requests lazily and gives each block's replies, in any order of
            blocks; None if no row has requests.
        row: row number and its replies to the row that is kept, or to a `Drop`.
        counts: row numbers of a block to further numbers for the receipt, which sums them over all blocks.
        tracker: gets the rates and one table of sample rows.
        gates: rates that end the stage early when they are exceeded.
        text: a kept row's text, equal for duplicates; None does not look for them.

    Raises:
        GateError: a rate is above its limit. The blocks written so far stay.
    """
    # What this worker still has to do
    name = str(stage.receipt["stage"])
    todo = list(stage.pending(rows, block_size))
    mine = sum(len(numbers) for _, numbers in todo)
    progress = Progress(
        name, rows, lambda: min(rows, stage.written() * block_size), tracker,
        gates=gates, text=text, mine=mine,
    )  # fmt: skip
    loop = _Loop(name, stage, progress, requests, row, counts)
    # Block after block: make the requests, generate, write the rows
    with progress:
        asked = loop.asked(todo)
        if generate is None:
            for index, _ in asked:
                raise RuntimeError(
                    f"{name}: block {index} has requests, but there is no model to send them to"
                )
        else:
            for index, replies in generate(asked):
                loop.write(index, replies)
    # All blocks are written
    heartbeat.now("writing the results")
    if loop.open:
        raise RuntimeError(f"{name}: no replies were received for blocks {sorted(loop.open)}")
    if tracker is not None and loop.samples:
        tracker.table("samples", loop.samples)


@dataclass(frozen=True)
class _Loop(Generic[Q, A]):
    """The blocks of one worker of `stream`.

    Attributes:
        name: of the stage.
        stage: where the blocks are written.
        progress: counts requests and rows.
        requests: as of `stream`.
        row: as of `stream`.
        counts: as of `stream`.
        open: blocks that wait for their replies: row numbers, and what each row asked.
        samples: the first kept rows, for the tracker.
    """

    name: str
    stage: Stage
    progress: Progress
    requests: Callable[[int], Sequence[Q] | Drop]
    row: Callable[[int, Sequence[A]], Row | Drop]
    counts: Callable[[range], Mapping[str, int | float]] | None
    open: dict[int, tuple[range, list[Sequence[Q] | Drop]]] = field(default_factory=dict)
    samples: list[Row] = field(default_factory=list)

    def asked(self, todo: Sequence[tuple[int, range]]) -> Iterator[tuple[int, list[Q]]]:
        """The requests of each block; a block without any is written at once."""
        for index, numbers in todo:
            plan = [self.requests(number) for number in numbers]
            self.open[index] = numbers, plan
            block = [request for asked in plan if not isinstance(asked, Drop) for request in asked]
            self.progress.ask(len(numbers), len(block))
            if block:
                yield index, block
            else:
                self.write(index, [])

    def write(self, index: int, replies: Sequence[A]) -> None:
        """Write the rows that a block's replies make."""
        numbers, plan = self.open.pop(index)
        outcomes = self._outcomes(index, numbers, plan, replies)
        kept = [outcome for outcome in outcomes if not isinstance(outcome, Drop)]
        dropped = [(outcome.row, outcome.reason) for outcome in outcomes if isinstance(outcome, Drop)]
        self.stage.write_block(
            index,
            kept,
            dropped,
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            tokens=sum(reply.tokens for reply in replies),
            seconds=self.progress.lap(),
            **(self.counts(numbers) if self.counts is not None else {}),
        )
        if not self.samples and kept:
            logger.info("%s: first row: %s", self.name, _shorten_values(kept[0]))
        self.samples.extend(kept[: SAMPLES - len(self.samples)])
        self.progress.add(kept, dropped, replies)

    def _outcomes(
        self, index: int, numbers: range, plan: Sequence[Sequence[Q] | Drop], replies: Sequence[A]
    ) -> list[Row | Drop]:
        """Hand each row its own replies.

        Raises:
            RuntimeError: the block has more or fewer replies than requests.
        """
        asked = sum(len(one) for one in plan if not isinstance(one, Drop))
        if asked != len(replies):
            raise RuntimeError(f"{self.name}: block {index} got {len(replies)} replies to {asked} requests")
        outcomes: list[Row | Drop] = []
        start = 0
        for number, one in zip(numbers, plan, strict=True):
            if isinstance(one, Drop):
                outcomes.append(one)
            else:
                outcomes.append(self.row(number, replies[start : start + len(one)]))
                start += len(one)
        return outcomes


def _shorten_values(row: Row) -> dict[str, Any]:
    return {key: value if len(str(value)) <= 300 else shorten(str(value), 300) for key, value in row.items()}
