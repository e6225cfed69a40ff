"""The whole loop as a stranger runs it, killed in a data stage, restarted, finished, skipped.

Training that is killed is in tests/faults; a pipeline that is killed in other ways, in tests/pipeline.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalequest.pipeline.columns import ADDED, WRITTEN
from scalequest.records import read_rows

PIPELINE = "recipes/tiny/smoke.yaml"


def command(output: Path, *more: str, pipeline: str | Path = PIPELINE) -> list[str]:
    return [sys.executable, "recipes/run.py", str(pipeline), "--output", str(output), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


def killed(pipeline: Path, output: Path, ready: Callable[[], bool]) -> None:
    """Start the pipeline and `kill -9` it, launcher and all, once `ready`."""
    process = subprocess.Popen(
        command(output, pipeline=pipeline),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 900
    while not ready():
        assert process.poll() is None, "the pipeline ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(30)


def receipt(folder: Path) -> dict[str, Any]:
    path = folder / "receipt.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


@pytest.mark.timeout(1500)
def test_the_loop_survives_kills_and_ends_with_a_table(tmp_path: Path, quick_python: str) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM

    output, plain = tmp_path / "run", tmp_path / "plain.yaml"
    # Two stages are done sooner than the libraries of all stages are imported; forks go on from there.
    plain.write_text(Path(PIPELINE).read_text().replace("preload: true", "preload: false"))
    killed(plain, output, lambda: (output / "generate_raw/parts").is_dir())
    assert not receipt(output / "generate_raw")["finished"]
    before = (output / "qft/model.safetensors").stat().st_mtime_ns

    done = subprocess.run(command(output), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (output / "qft/model.safetensors").stat().st_mtime_ns == before  # finished, so not run again
    assert "Every row is accounted for" in done.stdout

    # Every stage: a finished receipt whose rows add up, the metrics' mirror, and an offline W&B run.
    for name in (
        "qft",
        "generate_raw",
        "generate_qft",
        "optimize_questions",
        "qpo",
        "filter_questions",
        "solve_questions",
        "sft",
    ):
        found = receipt(output / name)
        assert found["finished"]
        assert found["rows_in"] == found["kept"] + sum(found["dropped"].values())
        assert (output / name / "metrics.jsonl").stat().st_size
        assert list((output / name / "wandb").glob("**/*.wandb")), name
        assert "W&B stopped" not in (output / f"logs/{name}.log").read_text()
    assert receipt(output / "generate_qft")["engine"].startswith("vllm")
    # The columns that the look ahead counts on
    made = WRITTEN | {"filter_questions": WRITTEN["generate_questions"] | ADDED["filter_questions"]}
    made |= {"solve_questions": made["filter_questions"] | ADDED["solve_questions"]}
    for name in ("optimize_questions", "filter_questions", "solve_questions", "select_solutions"):
        assert set(read_rows(output / name)[0]) <= made[name], name
    assert load_dataset(str(output / "select_solutions"), split="train").num_rows > 0
    AutoModelForCausalLM.from_pretrained(output / "sft")

    # The report, which is made every time, is left out: for it alone the libraries would be imported
    last = [quick_python, *command(output, "--to", "measure_questions")[1:]]
    again = subprocess.run(last, env=environment(), capture_output=True, text=True, check=True)
    assert "finished before" in again.stdout
    assert "recipes/qft.py" not in again.stdout
