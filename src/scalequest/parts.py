"""The parts of a stage's folder, one a block, and the parquet files that they are merged into."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError
from scalequest.durable import StageError, sync
from scalequest.records import ColumnTypes, Row

ROWS_PER_GROUP = 1_000  # of a parquet file: what merging holds in memory
ROWS_PER_FILE = 100_000


def read_part(path: Path) -> Iterator[tuple[Row, str | None]]:
    """Yield a part's rows, each with the reason of its drop or None."""
    for line in _part_lines(path)[1:]:
        yield line["row"], line.get("dropped")


def _part_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        if len(lines) != 1 + lines[0]["kept"] + lines[0]["dropped"]:
            raise ValueError(f"it has {len(lines) - 1} rows, not {lines[0]['kept']} + {lines[0]['dropped']}")
        return lines
    except (ValueError, LookupError, TypeError) as error:
        raise StageError(
            f"{path}: damaged ({error}); delete it and run again to make that block anew"
        ) from None


class Tally:
    """Counts and column types over all parts."""

    def __init__(self) -> None:
        self.kept = 0
        self.dropped: dict[str, int] = {}
        self.counts: dict[str, int | float] = {}
        self.kept_types, self.dropped_types = ColumnTypes(), ColumnTypes()

    def add(self, path: Path) -> None:
        """Count one part.

        Raises:
            StageError: it is damaged, or a column holds values of two types.
        """
        head, *lines = _part_lines(path)
        kept = [line["row"] for line in lines if "dropped" not in line]
        dropped = [{**line["row"], "reason": line["dropped"]} for line in lines if "dropped" in line]
        self.kept += len(kept)
        for row in dropped:
            self.dropped[row["reason"]] = self.dropped.get(row["reason"], 0) + 1
        for key, value in head["counts"].items():
            self.counts[key] = self.counts.get(key, 0) + value
        try:
            self.kept_types.add(kept, path)
            self.dropped_types.add(dropped, path)
        except ConfigError as error:
            raise StageError(str(error)) from None


def _settled(kind: Any) -> Any:
    """Replace null, the type of a column without any value, by string, also inside lists and structs."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_settled(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _settled(field.type)) for field in kind])
    return kind


def write_parquet(
    folder: Path, rows: Iterable[Row], count: int, types: Mapping[str, Any], first: Sequence[str]
) -> str:
    """Write rows to folder/train-*.parquet, all or nothing; return a digest of the bytes.

    The same rows give the same bytes: files and row groups are cut by row number alone.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*first, *(name for name in types if name not in first)]
    schema = pa.schema([(name, _settled(types.get(name, pa.null()))) for name in names])
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    source = iter(rows)
    files = max(1, -(-count // ROWS_PER_FILE))
    digest = hashlib.sha256()
    try:
        for number in range(files):
            path = temporary / f"train-{number:05d}-of-{files:05d}.parquet"
            left = min(ROWS_PER_FILE, count - number * ROWS_PER_FILE)
            with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
                while left > 0:
                    group = [next(source) for _ in range(min(ROWS_PER_GROUP, left))]
                    columns = [pa.array([row.get(f.name) for row in group], f.type) for f in schema]
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                    left -= len(group)
            sync(path)
            with path.open("rb") as written:
                digest.update(hashlib.file_digest(written, "sha256").digest())
    except (pa.ArrowException, StopIteration) as error:
        raise StageError(f"{folder}: cannot be written: {error}") from None
    sync(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    sync(folder.parent)
    return digest.hexdigest()[:16]
