"""`--kills N`, and the table of what was killed when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

STAGES = (
    *("generate_questions", "optimize_questions", "filter_questions", "solve_questions", "score"),
    *("select_solutions", "assemble_dataset", "evaluate", "qft", "qpo", "sft", "difficulty", "reward"),
    "grpo",
)
KILLED = pytest.StashKey[list[tuple[int, str, str, bool]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=0, help="processes to kill over all stages (default: two of each)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KILLED] = []


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> Callable[[str], list[int]]:
    """A stage's share: numbers of the kills that fall on it, at least one."""
    count = max(len(STAGES), request.config.getoption("--kills", 0) or 2 * len(STAGES))
    return lambda stage: [n for n in range(1, count + 1) if STAGES[(n - 1) % len(STAGES)] == stage]


@pytest.fixture
def kill_table(request: pytest.FixtureRequest) -> list[tuple[int, str, str, bool]]:
    """Rows of the table: number, stage, what was on disk, whether that was something and not all."""
    return request.config.stash.setdefault(KILLED, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = sorted(config.stash.get(KILLED, []))
    if rows:
        terminalreporter.section("killed with -9")
        for number, stage, moment, _ in rows:
            terminalreporter.write_line(f"{number:4}  {stage:20} {moment}")
        midway = sum(midway for *_, midway in rows)
        terminalreporter.write_line(
            f"{len(rows)} killed, {midway} of them ({midway / len(rows):.0%}) after the first block or "
            "checkpoint and before the last"
        )
