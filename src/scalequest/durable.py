"""Files that are there whole or as they were before, whatever is killed or runs full."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalequest.redaction import redacted


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
