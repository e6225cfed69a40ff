"""Handle Ctrl-C so that it is never lost and never leaves an event loop in an inconsistent state.

By default, Python raises `KeyboardInterrupt` between any two instructions. If these belong to a `__del__`
method, to a callback of a weak reference or to one called from C code, the exception is printed and dropped,
and the program continues as if nothing had happened. If they belong to asyncio itself, its loop is left in a
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

_AGAIN = 0.05  # seconds until a dropped interrupt is sent again, by then outside of the code that dropped it


class Interrupts:
    """Count Ctrl-C instead of raising it while the body of `with` runs; may be entered repeatedly.

    This only works in the main thread and if Ctrl-C has its default handler; otherwise nothing changes.

    Attributes:
        count: the number of interrupts so far.
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
        """Raise a pending interrupt.

        Raises:
            KeyboardInterrupt: there was at least one.
        """
        if self.count:
            raise KeyboardInterrupt


@contextlib.contextmanager
def sent_again() -> Iterator[None]:
    """Send interrupts that Python would drop once more, a moment later, while the body runs."""
    before, main = sys.unraisablehook, threading.main_thread().ident

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            # A real signal, because it also ends a sleep or a wait.
            threading.Timer(_AGAIN, signal.pthread_kill, (main, signal.SIGINT)).start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
