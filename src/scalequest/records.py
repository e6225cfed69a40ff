"""Read rows, check their columns, and fingerprint their sources."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from scalequest.atomic_files import DEEPEST, check_json, parse_text
from scalequest.config import ConfigError
from scalequest.models import check_safetensors
from scalequest.receipts import (
    RECEIPT,
    FileRecord,
    Part,
    check_bytes,
    damaged,
    file_record,
    finished_receipt,
    made_by,
    row_files,
)

Row = dict[str, Any]

log = logging.getLogger(__name__)

_HUB = re.compile(
    r"hub:(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w.-]+))?(?::(?P<split>\w+))?"
)
_FIRST_ROWS = re.compile(r"(?P<source>.+)\[:(?P<rows>\d+)\]")
_WEIGHTS = (".safetensors", ".gguf", ".bin")
_SMALL = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_NOT_THE_MODEL = {
    "receipt.json",
    "trainer_state.json",
    "training_args.bin",
    "all_results.json",
    "train_results.json",
}
_MEBIBYTE = 1 << 20
SAME_ID = "; generate one of the sources with another `seed` or `id_prefix`, or leave one out"
_AT_ONCE = 1_000  # rows whose types are checked together
_BATCH = 1_024  # rows of a parquet file that are in memory at a time


def read_rows(
    source: str | Path, *, columns: Mapping[str, str] | None = None, limit: int | None = None
) -> list[Row]:
    """Read rows in order.

    Dates, times and exact decimals of parquet files and hub data sets become text, as they are in JSON files.

    Args:
        source: the folder of a finished stage; a .jsonl, .jsonl.gz, .json (a list) or .parquet file; or
            `hub:owner/name[/config][@revision][:split]` (split `train` unless given). `$NAME` is expanded.
            `[:600]` after any of them selects its first 600 rows; it is an error if there are fewer.
        columns: mapping from our names to theirs, e.g. `{"question": "problem"}`; other columns keep their
            names.
        limit: read only this many rows.

    Raises:
        ConfigError: names the source, and the line or row of the error.
    """
    whole, first = first_rows(source)
    rows = list(islice(islice(_rows(whole), first), limit))
    if first is not None and limit is None and len(rows) < first:
        raise ConfigError(
            f"{source}: {first} rows requested, but there are only {len(rows)}: request that many or fewer"
        )
    if not columns:
        return rows
    renamed = []
    for index, row in enumerate(rows):
        for theirs in columns.values():
            if theirs not in row:
                raise ConfigError(f"{source}: row {index + 1}: no column '{theirs}'; it has {', '.join(row)}")
        rest = {key: value for key, value in row.items() if key not in columns.values()}
        renamed.append({**rest, **{ours: row[theirs] for ours, theirs in columns.items()}})
    return renamed


def quota(asked: int, there: int, what: str, *, limit: int | None = None) -> int:
    """How many rows a quota takes: as many as it asks for, or what there is if a `limit` cut the input short.

    Raises:
        ConfigError: there are too few, and no limit is why; it begins with `what`.
    """
    if there < asked and limit is None:
        raise ConfigError(f"{what} asks for {asked} rows, and {there} are left: take that many or fewer")
    return min(asked, there)


def whole_source(source: str | Path) -> str:
    """A source without the number of rows that is taken of it."""
    return str(first_rows(source)[0])


def read_dropped(folder: str | Path) -> list[Row]:
    """Return the rows that a finished stage dropped, with each `reason`; none if `folder` is no stage folder.

    Raises:
        ConfigError: the files are not the ones that the stage wrote.
    """
    path = _local(folder)
    if not (path / RECEIPT).exists():
        return []
    return list(_stage_rows(path, "dropped"))


def written_rows(folder: Path) -> Iterator[Row]:
    """Read the rows of one parquet folder of a stage whose receipt is not finished yet."""
    return (row for file in sorted(folder.glob("*.parquet")) for row in _parquet_rows(file))


def first_rows(source: str | Path) -> tuple[str | Path, int | None]:
    """A source, and the number of rows that is taken of it, if not all."""
    match = _FIRST_ROWS.fullmatch(str(source))
    return (match["source"], int(match["rows"])) if match else (source, None)


def _rows(source: str | Path) -> Iterator[Row]:
    if str(source).startswith("hub:"):
        return _hub_rows(str(source))
    path = _local(source)
    if path.is_dir():
        return _stage_rows(path, "data")
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _json_lines(path)
    if name.endswith((".json", ".json.gz")):
        return _json_list(path)
    if name.endswith(".parquet"):
        return _parquet_rows(path)
    raise ConfigError(f"{path}: expected a stage folder or a .jsonl, .jsonl.gz, .json or .parquet file")


def expand(source: str | Path) -> Path:
    """Expand `~`, `$NAME` and `${NAME}` in a path.

    Raises:
        ConfigError: a variable is not set.
    """
    for match in re.finditer(r"\$(?:\{(\w+)\}|(\w+))", str(source)):
        name = match[1] or match[2]
        if name not in os.environ:
            raise ConfigError(f"{source}: the environment variable {name} is not set")
    return Path(os.path.expandvars(str(source))).expanduser()


def _local(source: str | Path) -> Path:
    """Expand a path and check that the file system accepts it.

    Raises:
        ConfigError: it does not, e.g. because the name is too long.
    """
    path = expand(source)
    try:
        path.exists()
    except OSError as error:
        raise ConfigError(f"{str(path)[:200]}: {error.strerror or error}") from None
    return path


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _stage_rows(folder: Path, part: Part) -> Iterator[Row]:
    """Read the rows of a finished stage; each file's content is checked when its first row is read."""
    files = row_files(folder, finished_receipt(folder), part)
    return (row for file, sha256 in files for row in _parquet_rows(file, sha256))


def check_rows(folder: str | Path) -> None:
    """Check that a finished stage's row files are unchanged, without parsing the rows.

    Raises:
        ConfigError: a file has changed.
    """
    path = expand(folder)
    for file, sha256 in row_files(path, finished_receipt(path), "data"):
        if sha256 is not None:
            with file.open("rb") as opened:
                check_bytes(file, opened, sha256)


def _json_lines(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{path}: line {number}"
                    yield _object(*parse_text(line, where), where)
    except ConfigError as error:
        raise ConfigError(f"{error}; fix or remove that line") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"{path}: unreadable after line {number}: {error}") from None


def _object(value: Any, escapes: bool, where: str) -> Row:
    check_json(value, escapes, where)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object, got {type(value).__name__}")
    return value


def _json_list(path: Path) -> Iterator[Row]:
    try:
        with _open(path) as file:
            rows, escapes = parse_text(file.read(), path)
    except (EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"{path}: unreadable: {error}") from None
    if not isinstance(rows, list):
        raise ConfigError(
            f"{path}: expected a list of objects, got {type(rows).__name__} (is the file JSON lines?)"
        )
    return (_object(row, escapes, f"{path}: row {index}") for index, row in enumerate(rows, 1))


def _parquet_rows(path: Path, sha256: str | None = None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as opened:
            if sha256 is not None:
                check_bytes(path, opened, sha256)
            with pq.ParquetFile(opened) as file:
                names, read = file.schema_arrow.names, 0
                if twice := [name for name in names if names.count(name) > 1]:
                    raise ConfigError(f"{path}: duplicate column name '{twice[0]}'; rename one")
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
    return rows if _is_plain(batch.schema.types) else map(_plain, rows)


def _is_plain(kinds: Sequence[Any], levels: int = DEEPEST) -> bool:
    """Return whether columns of these types hold JSON values, nested no deeper than parquet allows."""
    import pyarrow as pa

    of = pa.types
    simple = (of.is_null, of.is_boolean, of.is_integer, of.is_floating, of.is_string, of.is_large_string)
    return levels > 0 and all(
        any(test(kind) for test in simple)
        or ((of.is_list(kind) or of.is_large_list(kind)) and _is_plain([kind.value_type], levels - 1))
        or (of.is_struct(kind) and _is_plain([field.type for field in kind], levels - 1))
        for kind in kinds
    )


def _plain(value: Any) -> Any:
    """Return a value with dates, times and exact decimals as text, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, datetime.timedelta | Decimal) else value


def _hub(source: str) -> re.Match[str]:
    match = _HUB.fullmatch(source)
    if match is None:
        raise ConfigError(f"{source}: expected hub:owner/name[/config][@revision][:split]")
    return match


def _hub_rows(source: str) -> Iterator[Row]:
    match = _hub(source)
    from datasets import load_dataset

    # Without the scheme, a local folder of this name would be read instead.
    name, split = f"hf://datasets/{match['name']}", match["split"] or "train"
    number = 0
    try:
        rows = load_dataset(name, match["config"], revision=match["revision"], split=split)
        for row in rows:
            yield _plain(dict(row))
            number += 1
    except Exception as error:  # the hub's client raises many types of exceptions
        after = f" after row {number}" if number else ""
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{source}: cannot be loaded{after}: {why}") from None


def read_inputs(
    sources: Sequence[str],
    *keys: str,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    without: Collection[str] | None = None,
) -> list[Row]:
    """Read several sources, one after the other, as the input of a data stage.

    Args:
        sources: sources accepted by `read_rows`.
        keys: columns that every row must have; a missing `id` is derived from the source and the row number.
        columns: mapping from our names to theirs; a row without their name must have ours, so that GSM8K's
            `question` and MATH's `problem` can be read in one run.
        limit: read only this many rows, over all sources.
        without: columns that are dropped; all others are passed on to the stage's data. A passed-on column
            must have a single type, which is checked here, because otherwise a stage would only fail at its
            end, after days.

    Raises:
        ConfigError: a row lacks a column, a question is not a string, two rows have the same id, or a column
            that is passed on has two types.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    types = ColumnTypes()
    for source in sources:
        name, before = Path(source).name.partition(".")[0], len(rows)
        for index, row in enumerate(read_rows(source, limit=limit and limit - len(rows))):
            for ours, theirs in (columns or {}).items():
                if theirs in row:
                    row[ours] = row.pop(theirs)
            require(row, *keys, source=source, index=index)
            if not isinstance(row.get("question", ""), str):
                raise ConfigError(
                    f"{source}: row {index + 1}: 'question' must be a string, got {row['question']!r}"
                )
            row = {"id": f"{name}-{index:08d}", **row}
            row["id"] = str(row["id"])  # numeric ids of one source share a column with names of another
            if row["id"] in seen:
                raise ConfigError(f"{source}: row {index + 1}: duplicate id '{row['id']}'{SAME_ID}")
            seen.add(row["id"])
            for column in without or ():
                row.pop(column, None)
            rows.append(row)
        if without is not None:
            for start in range(before, len(rows), _AT_ONCE):
                types.add(rows[start : start + _AT_ONCE], source)
        if len(rows) == limit:
            break
    return rows


class ColumnTypes:
    """The type of each column over all rows seen so far, in order of first appearance."""

    def __init__(self) -> None:
        """Start without any rows."""
        self.types: dict[str, Any] = {}

    def add(self, rows: Sequence[Row], source: str | Path) -> None:
        """Add rows.

        Raises:
            ConfigError: a column has values of two types, or of a type that JSON and parquet cannot both
                store.
        """
        import pyarrow as pa

        names = dict.fromkeys(name for row in rows for name in row)
        for name in names:
            try:
                seen = pa.array([row.get(name) for row in rows]).type
                old = self.types.get(name, pa.null())
                both = [pa.schema([(name, old)]), pa.schema([(name, seen)])]
                self.types[name] = pa.unify_schemas(both, promote_options="permissive").field(name).type
            except (pa.ArrowException, OverflowError, UnicodeError) as error:
                raise ConfigError(
                    f"{source}: column '{name}' mixes types or has an unsupported type: {error}"
                ) from None
            if not _is_plain([seen]):
                raise ConfigError(
                    f"{source}: column '{name}' has type {str(seen)[:80]}, which rows do not support; "
                    "convert it to text or remove it"
                )


def require(row: Mapping[str, Any], *keys: str, source: str | Path, index: int) -> None:
    """Check that a row has these columns and that none of them is null.

    Args:
        row: the row.
        keys: the required columns.
        source: the source of the row.
        index: its row number there, from 0.

    Raises:
        ConfigError: names the source, the row (from 1) and the column.
    """
    for key in keys:
        if row.get(key) is None:
            found = ", ".join(name for name, value in row.items() if value is not None)
            raise ConfigError(
                f"{source}: row {index + 1}: no '{key}' (it has {found}); map it with `columns`"
            )


# ----------------------------------------------------------------------------------------------- fingerprints


def source_fingerprint(source: str | Path) -> str:
    """Return a fingerprint of what `read_rows` would read.

    For a stage folder, it is the fingerprint in its receipt plus a digest of its data, because an engine
    without bit equality may write other rows under the same settings. For a file, it is the sha256 of its
    bytes; for the hub, the name and the commit.
    """
    whole, first = first_rows(source)
    if first is not None:
        return f"{source_fingerprint(whole)}[:{first}]"
    if str(source).startswith("hub:"):
        match = _hub(str(source))
        name, config, revision, split = match.group("name", "config", "revision", "split")
        return f"hub:{name}/{config or ''}@{hub_commit(name, revision, 'dataset')}:{split or 'train'}"
    path = _local(source)
    if path.is_dir():
        return made_by(finished_receipt(path))
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def model_fingerprint(model: str | Path, revision: str | None = None) -> str:
    """Return a fingerprint of a model: of a folder, by its receipt or its files; else, the hub id and commit.

    Raises:
        ConfigError: the folder does not exist, contains no weights, or was changed after its stage saved it.
    """
    check_model_name(model)
    path = expand(model)
    if not path.is_dir():
        return f"hub:{model}@{hub_commit(str(model), revision, 'model')}"
    check_safetensors(path)
    if not (path / RECEIPT).exists():
        return digest_model(path)
    receipt = finished_receipt(path)
    if "files" in receipt:
        _check_model(path, receipt)
    return made_by(receipt)


def hub_commit(name: str, revision: str | None, kind: Literal["model", "dataset"]) -> str:
    """Return the commit of a hub repository's revision (None: main), from the hub or from its local copy.

    A branch moves, and results made afterwards would differ. If neither the hub nor a local copy is
    available, the name of the revision is returned, and a warning is logged.
    """
    revision = revision or "main"
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        found = HfApi().repo_info(name, revision=revision, repo_type=kind).sha
    except Exception as error:  # the hub's client raises many types of exceptions
        copy = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
        try:
            found = (copy / "refs" / revision).read_text().strip()
        except OSError:
            log.warning("%s: cannot determine the commit of '%s': %s", name, revision, type(error).__name__)
            found = None
    return found or revision


def check_model_name(model: str | Path) -> None:
    """Check that a name that cannot be a hub id is an existing folder.

    Raises:
        ConfigError: it does not exist. `runs/typo` counts as a folder name if there is a folder `runs`.
    """
    path, text = _local(model), str(model)
    slashes = text.count("/")
    local = path.is_absolute() or text.startswith((".", "~", "$")) or slashes > 1
    if not path.is_dir() and (local or (slashes == 1 and path.parent.is_dir())):
        raise ConfigError(f"{path}: no such model folder")


def model_label(model: str) -> str:
    """Return the name that rows use for a model: the last part of its path or hub id."""
    return model.rstrip("/").rpartition("/")[2]


def digest_model(folder: Path) -> str:
    """Hash a model folder: configs and tokenizer completely, weights by name, size, first and last MiB.

    Raises:
        ConfigError: the folder contains no weights.
    """
    digest = hashlib.sha256()
    for name, record in model_files(folder).items():
        digest.update(f"{name}\0{record.get('sha256') or record['sha256_of_ends']}\n".encode())
    return digest.hexdigest()


def model_files(folder: Path) -> dict[str, FileRecord]:
    """Return the files that make up a model, by name, with size and hash.

    Raises:
        ConfigError: there are no weights, or a file cannot be read.
    """
    try:
        paths = [p for p in sorted(folder.iterdir()) if p.name not in _NOT_THE_MODEL and p.is_file()]
        found = {path.name: _weights(path) for path in paths if path.suffix in _WEIGHTS}
        if not found:
            raise ConfigError(f"{folder}: contains no weights (expected *.safetensors)")
        found |= {path.name: file_record(path) for path in paths if path.suffix in _SMALL}
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror or error}") from None
    return dict(sorted(found.items()))


def _weights(path: Path) -> FileRecord:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_MEBIBYTE)
        file.seek(max(0, size - _MEBIBYTE))
        ends = f"{size}".encode() + head + file.read(_MEBIBYTE)
    return {"bytes": size, "sha256_of_ends": hashlib.sha256(ends).hexdigest()}


def _check_model(folder: Path, receipt: Mapping[str, Any]) -> None:
    """Check that a model's files are the ones that its stage saved; small files may have been added.

    Raises:
        ConfigError: a file is missing or has changed.
    """
    noted, found = receipt["files"], model_files(folder)
    for name in sorted(noted.keys() | found.keys()):
        if name not in found:
            raise damaged(folder, f"{name} is missing")
        if name not in noted and Path(name).suffix in _WEIGHTS:
            raise damaged(folder, f"{name} was not written by the stage")
        if name in noted and noted[name] != found[name]:
            raise damaged(folder, f"{name} has different content")


def row_seed(run_seed: int, stage: str, *parts: int | str) -> int:
    """Derive a seed in [0, 2**63) from a row's identity (sha256), independent of the worker."""
    text = json.dumps([run_seed, stage, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
