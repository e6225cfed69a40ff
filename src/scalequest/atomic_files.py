"""Write files atomically, check file names, and read JSON files."""

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

DEEPEST = 32  # nested lists and objects; parquet is read to 100 levels, and a list takes two or three

# Names that Windows reserves for devices, with any extension; a run's folder may be copied to such a system.
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE)
_MOST_BYTES = 128  # leaves room for suffixes below the 255 bytes that file systems allow


def name_fault(name: str) -> str | None:
    """Return why a user's name cannot be a file or folder name on every system; None if it can."""
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
    """Return a key that is equal for names that are the same file if case or accent encoding is ignored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class StageError(RuntimeError):
    """A stage cannot start, resume or finish; one line that says why and what to do."""

    def __init__(self, message: str) -> None:
        """Keep the message on one line and free of secrets."""
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
    """Write a file atomically: after a kill or a power cut it is either complete or unchanged."""
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
    """Flush a file, or the names in a folder, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def as_json(value: Any) -> bytes:
    """Return indented JSON for people to read."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def as_yaml(value: Mapping[str, Any]) -> bytes:
    """Return YAML with the keys in the mapping's own order."""
    from io import BytesIO

    from ruamel.yaml import YAML

    out = BytesIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(json.loads(json.dumps(value)), out)
    return out.getvalue()


def parse_json(data: bytes, where: str | Path) -> Any:
    """Parse JSON that every file format here can store: UTF-8, no lone surrogates, limited nesting.

    Args:
        data: the text as bytes, with or without a byte order mark.
        where: the place that an error message names.

    Raises:
        ConfigError: the text is not such JSON.
    """
    value, escapes = parse_text(data, where)
    check_json(value, escapes, where)
    return value


def parse_text(data: bytes, where: str | Path) -> tuple[Any, bool]:
    """Return the value of a JSON text, for `check_json` to check, and whether the text has escapes.

    Raises:
        ConfigError: the text is not UTF-8 or not JSON.
    """
    try:
        text = data.decode("utf-8-sig")  # `json` accepts surrogates as UTF-8 and guesses other encodings
        return json.loads(text), "\\u" in text
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None


def check_json(value: Any, escapes: bool, where: str | Path) -> None:
    """Check that files can store a parsed value.

    Args:
        value: a parsed JSON value.
        escapes: whether the text contained escapes.
        where: the place that an error message names.

    Raises:
        ConfigError: a lone surrogate, which is valid JSON, or nesting deeper than `DEEPEST`.
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
        FileNotFoundError: the file does not exist.
        ConfigError: the file cannot be read.
    """
    try:
        return parse_json(Path(path).read_bytes(), path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that contains one object.

    Raises:
        FileNotFoundError: the file does not exist.
        ConfigError: the file cannot be read, or contains something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _depth(value: Any) -> int:
    """Return the nesting depth of lists and objects, computed without recursion."""
    deepest, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        deepest += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return deepest
