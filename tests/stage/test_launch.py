"""Who is who under a launcher: from its variables alone, and under real launchers."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scalequest import hardware
from scalequest.config import ConfigError
from scalequest.stage import launch

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
    for name in ("CUDA_VISIBLE_DEVICES", "VLLM_CACHE_ROOT", *LAUNCHER):
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
    monkeypatch.setattr(hardware, "GPU_FOLDER", tmp_path)
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
    monkeypatch.setattr(hardware, "GPU_FOLDER", tmp_path)
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
    monkeypatch.setattr(hardware, "GPU_FILES", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(hardware, "_cpu_build", lambda: False)
    launched(**LAUNCHER)
    assert hardware.has_gpu()
    launched(**LAUNCHER, ACCELERATE_USE_CPU="true")
    launch.worker()
    assert "ACCELERATE_USE_CPU" not in os.environ
    assert not hardware.has_gpu()


def test_a_gpu_beside_a_torch_without_gpus_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A laptop with the environment of `make setup`."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(hardware, "GPU_FILES", (str(tmp_path / "nvidiactl"),))
    for release, found in (("2.13.0+cpu", False), ("2.13.0", True), ("2.11.0+cu130", True)):
        monkeypatch.setattr("importlib.metadata.version", lambda _, release=release: release)
        hardware._cpu_build.cache_clear()
        launched()
        assert hardware.has_gpu() is found, release
    hardware._cpu_build.cache_clear()


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
        ({"WORLD_SIZE": None}, "RANK is set but WORLD_SIZE is not"),
        ({"RANK": "8"}, "contradict"),
        ({"LOCAL_WORLD_SIZE": "16"}, "contradict"),
        ({"RANK": "first"}, "variable RANK: expected a number, got 'first'"),
        ({"RANK": None, "WORLD_SIZE": None}, "asked for several processes but started one"),
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


def test_each_worker_compiles_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """Below the one that vLLM would take, by the worker's number, so that a restart finds it again."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    envs = runpy.run_path(str(Path(spec.origin).with_name("envs.py")))
    launched(XDG_CACHE_HOME=str(tmp_path))
    assert envs["environment_variables"]["VLLM_CACHE_ROOT"]() == f"{tmp_path}/vllm"
    for rank in ("5", "2", "5"):
        launched(**{**LAUNCHER, "RANK": rank}, XDG_CACHE_HOME=str(tmp_path))
        launch.worker()
        assert envs["environment_variables"]["VLLM_CACHE_ROOT"]() == f"{tmp_path}/vllm/worker-{rank}"


ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


@pytest.mark.parametrize("variables", [{}, {**LAUNCHER, **ALONE}])
def test_a_lone_process_keeps_the_common_cache(variables: dict[str, str]) -> None:
    launched(**variables)
    assert launch.worker() == (0, 1)
    assert "VLLM_CACHE_ROOT" not in os.environ


def test_a_cache_that_the_caller_chose_stays() -> None:
    launched(**LAUNCHER, VLLM_CACHE_ROOT="/scratch/compiled")
    launch.worker()
    assert os.environ["VLLM_CACHE_ROOT"] == "/scratch/compiled"


# What a task of `srun --ntasks 8` sees of it; pmi2 adds two of MPI's variables.
SRUN = {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}


@pytest.mark.parametrize("more", [{}, {"PMI_RANK": "3", "PMI_SIZE": "8"}])
@pytest.mark.parametrize("check", [launch.worker, launch.check_world])
def test_tasks_of_srun_without_a_launcher_are_refused(
    check: Callable[[], object], more: dict[str, str]
) -> None:
    launched(**SRUN, **more)
    with pytest.raises(ConfigError, match="srun started 8 independent processes"):
        check()


@pytest.mark.parametrize(
    "variables",
    [
        # A batch script's own shell, or salloc's: the job has eight tasks, and this is no step of srun.
        {"SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_PROCID": "0"},
        # salloc's shell where it is a step: one task of its own, and the job's number beside it.
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        # slurm/ray_cluster.sbatch: srun --nodes 1 --ntasks 1
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_one_process_of_slurm_is_one_process(variables: dict[str, str]) -> None:
    launched(**variables)
    launch.check_world()
    assert launch.worker() == (0, 1)


def test_a_launcher_on_each_machine_of_a_step_is_not_refused() -> None:
    """As slurm/launch.py starts them: eight machines, eight tasks of srun, a launcher in each."""
    launched(**{**SRUN, **LAUNCHER})
    assert launch.worker() == (5, 8)
    # What the worker starts asks again, without the launcher's variables.
    assert launch.worker() == (0, 1)


def run(tmp_path: Path, *command: str, python: str = sys.executable) -> list[dict[str, Any]]:
    """What each process of a launch says."""
    launched()
    out = tmp_path / "out"
    out.mkdir()
    probe = str(Path(__file__).with_name("launch_probe.py"))
    environment = {**os.environ, "PYTHONPATH": "src"}
    subprocess.run([python, "-m", *command, probe, str(out)], env=environment, check=True, timeout=300)
    return [json.loads(file.read_text()) for file in out.iterdir()]


@linux
def test_torchrun(tmp_path: Path) -> None:
    said = run(tmp_path, "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert sorted(process["worker"] for process in said) == [[0, 2], [1, 2]]
    for process in said:
        assert "2 processes were launched, but torch.distributed sees a world of 1" in process["alone"]
        assert not {*LAUNCHER} - {"OMP_NUM_THREADS"} & {*process["environment"]}
    if len(os.sched_getaffinity(0)) > 1 and not hardware.has_gpu():
        assert not set(said[0]["cores"]) & set(said[1]["cores"])


def test_accelerate_that_starts_one_process_for_two(tmp_path: Path, quick_python: str) -> None:
    words = ["accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    said = run(tmp_path, *words, python=quick_python)
    assert len(said) == 1
    assert "asked for several processes but started one" in said[0]["worker"]
    assert said[0]["alone"] == said[0]["worker"]


def test_accelerate_with_one_process(tmp_path: Path, quick_python: str) -> None:
    words = ["accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    (said,) = run(tmp_path, *words, python=quick_python)
    assert said["worker"] == [0, 1]
    assert said["alone"] is None
