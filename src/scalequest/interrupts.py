"""Ctrl-C that is not lost, and does not leave an event loop half done.

By default Python raises `KeyboardInterrupt` between any two instructions. If these are in a `__del__`, in a
callback of a weak reference or in one that C code calls, the exception is printed and dropped, and the
program goes on as if nobody had pressed anything. If they are in asyncio's own code, its loop is left in a
state in which the next `run` fails.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_AGAIN = 0.05  # seconds until a dropped interrupt is sent once more, by then outside of what dropped it


class Interrupts:
    """Ctrl-C while the body of `with` runs is counted instead of raised; may be entered again and again.

    Only in the main thread, and only if Ctrl-C does what it does by default: else nothing changes.

    Attributes:
        count: how many have come.
    """

    def __init__(self) -> None:
        self.count = 0
        self._taken = False

    def __enter__(self) -> Interrupts:
        self._taken = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._taken:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._taken:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def check(self) -> None:
        """Raise what has come.

        Raises:
            KeyboardInterrupt: at least one has.
        """
        if self.count:
            raise KeyboardInterrupt


@contextlib.contextmanager
def sent_again() -> Iterator[None]:
    """While the body runs, an interrupt that Python would drop comes once more, a moment later."""
    before, main = sys.unraisablehook, threading.main_thread().ident

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            # A real signal, which ends a sleep or a wait, too
            threading.Timer(_AGAIN, signal.pthread_kill, (main, signal.SIGINT)).start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
