"""Progress of a data stage: a bar or log lines, numbers for the tracker, limits that stop a bad run."""

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
_CUT = ("truncated", "all_truncated")  # drop reasons that the truncation rate covers


class Reply(Protocol):
    """The result for one question: a `Completion`, or anything with the same counts."""

    @property
    def tokens(self) -> int:
        """The number of generated tokens."""

    @property
    def prompt_tokens(self) -> int:
        """The number of input tokens."""

    @property
    def finish_reason(self) -> FinishReason:
        """How the generation ended."""


class GateError(ConfigError):
    """A rate exceeds its limit; the message says what was observed and what to do."""


@dataclass(frozen=True)
class Gates:
    """Limits that stop a stage if exceeded, checked once by each worker for its own rows."""

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
    """Rates since this process started; use it as a context manager.

    Rows and rates cover all workers, according to the blocks on disk; shares and limits cover this worker.
    Without a terminal there are also progress lines; they count this worker's requests, because blocks finish
    late.
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
            name: the stage's name.
            rows: the number of rows over all workers.
            written: the number of rows already on disk.
            tracker: receives the numbers.
            gates: the limits; None for no limits.
            text: returns the text of a kept row, equal for duplicates; None disables the check for
                duplicates.
            mine: the number of rows not yet on disk that belong to this worker; None for all of them.
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
        """Make the last report."""
        self._life.__exit__(None, None, None)
        self.report()
        if self._bar is not None:
            self._bar.stop()

    def lap(self) -> float:
        """Return the seconds since the last block; summed over blocks, this process's work."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        return round(passed, 3)

    def ask(self, rows: int, requests: int) -> None:
        """Count a block that is handed to the engine, with the requests of its rows."""
        self._asked_rows += rows
        self._asked += requests

    def line(self, seconds: float) -> str:
        """Return the progress, also within a block: rows, requests, rates and time left."""
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
            done += size * made / most  # a lower bound, because most replies end earlier
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
            GateError: a rate exceeds its limit.
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
        """Update the bar or log a line, and report to the tracker."""
        if self._done == self._told:
            return
        heartbeat.heard()
        self._told = self._done
        self._reported = time.monotonic()
        seconds = max(self._reported - self._started, 1e-9)
        written = self._on_disk = self._written()
        rows = max(self._done, written - self._before)
        tokens = self._tokens * rows / self._done  # assuming other workers' rows have the same length
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
