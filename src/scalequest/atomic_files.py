"""Files that are there whole or as they were before, whatever is killed; their names; JSON files read."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError
from scalequest.redaction import redacted

DEEPEST = 32  # lists and objects in each other; parquet is read to 100 levels, a list taking two or three

# Devices of Windows, whatever extension follows; a run's folder may be copied there, or to its disks.
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE)
_MOST_BYTES = 128  # what is added to a name leaves it below the 255 that file systems take


def name_fault(name: str) -> str | None:
    """Why a name that a user gives cannot name one file or folder on every system; None if it can."""
    if not name:
        return "it is empty"
    if not name.isprintable():
        return "it contains a character that is not printable"
    if wrong := re.search(r'[/\\:*?"<>|]', name):
        return f"it contains '{wrong[0]}'"
    if name[0] in ".- " or name[-1] in ". ":
        return "it starts with '.', '-' or a space, or ends with '.' or a space"
    if _DEVICE.fullmatch(name):
        return "Windows reserves this name for a device"
    if len(name.encode()) > _MOST_BYTES:
        return f"it is longer than {_MOST_BYTES} bytes"
    return None


def one_file(name: str) -> str:
    """What is equal for names that are one file where case, or how an accent is written, does not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class StageError(RuntimeError):
    """Why a stage cannot start, go on or finish, in one line that says what to do."""

    def __init__(self, message: str) -> None:
        """Keep the message to one line, and secrets out of it."""
        super().__init__(redacted(" ".join(message.split())))


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn an operating-system error into a `StageError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise StageError(
            f"{error.filename or path}: {error.strerror or error}; nothing was marked "
            "finished, and blocks already written are kept: fix the cause and run again"
        ) from error


def write(path: Path, data: bytes) -> None:
    """Write a file so that, killed or powered off at any moment, it is there whole or as it was before."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Bring a file, or a folder's names, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def as_json(value: Any) -> bytes:
    """Indented JSON, as people read it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def as_yaml(value: Mapping[str, Any]) -> bytes:
    """YAML in the mapping's own order."""
    from io import BytesIO

    from ruamel.yaml import YAML

    out = BytesIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(json.loads(json.dumps(value)), out)
    return out.getvalue()


def parse_json(data: bytes, where: str | Path) -> Any:
    """Parse JSON that any file can hold: UTF-8, no half of a surrogate pair, nesting that parquet can store.

    Args:
        data: the text's bytes, with or without a byte order mark.
        where: what an error is to name.

    Raises:
        ConfigError: it is not that.
    """
    value, escapes = parse_text(data, where)
    check_json(value, escapes, where)
    return value


def parse_text(data: bytes, where: str | Path) -> tuple[Any, bool]:
    """The value of a JSON text, for `check_json` to look at, and whether the text has escapes.

    Raises:
        ConfigError: it is not UTF-8, or not JSON.
    """
    try:
        text = data.decode("utf-8-sig")  # `json` takes surrogates for UTF-8, and guesses other encodings
        return json.loads(text), "\\u" in text
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None


def check_json(value: Any, escapes: bool, where: str | Path) -> None:
    """Check that files can hold a value that was parsed.

    Args:
        value: of JSON.
        escapes: whether its text had any.
        where: what an error is to name.

    Raises:
        ConfigError: half of a surrogate pair, which is valid JSON, or nesting deeper than `DEEPEST`.
    """
    try:
        if _depth(value) > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
        if escapes:
            json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: it cannot be read.
    """
    try:
        return parse_json(Path(path).read_bytes(), path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: it cannot be read, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _depth(value: Any) -> int:
    """How many lists and objects lie in each other, found without recursion."""
    deepest, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        deepest += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return deepest
