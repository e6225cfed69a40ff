"""How a data stage goes: a bar or lines of log, numbers for the tracker, gates that end a bad run early."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scalequest import heartbeat
from scalequest.config import ConfigError, option
from scalequest.config.ranges import COUNT, SHARE
from scalequest.engines.base import FinishReason
from scalequest.records import Row
from scalequest.tracking import Tracker

logger = logging.getLogger(__name__)

REPORT_EVERY = 10.0  # seconds between two reports
_CUT = ("truncated", "all_truncated")  # drops that the truncation rate stands for


class Reply(Protocol):
    """What a block brings back for one question: a `Completion`, or anything that counts the same way."""

    @property
    def tokens(self) -> int:
        """Generated for it."""

    @property
    def prompt_tokens(self) -> int:
        """Read for it."""

    @property
    def finish_reason(self) -> FinishReason:
        """How it ended."""


class GateError(ConfigError):
    """A rate is above its limit: what was seen, and what to do."""


@dataclass(frozen=True)
class Gates:
    """Shares that end a stage when they are exceeded, looked at once, by each worker on its own rows."""

    after: int = option(
        300,
        "number of rows after which a worker checks the limits; smaller runs are never stopped",
        within=COUNT,
    )
    truncated: float = option(0.95, "maximum share of replies that are truncated at max_tokens", within=SHARE)
    junk: float = option(0.95, "maximum share of rows that are dropped for another reason", within=SHARE)
    duplicates: float = option(
        0.98, "maximum share of the kept rows whose text has occurred before", within=SHARE
    )


class Progress:
    """Rates since this process began; use as a context manager.

    Rows and rates are of all workers, told by the blocks that are on disk; shares and gates of this one.
    Without a terminal there are signs of life as well; they count this worker's requests, since blocks
    finish late.
    """

    def __init__(
        self,
        name: str,
        rows: int,
        written: Callable[[], int],
        tracker: Tracker | None = None,
        *,
        gates: Gates | None = None,
        text: Callable[[Row], str] | None = None,
        mine: int | None = None,
    ) -> None:
        """Start the clock.

        Args:
            name: the stage.
            rows: how many it has, over all workers.
            written: how many of them are on disk.
            tracker: gets the numbers.
            gates: limits; None has none.
            text: a kept row's text, equal for duplicates; None does not look for them.
            mine: how many of the rows that are not yet on disk are this worker's; None is all of them.
        """
        self._name, self._rows, self._written, self._tracker = name, rows, written, tracker
        self._gates, self._text = gates, text
        self._seen: set[int] = set()
        self._started = self._reported = self._last = time.monotonic()
        self._before = self._on_disk = written()
        self._mine = rows - self._before if mine is None else mine
        self._asked_rows = self._asked = 0
        self._requests = heartbeat.requests.count
        self._generated = heartbeat.requests.tokens
        self._life = heartbeat.doing(name, told=self.line)
        self._done = self._told = self._kept = self._cut_rows = self._repeated = 0
        self._replies = self._tokens = self._stopped = 0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stdout.isatty() and logger.isEnabledFor(logging.INFO):
            self._bar = _bar()
            self._task = self._bar.add_task(self._name, total=self._rows, rates="", shares="")
            self._bar.start()
        self._life.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Report for the last time."""
        self._life.__exit__(None, None, None)
        self.report()
        if self._bar is not None:
            self._bar.stop()

    def lap(self) -> float:
        """Seconds since the last block: summed over blocks they are this process's work, over any restart."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        return round(passed, 3)

    def ask(self, rows: int, requests: int) -> None:
        """Count a block that is handed to the engine, with the requests that its rows make."""
        self._asked_rows += rows
        self._asked += requests

    def line(self, seconds: float) -> str:
        """How far the stage is, in the middle of a block, too: rows, requests, rates and time left."""
        rows = max(self._on_disk, self._before + self._done)
        text = f"{rows:,} of {self._rows:,} rows"
        requests = heartbeat.requests.count - self._requests
        tokens = heartbeat.requests.tokens - self._generated
        done, total = float(requests), self._asked * self._mine / max(1, self._asked_rows)
        if total:
            owner = "" if self._before + self._mine >= self._rows else " of this worker"
            text += f", {requests:,} of {round(total):,} requests{owner}"
        if total and (batch := heartbeat.requests.batch) is not None:
            size, made, most = batch
            done += size * made / most  # at least: most replies end before they have to
            text += f", token {made:,} of at most {most:,} in a batch of {size}"
        if not total or not done:
            done, total = float(self._done), float(self._mine)
        if not done:
            return f"{text}, {seconds:.0f} s"
        if requests:
            text += f", {heartbeat.rate(requests / seconds, 'requests')}"
        elif self._done:
            text += f", {heartbeat.rate(self._done / seconds, 'rows')}"
        if tokens:
            text += f", {tokens / seconds:,.0f} tokens/s"
        if done >= total:
            return f"{text}, finishing the last rows"
        most_left = "" if requests or self._done else "at most "
        return f"{text}, {most_left}{heartbeat.clock((total - done) * seconds / done)} left"

    def add(self, kept: Sequence[Row], dropped: Sequence[tuple[Row, str]], replies: Sequence[Reply]) -> None:
        """Count one block.

        Raises:
            GateError: a rate is above its limit.
        """
        self._done += len(kept) + len(dropped)
        self._kept += len(kept)
        self._cut_rows += sum(reason in _CUT for _, reason in dropped)
        self._replies += len(replies)
        self._tokens += sum(reply.tokens for reply in replies)
        self._stopped += sum(reply.finish_reason == "stop" for reply in replies)
        if self._gates is not None:
            self._check(self._gates, kept)
        if time.monotonic() - self._reported >= (1.0 if self._bar is not None else REPORT_EVERY):
            self.report()

    def _check(self, gates: Gates, kept: Sequence[Row]) -> None:
        if self._text is not None:
            for row in kept:
                key = hash(self._text(row))
                self._repeated += key in self._seen
                self._seen.add(key)
        if self._done < gates.after:
            return
        self._gates, self._seen = None, set()
        found = {
            "truncated": (self._cut, "of the replies were truncated at max_tokens"),
            "junk": (self._junk, "of the rows were dropped for other reasons than truncation"),
            "duplicates": (self._repeated / max(1, self._kept), "of the kept rows are repeats"),
        }
        for gate, (share, what) in found.items():
            limit = getattr(gates, gate)
            if share > limit:
                raise GateError(
                    f"{self._name}: stopped after {self._done} rows: {100 * share:.1f} % {what}, but "
                    f"the limit is {100 * limit:g} %: look at the rows in parts/, then fix the model, "
                    "the prompt or the sampling settings (--fresh starts again), or raise "
                    f"gates.{gate} and run again to resume"
                )

    @property
    def _cut(self) -> float:
        return 1 - self._stopped / self._replies if self._replies else 0.0

    @property
    def _junk(self) -> float:
        return (self._done - self._kept - self._cut_rows) / self._done

    def report(self) -> None:
        """Move the bar or log a line, and tell the tracker."""
        if self._done == self._told:
            return
        heartbeat.heard()
        self._told = self._done
        self._reported = time.monotonic()
        seconds = max(self._reported - self._started, 1e-9)
        written = self._on_disk = self._written()
        rows = max(self._done, written - self._before)
        tokens = self._tokens * rows / self._done  # as if the others' rows were as long as ours
        metrics = {
            "rows": written,
            "kept": self._kept,
            "rows_per_second": rows / seconds,
            "tokens_per_second": tokens / seconds,
            "finished_by_stop": 1 - self._cut,
            "finished_by_length": self._cut,
            "junk": self._junk,
            "eta_seconds": max(0, self._rows - written) * seconds / rows,
        }
        rates = f"{rows / seconds:.1f} rows/s, {tokens / seconds:.0f} tokens/s"
        cut, junk = 100 * self._cut, 100 * self._junk
        shares = f"{100 - cut:.1f} % stopped, {cut:.1f} % truncated, {junk:.1f} % rejected"
        if self._bar is not None:
            self._bar.update(self._task, completed=written, rates=rates, shares=shares)
        else:
            left = heartbeat.clock(metrics["eta_seconds"])
            logger.info(
                "%s: %d of %d rows, %s, %s, %s left", self._name, written, self._rows, rates, shares, left
            )
        if self._tracker is not None:
            self._tracker.log(metrics, step=self._done)


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rates]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shares]}"),
        refresh_per_second=2,
    )
