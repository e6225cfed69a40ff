"""Files that are there whole or as they were before, whatever is killed or runs full, and their names."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Devices of Windows, whatever extension follows; a run's folder may be copied there, or to its disks.
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE)
_MOST_BYTES = 128  # what is added to a name leaves it below the 255 that file systems take


def name_fault(name: str) -> str | None:
    """Why a name that a user gives cannot name one file or folder on every system; None if it can."""
    if not name:
        return "it is empty"
    if not name.isprintable():
        return "it holds a character that is not printable"
    if wrong := re.search(r'[/\\:*?"<>|]', name):
        return f"it holds '{wrong[0]}'"
    if name[0] in ".- " or name[-1] in ". ":
        return "it begins with '.', '-' or a space, or ends with '.' or a space"
    if _DEVICE.fullmatch(name):
        return "Windows has a device of this name"
    if len(name.encode()) > _MOST_BYTES:
        return f"it is longer than {_MOST_BYTES} bytes"
    return None


def one_file(name: str) -> str:
    """What is equal for names that are one file where case, or how an accent is written, does not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class StageError(RuntimeError):
    """Why a stage cannot start, go on or finish, in one line that says what to do."""

    def __init__(self, message: str) -> None:
        """Keep the message to one line."""
        super().__init__(" ".join(message.split()))


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn an operating-system error into a `StageError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise StageError(
            f"{error.filename or path}: {error.strerror or error}; nothing is marked finished, and blocks "
            "already written are kept: set it right and run again"
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
