"""Answers that were paid for, kept one a line as they come, so that a restart does not pay for them again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from scalequest.shards import StageError

SYNC_EVERY = 1.0  # seconds between two fsyncs: a kill loses nothing, a power cut this much


class Journal:
    """One worker's file of answers; those that any worker of an earlier launch has written are read.

    Every line is `{"asked": digest, "prompt_tokens": n, "tokens": n, ...}`: an answer where it has a `text`,
    else an attempt that cost something and brought nothing. A line that a kill has cut is passed over.

    Attributes:
        prompt_tokens: read by the server, over all lines, and `tokens` generated.
    """

    def __init__(self, folder: Path, worker: int = 0) -> None:
        """Read what is in `folder`, and open this worker's file there."""
        self.prompt_tokens = self.tokens = 0
        self._before: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("answers-*.jsonl")):
            for line in _lines(path):
                self._count(line)
                old = self._before.get(line["asked"], {"prompt_tokens": 0, "tokens": 0})
                both = {key: old[key] + line[key] for key in ("prompt_tokens", "tokens")}
                self._before[line["asked"]] = old | line | both
        self._file = (folder / f"answers-{worker:05d}.jsonl").open("ab")
        self._file.write(b"\n")  # behind whatever a kill has cut
        self._synced = time.monotonic()

    def take(self, asked: str) -> dict[str, Any] | None:
        """The answer that is there already, its tokens summed over all attempts; it can be taken once."""
        found = self._before.pop(asked, None)
        return found if found is not None and "text" in found else None

    def add(self, line: dict[str, Any]) -> None:
        """Append a line.

        Raises:
            StageError: it cannot be written, e.g. because the disk is full.
        """
        self._count(line)
        try:
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_EVERY:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise StageError(
                f"{self._file.name}: {error.strerror}; what was written is kept: set it right and run again"
            ) from error

    def close(self) -> None:
        """Close the file; what a full disk did not take has been reported by `add`."""
        with suppress(OSError):
            self._file.close()

    def _count(self, line: dict[str, Any]) -> None:
        self.prompt_tokens += line["prompt_tokens"]
        self.tokens += line["tokens"]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n"):
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and {"asked", "prompt_tokens", "tokens"} <= record.keys():
                yield record
