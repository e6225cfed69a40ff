"""Read the receipts of stages, and check that the files of a finished stage still match its receipt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, cast

from annotated_types import Ge
from typing_extensions import TypedDict  # pydantic requires this one before Python 3.12

from scalequest.atomic_files import as_json, read_json, write
from scalequest.config import ConfigError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

RECEIPT = "receipt.json"
_AGAIN = "restore it from a copy, or remove the folder and run its stage again"
Count = Annotated[int, Ge(0)]
Part = Literal["data", "dropped"]


class FileRecord(TypedDict, total=False):
    """A file written by a stage: its size, its hash (for weights: of their ends), and its rows, if any."""

    bytes: Count
    sha256: str
    sha256_of_ends: str
    rows: Count


class Receipt(TypedDict, total=False):
    """The known keys of `receipt.json`; further keys are allowed."""

    stage: str
    version: int
    fingerprint: str
    fingerprint_fields: dict[str, Any]
    inputs: dict[str, str]
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    started: str
    ended: str
    session: str
    finished: bool
    removing: bool
    writes: list[str]
    rows_in: Count
    kept: Count
    dropped: dict[str, Count]
    tokens: int
    seconds: float
    counts: dict[str, int | float]
    output: str
    files: dict[str, FileRecord]


_FINISHED = ("stage", "fingerprint", "output")  # required in the receipt of a finished stage


@cache
def _kinds() -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter, with_config  # not needed before there is a receipt to check

    return TypeAdapter(with_config(ConfigDict(strict=True, extra="allow"))(Receipt))


def read_receipt(folder: str | Path) -> dict[str, Any] | None:
    """Return the receipt in a folder, finished or not; None if there is none.

    Raises:
        ConfigError: the file cannot be read or is not a receipt.
    """
    path = Path(folder) / RECEIPT
    try:
        receipt = read_json(path)
    except FileNotFoundError:
        return None
    except ConfigError as error:
        raise ConfigError(f"{error}; {_AGAIN}") from None
    from pydantic import ValidationError

    try:
        _kinds().validate_python(receipt)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(f"{path}: not a stage's receipt ({where}: {first['msg']}); {_AGAIN}") from None
    return cast(dict[str, Any], receipt)


def finished_receipt(folder: str | Path) -> dict[str, Any]:
    """Return the receipt of a finished stage.

    Raises:
        ConfigError: there is no receipt, it cannot be read, or its stage is not finished.
    """
    receipt = read_receipt(folder)
    if receipt is None:
        raise ConfigError(f"{folder}: contains no {RECEIPT}, so it is not a stage folder")
    if not receipt.get("finished"):
        raise ConfigError(
            f"{folder}: the stage '{receipt.get('stage')}' is not finished; run it again to resume"
        )
    if lacking := [key for key in _FINISHED if key not in receipt]:
        raise ConfigError(f"{folder}/{RECEIPT}: not a stage's receipt (no '{lacking[0]}'); {_AGAIN}")
    return receipt


def made_by(receipt: Mapping[str, Any]) -> str:
    """Return the name by which receipts of later stages refer to the output of this stage."""
    return f"{receipt['fingerprint']}/{receipt['output']}"


# ------------------------------------------------------------------------------------------------------ files


def file_record(path: Path, **more: int) -> FileRecord:
    """Return the size and the hash of a file, in the form in which a receipt records them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": _sha256(file), **more}  # type: ignore[typeddict-item]


def add_file(folder: Path, name: str) -> None:
    """Add a file to the receipt of the folder that it was written into; without a receipt, do nothing."""
    receipt = read_receipt(folder)
    if receipt is None:
        return
    files, record = receipt.get("files", {}), file_record(folder / name)
    if files.get(name) != record:
        write(folder / RECEIPT, as_json({**receipt, "files": {**files, name: record}}))


def check_file(folder: Path, name: str) -> None:
    """Check a file against its hash in the receipt of its folder, if there is one.

    Raises:
        ConfigError: the file differs, or the receipt cannot be read.
    """
    record = ((read_receipt(folder) or {}).get("files") or {}).get(name)
    if record is not None and file_record(folder / name)["sha256"] != record.get("sha256"):
        raise damaged(folder, f"{name} has different content")


def _sha256(file: BinaryIO) -> str:
    # The fastest hash in the standard library on processors with instructions for it: at least 1.2 GB per
    # second.
    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def holds_rows(folder: Path, receipt: Mapping[str, Any]) -> bool:
    """Return whether a finished stage produced rows rather than a model."""
    if "files" not in receipt:
        return (folder / "data").is_dir() or not any(folder.glob("*.safetensors"))
    return any(name.startswith("data/") for name in receipt["files"])


def damage(folder: Path, receipt: Mapping[str, Any], part: Part) -> str | None:
    """Return how the row files of a finished stage differ from its receipt in names, sizes or rows; or None.

    Only the ends of the files are read. A receipt written before files were recorded has only the number of
    rows.

    Args:
        folder: the stage's folder.
        receipt: the receipt found there.
        part: the kept rows (`data`) or the dropped rows (`dropped`).
    """
    there = {f"{part}/{path.name}": path for path in sorted((folder / part).glob("*.parquet"))}
    counted = receipt.get("kept") if part == "data" else sum((receipt.get("dropped") or {}).values())
    noted = {name: of for name, of in receipt.get("files", {}).items() if name.startswith(f"{part}/")}
    if noted or (there and "files" in receipt):
        return next(_differing(there, noted), None)
    if part == "data" and not there:
        return "data/*.parquet is missing"
    found = sum(_rows(path) for path in there.values())
    return (
        None if counted in (None, found) else f"{part}/ contains {found} rows, but the receipt says {counted}"
    )


def _differing(there: Mapping[str, Path], noted: Mapping[str, FileRecord]) -> Iterator[str]:
    for name in sorted(noted.keys() - there.keys()):
        rows = f" with {noted[name]['rows']} rows" if "rows" in noted[name] else ""
        yield f"{name}{rows} is missing"
    for name in sorted(there.keys() - noted.keys()):
        yield f"{name} was not written by the stage"
    for name, of in noted.items():
        if (size := there[name].stat().st_size) != of["bytes"]:
            yield f"{name} has {size} bytes instead of {of['bytes']}"


def _rows(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable parquet file: {error}") from None


def row_files(folder: Path, receipt: Mapping[str, Any], part: Part) -> list[tuple[Path, str | None]]:
    """Return the row files of a finished stage, each with its expected hash (None: not recorded).

    Raises:
        ConfigError: the files are not the ones that the stage wrote.
    """
    if not holds_rows(folder, receipt):
        raise ConfigError(
            f"{folder}: the stage '{receipt['stage']}' produced a model: there are no rows to read"
        )
    if (what := damage(folder, receipt, part)) is not None:
        raise damaged(folder, what)
    noted = receipt.get("files", {})
    return [
        (path, noted.get(f"{part}/{path.name}", {}).get("sha256"))
        for path in sorted((folder / part).glob("*.parquet"))
    ]


def damaged(folder: Path, what: str) -> ConfigError:
    """Return the error for a changed file, with the remedy."""
    return ConfigError(
        f"{folder}: changed since its stage finished: {what}; restore it from a copy, or "
        "run that stage again with --fresh"
    )


def check_bytes(path: Path, file: BinaryIO, sha256: str) -> None:
    """Check that an open file has the content that its stage wrote, and rewind it.

    Raises:
        ConfigError: the content differs.
    """
    if _sha256(file) != sha256:
        raise damaged(path.parent.parent, f"{path.parent.name}/{path.name} has different content")
    file.seek(0)
