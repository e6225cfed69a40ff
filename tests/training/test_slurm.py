"""The batch script: topology from the accelerate file, the global batch kept, a requeue that tells apart."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scalequest.config import ConfigError, parse

ROOT = Path(__file__).parents[2]
SFT = ["recipes/sft.py", "--config", "recipes/mistral_7b/sft.yaml"]


def script(*args: str) -> str:
    command = [sys.executable, "slurm/launch.py", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def launched(text: str) -> list[str]:
    """Words after `accelerate launch` in the script."""
    import shlex

    line = next(line for line in text.splitlines() if line.startswith("srun"))
    return shlex.split(shlex.split(line)[4])


def test_topology_is_the_accelerate_files() -> None:
    text = script("accelerate_configs/zero3.yaml", *SFT)
    assert "#SBATCH --cpus-per-task=64\n" in text, "all ranks of a machine on one core"
    assert "#SBATCH --nodes=1\n" in text
    assert "#SBATCH --gpus-per-node=8\n" in text
    words = launched(text)
    assert words[words.index("--num_processes") + 1] == "8"
    assert "--gradient_accumulation_steps" not in words
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("launch", "words", "gpus"),
    [
        ("ddp", ["--engine.tensor_parallel_size", "2"], 16),
        ("ddp", ["--engine", "{tensor_parallel_size: 4}"], 32),
        (None, ["--engine", "{tensor_parallel_size: 4}"], 4),
        (None, [], 1),
        (None, ["--use_cpu", "true"], 0),
        ("cpu", [], 0),
    ],
)
def test_gpus_are_those_of_all_model_copies(launch: str | None, words: list[str], gpus: int) -> None:
    """A copy that is spread over several GPUs needs them all; a stage without an accelerate file has one."""
    from scalequest.pipeline.slurm import script as text_of

    command = ["recipes/solve_questions.py", "--config", "recipes/qwen2_math_7b/solve_questions.yaml", *words]
    file = f"accelerate_configs/{launch}.yaml" if launch else None
    text = text_of(file, command, None, ())
    asked = re.search(r"--gpus-per-node=(\d+)", text)
    assert int(asked[1] if asked else 0) == gpus


def test_ranks_have_time_to_save_and_the_script_has_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun reads it; what `scontrol` needs afterwards still fits in before the end of the job."""
    from torch.distributed.launcher.api import LaunchConfig

    from scalequest.stage.launch import STOP_SECONDS, STOP_VARIABLE

    text = script("accelerate_configs/zero3.yaml", *SFT)
    exported = next(line for line in text.splitlines() if line.startswith(f"export {STOP_VARIABLE}"))

    def allowed() -> int:
        """Seconds that torchrun takes from the script's environment."""
        said = subprocess.run(
            ["bash", "-c", f'{exported}; echo "${STOP_VARIABLE}"'], capture_output=True, text=True, check=True
        ).stdout
        with monkeypatch.context() as inside:
            inside.setenv(STOP_VARIABLE, said.strip())
            return LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1).shutdown_timeout or 0

    monkeypatch.delenv(STOP_VARIABLE, raising=False)
    assert allowed() == STOP_SECONDS > 300
    told = int(re.search(r"--signal=B:TERM@(\d+)", text)[1])  # type: ignore[index]
    assert told >= STOP_SECONDS + 30
    assert f"{STOP_VARIABLE}={STOP_SECONDS}`" in (ROOT / "docs/launch.md").read_text()
    monkeypatch.setenv(STOP_VARIABLE, "1200")
    assert allowed() == 1200, "what the caller set"


@pytest.mark.parametrize("file", ["zero3", "multi_node"])
@pytest.mark.parametrize(("nodes", "steps"), [(2, "4"), (8, "1")])
def test_more_machines_keep_the_global_batch(file: str, nodes: int, steps: str) -> None:
    from training_support import recipe

    given = [] if (file, nodes) == ("multi_node", 2) else ["--nodes", str(nodes)]  # two by itself
    words = launched(script(*given, f"accelerate_configs/{file}.yaml", *SFT))
    assert words[words.index("--num_machines") + 1] == str(nodes)
    assert words[words.index("--num_processes") + 1] == str(8 * nodes)
    argv = [*words[words.index("recipes/sft.py") + 1 :], "--use_cpu", "--bf16", "false"]
    _, training, _ = parse(*recipe("sft").types(), argv=argv)
    assert training.gradient_accumulation_steps == int(steps)


def test_settings_may_be_joined_to_their_keys() -> None:
    """As the recipes read them; the batch is divided, and not given twice."""
    joined = [SFT[0], f"--config={SFT[2]}", "--gradient_accumulation_steps=4"]
    words = launched(script("--nodes", "2", "accelerate_configs/zero3.yaml", *joined))
    assert words.count("--gradient_accumulation_steps") == 1
    assert words[words.index("--gradient_accumulation_steps") + 1] == "2"
    assert words[words.index("--config") + 1] == SFT[2]


def test_of_several_files_the_later_wins(tmp_path: Path) -> None:
    above = tmp_path / "above.yaml"
    above.write_text("output_dir: runs/other\ngradient_accumulation_steps: 4\n")
    text = script("--nodes", "2", "accelerate_configs/zero3.yaml", *SFT, str(above), "--seed", "1")
    assert "rm -f runs/other/stopped.json" in text
    words = launched(text)
    at = words.index("--config")
    assert words[at : at + 4] == ["--config", SFT[2], str(above), "--seed"]
    assert words[words.index("--gradient_accumulation_steps") + 1] == "2"


def test_a_batch_that_cannot_be_kept_is_refused() -> None:
    sys.path.insert(0, str(ROOT / "slurm"))
    try:
        import launch  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(ROOT / "slurm"))
    filtering = ["recipes/filter_questions.py", "--config", "recipes/qwen2_math_7b/filter_questions.yaml"]
    text = launch.script("accelerate_configs/ddp.yaml", filtering, 3, ())
    assert "gradient_accumulation_steps" not in text  # it has no batch
    with pytest.raises(ConfigError, match="gradient_accumulation_steps: 8 on one machine"):
        launch.script("accelerate_configs/zero3.yaml", SFT, 3, ())
    with pytest.raises(ConfigError, match="output_dir"):
        launch.script("accelerate_configs/zero3.yaml", ["recipes/sft.py"], None, ())


OUTCOMES = [
    ("exit 75", True, 0),
    ("touch {out}/stopped.json; exit 1", True, 0),
    ("exit 1", False, 1),
    ("exit 0", False, 0),
]


@pytest.mark.parametrize(("outcome", "requeued", "status"), OUTCOMES)
def test_only_a_stopped_run_goes_back_into_the_queue(
    outcome: str, requeued: bool, status: int, tmp_path: Path
) -> None:
    """The script itself, under bash, with stand-ins for Slurm's commands, told to stop as Slurm would."""
    text = script("accelerate_configs/zero3.yaml", *SFT, "--output_dir", str(tmp_path))
    told = outcome != "exit 0" and outcome != "exit 1"
    wait = "trap 'kill $! ; " + outcome.format(out=tmp_path) + "' TERM; sleep 30 & wait $!"
    body = f"#!/bin/bash\necho $$ > {tmp_path}/pid\n{wait if told else outcome}\n"
    scontrol = f'#!/bin/bash\n[ "$1" = requeue ] && echo "$2" > {tmp_path}/requeued || echo node0\n'
    # Slurm signals the step's tasks; srun itself would kill them on SIGTERM.
    scancel = f'#!/bin/bash\n[ "$*" = "--signal=TERM 7.0" ] && kill -TERM "$(cat {tmp_path}/pid)"\n'
    (tmp_path / "stopped.json").write_text("{}")  # of an earlier stop, which says nothing about this run
    for name, content in (("srun", body), ("scontrol", scontrol), ("scancel", scancel)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node0"}
    job = subprocess.Popen(["bash", "-c", text], env={**env, "SLURM_JOB_ID": "7"}, stdout=subprocess.DEVNULL)
    if told:
        time.sleep(1)
        job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == status
    assert (tmp_path / "requeued").exists() == requeued
