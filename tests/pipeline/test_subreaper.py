"""Whichever process above a supervised command is killed with -9, nothing of the command is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scalequest.pipeline.subreaper import SupervisedProcess, shell_status_of

# Has two helpers under other names, one in a session of its own, as launchers and engines do.
COMMAND = """
import subprocess, sys, time
for own in (True, False):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=own)
open(sys.argv[1], "w").write("ready")
time.sleep(600)
"""
STARTER = """
import sys
from scalequest.pipeline.subreaper import SupervisedProcess, forward_signals
process = SupervisedProcess([sys.executable, sys.argv[1], sys.argv[2]])
with forward_signals(process):
    process.wait()
process.end()
sys.exit(process.finish())
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def start(folder: Path) -> tuple[psutil.Popen, list[psutil.Process]]:
    """The starter in a process group of its own, and all that is below it."""
    command, starter, ready = folder / "command.py", folder / "starter.py", folder / "ready"
    command.write_text(COMMAND)
    starter.write_text(STARTER)
    process = psutil.Popen([sys.executable, str(starter), str(command), str(ready)], start_new_session=True)
    wait_for(ready.exists)
    family = process.children(recursive=True)
    assert len(family) == 4, "the subreaper, the command and its two helpers"
    return process, family


@pytest.mark.parametrize(
    "killed", ["starter", "group", "subreaper", "starter and subreaper", "by name", "command"]
)
def test_nothing_is_left_after_a_kill(killed: str, tmp_path: Path) -> None:
    process, family = start(tmp_path)
    subreaper = family[0]
    if killed in ("starter", "starter and subreaper"):
        process.kill()
    if killed in ("subreaper", "starter and subreaper"):
        subreaper.kill()
    if killed == "group":
        os.killpg(process.pid, signal.SIGKILL)
    if killed == "by name":  # as `pkill -9 -f command.py` does
        named = [one for one in [process, *family] if "command.py" in " ".join(one.cmdline())]
        for one in named:
            with contextlib.suppress(psutil.NoSuchProcess):  # the subreaper may have been quicker
                one.kill()
    if killed == "command":
        next(one for one in family if "ready" in " ".join(one.cmdline())).kill()
    # If both are gone at once, the kernel ends the command, and nobody ends what that has started.
    left = family[:2] if killed == "starter and subreaper" else family
    _, alive = psutil.wait_procs(left, timeout=8)
    for one in family:
        if one.is_running():
            one.kill()
    assert not alive, [one.cmdline() for one in alive]
    if killed in ("subreaper", "command"):
        assert process.wait(10) == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_its_status_comes_back(number: signal.Signals, tmp_path: Path) -> None:
    process, family = start(tmp_path)
    process.send_signal(number)
    assert process.wait(30) in (128 + number, 1)  # Python ends an interrupt in its own way
    assert not [one for one in family if one.is_running() and one.status() != "zombie"]


def test_how_a_command_ends_is_told(tmp_path: Path) -> None:
    def run(*command: str) -> int:
        with (tmp_path / "log").open("ab") as log:
            process = SupervisedProcess(command, output=log)
        return process.finish()

    assert run(sys.executable, "-c", "raise SystemExit(3)") == 3
    assert run(str(tmp_path / "missing")) == 127
    assert "missing: No such file" in (tmp_path / "log").read_text()
    assert run(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)") == 137
    assert (shell_status_of(0), shell_status_of(2), shell_status_of(-15)) == (0, 2, 143)


def test_a_long_command_arrives_whole() -> None:
    """Longer than a pipe holds; a process takes no single word of more than 128 KiB."""
    words = ["x" * 60_000] * 4
    script = "import sys; sys.exit(sum(len(word) == 60_000 for word in sys.argv))"
    assert SupervisedProcess([sys.executable, "-c", script, *words]).finish() == 4


def test_a_subreaper_without_a_starter_runs_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scalequest.pipeline.subreaper"],
        input=b'["touch", "cut',
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())
