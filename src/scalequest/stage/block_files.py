"""The parts of a stage's folder, one a block, and the parquet files that they are merged into."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalequest.atomic_files import StageError, sync
from scalequest.config import ConfigError
from scalequest.receipts import FileRecord, file_record
from scalequest.records import ColumnTypes, Row

ROWS_PER_GROUP = 1_000  # of a parquet file: what merging holds in memory
ROWS_PER_FILE = 100_000


class DamagedPart(StageError):
    """A part is not as it was written.

    Attributes:
        why: what is wrong, and with which file.
    """

    def __init__(self, path: Path, why: str) -> None:
        """Say so, and what to do."""
        self.why = f"{path}: damaged ({why})"
        super().__init__(f"{self.why}; delete it and run again to make that block anew")


def part_bytes(
    index: int, kept: Sequence[Row], dropped: Sequence[tuple[Row, str]], counts: Mapping[str, int | float]
) -> bytes:
    """A part as its file holds it: a head, a line for each row, and the hash of all that stands before it.

    Raises:
        TypeError, ValueError, RecursionError: a row holds what JSON cannot.
    """
    head = {"block": index, "kept": len(kept), "dropped": len(dropped), "counts": counts}
    lines = [head, *({"row": row} for row in kept), *({"dropped": why, "row": row} for row, why in dropped)]
    body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    return body + _hash_line(body) + b"\n"


def check_part(path: Path) -> None:
    """Check that a part is as it was written.

    Raises:
        StageError: it is not.
    """
    body, is_hashed = _body(path)
    if not is_hashed:
        _parsed(path, body)


def read_part(path: Path) -> Iterator[tuple[Row, str | None]]:
    """Yield a part's rows, each with the reason of its drop or None.

    Raises:
        StageError: it is not as it was written.
    """
    yield from _parsed(path, _body(path)[0])[1]


def _body(path: Path) -> tuple[bytes, bool]:
    """A part without its hash, and whether it had one: those of before have none."""
    data = path.read_bytes()
    end = data.rfind(b"\n", 0, -1) + 1
    last = data[end:].removesuffix(b"\n")
    if not last.startswith(b'{"sha256": '):
        return data, False
    if last != _hash_line(memoryview(data)[:end]):
        raise DamagedPart(path, "its hash is another")
    return data[:end], True


def _hash_line(body: bytes | memoryview) -> bytes:
    return json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode()


def _parsed(path: Path, body: bytes) -> tuple[dict[str, int | float], list[tuple[Row, str | None]]]:
    """The counts of a part, and its rows."""
    try:
        head, *lines = [json.loads(line) for line in body.splitlines()]
        rows = [(line["row"], line.get("dropped")) for line in lines]
        if odd := [row for row, _ in rows if not isinstance(row, dict)]:
            raise ValueError(f"a row is {json.dumps(odd[0])}")
        found = [sum(why is None for _, why in rows), sum(isinstance(why, str) for _, why in rows)]
        if found != [head["kept"], head["dropped"]]:
            raise ValueError(f"it has {len(rows)} rows, not {head['kept']} + {head['dropped']}")
        return {key: value + 0 for key, value in head["counts"].items()}, rows
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedPart(path, str(error)) from None


class Tally:
    """Counts and column types over parts."""

    def __init__(self) -> None:
        self.kept = 0
        self.dropped: dict[str, int] = {}
        self.counts: dict[str, int | float] = {}
        self.kept_types, self.dropped_types = ColumnTypes(), ColumnTypes()

    def add(self, path: Path) -> None:
        """Count one part.

        Raises:
            StageError: it is damaged, or a column holds values that no file can hold together.
        """
        counts, rows = _parsed(path, _body(path)[0])
        kept = [row for row, why in rows if why is None]
        self.look(path, kept, [(row, why) for row, why in rows if why is not None])
        for key, value in counts.items():
            self.counts[key] = self.counts.get(key, 0) + value

    def look(self, path: Path, kept: Sequence[Row], dropped: Sequence[tuple[Row, str]]) -> None:
        """Count the rows of one part, and see whether parquet can hold them beside those of the others.

        Raises:
            StageError: it cannot.
        """
        self.kept += len(kept)
        for _, why in dropped:
            self.dropped[why] = self.dropped.get(why, 0) + 1
        try:
            self.kept_types.add(kept, path)
            self.dropped_types.add([{**row, "reason": why} for row, why in dropped], path)
        except ConfigError as error:
            raise StageError(str(error)) from None


def _settled(kind: Any) -> Any:
    """Replace null, the type of what has no value anywhere, by string, also inside lists and structs.

    An object without keys has no value either, and parquet has no type for it: it is stored as null.
    """
    import pyarrow as pa

    if pa.types.is_list(kind):
        return pa.list_(_settled(kind.value_type))
    if pa.types.is_struct(kind) and kind.num_fields:
        return pa.struct([(field.name, _settled(field.type)) for field in kind])
    return pa.string() if pa.types.is_null(kind) or pa.types.is_struct(kind) else kind


def _column(values: list[Any], kind: Any) -> Any:
    """Values of one column as an array of its settled type."""
    import pyarrow as pa

    settled = _settled(kind)
    try:
        return pa.array(values, settled)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # objects without keys, among strings as far as it knows
        return pa.array([_without_empty(value, kind) for value in values], settled)


def _without_empty(value: Any, kind: Any) -> Any:
    """A value whose objects that have no keys in any row are null."""
    import pyarrow as pa

    if isinstance(value, list) and pa.types.is_list(kind):
        return [_without_empty(one, kind.value_type) for one in value]
    if isinstance(value, dict):
        return {f.name: _without_empty(value.get(f.name), f.type) for f in kind} if kind.num_fields else None
    return value


def write_parquet(
    folder: Path, rows: Iterable[Row], count: int, types: Mapping[str, Any], first: Sequence[str]
) -> dict[str, FileRecord]:
    """Write rows to folder/train-*.parquet, all or nothing; return what the receipt is to say of each file.

    The same rows give the same bytes: files and row groups are cut by row number alone.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*first, *(name for name in types if name not in first)]
    kinds = {name: types.get(name, pa.null()) for name in names}
    schema = pa.schema([(name, _settled(kind)) for name, kind in kinds.items()])
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    source = iter(rows)
    files = max(1, -(-count // ROWS_PER_FILE))
    written: dict[str, FileRecord] = {}
    try:
        for number in range(files):
            path = temporary / f"train-{number:05d}-of-{files:05d}.parquet"
            here = left = min(ROWS_PER_FILE, count - number * ROWS_PER_FILE)
            with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
                while left > 0:
                    group = [next(source) for _ in range(min(ROWS_PER_GROUP, left))]
                    columns = [
                        _column([row.get(name) for row in group], kind) for name, kind in kinds.items()
                    ]
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                    left -= len(group)
            sync(path)
            written[f"{folder.name}/{path.name}"] = file_record(path, rows=here)
    except (pa.ArrowException, StopIteration) as error:
        raise StageError(f"{folder}: cannot be written: {error}") from None
    sync(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    sync(folder.parent)
    return written


def output_digest(written: Mapping[str, FileRecord]) -> str:
    """What a receipt calls the rows in these files: 16 hex digits."""
    hashes = b"".join(bytes.fromhex(of["sha256"]) for of in written.values())
    return hashlib.sha256(hashes).hexdigest()[:16]
