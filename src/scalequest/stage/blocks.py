"""The blocks of a running stage: cut by row number, written one by one, merged at the end."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scalequest.atomic_files import StageError, one_line, write
from scalequest.receipts import FileRecord
from scalequest.records import Row
from scalequest.stage.block_files import (
    DamagedPart,
    Tally,
    check_part,
    output_digest,
    part_bytes,
    read_part,
    write_parquet,
)

log = logging.getLogger(__name__)


class Blocks:
    """The blocks of one run, and this worker's share of them.

    `parts/000012.jsonl` holds block 12: written to a temporary name, flushed, renamed. So a part is whole or
    absent, a person can read it, and deleting it means doing that block again.
    """

    def __init__(self, output_dir: Path, session: str, worker: int, workers: int) -> None:
        """Blocks of a folder.

        Args:
            output_dir: the stage's folder.
            session: of the launch, by which workers of an earlier one are not taken for its own.
            worker: number of this process.
            workers: how many share the work.
        """
        self._folder, self._session = output_dir, session
        self._worker, self._workers = worker, workers
        self._count: int | None = None
        self._seen = Tally()

    def cut(self, rows: int, block_size: int) -> list[range]:
        """Cut row numbers 0 to `rows` into fixed blocks, the unit that is written and redone."""
        blocks = [range(start, min(start + block_size, rows)) for start in range(0, rows, block_size)]
        self._count = len(blocks)
        return blocks

    def pending(self, rows: int, block_size: int) -> Iterator[tuple[int, range]]:
        """Yield this worker's blocks that are not written yet; every `workers`-th block is its own.

        A part that is not as it was written is removed, and its block is done again.
        """
        return (
            (index, block)
            for index, block in enumerate(self.cut(rows, block_size))
            if index % self._workers == self._worker and not self._is_written(index)
        )

    def _is_written(self, index: int) -> bool:
        path = self._part(index)
        if not path.exists():
            return False
        try:
            with one_line(path):
                check_part(path)
        except DamagedPart as error:
            log.warning("%s; it is removed, and its block is done again", error.why)
            path.unlink()
            return False
        return True

    def write(
        self,
        index: int,
        kept: Sequence[Row],
        dropped: Sequence[tuple[Row, str]] = (),
        **counts: int | float,
    ) -> None:
        """Write a block, whole and durable or not at all.

        Args:
            index: its number.
            kept: rows that go on.
            dropped: rows that do not, each with its reason.
            counts: numbers that the receipt sums over blocks, e.g. `tokens`, `seconds`.

        Raises:
            StageError: the disk is full, a row holds what JSON cannot, or a column what parquet cannot, alone
                or beside the blocks that this process has written before.
        """
        try:
            data = part_bytes(index, kept, dropped, counts)
        except (TypeError, ValueError, RecursionError) as error:
            raise StageError(f"{self._folder}: block {index}: a row cannot be written: {error}") from None
        self._seen.look(self._part(index), kept, dropped)
        with one_line(self._part(index)):
            write(self._part(index), data)

    def written(self) -> int:
        """How many blocks are on disk, all workers' together."""
        return len(self._found())

    def samples(self, count: int) -> list[Row]:
        """The first kept rows of the blocks written so far, e.g. for the card; call it before `finish`."""
        rows: list[Row] = []
        for path in self._found():
            rows += [row for row, reason in read_part(path) if reason is None]
            if len(rows) >= count:
                break
        return rows[:count]

    def _part(self, index: int) -> Path:
        return self._folder / "parts" / f"{index:06d}.jsonl"

    def _found(self) -> list[Path]:
        return sorted((self._folder / "parts").glob("[0-9]*.jsonl"))

    # ------------------------------------------------------------------------------------------------ merging

    def mark_done(self) -> None:
        """Tell worker 0 that all blocks of this worker are written."""
        write(self._marker(self._worker), self._session.encode())

    def _marker(self, worker: int) -> Path:
        return self._folder / "parts" / f"worker-{worker:05d}.done"

    def wait(self) -> list[Path]:
        """Wait until the other workers are done; return the parts in order.

        Raises:
            StageError: a block is missing, or there are too many.
        """
        self._wait_for_workers()
        found = self._found()
        count = len(found) if self._count is None else self._count
        parts = [self._part(index) for index in range(count)]
        missing = [str(index) for index, path in enumerate(parts) if not path.exists()]
        if missing or len(found) != count:
            what = (
                f"blocks {', '.join(missing[:5])} were never written"
                if missing
                else f"parts/ holds more than {count}"
            )
            raise StageError(f"{self._folder}: {what}; run the stage again")
        return parts

    def _wait_for_workers(self) -> None:
        told = time.monotonic()
        markers = {worker: self._marker(worker) for worker in range(1, self._workers)}
        while awaited := [worker for worker, path in markers.items() if not self._is_done(path)]:
            if time.monotonic() - told > 60:
                log.warning("%s: waiting for workers %s", self._folder, awaited)
                told = time.monotonic()
            time.sleep(0.2)

    def _is_done(self, marker: Path) -> bool:
        return marker.exists() and marker.read_bytes() == self._session.encode()

    def merge(
        self, parts: Sequence[Path], tally: Tally, columns: Sequence[str]
    ) -> tuple[dict[str, FileRecord], str]:
        """Write all blocks into data/ and dropped/; return their records and the digest of data/."""
        kept = (row for path in parts for row, reason in read_part(path) if reason is None)
        types = tally.kept_types.types or {
            key: of for key, of in tally.dropped_types.types.items() if key != "reason"
        }
        files = write_parquet(self._folder / "data", kept, tally.kept, types, columns)
        output = output_digest(files)
        shutil.rmtree(self._folder / "dropped", ignore_errors=True)
        if tally.dropped:
            dropped = (
                {**row, "reason": why} for path in parts for row, why in read_part(path) if why is not None
            )
            count, types = sum(tally.dropped.values()), tally.dropped_types.types
            files |= write_parquet(self._folder / "dropped", dropped, count, types, columns)
        return files, output
