"""Progress lines: without a terminal, a stage reports its progress at least every 30 seconds.

A log that is silent for minutes looks like a hang. Work reports at its own pace (a block may take minutes,
and `logging_steps` may be hours apart), so one thread per process watches the clock and asks for the
progress:
    with signs(speaks=rank == 0):            # once, around a script
        with doing("loading the model"):     # "loading the model, 34 s"
            ...
        with doing("tokenising", total=200_000) as work:
            work.done += 1_000               # "tokenising: 1,000 of 200,000 rows, 512 rows/s, 0:06:29 left"

The thread only reads numbers that the working thread sets, so no locks are needed. Engines call `finished`
and `decoding`, so requests are counted even while their block is still open.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scalequest.config import ConfigError

SECONDS = "SCALEQUEST_LIFE_SECONDS"  # interval between two lines; 30 if unset
FILE = "SCALEQUEST_LIFE_FILE"  # file with the latest line, kept up to date for recipes/run.py
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")  # in which launchers pass the rank
_TICK = 3.0  # seconds between two writes of the file

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Work:
    """A piece of work that takes a while.

    Attributes:
        what: a description in words.
        total: the number of items, if known.
        unit: the unit of `total` and `done`.
        done: the number of finished items.
        told: makes the whole line from the seconds spent so far, if counts alone are not enough.
        began: the start time on the monotonic clock.
    """

    what: str
    total: int | None = None
    unit: str = "rows"
    done: int = 0
    told: Callable[[float], str] | None = None
    began: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """Return the progress: done, total, rate and time left."""
        seconds = time.monotonic() - self.began
        if self.told is not None:
            return self.told(seconds)
        if self.total is None:
            return f"{self.what}, {seconds:.0f} s"
        done = self.done
        text = f"{self.what}: {done:,} of {self.total:,} {self.unit}"
        if not done:
            return f"{text}, {seconds:.0f} s"
        left = clock((self.total - done) * seconds / done)
        return f"{text}, {rate(done / seconds, self.unit)}, {left} left"


@dataclass
class Requests:
    """What this process's engine has finished, and the progress of the batch that it is decoding."""

    count: int = 0
    tokens: int = 0
    batch: tuple[int, int, int] | None = None  # requests, tokens generated for each, maximum for each


requests = Requests()
_name = ""
_subject = ""
_base = Work("starting")
_works: list[Work] = []
_silent = 0
_heard = 0.0


def every() -> float:
    """Return the seconds between two lines.

    Raises:
        ConfigError: the environment variable is not a positive number.
    """
    text = os.environ.get(SECONDS, "30")
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise ConfigError(f"environment variable {SECONDS}: expected a number of seconds above 0, got {text!r}")


def first_rank() -> bool:
    """Return whether this is the first of the launched processes, which writes the lines."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


@contextlib.contextmanager
def signs(speaks: bool) -> Iterator[None]:
    """Report progress while the body runs, unless the output is a terminal or another process reports.

    Args:
        speaks: whether this is the process that reports for the stage.

    Raises:
        ConfigError: the interval is not a positive number.
    """
    global _name, _base, _silent
    _name, _base, _silent = Path(sys.argv[0]).stem, Work("starting"), 0  # a fork inherits these
    if not speaks or sys.stdout.isatty():
        yield
        return
    seconds, over = every(), threading.Event()
    heard()
    thread = threading.Thread(target=_beat, args=(over, seconds), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _beat(over: threading.Event, seconds: float) -> None:
    file = os.environ.get(FILE)
    while not over.wait(max(0.01, min(_TICK, seconds / 5, _heard + seconds - time.monotonic()))):
        if _silent:
            continue
        text = line()
        if file:
            _keep(Path(file), text)
        if time.monotonic() - _heard >= seconds:
            heard()
            _say(f"{_name}: {text}")


def _keep(file: Path, text: str) -> None:
    whole = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a full disk is reported by the stage itself
        whole.write_text(text + "\n", encoding="utf-8")
        whole.replace(file)


def _say(text: str) -> None:
    if logging.getLogger().handlers and logger.isEnabledFor(logging.INFO):
        logger.info("%s", text)
    else:  # the stage has not set up its logger yet
        print(text, flush=True)


def line() -> str:
    """Return what this process is doing, with its progress."""
    work = _works[-1] if _works else _base
    return f"{_subject}: {work.line()}" if _subject else work.line()


def heard() -> None:
    """Note that a progress line was just logged, so the next one is due in `every` seconds."""
    global _heard
    _heard = time.monotonic()


def named(name: str) -> None:
    """Set the name of the stage that the lines start with."""
    global _name
    _name = name


def about(subject: str) -> None:
    """Set which of a stage's several subjects the lines are about, e.g. the model being evaluated."""
    global _subject
    _subject = subject


def now(what: str, told: Callable[[float], str] | None = None) -> None:
    """Set what this process is doing whenever no `doing` block is active."""
    global _base
    _base = Work(what, told=told)


@contextlib.contextmanager
def doing(
    what: str, total: int | None = None, unit: str = "rows", told: Callable[[float], str] | None = None
) -> Iterator[Work]:
    """Report the body as a piece of work, whose `done` it updates. See `Work` for the arguments."""
    work = Work(what, total, unit, told=told)
    _works.append(work)
    try:
        yield work
    finally:
        _works.remove(work)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Be silent while the body waits for other processes, which report themselves."""
    global _silent
    _silent += 1
    try:
        yield
    finally:
        _silent -= 1
        heard()


def finished(count: int = 1, tokens: int = 0) -> None:
    """Note that an engine has finished this many requests with this many generated tokens."""
    requests.count += count
    requests.tokens += tokens
    requests.batch = None


def decoding(batch: int, made: int, most: int) -> None:
    """Note the progress of a batch that an engine decodes as a whole: tokens generated and their maximum."""
    requests.batch = batch, made, most


def rate(value: float, unit: str) -> str:
    """Return a rate in words; per minute if it is slow."""
    if value and value < 0.1:
        return f"{60 * value:.2g} {unit}/min"
    return f"{value:,.1f} {unit}/s" if value < 100 else f"{value:,.0f} {unit}/s"


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds, rounded up."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
