"""The loop of every data stage: read rows, send requests in fixed blocks, write rows block by block."""

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

SAMPLES = 8  # rows in the tracker's table of samples


@dataclass(frozen=True)
class Drop:
    """A row that is dropped, with the reason in snake_case, which the receipt counts."""

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

    A prompt that is too long for the context is not sent, and comes back as truncated before its first token,
    so one long question costs its row and not the run. With `block_seeds` (the run's seed and the stage),
    every block gets a seed derived from these, its number and its first request, so no two blocks draw the
    same random numbers, on any worker.

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
    """See `completing`; `room` is the length of the longest prompt that can be sent."""

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
        """Yield blocks in the form for the engine; all requests of each block are stored in `asked`."""
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
    """Take row numbers 0 to `rows` - 1 through a model and write each result once.

    Only this worker's blocks that have no part file yet are processed, so a restarted stage resumes after the
    last block that was written.

    Args:
        stage: an open, unfinished stage; it says which blocks belong to this worker. The caller finishes it.
        rows: the number of rows of the stage.
        block_size: the number of rows per part file, and per batch of the `transformers` engine.
        requests: returns the requests for a row number (one entry per sample), or a `Drop`.
        generate: takes numbered blocks of requests lazily and yields each block's replies, in any order of
            blocks; None if no row has requests.
        row: turns a row number and its replies into the row to keep, or into a `Drop`.
        counts: returns further numbers for the receipt from the row numbers of a block; they are summed over
            all blocks.
        tracker: receives the rates and one table of sample rows.
        gates: limits on rates that stop the stage early if exceeded.
        text: returns the text of a kept row, equal for duplicates; None disables the check for duplicates.

    Raises:
        GateError: a rate exceeds its limit. The blocks written so far are kept.
    """
    # The blocks that this worker still has to process
    name = str(stage.receipt["stage"])
    todo = list(stage.blocks.pending(rows, block_size))
    mine = sum(len(numbers) for _, numbers in todo)
    progress = Progress(
        name, rows, lambda: min(rows, stage.blocks.written() * block_size), tracker,
        gates=gates, text=text, mine=mine,
    )  # fmt: skip
    loop = _Loop(name, stage, progress, requests, row, counts)
    # For each block: make the requests, generate, write the rows
    with progress:
        asked = loop.asked(todo)
        if generate is None:
            for index, _ in asked:
                raise RuntimeError(f"{name}: block {index} has requests, but no model to send them to")
        else:
            for index, replies in generate(asked):
                loop.write(index, replies)
    # All blocks are written
    heartbeat.now("writing the results")
    if loop.open:
        raise RuntimeError(f"{name}: no replies were received for blocks {sorted(loop.open)}")
    if tracker is not None and loop.samples:
        tracker.table("samples", loop.samples)


def _engine_requests(request: object) -> int:
    """What the engine counts: a request of a stage may hold several, such as the samples of one question."""
    return len(getattr(request, "requests", (request,)))


@dataclass(frozen=True)
class _Loop(Generic[Q, A]):
    """The blocks of one worker of `stream`.

    Attributes:
        name: the stage's name.
        stage: the stage that stores the blocks.
        progress: counts requests and rows.
        requests: the hook of `stream`.
        row: the hook of `stream`.
        counts: the hook of `stream`.
        open: blocks that wait for their replies: row numbers and the requests of each row.
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
        """Yield the requests of each block; a block without requests is written at once."""
        for index, numbers in todo:
            plan = [self.requests(number) for number in numbers]
            self.open[index] = numbers, plan
            block = [request for asked in plan if not isinstance(asked, Drop) for request in asked]
            self.progress.ask(len(numbers), sum(map(_engine_requests, block)))
            if block:
                yield index, block
            else:
                self.write(index, [])

    def write(self, index: int, replies: Sequence[A]) -> None:
        """Write the rows made from a block's replies."""
        numbers, plan = self.open.pop(index)
        outcomes = self._outcomes(index, numbers, plan, replies)
        kept = [outcome for outcome in outcomes if not isinstance(outcome, Drop)]
        dropped = [(outcome.row, outcome.reason) for outcome in outcomes if isinstance(outcome, Drop)]
        self.stage.blocks.write(
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
        """Assign each row its own replies.

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
