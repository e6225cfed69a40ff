"""Store paid answers, one per line as they arrive, so that a restart does not pay for them again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from scalequest.atomic_files import StageError

SYNC_EVERY = 1.0  # seconds between two fsyncs: a kill loses nothing, a power cut at most this much


class Journal:
    """One worker's file of answers, plus the answers of all workers of earlier launches.

    Every line is `{"asked": digest, "prompt_tokens": n, "tokens": n, ...}`. With a `text` it is an answer.
    Otherwise it is an attempt that had a cost but no result, or, under a budget, the maximum cost of an
    attempt, written before it is sent; the next line corrects it, with counts that may be negative. Each line
    ends with a hash of the rest. Lines that are incomplete after a kill, or whose hash does not match, are
    skipped.

    Attributes:
        spent: input and output tokens of each worker, according to its file when the journal is opened.
    """

    def __init__(self, folder: Path, worker: int = 0) -> None:
        """Read the files in `folder` and open this worker's file there."""
        self.spent: dict[int, tuple[int, int]] = {}
        self._before: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("answers-*.jsonl")):
            number = int(path.stem.removeprefix("answers-"))
            for line in _lines(path):
                read, generated = self.spent.get(number, (0, 0))
                self.spent[number] = (read + line["prompt_tokens"], generated + line["tokens"])
                old = self._before.get(line["asked"], {"prompt_tokens": 0, "tokens": 0})
                both = {key: old[key] + line[key] for key in ("prompt_tokens", "tokens")}
                self._before[line["asked"]] = old | line | both
        self._file = (folder / f"answers-{worker:05d}.jsonl").open("ab")
        self._file.write(b"\n")  # after a possibly incomplete line
        self._synced = time.monotonic()

    def take(self, asked: str) -> dict[str, Any]:
        """Return the entry of a question, which is an answer if it has a `text`; each entry is returned once.

        Its tokens are summed over all attempts, even if none of them brought an answer.
        """
        return self._before.pop(asked, {"prompt_tokens": 0, "tokens": 0})

    def add(self, line: dict[str, Any]) -> None:
        """Append a line.

        Raises:
            StageError: the line cannot be written, e.g. because the disk is full.
        """
        try:
            self._file.write(_hashed(json.dumps(line, ensure_ascii=False).encode()) + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_EVERY:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise StageError(
                f"{self._file.name}: {error.strerror}; earlier entries are kept: fix the cause and run again"
            ) from error

    def close(self) -> None:
        """Close the file; `add` has already reported a full disk."""
        with suppress(OSError):
            self._file.close()


def _hashed(line: bytes) -> bytes:
    """Return an object as JSON with a hash of it as the last key."""
    return line[:-1] + b', "sha256": "' + hashlib.sha256(line).hexdigest()[:16].encode() + b'"}'


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n"):
        with suppress(ValueError):
            record = json.loads(line)
            if not isinstance(record, dict) or not {"asked", "prompt_tokens", "tokens"} <= record.keys():
                continue
            # Older journals have no hashes
            if record.pop("sha256", None) is None or line == _hashed(
                line.rpartition(b', "sha256"')[0] + b"}"
            ):
                yield record
