"""Stages forked off a process that has imported their libraries: as good as processes of their own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from scalequest.pipeline.preload import Preloaded, possible

STAGE = """
import os, subprocess, sys, threading
had = "torch" in sys.modules
import torch
threads = torch.get_num_threads()
product = float((torch.ones(300, 300) @ torch.ones(300, 300)).sum())  # in parallel: a fork could hang in it
print("argv", sys.argv[1:], "had", had, "product", product, "life", os.environ.get("LIFE"))
print("main", __name__, "beside", sys.path[0] == os.path.dirname(os.path.abspath(sys.argv[0])))
what = sys.argv[1]
if what.startswith("leaves"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("left", child.pid)
if what.startswith("forks"):
    import time
    from scalequest.pipeline.preload import forked, preloaded
    sys.stdout.flush()
    seconds = 600 if preloaded() and what.endswith("sleeps") else 0
    sys.exit(forked(lambda: time.sleep(seconds) or 7))
if what == "logs":
    import wandb
    from scalequest.pipeline.preload import forked
    assert forked(lambda: 0) == 0
    run = wandb.init(mode="offline", dir=os.path.dirname(sys.argv[0]), settings=wandb.Settings(silent=True))
    run.log({"samples": wandb.Table(columns=["question"], data=[["How many?"]])})
    run.finish()
if what == "exits":
    sys.exit(3)
if what == "fails":
    raise ValueError("what was wrong")
if what.endswith("waits"):
    sys.stdout.flush()
    threading.Event().wait(600)
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Preloaded, Path]]:
    """The process, importing once for all tests, and a folder with a stage's script."""
    if not possible():
        pytest.skip("stages are forked on Linux without a GPU only")
    several = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    several["WANDB_MODE"] = "offline"  # of which transformers prints a line when it is imported
    folder = tmp_path_factory.mktemp("stages")
    # vLLM takes as long to import as all others; tests/test_loop.py has it.
    with opened(folder, {**several, **absent(folder, "vllm")}) as process:
        yield process


@contextmanager
def opened(folder: Path, environment: dict[str, str]) -> Iterator[tuple[Preloaded, Path]]:
    (folder / "stage.py").write_text(STAGE)
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    log = folder / "imports.log"
    with Preloaded({**environment, "PYTHONUNBUFFERED": "1"}, lock, log) as forks:
        yield forks, folder
    os.close(lock)


def torch_alone(folder: Path) -> dict[str, str]:
    """An environment in which the other libraries that take long to import are not installed."""
    return {**os.environ, **absent(folder, "transformers", "vllm")}


def absent(folder: Path, *names: str) -> dict[str, str]:
    """The variable with which these libraries are not installed."""
    for name in names:
        (folder / f"absent/{name}").mkdir(parents=True)
        (folder / f"absent/{name}/__init__.py").write_text("raise ImportError('not installed')\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder / "absent"), *sys.path])}


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


def test_what_libraries_print_when_imported_is_no_answer(stages: tuple[Preloaded, Path]) -> None:
    assert run(stages, "ends")[0] == 0
    assert "WANDB offline mode" in (stages[1] / "imports.log").read_text()


def test_how_a_stage_ends_is_told(stages: tuple[Preloaded, Path]) -> None:
    assert run(stages, "exits")[0] == 3
    status, log = run(stages, "fails")
    assert status == 1
    assert "ValueError: what was wrong" in log


def test_a_stage_leaves_the_next_one_its_temporary_folders(stages: tuple[Preloaded, Path]) -> None:
    for _ in range(2):
        status, log = run(stages, "logs")
        assert status == 0, log


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


def test_what_a_stage_forks_ends_with_it(stages: tuple[Preloaded, Path]) -> None:
    forks, folder = stages
    assert run(stages, "forks")[0] == 7
    assert forks._process is not None
    server = psutil.Process(forks._process.pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        stage = forks.start([str(folder / "stage.py"), "forks and sleeps"], folder / "sleeps.log", {})
        deadline = time.monotonic() + 120
        while len(family := server.children(recursive=True)) < 2 and time.monotonic() < deadline:
            assert stage.poll() is None
            time.sleep(0.05)
        family[0].send_signal(number)
        assert stage.finish() == 128 + number
        _, left = psutil.wait_procs(family, timeout=10)
        assert not left


def test_a_stage_ends_with_the_process_that_forked_it(tmp_path: Path) -> None:
    """The pipeline ends what is left of it, and the next stage has a process that forks of its own."""
    if not possible():
        pytest.skip("stages are forked on Linux without a GPU only")
    with opened(tmp_path, torch_alone(tmp_path)) as process:
        _ends_with_it(process)


def _ends_with_it(stages: tuple[Preloaded, Path]) -> None:
    forks, folder = stages
    log = folder / "orphan.log"
    stage = forks.start([str(folder / "stage.py"), "leaves and waits"], log, {})
    deadline = time.monotonic() + 120
    while not (log.exists() and "left" in log.read_text()) and time.monotonic() < deadline:
        assert stage.poll() is None
        time.sleep(0.05)
    assert forks._process is not None
    server = psutil.Process(forks._process.pid)
    family = server.children(recursive=True)
    assert len(family) == 2, "the stage, and what it has started in a session of its own"
    server.kill()
    assert stage.finish() == 128 + signal.SIGKILL
    _, left = psutil.wait_procs(family, timeout=10)
    assert not left
    assert run(stages, "one")[0] == 0


def test_a_pipeline_killed_during_the_imports_leaves_nothing(tmp_path: Path) -> None:
    starter, _ = _started(tmp_path, {**os.environ})
    deadline = time.monotonic() + 60
    while not (family := starter.children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    (server,) = family
    # By then it has read what to run, and imports take several seconds more
    while "torch" not in " ".join(one.path for one in server.memory_maps()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (tmp_path / "waits.log").exists()
    starter.kill()
    server.wait(5)
    assert not (tmp_path / "waits.log").exists()


def test_nothing_outlives_the_pipeline(tmp_path: Path) -> None:
    """Killed with -9, it closes nothing; the process that forks sees its input end, and ends the stage."""
    starter, log = _started(tmp_path, torch_alone(tmp_path))
    deadline = time.monotonic() + 240
    while not (log.exists() and "main" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    family = starter.children(recursive=True)
    assert len(family) == 2, "the process that forks, and the stage"
    starter.kill()
    starter.wait()
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left


def _started(tmp_path: Path, environment: dict[str, str]) -> tuple[psutil.Popen, Path]:
    """A pipeline in a process of its own with a stage that waits, and the stage's log."""
    if not possible():
        pytest.skip("stages are forked on Linux without a GPU only")
    (tmp_path / "stage.py").write_text(STAGE)
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from scalequest.pipeline import preload\n"
        "lock = os.open('lock', os.O_CREAT | os.O_RDWR)\n"
        "forks = preload.Preloaded(os.environ, lock, Path('imports.log'))\n"
        "forks.start(['stage.py', 'waits'], Path('waits.log').absolute(), {})\n"
        "time.sleep(600)\n"
    )
    return psutil.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment), tmp_path / "waits.log"
