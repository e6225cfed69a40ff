"""Who is who under a launcher: from its variables alone, and under real launchers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.engines import launch

LAUNCHER = {
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0"},
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"},
}
linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no cores")


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    yield
    os.environ.clear()
    os.environ.update(before)
    if cores:
        os.sched_setaffinity(0, cores)


def launched(**variables: str | None) -> None:
    """Put this process where a launcher would."""
    for name in ("CUDA_VISIBLE_DEVICES", *LAUNCHER):
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in variables.items() if value is not None})


def test_alone() -> None:
    launched(CUDA_VISIBLE_DEVICES="4,5", OMP_NUM_THREADS="1")
    assert launch.worker() == (0, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_the_launchers_variables_are_gone() -> None:
    launched(**LAUNCHER)
    assert launch.worker() == (5, 8)
    assert not {*LAUNCHER} - {"OMP_NUM_THREADS"} & {*os.environ}
    assert launch.worker() == (0, 1)


@pytest.mark.parametrize(
    ("listed", "group", "local", "expected"),
    [
        ("4,5,6,7", 1, "1", "5"),
        ("4,5,6,7", 2, "1", "6,7"),
        (" 6, 7", 1, "0", "6"),
        ("GPU-aa,GPU-bb", 1, "1", "GPU-bb"),
        (None, 2, "3", "6,7"),
    ],
)
def test_gpus_come_from_the_callers_list(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    listed: str | None,
    group: int,
    local: str,
    expected: str,
) -> None:
    monkeypatch.setattr(launch, "_GPU_FOLDER", tmp_path)
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    launched(**{**LAUNCHER, "LOCAL_RANK": local, "CUDA_VISIBLE_DEVICES": listed})
    launch.worker(group)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_too_few_gpus() -> None:
    launched(**{**LAUNCHER, "CUDA_VISIBLE_DEVICES": "4,5,6"})
    with pytest.raises(
        ConfigError, match=r"needs GPUs 2 to 3 of the list, but CUDA_VISIBLE_DEVICES has 3 \(4,5,6\)"
    ):
        launch.worker(2)


def test_too_few_gpus_where_none_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(launch, "_GPU_FOLDER", tmp_path)
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    launched(**LAUNCHER)
    launch.worker()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    launched(**{**LAUNCHER, "LOCAL_RANK": "2"})
    with pytest.raises(ConfigError, match=r"needs GPUs 2 to 2 of the list, but this machine has 2 \(0,1\)"):
        launch.worker()


def test_a_launch_on_the_cpu_stays_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine with GPUs, when the launcher's variables are gone."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(launch, "_GPU_FILES", (str(tmp_path / "nvidiactl"),))
    launched(**LAUNCHER)
    assert launch.has_gpu()
    launched(**LAUNCHER, ACCELERATE_USE_CPU="true")
    launch.worker()
    assert "ACCELERATE_USE_CPU" not in os.environ
    assert not launch.has_gpu()


@linux
def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_gpu", lambda: False)
    cores = sorted(os.sched_getaffinity(0))
    seen = []
    for local in range(4):
        os.sched_setaffinity(0, cores)
        launched(**{**LAUNCHER, "LOCAL_RANK": str(local)})
        launch.worker()
        seen.append(sorted(os.sched_getaffinity(0)))
        assert os.environ["OMP_NUM_THREADS"] == str(len(seen[-1]))
    assert {core for share in seen for core in share} == set(cores)
    assert sum(map(len, seen)) == max(4, len(cores))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set beside RANK"),
        ({"RANK": "8"}, "contradict"),
        ({"LOCAL_WORLD_SIZE": "16"}, "contradict"),
        ({"RANK": "first"}, "variable RANK: expected a number, got 'first'"),
        ({"RANK": None, "WORLD_SIZE": None}, "asked for several processes and started one"),
    ],
)
def test_a_broken_launch_is_refused(changed: dict[str, str | None], message: str) -> None:
    launched(**{**LAUNCHER, **changed})
    with pytest.raises(ConfigError, match=message):
        launch.worker()


def test_mpirun_under_accelerate() -> None:
    launched(**{**LAUNCHER, "RANK": None, "WORLD_SIZE": None})
    os.environ |= {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    os.environ |= {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    assert launch.worker() == (1, 2)


def run(tmp_path: Path, *command: str) -> list[dict[str, Any]]:
    """What each process of a launch says."""
    launched()
    out = tmp_path / "out"
    out.mkdir()
    probe = str(Path(__file__).with_name("launch_probe.py"))
    environment = {**os.environ, "PYTHONPATH": "src"}
    subprocess.run(
        [sys.executable, "-m", *command, probe, str(out)], env=environment, check=True, timeout=300
    )
    return [json.loads(file.read_text()) for file in out.iterdir()]


@linux
def test_torchrun(tmp_path: Path) -> None:
    said = run(tmp_path, "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert sorted(process["worker"] for process in said) == [[0, 2], [1, 2]]
    for process in said:
        assert "2 processes were launched, but torch.distributed sees a world of 1" in process["alone"]
        assert not {*LAUNCHER} - {"OMP_NUM_THREADS"} & {*process["environment"]}
    if len(os.sched_getaffinity(0)) > 1 and not launch.has_gpu():
        assert not set(said[0]["cores"]) & set(said[1]["cores"])


def test_accelerate_that_starts_one_process_for_two(tmp_path: Path) -> None:
    said = run(tmp_path, "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    assert len(said) == 1
    assert "asked for several processes and started one" in said[0]["worker"]
    assert said[0]["alone"] == said[0]["worker"]


def test_accelerate_with_one_process(tmp_path: Path) -> None:
    (said,) = run(tmp_path, "accelerate.commands.launch", "--cpu", "--num_processes", "1")
    assert said["worker"] == [0, 1]
    assert said["alone"] is None
