"""Compare answers in a process that can be killed.

There are two processes. The first one limits its memory and forks the second one, which reads pairs from
standard input and writes verdicts, one JSON line each. Before each pair, the second process sets two alarms,
for CPU time and for wall-clock time, whose default action ends it, inside any C code and without anyone's
help, so it also ends after everything else has gone. The first process then reports this instead of the
verdict and forks the next one within milliseconds. It also loads sympy, when a pair first needs it. We use
plain `Popen` and pipes, because daemonic processes (such as those of a DataLoader) cannot start others
through `multiprocessing`.
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scalequest.config import ConfigError
from scalequest.functions import NamedFunction
from scalequest.grading.compare import symbolic
from scalequest.grading.options import GraderOptions, Layer

_COMMAND = "import sys; from scalequest.grading.worker import main; sys.exit(main())"
_START_SECONDS = 120.0  # time to import everything on a busy machine
_NEEDS_SYMPY = 3  # exit status of the second process: load sympy, fork again, and send the pair again


@dataclass(frozen=True)
class Applied:
    """The result of a user's function: a verdict, or the answer it found, None if there is none."""

    value: bool | str | None


class Worker:
    """A handle on one worker, started when first needed and again after it was lost. Not thread-safe."""

    def __init__(self, options: GraderOptions) -> None:
        """Set up the handle without starting the process."""
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0
        self.seconds = 0.0  # time of the last pair, without start-up and loading
        self._close: weakref.finalize[..., Any] | None = None

    def start(self) -> None:
        """Start the process if there is none, and wait until it is ready.

        Raises:
            RuntimeError: the process does not start.
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
            start_new_session=True,  # Ctrl-C is handled by the caller
        )
        self._close = weakref.finalize(self, _end, self.process, os.getpid())
        if self._line(_START_SECONDS) != b"ready\n":
            self.close()
            raise RuntimeError("the grading worker did not start: see its output on standard error")

    def ask(
        self, prediction: str, reference: str, judge: Literal["ours", "math-verify"] = "ours"
    ) -> tuple[bool, Layer] | None:
        """Return the verdict, or None if the worker exceeded its limits and was killed.

        Args:
            prediction: an answer; for "math-verify" as published, a complete output.
            reference: the reference answer.
            judge: the method of comparison.
        """
        line = self._answer(judge, prediction, reference)
        if not line.startswith(b"["):
            return None
        correct, layer = json.loads(line)
        return correct, layer

    def apply(self, key: str, where: str, *arguments: str) -> Applied | None:
        """Return what a function of the options gives, or None if it exceeded the limits and was killed.

        Args:
            key: of the function in the options.
            where: names the output in error messages.
            arguments: of the function.

        Raises:
            ConfigError: the function raises, or returns what it may not; see `policy.apply`.
        """
        line = self._answer(key, where, *arguments)
        if not line.startswith(b"{"):
            return None
        said = json.loads(line)
        if said.get("fault") is not None:
            raise ConfigError(said["fault"])
        return Applied(said["value"])

    def _answer(self, *request: str) -> bytes:
        """Send a request and return the line that answers it; another line if the worker was killed."""
        self.start()
        process = self.process
        assert process is not None
        assert process.stdin is not None
        sent = json.dumps(request).encode() + b"\n"
        line, began = b"again\n", time.perf_counter()
        try:
            while line == b"again\n":
                began = time.perf_counter()
                process.stdin.write(sent)
                process.stdin.flush()
                line = self._line(self.options.wall_seconds + _START_SECONDS)
        except BrokenPipeError:
            line = b""
        self.seconds = time.perf_counter() - began
        if not line.startswith((b"[", b"{")):
            self.kills += 1
            if not line.startswith(b"killed"):
                self.close()
        return line

    def _line(self, seconds: float) -> bytes:
        """Read a line, or as much of it as there is when the time is up or the process is gone."""
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
        """End the process, whatever it is doing."""
        if self._close is not None:
            self._close()
        self.process = None


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # in a fork of the owner, the worker is not ours
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
    os.dup2(2, 1)  # output printed by a library is not a verdict
    from scalequest.grading.compare.equivalence import compare
    from scalequest.grading.policy import load_policy

    compare("x+y", "y+x", options)
    policy = load_policy(options)  # here, so that no function pays for its imports
    limit = (options.memory_mib << 20) + (_address_space() if policy else 0)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.write(answers, b"ready\n")
    while True:
        child = os.fork()
        if child == 0:
            os._exit(_serve(answers, options, policy))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return 0
        if code == _NEEDS_SYMPY:
            symbolic.load_here = True
            symbolic.math_verify("x(x+1)", "x^2+x")  # takes a second or two, once
            symbolic.load_here = False
        os.write(answers, b"again\n" if code == _NEEDS_SYMPY else b"killed\n")


def _alarm(cpu_seconds: float, wall_seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)


def _address_space() -> int:
    """Return the bytes that this process has mapped, which is much if a user's file imports torch."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0


def _serve(answers: int, options: GraderOptions, policy: Mapping[str, NamedFunction]) -> int:
    from scalequest.grading.compare.symbolic import NotLoadedError

    symbolic.load_here = False
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    while line := sys.stdin.buffer.readline():
        _alarm(options.cpu_seconds, options.wall_seconds)
        try:
            answer = _answer_to(json.loads(line), options, policy)
        except MemoryError:
            return 1
        except NotLoadedError:
            return _NEEDS_SYMPY
        _alarm(0, 0)
        os.write(answers, json.dumps(answer).encode() + b"\n")
    return 0


def _answer_to(request: Sequence[str], options: GraderOptions, policy: Mapping[str, NamedFunction]) -> Any:
    """Return a verdict, or what a function of the user's gives."""
    from scalequest.grading.compare.equivalence import compare
    from scalequest.grading.compare.symbolic import as_published
    from scalequest.grading.policy import apply

    kind, *given = request
    if kind in policy:
        try:
            return {"value": apply(policy, kind, *given)}
        except ConfigError as error:
            return {"fault": str(error)}
    prediction, reference = given
    return compare(prediction, reference, options) if kind == "ours" else (as_published(*given), "symbolic")


if __name__ == "__main__":
    sys.exit(main())
