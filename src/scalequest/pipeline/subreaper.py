"""Runs one command under a subreaper, so that no process of it outlives the process that started it.

A stage is a tree of processes (launcher, ranks in sessions of their own, engine workers). If the process that
started it is killed with -9, it can clean up nothing itself, and a stage left behind would keep its memory
and the lock of its folder. So another process, the subreaper, runs between the two:

- It reads its standard input. The first line is the command; the pipe ends when the starter is gone, however
  it ended, and then every descendant is killed. On Linux, orphans become children of the subreaper, so it
  misses none of them.
- It has its own session, and its command line does not name the script: killing the starter's process group,
  or all processes with the script's name, does not reach it.
- If the subreaper itself is killed, the kernel kills the stage's process, and the starter, which then gets
  the orphans, kills the rest.

`SupervisedProcess` is the starter's side of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import FrameType
from typing import IO, Any, Protocol

import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# A finished stage's helpers, e.g. W&B's service, may still be writing.
GRACE_SECONDS = 10.0
GRACE_STOPPED_SECONDS = 2.0


# ------------------------------------------------------------------------------------ what any process can do


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of its orphaned descendants, on Linux."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process, but not its descendants, when `parent` is gone, on Linux.

    The kernel watches the thread that started this process, so that has to be one that lasts.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was already gone
        os._exit(1)


def outlive_parent() -> None:
    """Undo `die_with`."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def find_descendants() -> set[psutil.Process]:
    """All living descendants of this process."""
    living = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.add(process)
    return living


def end_descendants(grace: float, but: Collection[psutil.Process] = ()) -> None:
    """Wait `grace` seconds for all descendants except `but` to end, then kill them until none is left."""
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and find_descendants().difference(but):
        time.sleep(0.05)
    while left := find_descendants().difference(but):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------ the starter


class SupervisedProcess(subprocess.Popen[bytes]):
    """A command under a subreaper, which ends it when this process is gone."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
        keep: Collection[int] = (),
    ) -> None:
        """Start it.

        Args:
            command: the program and its arguments.
            output: file for its output; None: that of this process.
            environment: its variables; None: those of this process.
            keep: descriptors that the subreaper holds open until its last descendant has ended.
        """
        adopt_orphans()
        self._before = find_descendants()
        super().__init__(
            [sys.executable, "-m", "scalequest.pipeline.subreaper"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches only us, and we forward it
            pass_fds=tuple(keep),
        )
        assert self.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has already ended: `wait` says how
            self.stdin.write(json.dumps(list(command)).encode() + b"\n")
            self.stdin.flush()

    def end(self) -> None:
        """End the command and everything that it started, if it still runs."""
        assert self.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()

    def finish(self) -> int:
        """Wait until none of its processes is left; returns its exit status, as a shell gives it."""
        if self.wait() < 0:  # the subreaper was killed, and this process has its orphans
            end_descendants(0, but=self._before)
        return shell_status_of(self.returncode)


class StoppableProcess(Protocol):
    """A process that can be sent a signal, and be ended."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""

    def end(self) -> Any:
        """End it at once."""


@contextlib.contextmanager
def forward_signals(process: StoppableProcess) -> Iterator[list[int]]:
    """Forward SIGINT and SIGTERM to a process; the second signal ends it at once. Yields those that came."""
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            process.send_signal(number)
        else:
            process.end()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shell_status_of(code: int) -> int:
    """An exit status as a shell gives it."""
    return code if code >= 0 else 128 - code


# ---------------------------------------------------------------------------------------------- the subreaper


class Subreaper:
    """Runs one command in its own process group, and ends whatever is left of it.

    Attributes:
        received: signals that came, in order; they are passed on to the command.
    """

    def __init__(self) -> None:
        """Adopt orphans, and handle signals before the command starts, which would inherit ignored ones."""
        self.received: list[int] = []
        self._command: subprocess.Popen[bytes] | None = None
        adopt_orphans()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._forward)

    def run(self, command: Sequence[str]) -> int:
        """Run the command to its end; returns its exit status, as a shell gives it."""
        own = os.getpid()
        try:
            self._command = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=lambda: die_with(own)
            )
        except OSError as error:
            print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
            return 127
        if self.received:  # while it was being started
            self._send_signal(self.received[0])
        threading.Thread(target=_end_with_starter, daemon=True).start()
        status = self._command.wait()
        # A command that was stopped or killed left nothing that is worth a long wait
        stopped = self.received or status < 0
        end_descendants(GRACE_STOPPED_SECONDS if stopped else GRACE_SECONDS)
        return shell_status_of(status)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        self._send_signal(number)

    def _send_signal(self, number: int) -> None:
        if self._command is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._command.pid, number)


def _end_with_starter() -> None:
    """Wait for the end of standard input, which the starter holds open, and end all descendants."""
    while os.read(0, 1):
        pass
    end_descendants(0)


def _read_command() -> list[str] | None:
    """The command on the first line of standard input; None if the starter is gone before it is complete."""
    given = b""
    while not given.endswith(b"\n"):  # unbuffered: a thread inside sys.stdin would break the shutdown
        if not (received := os.read(0, 1 << 16)):
            return None
        given += received
    command: list[str] = json.loads(given)
    return command


def main() -> int:
    """Run the command that standard input gives, and return its exit status."""
    command = _read_command()
    return 1 if command is None else Subreaper().run(command)


if __name__ == "__main__":
    sys.exit(main())
