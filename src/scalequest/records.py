"""Read rows, check their columns, and fingerprint their sources."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from scalequest.column_names import TEXTS, Guess, guess, has_system, text_of
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
from scalequest.row_files import Row as Row
from scalequest.row_files import is_plain, parquet_rows, plain, read_file

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


def read_rows(source: str | Path, *, limit: int | None = None) -> list[Row]:
    """Read rows in order, with the columns that the source has.

    Dates, times and exact decimals of parquet files and hub data sets become text, as they are in JSON files.

    Args:
        source: the folder of a finished stage; a .jsonl, .json (a list, or an object with one), .csv, .tsv,
            .txt (a question per line) or .parquet file, all but the last also as .gz; or
            `hub:owner/name[/config][@revision][:split]` (split `train` unless given). `$NAME` is expanded.
            `[:600]` after any of them selects its first 600 rows; it is an error if there are fewer.
        limit: read only this many rows.

    Raises:
        ConfigError: names the source, and the line or row of the error; or there are no rows, and the source
            is not a stage, which may have dropped all.
    """
    whole, first = first_rows(source)
    rows = list(islice(islice(_rows(whole), first), limit))
    if first is not None and limit is None and len(rows) < first:
        raise ConfigError(
            f"{source}: {first} rows requested, but there are only {len(rows)}: request that many or fewer"
        )
    if not rows and 0 not in (first, limit) and not is_stage(whole):
        raise ConfigError(f"{source}: contains no rows")
    return rows


def read_columns(
    source: str | Path,
    *keys: str,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    setting: str = "columns",
) -> list[Row]:
    """Read rows under our column names, which are guessed if the source is not a stage.

    Of a column of chat turns, the user's turn is the question, and the assistant's the response; the column
    itself is kept. One log line says what was guessed.

    Args:
        source: a source accepted by `read_rows`.
        keys: columns that every row must have.
        columns: mapping from our names to theirs, which are then not guessed; a row without their name must
            have ours, so that GSM8K's `question` and MATH's `problem` can be read in one run. A name that is
            mapped to itself says nothing.
        limit: read only this many rows.
        setting: where the user sets `columns`, for messages.

    Raises:
        ConfigError: a row lacks a column, a text is not a string, or several columns may be meant.
    """
    rows = read_rows(source, limit=limit)
    given = {ours: theirs for ours, theirs in (columns or {}).items() if ours != theirs}
    found = Guess({}, frozenset())
    if not is_stage(whole_source(source)):
        found = guess(rows, [key for key in keys if key not in given], str(source), setting)
    named = {**given, **found.columns}
    _log_guess(source, rows, found, found.chats & set(named.values()))
    texts = [key for key in TEXTS if key == "question" or key in keys or key in named]
    renamed = []
    for index, row in enumerate(rows):
        row = _renamed(row, named, found.chats)
        for key in texts:
            if key in row:
                row[key] = text_of(
                    row[key], key, f"{source}: row {index + 1}: column '{named.get(key, key)}'"
                )
        require(row, *keys, source=source, index=index, setting=setting)
        for key in texts:
            if not isinstance(row.get(key, ""), str):
                raise ConfigError(
                    f"{source}: row {index + 1}: '{key}' must be a string, got {row[key]!r:.80}"
                )
        renamed.append(row)
    return renamed


def _renamed(row: Row, named: Mapping[str, str], kept: Collection[str]) -> Row:
    """Return a row with our names; columns in `kept` stay under theirs as well."""
    moved = {ours: row[theirs] for ours, theirs in named.items() if theirs in row}
    gone = set(named.values()).difference(kept)
    return {key: value for key, value in row.items() if key not in gone} | moved if moved else row


def _log_guess(source: str | Path, rows: Sequence[Row], found: Guess, chats: Collection[str]) -> None:
    """Say which columns were guessed, and that system messages are not used."""
    pairs = [f"'{ours}' is read from column '{theirs}'" for ours, theirs in found.columns.items()]
    systems = sum(any(has_system(row.get(name)) for name in chats) for row in rows) if chats else 0
    left_out = [f"the system messages of {systems} rows are not used"] if systems else []
    if pairs or left_out:
        log.info("%s: %s", source, ", ".join([*pairs, *left_out]))


def is_stage(source: str | Path) -> bool:
    """Return whether a source is the folder of a stage, whose rows have our column names."""
    return not str(source).startswith("hub:") and _local(source).is_dir()


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
    return (row for file in sorted(folder.glob("*.parquet")) for row in parquet_rows(file))


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
    return read_file(path)


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


def _stage_rows(folder: Path, part: Part) -> Iterator[Row]:
    """Read the rows of a finished stage; each file's content is checked when its first row is read."""
    files = row_files(folder, finished_receipt(folder), part)
    return (row for file, sha256 in files for row in parquet_rows(file, sha256))


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
            yield plain(dict(row))
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
    setting: str = "columns",
) -> list[Row]:
    """Read several sources, one after the other, as the input of a data stage.

    Args:
        sources: sources accepted by `read_rows`.
        keys: columns that every row must have; a missing `id` is derived from the source and the row number.
        columns: as in `read_columns`.
        limit: read only this many rows, over all sources.
        without: columns that are dropped; all others are passed on to the stage's data. A passed-on column
            must have a single type, which is checked here, because otherwise a stage would only fail at its
            end, after days.
        setting: where the user sets `columns`, for messages.

    Raises:
        ConfigError: as in `read_columns`; or two rows have the same id, or a column that is passed on has two
            types.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    types = ColumnTypes()
    for source in sources:
        name, before = Path(source).name.partition(".")[0], len(rows)
        rest = limit and limit - before
        for index, row in enumerate(
            read_columns(source, *keys, columns=columns, limit=rest, setting=setting)
        ):
            given = row.get("id")
            # Numeric ids of one source share a column with names of another.
            row = {"id": None, **row} | {"id": f"{name}-{index:08d}" if given is None else str(given)}
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
            if not is_plain([seen]):
                raise ConfigError(
                    f"{source}: column '{name}' has type {str(seen)[:80]}, which rows do not support; "
                    "convert it to text or remove it"
                )


def require(
    row: Mapping[str, Any], *keys: str, source: str | Path, index: int, setting: str = "columns"
) -> None:
    """Check that a row has these columns and that none of them is null.

    Args:
        row: the row.
        keys: the required columns.
        source: the source of the row.
        index: its row number there, from 0.
        setting: where the user says which column it is.

    Raises:
        ConfigError: names the source, the row (from 1) and the column.
    """
    for key in keys:
        if row.get(key) is None:
            found = ", ".join(name for name, value in row.items() if value is not None)
            raise ConfigError(
                f"{source}: row {index + 1}: no '{key}' (it has {found or 'nothing'}); "
                f"map it with `{setting}`"
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
