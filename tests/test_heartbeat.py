from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scalequest import heartbeat
from scalequest.config import ConfigError

# A script as ours are: work whose length is known, work whose length is not, and a mistake of the user's.
SCRIPT = """
import os, sys, time
from scalequest import heartbeat
from scalequest.config import RunOptions
from scalequest.stage.script import open_stage, run_script

def main(output):
    time.sleep(0.7)
    stage = open_stage("slow", 1, RunOptions(output_dir=output), RunOptions(output_dir=output), inputs={})
    heartbeat.now("loading the model")
    time.sleep(0.9)
    with heartbeat.doing("tokenising", total=100) as work:
        for _ in range(10):
            time.sleep(0.15)
            work.done += 10

sys.exit(run_script(main, sys.argv[1]))
"""


def lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, seconds: str = "0.4", rank: str = "0"
) -> list[str]:
    monkeypatch.setenv(heartbeat.SECONDS, seconds)
    monkeypatch.setenv("RANK", rank)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).splitlines()


def test_a_stage_says_what_it_does_and_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    said = lines(tmp_path, monkeypatch)
    assert len(said) <= (time.monotonic() - began) / 0.4, "more often than it was asked for"
    assert re.fullmatch(r"script: starting, \d s", said[0])  # before its log is set up
    assert any(re.search(r"\d\d:\d\d:\d\d slow: loading the model, \d s$", line) for line in said)
    counted = r"slow: tokenising: \d0 of 100 rows, \d+(\.\d)? rows/s, 0:00:0\d left$"
    assert any(re.search(counted, line) for line in said), said


def test_the_first_process_alone_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(tmp_path, monkeypatch, rank="1") == []


def test_a_wrong_interval_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (said,) = lines(tmp_path, monkeypatch, seconds="soon")
    assert said == (
        "error: environment variable SCALEQUEST_LIFE_SECONDS: expected a number of seconds above 0, "
        "got 'soon'"
    )
    for wrong in ("0", "-1", "nan", ""):
        monkeypatch.setenv(heartbeat.SECONDS, wrong)
        with pytest.raises(ConfigError):
            heartbeat.every()


def test_a_terminal_has_its_own_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(heartbeat.SECONDS, "0.1")
    before = threading.active_count()
    with heartbeat.signs(speaks=True):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before, "it outlives what it speaks for"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with heartbeat.signs(speaks=True):
        assert threading.active_count() == before


def test_a_line_of_the_work_itself_puts_the_next_one_off(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "now"
    monkeypatch.setenv(heartbeat.SECONDS, "1")
    monkeypatch.setenv(heartbeat.FILE, str(file))
    with heartbeat.signs(speaks=True):
        for _ in range(12):
            time.sleep(0.1)
            heartbeat.heard()
        assert file.read_text().startswith("starting, "), "run.py reads it all the same"
        with heartbeat.quiet():
            time.sleep(1.2)
    assert capfd.readouterr().out == ""


def test_lines() -> None:
    work = heartbeat.Work("reading", 2000, "pairs", 0, began=time.monotonic() - 20)
    assert work.line() == "reading: 0 of 2,000 pairs, 20 s"
    work.done = 500
    assert work.line() == "reading: 500 of 2,000 pairs, 25.0 pairs/s, 0:01:01 left"
    assert heartbeat.rate(0.01, "steps") == "0.6 steps/min"
    assert heartbeat.rate(1234.5, "rows") == "1,234 rows/s"
    assert heartbeat.clock(3661.2) == "1:01:02"
