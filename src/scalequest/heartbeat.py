"""Signs of life: a stage whose output is not a terminal says at least every 30 seconds how far it is.

A log that stays silent for minutes looks like a hang. Work reports in its own time (a block may take minutes,
`logging_steps` may be hours apart), so one thread per process keeps the time instead, and asks the work:

    with signs(speaks=rank == 0):            # once, around a script
        with doing("loading the model"):     # "loading the model, 34 s"
            ...
        with doing("tokenising", total=200_000) as work:
            work.done += 1_000               # "tokenising: 1,000 of 200,000 rows, 512 rows/s, 0:06:29 left"

What the thread reads are numbers that the working thread sets, so nothing has to be locked. Engines call
`finished` and `decoding`, which is how requests are counted while their block is still open.
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

SECONDS = "SCALEQUEST_LIFE_SECONDS"  # between two lines; 30 if it is not set
FILE = "SCALEQUEST_LIFE_FILE"  # the newest line, kept up to date for recipes/run.py
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")  # what launchers tell a process
_TICK = 3.0  # seconds between two writes of the file

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Work:
    """Something that takes a while.

    Attributes:
        what: in words.
        total: how many there are to do, if that is known.
        unit: of `total` and `done`.
        done: how many are done.
        told: gives the whole line from the seconds spent so far, if counts alone do not say enough.
        began: when, on the monotonic clock.
    """

    what: str
    total: int | None = None
    unit: str = "rows"
    done: int = 0
    told: Callable[[float], str] | None = None
    began: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """How far it is: done, total, rate and time left."""
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
    """What this process's engine has finished, and how far the batch is that it is decoding."""

    count: int = 0
    tokens: int = 0
    batch: tuple[int, int, int] | None = None  # requests, tokens made for each, most tokens of each


requests = Requests()
_name = ""
_subject = ""
_base = Work("starting")
_works: list[Work] = []
_silent = 0
_heard = 0.0


def every() -> float:
    """Seconds between two lines.

    Raises:
        ConfigError: the environment variable is not a positive number.
    """
    text = os.environ.get(SECONDS, "30")
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise ConfigError(f"environment variable {SECONDS}: expected a number of seconds above 0, got {text!r}")


def first_rank() -> bool:
    """Whether this is the first of the launched processes, the one that speaks."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


@contextlib.contextmanager
def signs(speaks: bool) -> Iterator[None]:
    """Give signs of life while the body runs, unless the output is a terminal or another process speaks.

    Args:
        speaks: whether this process is the one of the stage that does.

    Raises:
        ConfigError: the interval is not a positive number.
    """
    global _name, _base, _silent
    _name, _base, _silent = Path(sys.argv[0]).stem, Work("starting"), 0  # a fork has its parent's
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
    with contextlib.suppress(OSError):  # a full disk is the stage's to report
        whole.write_text(text + "\n", encoding="utf-8")
        whole.replace(file)


def _say(text: str) -> None:
    if logging.getLogger().handlers and logger.isEnabledFor(logging.INFO):
        logger.info("%s", text)
    else:  # the stage has not set up its log yet
        print(text, flush=True)


def line() -> str:
    """What this process is doing, and how far it is."""
    work = _works[-1] if _works else _base
    return f"{_subject}: {work.line()}" if _subject else work.line()


def heard() -> None:
    """A line with the progress was just logged: the next one is due `every` seconds from now."""
    global _heard
    _heard = time.monotonic()


def named(name: str) -> None:
    """Say whose lines these are: the stage's."""
    global _name
    _name = name


def about(subject: str) -> None:
    """Say what of a stage's several subjects the lines are about, e.g. which model is evaluated."""
    global _subject
    _subject = subject


def now(what: str, told: Callable[[float], str] | None = None) -> None:
    """From here on this is what the process is doing, whenever it is not `doing` something in particular."""
    global _base
    _base = Work(what, told=told)


@contextlib.contextmanager
def doing(
    what: str, total: int | None = None, unit: str = "rows", told: Callable[[float], str] | None = None
) -> Iterator[Work]:
    """Say what the body does; it counts in the `done` of what it is given. See `Work` for the arguments."""
    work = Work(what, total, unit, told=told)
    _works.append(work)
    try:
        yield work
    finally:
        _works.remove(work)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave the lines to the processes that the body waits for."""
    global _silent
    _silent += 1
    try:
        yield
    finally:
        _silent -= 1
        heard()


def finished(count: int = 1, tokens: int = 0) -> None:
    """An engine has finished so many requests, with so many generated tokens."""
    requests.count += count
    requests.tokens += tokens
    requests.batch = None


def decoding(batch: int, made: int, most: int) -> None:
    """An engine that decodes a whole batch at a time has made so many tokens of at most so many for each."""
    requests.batch = batch, made, most


def rate(value: float, unit: str) -> str:
    """A rate in words; per minute if it is slow."""
    if value and value < 0.1:
        return f"{60 * value:.2g} {unit}/min"
    return f"{value:,.1f} {unit}/s" if value < 100 else f"{value:,.0f} {unit}/s"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, rounded up."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
