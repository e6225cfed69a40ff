from __future__ import annotations

import logging
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from engine_support import requests

from scalequest import heartbeat
from scalequest.config import RunOptions
from scalequest.engines.base import Completion, EngineConfig, Sampling
from scalequest.engines.loading import open_generator
from scalequest.records import Row
from scalequest.solutions.solving import SampleRequest
from scalequest.stage.block_loop import Drop, completing, stream
from scalequest.stage.folder import Stage
from scalequest.stage.progress import GateError, Gates, Progress
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
            stage, rows, 10, requests=lambda n: [n], generate=answer, row=settle, gates=gates,
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


def test_lines_where_there_is_no_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "scalequest")
    run(tmp_path, 100, cut=lambda n: n % 4 == 0, junk=lambda n: n % 4 == 1)
    (line,) = [line for line in caplog.messages if "rows/s" in line]
    assert line.startswith("s: 100 of 100 rows, ")
    assert "75.0 % stopped, 25.0 % truncated, 25.0 % rejected, 0:00:00 left" in line


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
    assert "25.0 % truncated" in terminal.getvalue()
    assert not [line for line in caplog.messages if "rows/s" in line]


def test_signs_of_life_while_the_first_block_is_still_open(
    tiny_llama: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "scalequest")
    monkeypatch.setenv(heartbeat.SECONDS, "0.05")
    stage = Stage.open(str(tmp_path), name="s", version=1, config={}, fingerprint={})
    asked = requests(24)
    with (
        heartbeat.signs(speaks=True),
        open_generator(tiny_llama, EngineConfig(name="transformers", batch_size=4)) as generator,
    ):
        heartbeat.named("s")
        answer = completing(generator, Sampling(max_tokens=60), [])
        stream(
            stage, 12, 12, requests=lambda n: asked[2 * n : 2 * n + 2], generate=answer,
            row=lambda n, replies: {"id": str(n)},
        )  # fmt: skip
    stage.close()
    lines = [line for line in caplog.messages if line.startswith("s: 0 of 12 rows")]
    decoding = r", token \d+ of at most 60 in a batch of 4"
    open_block = rf"s: 0 of 12 rows, (4|8|12|16|20) of 24 requests({decoding})?, [\d,.]+ requests/(s|min), "
    assert any(re.match(rf"{open_block}[\d,]+ tokens/s, 0:0\d:\d\d left$", line) for line in lines), lines
    first = rf"s: 0 of 12 rows, 0 of 24 requests{decoding}, at most 0:\d\d:\d\d left$"
    assert any(re.match(first, line) for line in lines), lines


def test_the_samples_of_a_question_are_as_many_requests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two questions of four samples each, half of which the engine has finished."""
    caplog.set_level(logging.INFO, "scalequest")
    monkeypatch.setenv(heartbeat.SECONDS, "0.05")
    stage = Stage.open(str(tmp_path), name="s", version=1, config={}, fingerprint={})

    def answer(blocks: Any) -> Any:
        for index, questions in blocks:
            heartbeat.finished(4, 40)
            time.sleep(0.3)
            yield index, [Completion(str(one.number), (), "stop", 3, 5) for one in questions]

    with heartbeat.signs(speaks=True):
        heartbeat.named("s")
        stream(
            stage, 2, 2, requests=lambda n: [SampleRequest(n, requests(4))], generate=answer,
            row=lambda n, replies: {"id": str(n)},
        )  # fmt: skip
    stage.close()
    assert any("0 of 2 rows, 4 of 8 requests, " in line for line in caplog.messages), caplog.messages


def test_what_is_left_counts_this_workers_share() -> None:
    """A worker of several: 100 rows, 20 of them on disk, 40 for this one, asked a quarter of those so far."""
    progress = Progress("s", 100, lambda: 20, mine=40)
    assert progress.line(5.0) == "20 of 100 rows, 5 s"
    progress.ask(10, 50)
    assert progress.line(6.0) == "20 of 100 rows, 0 of 200 requests of this worker, 6 s"
    heartbeat.finished(20, 400)
    found = progress.line(10.0)
    assert found == (
        "20 of 100 rows, 20 of 200 requests of this worker, 2.0 requests/s, 40 tokens/s, 0:01:30 left"
    )
    heartbeat.finished(180)
    assert progress.line(100.0).endswith("2.0 requests/s, 4 tokens/s, finishing the last rows")
