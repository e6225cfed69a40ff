"""Grade answers: cheap comparisons in this process, all others in workers with limits on time and memory."""

from __future__ import annotations

import os
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Literal, TypeVar

from scalequest.grading.compare.equivalence import quick
from scalequest.grading.extraction import Extracted, extract
from scalequest.grading.options import GraderOptions, Layer
from scalequest.grading.worker import Applied, Worker

_REMEMBERED = 20_000

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Verdict:
    """Whether two answers are equal, the deepest layer that was needed, and the wall-clock seconds it took.

    `timed_out`: the comparison exceeded its limit on time or memory and was killed; it then counts as not
    correct.
    """

    correct: bool
    layer: Layer | Literal["function", "timeout"]
    seconds: float
    timed_out: bool = False


class Grader:
    """Grades pairs with up to `workers` processes, which start when they are first needed.

    It may be used from any thread, in a fork (which starts its own workers), and pickled. Comparisons made by
    workers are cached. `timeouts` lists the pairs that were killed.
    """

    def __init__(self, options: GraderOptions | None = None, workers: int = 1) -> None:
        """Set up the grader without starting a worker."""
        self.options = options or GraderOptions()
        self.workers = workers
        self.timeouts: list[tuple[str, str]] = []
        self._owner = 0
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._known: dict[tuple[str, str], tuple[bool, Layer] | None] = {}

    def grade(self, prediction: str, reference: str) -> Verdict:
        """Compare a prediction with a reference. The time is limited for any text, and no text raises."""
        began = time.perf_counter()
        verdict = quick(prediction, reference)
        seconds = time.perf_counter() - began
        if verdict is None:
            verdict, asked = self._ask(prediction, reference)
            seconds += asked
        if verdict is None:
            return Verdict(False, "timeout", seconds, timed_out=True)
        return Verdict(*verdict, seconds)

    def grade_all(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Verdict]:
        """Compare pairs of prediction and reference; yield the verdicts in the same order."""
        yield from self.each(lambda pair: self.grade(*pair), pairs)

    def each(self, asked: Callable[[T], U], values: Iterable[T]) -> Iterator[U]:
        """Call `asked`, which uses this grader, for each value, at once for as many as there are workers."""
        if self.workers == 1:
            yield from map(asked, values)
            return
        with ThreadPoolExecutor(self.workers) as threads:
            yield from threads.map(asked, values)

    def find(self, response: str, where: str = "") -> Extracted:
        """Return the answer in a complete response, found by our rules or by the options' `extraction`.

        Args:
            response: the response.
            where: names it in error messages.

        Raises:
            ConfigError: the user's function raises, or returns something else than an answer.
        """
        if self.options.extraction is None or not response.strip():
            return extract(response)
        said = self._applied("extraction", where, response)
        if said is None:
            self.timeouts.append((response, ""))
            return Extracted(None, "timeout")
        return Extracted(None, "none") if said.value is None else Extracted(str(said.value), "function")

    def judge(self, response: str, reference: str, where: str = "") -> Verdict:
        """Return the verdict of the options' `function` on a complete response.

        Args:
            response: the response; an empty one is wrong.
            reference: the reference answer.
            where: names the response in error messages.

        Raises:
            ConfigError: the user's function raises, or returns something else than a truth value.
        """
        if not response.strip():
            return Verdict(False, "function", 0.0)
        began = time.perf_counter()
        said = self._applied("function", where, response, reference)
        seconds = time.perf_counter() - began
        if said is None:
            self.timeouts.append((response, reference))
            return Verdict(False, "timeout", seconds, timed_out=True)
        return Verdict(bool(said.value), "function", seconds)

    def _applied(self, key: str, where: str, *arguments: str) -> Applied | None:
        worker = self._take()
        try:
            return worker.apply(key, where, *arguments)
        finally:
            self._idle.put(worker)

    def math_verify(self, output: str, reference: str) -> bool | None:
        """Return the verdict of math-verify, as published, on a complete output; None beyond our limits."""
        worker = self._take()
        try:
            verdict = worker.ask(output, reference, "math-verify")
        finally:
            self._idle.put(worker)
        return None if verdict is None else verdict[0]

    def start(self) -> None:
        """Start all workers now, so that no verdict waits for one."""
        taken = [self._take() for _ in range(self.workers)]
        for worker in taken:
            worker.start()
            self._idle.put(worker)

    def close(self) -> None:
        """End the workers; the next comparison would start them again."""
        if self._owner != os.getpid():
            return
        while not self._idle.empty():
            self._idle.get().close()
        self._owner = 0

    def _ask(self, prediction: str, reference: str) -> tuple[tuple[bool, Layer] | None, float]:
        key = (prediction, reference)
        with suppress(KeyError):  # one look-up, because another thread may clear the cache between two
            return self._known[key], 0.0
        worker = self._take()
        try:
            verdict = worker.ask(prediction, reference)
        finally:
            self._idle.put(worker)
        if verdict is None:
            self.timeouts.append(key)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = verdict
        return verdict, worker.seconds

    def _take(self) -> Worker:
        if self._owner != os.getpid():  # first use, here or in a fork of the process that used it first
            idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
            for _ in range(self.workers):
                idle.put(Worker(self.options))
            self._idle, self._owner = idle, os.getpid()
        return self._idle.get()

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Grader], tuple[GraderOptions, int]]:
        return Grader, (self.options, self.workers)


@lru_cache(maxsize=8)
def _shared(options: GraderOptions) -> Grader:
    return Grader(options)


def grade(prediction: str, reference: str, options: GraderOptions | None = None) -> Verdict:
    """Compare one pair, using this process's own worker if one is needed; see `Grader.grade`."""
    return _shared(options or GraderOptions()).grade(prediction, reference)


def equivalent(prediction: str, reference: str, options: GraderOptions | None = None) -> bool:
    """Return whether `prediction` and `reference` are the same answer; see `Grader.grade`."""
    return grade(prediction, reference, options).correct


def groups(answers: Sequence[str | None], options: GraderOptions | None = None) -> list[int | None]:
    """Number the answers from 0 in order of appearance; equal ones share a number, missing ones get None."""
    firsts: list[str] = []
    found: list[int | None] = []
    for answer in answers:
        if answer is None or not answer.strip():
            found.append(None)
            continue
        same = (number for number, first in enumerate(firsts) if equivalent(answer, first, options))
        if (number := next(same, None)) is None:
            number = len(firsts)
            firsts.append(answer)
        found.append(number)
    return found


def majority(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """Return the most frequent answer, as first written, and its share of all answers (missing ones count).

    Ties are won by the answer that came first. Returns `(None, 0.0)` if there is no answer.
    """
    numbers = groups(answers)
    counts = Counter(number for number in numbers if number is not None)
    if not counts:
        return None, 0.0
    ((best, count),) = counts.most_common(1)
    return answers[numbers.index(best)], count / len(answers)
