"""Stages forked off a process that has imported their libraries: as good as processes of their own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scalequest.preload import Preloaded, possible

STAGE = """
import os, subprocess, sys, threading
had = "torch" in sys.modules
import torch
threads = torch.get_num_threads()
product = float((torch.ones(300, 300) @ torch.ones(300, 300)).sum())  # in parallel: a fork could hang in it
print("argv", sys.argv[1:], "had", had, "product", product, "life", os.environ.get("LIFE"))
print("main", __name__, "beside", sys.path[0] == os.path.dirname(os.path.abspath(sys.argv[0])))
what = sys.argv[1]
if what == "leaves":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("left", child.pid)
if what == "exits":
    sys.exit(3)
if what == "fails":
    raise ValueError("what was wrong")
if what == "waits":
    sys.stdout.flush()
    threading.Event().wait(600)
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Preloaded, Path]]:
    """The process, importing once for all tests, and a folder with a stage's script."""
    if not possible():
        pytest.skip("stages are forked on Linux without a GPU only")
    folder = tmp_path_factory.mktemp("stages")
    (folder / "stage.py").write_text(STAGE)
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    with Preloaded({**os.environ, "PYTHONUNBUFFERED": "1"}, lock, folder / "imports.log") as forks:
        yield forks, folder
    os.close(lock)


def run(stages: tuple[Preloaded, Path], what: str) -> tuple[int, str]:
    forks, folder = stages
    log = folder / f"{what}.log"
    stage = forks.start([str(folder / "stage.py"), what], log, {"LIFE": what})
    return stage.wait(timeout=240), log.read_text()


def test_a_stage_has_its_own_words_log_environment_and_the_libraries(
    stages: tuple[Preloaded, Path],
) -> None:
    for what in ("one", "other"):
        status, log = run(stages, what)
        assert status == 0, log
        assert f"argv ['{what}'] had True product 27000000.0 life {what}" in log
        assert "main __main__ beside True" in log


def test_how_a_stage_ends_is_told(stages: tuple[Preloaded, Path]) -> None:
    assert run(stages, "exits")[0] == 3
    status, log = run(stages, "fails")
    assert status == 1
    assert "ValueError: what was wrong" in log


def test_what_a_stage_left_behind_is_ended(stages: tuple[Preloaded, Path]) -> None:
    status, log = run(stages, "leaves")
    assert status == 0, log
    assert not psutil.pid_exists(int(log.rpartition("left ")[2]))


def test_signals_reach_the_stage_and_the_next_one_still_runs(stages: tuple[Preloaded, Path]) -> None:
    forks, folder = stages
    log = folder / "waits.log"
    stage = forks.start([str(folder / "stage.py"), "waits"], log, {})
    deadline = time.monotonic() + 120
    while not (log.exists() and "main" in log.read_text()) and time.monotonic() < deadline:
        assert stage.poll() is None
        time.sleep(0.05)
    stage.send_signal(signal.SIGTERM)
    assert stage.wait(timeout=60) == 128 + signal.SIGTERM
    assert run(stages, "after")[0] == 0


def test_nothing_outlives_the_pipeline(tmp_path: Path) -> None:
    """Killed with -9, it closes nothing; the process that forks sees its input end, and ends the stage."""
    if not possible():
        pytest.skip("stages are forked on Linux without a GPU only")
    (tmp_path / "stage.py").write_text(STAGE)
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from scalequest import preload\n"
        "lock = os.open('lock', os.O_CREAT | os.O_RDWR)\n"
        "forks = preload.Preloaded(os.environ, lock, Path('imports.log'))\n"
        "forks.start(['stage.py', 'waits'], Path('waits.log').absolute(), {})\n"
        "time.sleep(600)\n"
    )
    starter = psutil.Popen([sys.executable, "-c", code], cwd=tmp_path)
    log, deadline = tmp_path / "waits.log", time.monotonic() + 240
    while not (log.exists() and "main" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    family = starter.children(recursive=True)
    assert len(family) == 2, "the process that forks, and the stage"
    starter.kill()
    starter.wait()
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left
