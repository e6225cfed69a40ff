"""`kill -9` in training, also inside a save, and SIGTERM to two ranks: the end is as if nothing had been.

pytest tests/faults --kills 100 -n0        # over all stages, those that make data too; the table of moments
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forks import context

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("qft", "qpo", "sft", "difficulty", "reward", "grpo")
SAVE_STEPS, STEPS_A_KILL = 4, 8


def child(stage: str, settings: dict[str, Any], log: str) -> None:
    """Run a recipe as its script would; a fork has imported everything, so a start costs little."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(ROOT)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "recipes"))
    from importlib import import_module

    from scalequest.config import build
    from scalequest.recipe import run_with

    recipe = import_module(stage)
    sys.exit(run_with(recipe.RECIPE, *build(recipe.types(), settings)))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Rows for each stage, out of the tiny model's stories."""
    from tiny_model import stories

    folder = tmp_path_factory.mktemp("rows")
    pairs = stories(64, seed=3)
    made = {
        "qft": [{"question": question} for question, _ in pairs],
        "sft": [{"query": question, "response": response} for question, response in pairs],
        "qpo": [{"chosen": q, "rejected": " ".join(q.split()[::-1])} for q, _ in pairs],
        "difficulty": [
            {"question": question, "fail_rate": n % 5 / 4} for n, (question, _) in enumerate(pairs)
        ],
        "reward": [
            {
                "question": question,
                "responses": [response, response, f"{response} or not"],
                "answers": ["1", "1", "2"],
                "finish_reasons": ["stop"] * 3,
            }
            for question, response in pairs
        ],
        "grpo": [
            {"question": question, "answer": response.rpartition("{")[2].partition("}")[0]}
            for question, response in pairs
        ],
    }
    for stage, rows in made.items():
        (folder / f"{stage}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda stage: str(folder / f"{stage}.jsonl")


def settings_of(stage: str, source: str, model: Path, folder: Path, steps: int) -> dict[str, Any]:
    rollouts = {
        "reward": ["grader", "format"], "reference": "answer", "num_generations": 4,
        "max_completion_length": 24, "learning_rate": 1e-4,
    }  # fmt: skip
    return {
        "model_name_or_path": str(model), "chat_format": "tinymath", "dtype": "float32", "input": [source],
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "per_device_train_batch_size": 4, "max_length": 96, "max_steps": steps, "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine", "logging_steps": 1, "track": "none",
        "save_strategy": "steps", "save_steps": SAVE_STEPS, "save_total_limit": 2,
        **(rollouts if stage == "grpo" else {}),
    }  # fmt: skip


def start(stage: str, settings: dict[str, Any], folder: Path) -> Any:
    process = context.Process(target=child, args=(stage, settings, str(folder) + ".log"))
    process.start()
    return process


def reported(folder: Path) -> int:
    try:
        lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return 0
    return max(
        [int(line.split(b'"step": ')[1].split(b",")[0]) for line in lines if b'"step": ' in line] or [0]
    )


def unsealed(folder: Path) -> list[str]:
    found = [path for path in folder.glob("checkpoint-*") if not (path / "complete.json").exists()]
    return sorted(path.name for path in found)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_runs_end_with_the_weights_of_the_undisturbed_one(
    stage: str,
    inputs: Callable[[str], str],
    tiny_model: Path,
    tmp_path: Path,
    kills: Callable[[str], list[int]],
    kill_table: list[tuple[int, str, str, bool]],
) -> None:
    mine = kills(stage)
    steps = STEPS_A_KILL * (len(mine) + 1)
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(stage, settings_of(stage, inputs(stage), tiny_model, whole, steps), whole)
    undisturbed.join()
    assert undisturbed.exitcode == 0, (tmp_path / "whole.log").read_text()[-2000:]

    settings = settings_of(stage, inputs(stage), tiny_model, folder, steps)
    rng = random.Random(f"{stage} {len(mine)}")
    for number, shown in enumerate(mine, 1):
        process = start(stage, settings, folder)
        first = STEPS_A_KILL * (number - 1) + 1
        target = rng.randint(first + SAVE_STEPS if number > 1 else first, first + STEPS_A_KILL - 1)
        in_save = number % 3 == 2  # the second, the fifth
        torn_before = set(unsealed(folder))
        while process.is_alive():
            if in_save and reported(folder) >= first and set(unsealed(folder)) - torn_before:
                time.sleep(rng.uniform(0, 0.01))
                break
            if not in_save and reported(folder) >= target:
                time.sleep(rng.uniform(0, 0.02))
                break
            time.sleep(0.0005 if in_save else 0.002)
        assert process.is_alive(), (
            f"kill {number}: it ended before: {(tmp_path / 'killed.log').read_text()[-2000:]}"
        )
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not (folder / "model.safetensors").exists(), "it was as good as finished"
        torn = unsealed(folder)
        sealed = [path.parent for path in folder.glob("checkpoint-*/complete.json")]
        last = max(sealed, key=lambda path: int(path.name.partition("-")[2])).name if sealed else ""
        moment = f"inside the save of {torn[-1]}" if torn else "between two saves"
        said = f"step {reported(folder):3} reported, {last or 'nothing'} sealed, {moment}"
        kill_table.append((shown, stage, said, bool(last)))
    process = start(stage, settings, folder)
    process.join()
    assert process.exitcode == 0, (tmp_path / "killed.log").read_text()[-2000:]
    start_from = (tiny_model / "model.safetensors").read_bytes()
    assert (whole / "model.safetensors").read_bytes() != start_from, "it has learnt nothing"
    assert (whole / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not unsealed(folder)
    receipts = [json.loads((one / "receipt.json").read_text()) for one in (whole, folder)]
    for key in ("rows_in", "kept", "dropped", "tokens", "fingerprint"):
        assert receipts[0][key] == receipts[1][key]


@pytest.mark.slow
def test_sigterm_to_the_launcher_reaches_both_ranks_in_time(
    inputs: Callable[[str], str], tiny_model: Path, tmp_path: Path
) -> None:
    """As slurm/launch.py has it: torchrun passes the signal on, and leaves the ranks time to save."""
    out = tmp_path / "out"
    settings = settings_of("sft", inputs("sft"), tiny_model, out, 4000) | {"save_steps": 4000}
    settings |= {"per_device_train_batch_size": 1, "ddp_backend": "gloo"}
    (tmp_path / "sft.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "recipes/sft.py"), "--config", str(tmp_path / "sft.yaml")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120"}
    launcher = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while reported(out) < 3:
            assert launcher.poll() is None
            time.sleep(0.05)
        launcher.terminate()
        launcher.wait(200)
    finally:
        launcher.kill()
    step = json.loads((out / "stopped.json").read_text())["step"]
    assert (out / f"checkpoint-{step}" / "complete.json").is_file()
    assert not (out / "model.safetensors").exists()
