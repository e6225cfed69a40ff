"""Run one command so that nothing of it outlives its starter.

A stage is a tree of processes (launcher, ranks in sessions of their own, engine workers). When the process
that started it is killed with -9 it can clean up nothing itself, and a stage left behind would go on holding
memory and its folder's lock. So a guard stands between them, `SupervisedProcess` to the starter:

- It reads its standard input. The first line is the command; the pipe ends when the starter is gone, however
  it went, and then every descendant is killed. On Linux orphans are handed to the guard, so that none is
  missed.
- It has a session of its own, and its command line does not name the script: a kill of the starter's process
  group, or of all processes with the script's name, does not reach it.
- If the guard itself is killed, the stage's process is killed by the kernel, and the starter, to which the
  orphans are then handed, kills the rest.
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
    """Have orphaned descendants handed to this process, on Linux."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` is gone, on Linux; it does not reach its descendants.

    The kernel goes by the thread that started this process, which therefore has to be one that lasts.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone already
        os._exit(1)


def outlive_parent() -> None:
    """Undo `die_with`."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def find_descendants() -> set[psutil.Process]:
    """All living processes below this one."""
    living = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.add(process)
    return living


def end_descendants(grace: float, but: Collection[psutil.Process] = ()) -> None:
    """Wait `grace` seconds for the descendants to go, `but` for some, then kill them until none is left."""
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
    """A command in a process of its own, under a guard that ends it when this process is gone."""

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
            output: file for what it writes; None leaves it this process's output.
            environment: its variables; None leaves it this process's.
            keep: descriptors that the guard holds open, until the last process below it is gone.
        """
        adopt_orphans()
        self._before = find_descendants()
        super().__init__(
            [sys.executable, "-m", "scalequest.subreaper"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C comes to us alone, and we pass it on
            pass_fds=tuple(keep),
        )
        assert self.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone already: `wait` says how
            self.stdin.write(json.dumps(list(command)).encode() + b"\n")
            self.stdin.flush()

    def end(self) -> None:
        """End the command and all that it has started, if it still runs."""
        assert self.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()

    def finish(self) -> int:
        """Wait until nothing of it is left; returns its exit status, as a shell gives it."""
        if self.wait() < 0:  # the guard was killed, and what it guarded was handed to this process
            end_descendants(0, but=self._before)
        return shell_status_of(self.returncode)


class StoppableProcess(Protocol):
    """A process that can be told to stop, and be ended."""

    def send_signal(self, number: int, /) -> None:
        """Tell it."""

    def end(self) -> Any:
        """End it at once."""


@contextlib.contextmanager
def forward_signals(process: StoppableProcess) -> Iterator[list[int]]:
    """Send SIGINT and SIGTERM on to a process; the second one ends it at once. Yields those that came."""
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


# -------------------------------------------------------------------------------------------------- the guard


def send_signal(stage: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a stage's process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(stage.pid, number)


def main() -> int:
    """Run what standard input says, in a process group of its own, and return its exit status."""
    adopt_orphans()
    guard, given = os.getpid(), b""
    while not given.endswith(b"\n"):  # unbuffered: a thread inside sys.stdin would break the shutdown
        if not (received := os.read(0, 1 << 16)):
            return 1
        given += received
    command = json.loads(given)

    stage: subprocess.Popen[bytes] | None = None
    told: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if stage is not None:
            send_signal(stage, number)

    # First of all, or what a shell has its background jobs ignore would be ignored by the stage, too
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    try:
        stage = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=lambda: die_with(guard)
        )
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127

    if told:  # while it was being started
        send_signal(stage, told[0])

    def outlive_nobody() -> None:
        while os.read(0, 1):
            pass
        end_descendants(0)

    threading.Thread(target=outlive_nobody, daemon=True).start()
    status = stage.wait()
    # Who was told to stop, or was killed, left nothing that is worth a long wait.
    end_descendants(GRACE_STOPPED_SECONDS if told or status < 0 else GRACE_SECONDS)
    return shell_status_of(status)


if __name__ == "__main__":
    sys.exit(main())
