"""Read rows from files: JSON, JSON lines, CSV, TSV, plain text and parquet, each gzipped or not but the last.

A file is read whole or not at all: what cannot be read as rows is an error that names the line or row.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from scalequest.atomic_files import DEEPEST, check_json, parse_text
from scalequest.config import ConfigError
from scalequest.receipts import check_bytes

Row = dict[str, Any]

_BATCH = 1_024  # rows of a parquet file that are in memory at a time
_LONGEST_CELL = 1 << 24  # characters; a quotation mark left open would otherwise fill the memory
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def read_file(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, whose format follows from its name.

    Raises:
        ConfigError: the format is unknown, or the file is not of that format.
    """
    name = path.name.lower()
    for endings, read in _FORMATS.items():
        if name.endswith(endings):
            return read(path)
    known = ", ".join(endings[0] for endings in _FORMATS)
    raise ConfigError(
        f"{path}: expected a stage folder or a file that ends in {known} (all but parquet also .gz)"
    )


# ----------------------------------------------------------------------------------------------------- JSON


def json_lines(path: Path) -> Iterator[Row]:
    """Yield one row per line that is not blank."""
    with _reading(path) as place, _open(path) as file:
        for number, line in enumerate(file, 1):
            place[0] = f" after line {number}"
            if line.strip():
                yield _json_line(line, f"{path}: line {number}")


def _json_line(line: bytes, where: str) -> Row:
    try:
        return _object(*parse_text(line, where), where)
    except ConfigError as error:
        raise ConfigError(f"{error}; fix or remove that line") from None


def _object(value: Any, escapes: bool, where: str) -> Row:
    check_json(value, escapes, where)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object, got {type(value).__name__}")
    return value


def _json(path: Path) -> Iterator[Row]:
    """Yield the rows of a list, of the only list in an object, or of JSON lines under another name."""
    with _reading(path), _open(path) as file:
        data = file.read()
    try:
        content, escapes = parse_text(data, path)
    except ConfigError:
        if _is_object(data.partition(b"\n")[0]):
            return json_lines(path)
        raise
    rows = _list_in(content, path) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: expected a list of objects, got {type(rows).__name__}")
    return (_object(row, escapes, f"{path}: row {index}") for index, row in enumerate(rows, 1))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_text(line, "")[0], dict)
    except ConfigError:
        return False


def _list_in(content: Mapping[str, Any], path: Path) -> Any:
    lists = {
        key: value
        for key, value in content.items()
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    }
    if len(lists) != 1:
        found = (
            f"has several: {', '.join(lists)}; keep one"
            if lists
            else f"has none; it has {', '.join(content)}"
        )
        raise ConfigError(f"{path}: an object has to hold one list of objects, and this one {found:.200}")
    return next(iter(lists.values()))


# ----------------------------------------------------------------------------------- CSV, TSV and plain text


def _text_lines(path: Path) -> Iterator[str]:
    r"""Yield lines with their ends, whether those are `\n`, `\r\n` or `\r`.

    Raises:
        ConfigError: a line is not UTF-8 or contains a NUL byte, as in UTF-16.
    """
    with _reading(path), _open(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        for number, line in enumerate(text, 1):
            fault = "contains a NUL byte" if "\0" in line else None if _is_text(line) else "not UTF-8"
            if fault:
                raise ConfigError(f"{path}: line {number}: {fault}; save the file as UTF-8 text")
            yield line


def _is_text(line: str) -> bool:
    try:
        return line.isascii() or bool(line.encode())
    except UnicodeEncodeError:
        return False


def _text(path: Path) -> Iterator[Row]:
    """Yield a question per line that is not blank."""
    return ({"question": line.strip()} for line in _text_lines(path) if line.strip())


def _table(path: Path, *, delimiter: str) -> Iterator[Row]:
    """Yield the rows below a header; all cells are text, and an empty one is null."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(_text_lines(path), delimiter=delimiter, strict=True)
    line = 1
    try:
        names = _header(next(reader, []), path, delimiter)
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(names):
                raise ConfigError(
                    f"{path}: line {line}: {len(cells)} cells under a header of {len(names)}; "
                    f"put cells that contain {_DELIMITERS[delimiter]} into quotation marks"
                )
            if cells:  # not a blank line
                yield {name: cell or None for name, cell in zip(names, cells, strict=True)}
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(
            f"{path}: line {line}: the row that starts here cannot be read: {error}; is a quotation mark "
            "left open, or not doubled?"
        ) from None


def _header(cells: Sequence[str], path: Path, delimiter: str) -> list[str]:
    """Return the names of the columns; one without a name, like the index of pandas, gets a number.

    Raises:
        ConfigError: there is no header, two columns have the same name, or another delimiter separates them.
    """
    if not any(cell.strip() for cell in cells):
        raise ConfigError(
            f"{path}: line 1: expected a header with the names of the columns; the line is empty"
        )
    others = [mark for mark in _DELIMITERS if mark != delimiter and mark in cells[0]]
    if len(cells) == 1 and others:
        raise ConfigError(
            f"{path}: line 1: columns have to be separated by {_DELIMITERS[delimiter]}, and "
            f"{cells[0][:80]!r} has {_DELIMITERS[others[0]]}; "
            + ("name the file .tsv" if others[0] == "\t" else f"save it with {_DELIMITERS[delimiter]}")
        )
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
    _check_names(names, path)
    return names


def _check_names(names: Sequence[str], path: Path) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{path}: duplicate column name '{twice[0]}'; rename one")


# -------------------------------------------------------------------------------------------------- parquet


def parquet_rows(path: Path, sha256: str | None = None) -> Iterator[Row]:
    """Yield the rows of a parquet file, whose content is checked first if its hash is known."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as opened:
            if sha256 is not None:
                check_bytes(path, opened, sha256)
            with pq.ParquetFile(opened) as file:
                _check_names(file.schema_arrow.names, path)
                read = 0
                for batch in file.iter_batches(batch_size=_BATCH):
                    yield from _as_rows(batch.to_pylist, batch, f"{path}: row ", read)
                    read += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not a readable parquet file: {error}") from None


def _as_rows(whole: Callable[[], list[Row]], batch: Any, where: str, before: int) -> Iterable[Row]:
    """Yield the rows of a batch, with values that JSON can represent directly or as text.

    Raises:
        ConfigError: names the first row and column with a value that cannot be represented, e.g. text that is
            not UTF-8.
    """
    try:
        rows = whole()
    except (ValueError, OverflowError, RecursionError):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for number, cell in enumerate(column, before + 1):
                try:
                    cell.as_py()
                except (ValueError, OverflowError, RecursionError) as error:
                    raise ConfigError(
                        f"{where}{number}: column '{name}' cannot be read: {error}; fix that value or "
                        "remove the row"
                    ) from None
        raise
    return rows if is_plain(batch.schema.types) else map(plain, rows)


def is_plain(kinds: Sequence[Any], levels: int = DEEPEST) -> bool:
    """Return whether columns of these types hold JSON values, nested no deeper than parquet allows."""
    import pyarrow as pa

    of = pa.types
    simple = (of.is_null, of.is_boolean, of.is_integer, of.is_floating, of.is_string, of.is_large_string)
    return levels > 0 and all(
        any(test(kind) for test in simple)
        or ((of.is_list(kind) or of.is_large_list(kind)) and is_plain([kind.value_type], levels - 1))
        or (of.is_struct(kind) and is_plain([field.type for field in kind], levels - 1))
        for kind in kinds
    )


def plain(value: Any) -> Any:
    """Return a value with dates, times and exact decimals as text, as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, datetime.timedelta | Decimal) else value


# -------------------------------------------------------------------------------------------------- opening


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


@contextmanager
def _reading(path: Path) -> Iterator[list[str]]:
    """Turn an error of the file system or of gzip into one line; the list holds the place that it names."""
    place = [""]
    try:
        yield place
    except (EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"{path}: unreadable{place[0]}: {error}") from None


_FORMATS: dict[tuple[str, ...], Callable[[Path], Iterator[Row]]] = {
    (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"): json_lines,
    (".json", ".json.gz"): _json,
    (".csv", ".csv.gz"): partial(_table, delimiter=","),
    (".tsv", ".tsv.gz"): partial(_table, delimiter="\t"),
    (".txt", ".txt.gz"): _text,
    (".parquet",): parquet_rows,
}
