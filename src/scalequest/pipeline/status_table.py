"""The status table of a pipeline run: counts, seconds and rate of each stage, while it runs and after."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scalequest import heartbeat, receipts
from scalequest.config import ConfigError
from scalequest.pages.markup import number


@dataclass
class StageStatus:
    """The status of one stage; `parts` and `before` are counted while it runs."""

    state: Literal["", "running", "done", "finished before", "failed", "stopped", "left out"] = ""
    seconds: float | None = None
    receipt: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    before: int | None = None

    def look(self, folder: Path | None) -> None:
        """Read the progress of the running stage: rows of its finished blocks, and what it last reported."""
        if folder is None:
            return
        for part in folder.glob("parts/*.jsonl"):
            if part.name not in self.parts:
                with contextlib.suppress(OSError, ValueError, KeyError), part.open(encoding="utf-8") as file:
                    head = json.loads(file.readline())
                    self.parts[part.name] = (int(head["kept"]), int(head["dropped"]))
        if self.before is None:
            self.before = sum(map(sum, self.parts.values()))
        with (
            contextlib.suppress(OSError, ValueError, IndexError),
            (folder / "metrics.jsonl").open("rb") as file,
        ):
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            last = json.loads(file.read().splitlines()[-1])
            keys = [key for key in ("step", "loss", "rewards/accuracies") if key in last]
            self.note = ", ".join(f"{key} {number(last[key])}" for key in keys)

    def life(self, file: Path) -> str:
        """What the running stage reports in `file`; if it reports nothing (yet), what can be seen of it.

        Raises:
            ConfigError: the interval of the signs of life is not a positive number.
        """
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime < heartbeat.every():
                return file.read_text(encoding="utf-8").strip()
        seen = f"{self.note}, {self.summary}" if self.note else self.summary
        return f"running, {seen}"

    @property
    def counts(self) -> tuple[int | None, int | None, int | None]:
        """Rows in, kept and dropped; None if not known."""
        if self.state == "running" and self.parts:
            kept, dropped = (sum(side) for side in zip(*self.parts.values(), strict=True))
            return None, kept, dropped
        if "kept" not in self.receipt:
            return None, None, None
        return (
            self.receipt.get("rows_in"),
            self.receipt["kept"],
            sum((self.receipt.get("dropped") or {}).values()),
        )

    @property
    def rate(self) -> str:
        """Tokens per second of work; rows per second if no tokens are counted, and while it runs."""
        rows, kept, dropped = self.counts
        if self.state == "running":
            done, seconds, tokens = (kept or 0) + (dropped or 0) - (self.before or 0), self.seconds, 0
        else:
            done, seconds, tokens = rows or 0, self.receipt.get("seconds"), self.receipt.get("tokens") or 0
        if not seconds or not (tokens or done):
            return ""
        return f"{tokens / seconds:,.0f} tokens/s" if tokens else f"{number(done / seconds)} rows/s"

    @property
    def summary(self) -> str:
        """Counts, seconds and rate in words."""
        counts = [
            f"{count:,} {word}"
            for count, word in zip(self.counts, ("in", "kept", "dropped"), strict=True)
            if count is not None
        ]
        return ", ".join(part for part in [*counts, f"{self.seconds or 0:.1f} s", self.rate] if part)


def read_receipt(folder: Path | None) -> dict[str, Any]:
    """The receipt of a stage; empty if there is none."""
    if folder is None:
        return {}
    try:
        return receipts.read_receipt(folder) or {}
    except ConfigError:
        return {}


def build_table(lines: Mapping[str, StageStatus]) -> Table:
    """The stages with their counts, seconds and rates."""
    result = Table(box=None, pad_edge=False)
    for title in ("stage", "state", "in", "kept", "dropped", "seconds", "rate"):
        result.add_column(title, justify="left" if title in ("stage", "state") else "right", no_wrap=True)
    for name, line in lines.items():
        result.add_row(
            name,
            f"{line.state} {line.note}".strip(),
            *("" if count is None else f"{count:,}" for count in line.counts),
            "" if line.seconds is None else f"{line.seconds:.1f}",
            line.rate,
        )
    return result


class StatusTable:
    """The live table on a terminal; elsewhere plain lines, one every 30 seconds, and the table at the end."""

    def __init__(self, console: Console, lines: Mapping[str, StageStatus]) -> None:
        self._console, self.lines = console, lines
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said = time.monotonic()

    def __enter__(self) -> StatusTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self.refresh()
            self._live.stop()
        else:
            self._console.print(build_table(self.lines))

    def refresh(self) -> None:
        """Redraw the live table."""
        if self._live is not None:
            self._live.update(build_table(self.lines), refresh=True)

    def beat(self, prefix: str, line: StageStatus, file: Path) -> None:
        """Print the running stage's progress, if there is no live table and nothing was printed for long."""
        if self._live is None and time.monotonic() - self._said >= heartbeat.every():
            self.say(f"{prefix}: {line.life(file)}")

    def say(self, text: str, live: bool = True) -> None:
        """Print a line; with `live=False` only if there is no live table, which shows the same."""
        self._said = time.monotonic()
        if live or self._live is None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
