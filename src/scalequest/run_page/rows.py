"""The rows of a run's stages; if there are too many, a sample of them that is the same in every stage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError
from scalequest.receipts import Part, finished_receipt, row_files
from scalequest.run_page.stages import StageFacts

_BATCH = 2_000


@dataclass(frozen=True)
class StageRow:
    """A row as a stage wrote it; `reason` is None if the stage kept it."""

    key: str
    row: dict[str, Any]
    reason: str | None


@dataclass(frozen=True)
class Sample:
    """The rows to read: those whose key has a hash below `share`, so they are the same in every stage."""

    share: float = 1.0

    @classmethod
    def of(cls, stages: Sequence[StageFacts], most: int) -> Sample:
        """Return a sample of about `most` questions and problems of a run, or all if there are fewer."""
        return cls(min(1.0, most / max(1, count_of(stages))))

    def has(self, key: str) -> bool:
        """Return whether the rows with this key are read."""
        if self.share >= 1:
            return True
        digest = hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.share * 2**64


def count_of(stages: Sequence[StageFacts]) -> int:
    """Return the number of questions and problems: the rows that enter the first stages of the funnel."""
    makers = {one.folder: one for one in stages if one.makes_rows}
    begin = [
        one
        for one in makers.values()
        if one.in_funnel and not any(makers[up].in_funnel for up in one.upstream if up in makers)
    ]
    problems: dict[str, int] = {}
    for one in makers.values():
        if one.stage == "evaluate_model":
            above = one.folder.rpartition("/")[0]
            problems[above] = max(problems.get(above, 0), one.rows_in)
    return sum(one.rows_in for one in begin) + sum(problems.values())


def read_stage_rows(root: Path, stage: StageFacts, sample: Sample) -> Iterator[StageRow]:
    """Yield the rows that a stage kept, then those that it dropped.

    A key is `RUN/id`, or `RUN/benchmark/id` for a problem of a benchmark; a row without an id gets its stage
    and number as its key.

    Raises:
        ConfigError: the files are missing, unreadable, or not the ones that the stage wrote.
    """
    folder = root / stage.folder
    receipt = finished_receipt(folder)
    parts: tuple[Part, ...] = ("data", "dropped")
    for part in parts:
        number = 0
        for path, _ in row_files(folder, receipt, part):
            for row in _parquet_rows(path):
                key = _key_of(row, stage, f"{part}/{number}")
                number += 1
                if sample.has(key):
                    yield StageRow(key, row, None if part == "data" else str(row.get("reason") or "?"))


def _key_of(row: dict[str, Any], stage: StageFacts, number: str) -> str:
    own = row.get("id")
    name = (
        f"{stage.folder}/{number}"
        if own is None
        else f"{row['benchmark']}/{own}"
        if "benchmark" in row
        else own
    )
    return f"{stage.run}/{name}"


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable parquet file: {error}") from None
