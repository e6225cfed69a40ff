"""Compare answers in a process that may be killed.

Two processes. The first bounds its memory and forks the second, which reads pairs from standard input and
writes verdicts, one JSON line each. Before each pair the second sets two alarms, of processor and of wall
time, whose default action ends it, inside any C code and without anyone's help, so that it also ends after
everything else has gone. The first then says so in place of the verdict and forks the next one, within
milliseconds. It also loads sympy, when a pair first needs it. Plain `Popen` and pipes, because daemonic
processes (those of a DataLoader, for one) may not start others by `multiprocessing`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import asdict
from typing import Any, Literal

from scalequest.grading.compare import symbolic
from scalequest.grading.options import GraderOptions, Layer

_COMMAND = "import sys; from scalequest.grading.worker import main; sys.exit(main())"
_START_SECONDS = 120.0  # to import what it needs on a machine that does other things
_NEEDS_SYMPY = 3  # exit status of the second process: load it, fork me again, give me the pair again


class Worker:
    """A handle on one worker, started when it is first asked and again when it was lost. Not thread-safe."""

    def __init__(self, options: GraderOptions) -> None:
        """Start nothing yet."""
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0
        self.seconds = 0.0  # that the last pair took, start and loading left out
        self._close: weakref.finalize[..., Any] | None = None

    def start(self) -> None:
        """Start the process if there is none, and wait until it is ready.

        Raises:
            RuntimeError: it does not come up.
        """
        if self.process is not None and self.process.poll() is None:
            return
        command = [sys.executable, "-c", _COMMAND, json.dumps(asdict(self.options))]
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the caller's to handle
        )
        self._close = weakref.finalize(self, _end, self.process, os.getpid())
        if self._line(_START_SECONDS) != b"ready\n":
            self.close()
            raise RuntimeError("the grading worker did not start: see its output on standard error")

    def ask(
        self, prediction: str, reference: str, judge: Literal["ours", "math-verify"] = "ours"
    ) -> tuple[bool, Layer] | None:
        """Return the verdict, or None if the worker overran its limits and was killed.

        Args:
            prediction: an answer; for "math-verify", as published, a whole output.
            reference: an answer.
            judge: who is asked.
        """
        self.start()
        process = self.process
        assert process is not None
        assert process.stdin is not None
        request = json.dumps([judge, prediction, reference]).encode() + b"\n"
        line, began = b"again\n", time.perf_counter()
        try:
            while line == b"again\n":
                began = time.perf_counter()
                process.stdin.write(request)
                process.stdin.flush()
                line = self._line(self.options.wall_seconds + _START_SECONDS)
        except BrokenPipeError:
            line = b""
        self.seconds = time.perf_counter() - began
        if not line.startswith(b"["):
            self.kills += 1
            if not line.startswith(b"killed"):
                self.close()
            return None
        correct, layer = json.loads(line)
        return correct, layer

    def _line(self, seconds: float) -> bytes:
        """Read a line; as much as there is of it if the time is over or the process is gone."""
        process = self.process
        assert process is not None
        assert process.stdout is not None
        deadline, line, handle = time.monotonic() + seconds, b"", process.stdout.fileno()
        while not line.endswith(b"\n") and (left := deadline - time.monotonic()) > 0:
            if select.select([handle], [], [], left)[0]:
                piece = os.read(handle, 1 << 16)
                if not piece:
                    break
                line += piece
        return line

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._close is not None:
            self._close()
        self.process = None


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner: the worker is not ours
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def main() -> int:
    """Answer requests until standard input ends."""
    options = GraderOptions(**json.loads(sys.argv[1]))
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is not a verdict
    from scalequest.grading.compare.equivalence import compare

    compare("x+y", "y+x", options)
    limit = options.memory_mib << 20
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.write(answers, b"ready\n")
    while True:
        child = os.fork()
        if child == 0:
            os._exit(_serve(answers, options))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return 0
        if code == _NEEDS_SYMPY:
            symbolic.load_here = True
            symbolic.math_verify("x(x+1)", "x^2+x")  # a second or two, once
            symbolic.load_here = False
        os.write(answers, b"again\n" if code == _NEEDS_SYMPY else b"killed\n")


def _alarm(cpu_seconds: float, wall_seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)


def _serve(answers: int, options: GraderOptions) -> int:
    from scalequest.grading.compare.equivalence import compare
    from scalequest.grading.compare.symbolic import NotLoadedError, as_published

    symbolic.load_here = False
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    while line := sys.stdin.buffer.readline():
        _alarm(options.cpu_seconds, options.wall_seconds)
        try:
            judge, prediction, reference = json.loads(line)
            verdict: tuple[bool, Layer] = (
                compare(prediction, reference, options)
                if judge == "ours"
                else (as_published(prediction, reference), "symbolic")
            )
        except MemoryError:
            return 1
        except NotLoadedError:
            return _NEEDS_SYMPY
        _alarm(0, 0)
        os.write(answers, json.dumps(verdict).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
