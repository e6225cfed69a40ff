"""What may be given to sympy, and what becomes of the process that asked it too much."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from scalequest.grading import Grader, equivalent
from scalequest.grading.compare.symbolic import explosive

HARMLESS = r"""
\int_0^1 x^2 dx
x^2 y^2 z^2
2^n 3^n
e^{-x^2}
e^{-(x-1)^2}
x^{y^{z}}
\sum_{k=1}^{\infty} \frac{1}{k^2}
(x^2+1)^{10}
5! + 6! + x^2
2^\frac{1}{2} 3^2
x**2 + y**2
"""
EXPLOSIVE = r"""
9^{9^9}
9^9^9
2**3**4
x^{9^{9}}
2^{(3^n)}
10^{10^{k}}
2^{50!}
2^{3}!
(2^3)!
3!!
(5!)!
99999!
x^{99999}
((x+1)^{100})^{100}
2^{\frac{3^9}{2}}
"""


@pytest.mark.parametrize("text", HARMLESS.strip().splitlines())
def test_powers_that_follow_one_another_are_harmless(text: str) -> None:
    assert not explosive(text)


@pytest.mark.parametrize("text", EXPLOSIVE.strip().splitlines())
def test_powers_of_powers_are_not_given_to_sympy(text: str) -> None:
    assert explosive(text)


@pytest.mark.parametrize("text", ["^", "!", "2^", "2^{", "^^", "}^{", "2^-", "\\", "(" * 500 + "^" * 500])
def test_broken_formulas_are_survived(text: str) -> None:
    assert explosive(text) in (True, False)


def test_what_overruns_its_limits_is_ended_and_leaves_nothing_behind() -> None:
    """The guard lets these through: each may fail or be killed, within limits, and the next is answered."""
    hard = (
        r"\int_0^1 x^{x^{x}} dx",
        r"\int_0^1 \prod_{k=1}^{999}(x^2-k^2) dx",
        r"\int_0^1 \sin^{500}(x^2) \cos^{500}(x^2) dx",
    )
    with Grader() as grader:
        for formula in hard:
            verdict = grader.grade(formula, "1")
            assert not verdict.correct
            assert verdict.seconds < grader.options.wall_seconds + 4
        assert grader.grade(r"\int_0^1 x^2\,dx", r"\frac{1}{3}").correct
        worker = grader._idle.get()
        assert worker.process is not None
        processes = family(worker.process.pid)
        assert len(processes) == 2  # the one that forks and the one that compares
        assert sum(map(resident, processes)) < grader.options.memory_mib << 10
        grader._idle.put(worker)
    deadline = time.monotonic() + 10
    while any(map(alive, processes)):
        assert time.monotonic() < deadline


def alive(process: int) -> bool:
    """Whether it runs; what was killed may still wait for init to take note."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def family(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(one for child in children for one in family(int(child)))]


def resident(process: int) -> int:
    """KiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize() >> 10


def test_a_series_of_functions_is_no_number_at_once() -> None:
    series = r"y=a_0 \sum_{m=0}^{\infty}(-1)^{m+1} \frac{x^{2m}}{2m-1}+a_1 x"
    with Grader() as grader:
        grader.start()
        verdict = grader.grade("2", series)
    assert not verdict.correct
    assert verdict.layer != "timeout"
    assert verdict.seconds < grader.options.wall_seconds


@pytest.mark.parametrize("other", [r"(\sqrt{-1}, 2)", r"x > (-8)^{1/2}", r"(i, 3)"])
def test_ends_that_are_not_real_order_nothing(other: str) -> None:
    assert not equivalent(r"(1, 3)", other)
