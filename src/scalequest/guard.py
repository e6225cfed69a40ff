"""Run one command so that nothing of it outlives its starter: `python -m scalequest.guard COMMAND...`.

A stage is a tree of processes (launcher, ranks in sessions of their own, engine workers). When the
pipeline's process is killed with -9 it can clean up nothing itself, and a stage left behind would go on
holding memory and its folder's lock. So a guard stands between them. It reads its standard input: that pipe
ends when the starter is gone, however it went, and then every descendant is killed. On Linux orphans are
handed to the guard, so that none is missed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

import psutil

_PR_SET_CHILD_SUBREAPER = 36
# A finished stage's helpers, e.g. W&B's service, may still be writing.
GRACE_SECONDS = 10.0
GRACE_STOPPED_SECONDS = 2.0


def adopt_orphans() -> None:
    """Have orphaned descendants handed to this process, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants() -> list[psutil.Process]:
    living = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


def end_descendants(grace: float) -> None:
    """Wait `grace` seconds for the descendants to go, then kill them until none is left."""
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and _descendants():
        time.sleep(0.05)
    while left := _descendants():
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)


def main(command: list[str]) -> int:
    """Run `command` in a process group of its own and return its exit status as a shell gives it."""
    adopt_orphans()
    try:
        stage = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127

    grace = GRACE_SECONDS

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal grace
        grace = GRACE_STOPPED_SECONDS
        with contextlib.suppress(ProcessLookupError):
            os.killpg(stage.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)

    def outlive_nobody() -> None:
        while os.read(0, 1):  # unbuffered: a thread inside sys.stdin would break the interpreter's shutdown
            pass
        end_descendants(0)

    threading.Thread(target=outlive_nobody, daemon=True).start()
    status = stage.wait()
    end_descendants(grace)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
