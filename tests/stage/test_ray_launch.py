"""`launch: ray` on a cluster of this machine: the rows of a plain run, also where a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.engines.base import EngineConfig
from scalequest.hardware import has_gpu
from scalequest.questions.generation import GenerationConfig
from scalequest.stage.launch import IN_RAY, on_ray
from scalequest.stage.ray_launch import _room
from stage_support import data_files, receipt

ROOT = Path(__file__).parents[2]
ROWS = 96


def words(model: Path, folder: Path, *more: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "recipes/generate_questions.py"), "--output_dir", str(folder),
        "--track", "none", "--num_questions", str(ROWS), "--model_name_or_path", str(model),
        "--chat_format", "tinymath", "--engine.name", "transformers", "--block_size", "4",
        "--sampling.max_tokens", "14", *more,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_that_ray_lost_is_started_again(tiny_model: Path, tmp_path: Path) -> None:
    import psutil

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(words(tiny_model, tmp_path / "local"), env=environment, check=True, capture_output=True)
    folder, log = tmp_path / "ray", tmp_path / "log"
    with log.open("wb") as out:
        driver = subprocess.Popen(
            words(tiny_model, folder, "--launch", "ray", "--ray_workers", "2"),
            env=environment, stdout=out, stderr=out,
        )  # fmt: skip
    end = time.monotonic() + 600
    while len(list(folder.glob("parts/0*.jsonl"))) < 2:
        assert driver.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.01)
    # the worker that holds the folder's lock, which is the first; the others' markers have to stay good
    holder = int((folder / ".lock").read_text().split()[1])
    assert holder in {child.pid for child in psutil.Process(driver.pid).children(recursive=True)}
    os.kill(holder, signal.SIGKILL)
    assert driver.wait(600) == 0, log.read_text()[-3000:]
    assert data_files(folder) == data_files(tmp_path / "local")
    assert receipt(folder)["kept"] == receipt(tmp_path / "local")["kept"]
    assert receipt(folder)["tokens"] == receipt(tmp_path / "local")["tokens"]
    # a mistake in a worker is the driver's one line
    again = [*words(tiny_model, folder, "--launch", "ray", "--ray_workers", "1"), "--sampling.top_p", "0.5"]
    done = subprocess.run(again, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "error: " in done.stderr
    assert "sampling.top_p: 0.99 -> 0.5" in done.stderr.rpartition("error: ")[2]


def config(workers: int | None, group: int = 1) -> Any:
    return GenerationConfig(
        model_name_or_path="m", chat_format="tinymath", num_questions=1, ray_workers=workers,
        engine=EngineConfig(tensor_parallel_size=group),
    )  # fmt: skip


def test_room_for_all_workers_at_once() -> None:
    node = {"CPU": 64.0, "GPU": 8.0}
    assert _room([node], config(None)) == (8, 1.0, 1)
    assert _room([node], config(None, 4)) == (2, 1.0, 4)
    assert _room([node], config(3)) == (3, 1.0, 1)
    assert _room([{"CPU": 8.0}], config(None)) == (1, 8.0, 0)
    assert _room([{"CPU": 8.0}], config(4)) == (4, 2.0, 0)
    for resources, wanted in ((node, config(9)), (node, config(3, 4)), ({"CPU": 2.0}, config(3))):
        with pytest.raises(ConfigError, match="ray_workers"):
            _room([resources], wanted)


def test_no_worker_wants_more_than_one_machine_has() -> None:
    """What all machines have together is no place for a task: Ray would wait for ever."""
    assert _room([{"CPU": 8.0}, {"CPU": 8.0}], config(None)) == (1, 8.0, 0)
    assert _room([{"CPU": 8.0}, {"CPU": 8.0}], config(3)) == (3, 4.0, 0)
    assert _room([{"CPU": 8.0}, {"CPU": 4.0}], config(2)) == (2, 4.0, 0)
    # a head without GPUs lends its cores to none; of three GPUs a pair is used
    head, node = {"CPU": 64.0}, {"CPU": 4.0, "GPU": 8.0}
    assert _room([head, node], config(None)) == (8, 0.5, 1)
    assert _room([{"CPU": 8.0, "GPU": 3.0}] * 2, config(None, 2)) == (2, 1.0, 2)
    with pytest.raises(ConfigError, match="room for 2"):
        _room([{"CPU": 8.0, "GPU": 3.0}] * 2, config(3, 2))


def test_workers_on_one_machine_do_not_share_cores() -> None:
    script = (
        "import os, sys\n"
        "from scalequest.stage import launch, ray_launch\n"
        "main = lambda *_: print(launch.worker(), sorted(os.sched_getaffinity(0)))\n"
        "ray_launch._worker(int(sys.argv[1]), main, None, None, 2, int(sys.argv[2]), 's', '.')\n"
    )
    if not hasattr(os, "sched_getaffinity") or has_gpu():
        pytest.skip("this machine binds no cores")

    def place(number: int, together: int) -> str:
        words = [sys.executable, "-c", script, str(number), str(together)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    assert place(0, 2) == f"(0, 2) {cores[:half] or cores}"
    assert place(1, 2) == f"(1, 2) {cores[half:]}"
    assert place(1, 1) == f"(1, 2) {cores}"


def test_a_worker_on_ray_does_not_start_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_ray("ray")
    assert not on_ray("local")
    monkeypatch.setenv(IN_RAY, "1")
    assert not on_ray("ray")
