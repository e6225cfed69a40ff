"""`--kills N`, and the table of what was killed when."""

from __future__ import annotations

from typing import Any

import pytest

KILLED = pytest.StashKey[list[tuple[int, str, str, bool]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="processes to kill in the fault tests (default 3)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KILLED] = []


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills", 3))


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
            f"{len(rows)} killed, {midway} of them after the first block or checkpoint and before the last"
        )
