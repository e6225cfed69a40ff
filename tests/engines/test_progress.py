from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, RunOptions
from scalequest.engines.base import Completion
from scalequest.engines.progress import GateError, Gates
from scalequest.engines.stream import Drop, stream
from scalequest.records import Row
from scalequest.shards import Stage
from stage_support import kept, receipt


def run(folder: Path, rows: int = 100, *, gates: Gates | None = None, **cases: Any) -> Stage:
    """A stage of `rows` rows in blocks of 10 that takes its replies from the row numbers."""
    options = RunOptions(output_dir=str(folder), track="none")
    stage = Stage.open(options.output_dir, name="s", version=1, config={}, fingerprint={})
    cut, junk, same = (cases.get(name, lambda n: False) for name in ("cut", "junk", "same"))

    def settle(number: int, replies: Any) -> Row | Drop:
        row = {"id": str(number), "text": "same" if same(number) else f"text {number}"}
        if replies[0].finish_reason == "length":
            return Drop(row, "truncated")
        return Drop(row, "empty") if junk(number) else row

    def answer(blocks: Any) -> Any:
        for index, numbers in blocks:
            yield index, [Completion(str(n), (), "length" if cut(n) else "stop", 3, 5) for n in numbers]

    try:
        stream(
            stage, rows, 10, ask=lambda n: [n], answer=answer, settle=settle, gates=gates,
            text=lambda row: row["text"],
        )  # fmt: skip
        stage.finish(rows_in=rows, card="")
    finally:
        stage.close()
    return stage


@pytest.mark.parametrize(
    ("gate", "cases", "share"),
    [
        ("truncated", {"cut": lambda n: n % 2 == 0}, "50.0 %"),
        ("junk", {"junk": lambda n: n % 4 == 0, "cut": lambda n: n % 4 == 1}, "25.0 %"),
        ("duplicates", {"same": lambda n: n % 2 == 0}, "47.5 %"),
    ],
)
def test_a_rate_above_its_limit_stops_the_stage_early(
    tmp_path: Path, gate: str, cases: Any, share: str
) -> None:
    limits = {"after": 35, "truncated": 1.0, "junk": 1.0, "duplicates": 1.0}
    with pytest.raises(GateError, match=rf"stopped after 40 rows: {share}.*limit is 20 %.*gates\.{gate}"):
        run(tmp_path, gates=Gates(**{**limits, gate: 0.2}), **cases)
    assert len(list(tmp_path.glob("parts/0*.jsonl"))) == 4, "what was made stays, and nothing more is made"
    assert not receipt(tmp_path)["finished"]
    # a higher limit goes on behind it
    run(tmp_path, gates=Gates(**{**limits, gate: 0.6}), **cases)
    assert receipt(tmp_path)["rows_in"] == 100


def test_few_rows_and_good_rows_pass(tmp_path: Path) -> None:
    strict = Gates(after=50, truncated=0.0, junk=0.0, duplicates=0.0)
    run(tmp_path / "few", 40, gates=strict, junk=lambda n: True)
    assert kept(tmp_path / "few") == []
    run(tmp_path / "good", gates=strict)
    assert len(kept(tmp_path / "good")) == 100
    # later rows are not looked at: the gates are there to end a bad run early
    run(tmp_path / "late", gates=strict, junk=lambda n: n > 60)
    assert len(kept(tmp_path / "late")) == 61


def test_a_share_is_a_share() -> None:
    with pytest.raises(ConfigError, match=r"gates\.junk: 20"):
        Gates(junk=20)
    with pytest.raises(ConfigError, match=r"gates\.after"):
        Gates(after=0)


def test_lines_where_there_is_no_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "scalequest")
    run(tmp_path, 100, cut=lambda n: n % 4 == 0, junk=lambda n: n % 4 == 1)
    (line,) = [line for line in caplog.messages if "rows/s" in line]
    assert line.startswith("s: 100 of 100 rows, ")
    assert "75.0 % stopped, 25.0 % cut, 25.0 % junk, 0 s left" in line


def test_a_bar_on_a_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    caplog.set_level(logging.INFO, "scalequest")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    run(tmp_path, 100, cut=lambda n: n % 4 == 0)
    assert "100/100" in terminal.getvalue()
    assert "rows/s" in terminal.getvalue()
    assert "25.0 % cut" in terminal.getvalue()
    assert not [line for line in caplog.messages if "rows/s" in line]
