"""Ctrl-C in the places where Python drops what is raised. The signals are real."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scalequest.interrupts import Interrupts, sent_again


@pytest.fixture(autouse=True)
def _interrupted_as_ever() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press(*_: Any) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)  # the signal is handled here
    return 0


class Pressing:
    def __del__(self) -> None:
        press()


def deleted() -> None:
    Pressing()


def weakly_referenced() -> None:
    thing = threading.Event()
    reference = weakref.ref(thing, press)
    del thing
    assert reference() is None


def collected() -> None:
    thing = Pressing()
    thing.itself = thing  # type: ignore[attr-defined]
    del thing
    gc.collect()


def called_by_c() -> None:
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    numbers = (ctypes.c_int * 2)(2, 1)
    ctypes.CDLL(None).qsort(numbers, 2, 4, kind(press))


@pytest.mark.parametrize("dropping", [deleted, weakly_referenced, collected, called_by_c])
def test_an_interrupt_that_python_drops_comes_again(dropping: Callable[[], None]) -> None:
    with sent_again():
        dropping()  # nothing is raised here
        with pytest.raises(KeyboardInterrupt):
            time.sleep(30)


def test_other_errors_that_are_dropped_are_reported_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError("no")

    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
    before = sys.unraisablehook
    with sent_again():
        Failing()
    assert reported == [ValueError]
    assert sys.unraisablehook is before


@pytest.mark.parametrize("dropping", [deleted, weakly_referenced, collected, called_by_c])
def test_interrupts_are_counted_wherever_they_come(dropping: Callable[[], None]) -> None:
    interrupts = Interrupts()
    for number in (1, 2):
        with interrupts:
            dropping()
        assert interrupts.count == number
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
    with pytest.raises(KeyboardInterrupt):  # as ever, outside
        press()


def test_where_ctrl_c_does_something_else_nothing_changes() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        interrupts = Interrupts()
        with interrupts:
            press()
        interrupts.check()
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
    entered: list[bool] = []
    thread = threading.Thread(target=lambda: entered.append(interrupts.__enter__() is interrupts))
    thread.start()
    thread.join()
    assert entered
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stage_in_a_dropping_place_is_interrupted_all_the_same() -> None:
    script = (
        "import os, signal, sys, time\n"
        "from scalequest.stage.script import run_script\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Pressing:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.01)\n"
        "def main():\n"
        "    Pressing()\n"
        "    time.sleep(30)\n"
        "    print('it went on')\n"
        "sys.exit(run_script(main))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "it went on" not in done.stdout
