"""Stages as Slurm jobs: the batch script of a single stage, and a pipeline as a chain of jobs.

A job waits for the jobs that make its inputs (`--dependency=afterok`), and is removed from the queue if one
of them fails. A job that is told to stop requeues itself under the same number, so that other jobs still wait
for it. The file `slurm.json` in the pipeline's folder has the number of each stage's last job; running the
same command again submits the stages that are neither finished nor in the queue.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from scalequest import atomic_files
from scalequest.config import ConfigError, read_configs, read_yaml
from scalequest.config.bounded_yaml import load as load_yaml
from scalequest.estimate import Topology
from scalequest.pipeline.runner import (
    PipelineSpec,
    Step,
    check_needs,
    environment_of,
    finished,
    read_state,
    start_state,
    take_lock,
)
from scalequest.recipe import Recipe, load_recipe
from scalequest.redaction import redacted
from scalequest.stage.launch import STOP_SECONDS, STOP_VARIABLE

JOBS = "slurm.json"  # in the pipeline's folder: the last job of each stage
TOLD_SECONDS = (
    STOP_SECONDS + 60
)  # before the time limit: for one step and one checkpoint, then for the script
PORT = 29500
CORES = 8  # per GPU; by default, Slurm gives the single task of a machine, with all its ranks, one core


# ----------------------------------------------------------------------------------------------- one job


def script(
    launch: str | None,
    command: Sequence[str],
    nodes: int | None,
    extra: Sequence[str],
    *,
    name: str | None = None,
    log: str = "%x-%j.log",
) -> str:
    """Return the text of the batch script.

    Args:
        launch: the accelerate file; None starts one process.
        command: the script and its settings.
        nodes: the number of machines, if it differs from the accelerate file.
        extra: further options of sbatch.
        name: the name of the job; None for the name of the recipe, which the script then must define.
        log: the file to which the job's output is appended.

    Raises:
        ConfigError: the settings name no output folder, or the global batch size cannot be kept.
    """
    # Split `--key=value` as the recipes do, because the code below changes and adds words.
    words = [part for word in command for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    settings, recipe = given(words), load_recipe(words[0])
    if name is None:
        if "output_dir" not in settings:
            raise ConfigError("output_dir: set neither in the config nor on the command line")
        if recipe is None:
            raise ConfigError(f"{words[0]}: not a recipe: it defines no RECIPE")
        name = recipe.name
    spread = Topology.of(launch) if launch else Topology()
    machines = nodes or spread.machines
    gpus = _gpus(launch, spread, settings, recipe)
    if machines > 1 and recipe is not None and recipe.kind == "training":  # a data stage has no batch
        words = _same_batch(words, settings, machines)
    inner = _started(launch, words, machines, machines * (spread.processes // spread.machines))
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --nodes={machines}",
        "#SBATCH --ntasks-per-node=1",
        *([f"#SBATCH --gpus-per-node={gpus}"] if gpus else []),
        f"#SBATCH --cpus-per-task={CORES * max(gpus, 1)}",
        f"#SBATCH --signal=B:TERM@{TOLD_SECONDS}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={log}",
        *(f"#SBATCH {option}" for option in extra),
        "set -u",
        "# srun no longer takes this from the job.",
        'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
        "# The time that a launcher gives its ranks to save before it kills them.",
        f'export {STOP_VARIABLE}="${{{STOP_VARIABLE}:-{STOP_SECONDS}}}"',
        'HEAD_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export HEAD_NODE",
        *_watched(inner, settings.get("output_dir"), recipe),
    ]
    return "\n".join(lines) + "\n"


def _started(launch: str | None, words: Sequence[str], machines: int, processes: int) -> str:
    """Return the line that starts the script on one machine."""
    if launch is None:
        return f"exec {shlex.join([sys.executable, *words])}"
    start = [
        _accelerate(), "launch", "--config_file", launch, "--num_machines", str(machines),
        "--num_processes", str(processes), "--main_process_port", str(PORT),
    ]  # fmt: skip
    place = '--machine_rank "$SLURM_NODEID" --main_process_ip "$HEAD_NODE"'
    return f"exec {shlex.join(start)} {place} {shlex.join(words)}"


def _watched(inner: str, folder: object, recipe: Recipe | None) -> list[str]:
    """Return the lines that run the step, tell it to stop, and requeue the job if it stopped."""
    stopped = shlex.quote(f"{folder}/stopped.json") if folder else ""
    # A data stage ends immediately when told to stop; its finished blocks are kept.
    left = f" || [ -f {stopped} ]" if stopped else ""
    lasting = recipe is not None and recipe.kind != "training"
    told = ' || { [ "$told" = 1 ] && [ "$status" != 0 ]; }' if lasting else ""
    return [
        "told=0",
        *([f"rm -f {stopped}  # from an earlier stop"] if stopped else []),
        f"srun --kill-on-bad-exit=0 bash -c {shlex.quote(inner)} &",
        "step=$!",
        "# Signal the ranks through Slurm, because srun would react to SIGTERM by killing them.",
        """trap 'told=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM""",
        'wait "$step"; status=$?',
        "# A trapped signal interrupts the first wait.",
        'if [ "$told" = 1 ]; then wait "$step"; status=$?; fi',
        f'if [ "$status" = 75 ]{left}{told}; then',
        '  echo "stopped in time: requeueing the job"',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "  exit 0",
        "fi",
        'exit "$status"',
    ]


def _gpus(launch: str | None, spread: Topology, settings: Mapping[str, object], recipe: Recipe | None) -> int:
    """Return the GPUs per machine: the number of processes times the number of GPUs per model copy."""
    on_cpu = settings.get("use_cpu") in (True, "true") or (launch and read_yaml(launch).get("use_cpu"))
    if on_cpu or recipe is None:
        return 0
    engine = settings.get("engine")
    if isinstance(engine, str):  # given on the command line
        engine = load_yaml(engine)
    group = engine.get("tensor_parallel_size", 1) if isinstance(engine, Mapping) else 1
    copies = int(str(settings.get("engine.tensor_parallel_size", group)))
    models = settings.get("model_name_or_path") or settings.get("models")
    if launch is None and not models:
        return 0
    return spread.processes // spread.machines * copies


def _same_batch(words: list[str], settings: Mapping[str, object], machines: int) -> list[str]:
    """Return the words with gradient_accumulation_steps divided by the number of machines."""
    steps = int(str(settings.get("gradient_accumulation_steps", 1)))
    kept, rest = divmod(steps, machines)
    if rest:
        raise ConfigError(
            f"gradient_accumulation_steps: {steps} on one machine cannot be divided among {machines}; choose "
            "a number of machines that divides it, or raise it and lower per_device_train_batch_size"
        )
    key = "--gradient_accumulation_steps"
    if key not in words:
        return [*words, key, str(kept)]
    at = words.index(key) + 1
    return [*words[:at], str(kept), *words[at + 1 :]]


def _accelerate() -> str:
    beside = Path(sys.executable).with_name("accelerate")
    return str(beside) if beside.exists() else "accelerate"


def given(command: Sequence[str]) -> dict[str, object]:
    """Return the settings of a recipe's command line: its configs, and the keys after them."""
    after = iter(command[command.index("--config") + 1 :] if "--config" in command else ())
    settings = read_configs(*takewhile(lambda word: not word.startswith("--"), after))
    pairs = pairwise(command)
    return settings | {key[2:]: value for key, value in pairs if key.startswith("--") and key != "--config"}


def shown(command: Sequence[str]) -> list[str]:
    """Return the words of a command line without secrets."""
    words: list[str] = []
    for word in command:
        key, joined, value = word.partition("=")
        if joined and key.startswith("--"):
            words.append(f"{key}={redacted({key[2:]: value})[key[2:]]}")
        elif words and words[-1].startswith("--") and not word.startswith("--"):
            words.append(str(redacted({words[-1][2:]: word})[words[-1][2:]]))
        else:
            words.append(str(redacted(word)))
    return words


def submit(text: str, *options: str, environment: Mapping[str, str] | None = None) -> str:
    """Submit a batch script with sbatch and return the job's number.

    Raises:
        ConfigError: there is no sbatch, or it reports an error.
    """
    # A federated cluster replies with "number;cluster".
    return _slurm(["sbatch", "--parsable", *options], text, environment).strip().partition(";")[0]


def _slurm(command: Sequence[str], text: str = "", environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, env=environment, check=False
        )
    except FileNotFoundError:
        raise ConfigError(f"{command[0]}: not found; submit from a machine with Slurm's commands") from None
    if done.returncode:
        raise ConfigError(f"{command[0]}: {' '.join(done.stderr.split()) or f'status {done.returncode}'}")
    return done.stdout


# ----------------------------------------------------------------------------------------------- the chain


def chain(
    spec: PipelineSpec,
    steps: Sequence[Step],
    chosen: Sequence[Step],
    output: Path,
    *,
    fingerprints: Mapping[str, str],
    extra: Sequence[str] = (),
    dry_run: bool = False,
) -> None:
    """Submit the stages that are neither finished nor in the queue, each after the ones that it needs.

    Args:
        spec: the pipeline.
        steps: all of its stages, from `plan`.
        chosen: the stages to submit.
        output: the pipeline's folder, on a file system that all machines share.
        fingerprints: the fingerprints that finished stages would have now, from `look_ahead`.
        extra: further options of sbatch for every job.
        dry_run: only print what would be submitted.

    Raises:
        ConfigError: a required stage is not finished, a stage has `--fresh`, or Slurm rejects a job.
    """
    for step in chosen:
        if "--fresh" in step.command:
            raise ConfigError(
                "--fresh: a requeued job would start from scratch again; remove the stage's folder instead"
            )
    if dry_run:
        _submit_all(spec, steps, chosen, output, fingerprints, extra, None)
        return
    (output / "logs").mkdir(parents=True, exist_ok=True)
    lock = take_lock(output)
    try:
        group = start_state(spec, output)["group"]
        _submit_all(spec, steps, chosen, output, fingerprints, extra, environment_of(spec, group))
    finally:
        os.close(lock)


def _submit_all(
    spec: PipelineSpec,
    steps: Sequence[Step],
    chosen: Sequence[Step],
    output: Path,
    fingerprints: Mapping[str, str],
    extra: Sequence[str],
    environment: Mapping[str, str] | None,
) -> None:
    """Submit the stages with this environment; without one, only print them."""
    jobs, state = _read_jobs(output), read_state(output)
    queue = _queue(must=environment is not None)
    waited = {name: job for name, job in jobs.items() if job in queue}
    for step in chosen:
        name = step.spec.name
        if name in waited:
            print(f"{name}: in the queue as job {waited[name]}")
            continue
        behind = [waited[need] for need in step.needs if need in waited]
        if finished(step, None if behind else fingerprints.get(name), {}):
            print(f"{name}: finished before")
            continue
        there = tuple(need for need in step.needs if need not in waited)
        check_needs(replace(step, needs=there), steps, state)
        options = [f"--dependency=afterok:{':'.join(behind)}", "--kill-on-invalid-dep=yes"] if behind else []
        if environment is None:
            waited[name] = f"<{name}>"
            print(f"sbatch --parsable {' '.join([*options, *extra])}".rstrip() + f"  # {name}: {_size(step)}")
            print(f"  {step.shown}")
            continue
        log = str((output / "logs" / f"{name}.log").absolute())
        text = script(step.spec.launch, step.words, None, extra, name=f"{spec.name}-{name}", log=log)
        waited[name] = jobs[name] = submit(text, *options, environment=environment)
        atomic_files.write(output / JOBS, atomic_files.as_json(jobs))
        print(
            f"{name}: submitted as job {waited[name]}" + (f", behind {', '.join(behind)}" if behind else "")
        )


def _size(step: Step) -> str:
    """Return the numbers of machines and GPUs of a stage's job."""
    said = {}
    for line in script(step.spec.launch, step.words, None, (), name="x").splitlines():
        key, _, value = line.removeprefix("#SBATCH --").partition("=")
        said[key] = value
    return f"{said['nodes']} x {said.get('gpus-per-node', 'no')} GPUs"


def _read_jobs(output: Path) -> dict[str, str]:
    try:
        jobs: dict[str, Any] = json.loads((output / JOBS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ConfigError(f"{output / JOBS}: not valid JSON; check squeue, then remove the file") from None
    return {name: str(job) for name, job in jobs.items()}


def _queue(must: bool) -> set[str]:
    """Return the numbers of this user's pending and running jobs."""
    try:
        return set(_slurm(["squeue", "--me", "--noheader", "--format=%A"]).split())
    except ConfigError:
        if must:
            raise
        return set()
