"""Stands in for Slurm on one machine: sbatch, squeue, scontrol, srun and scancel as links to this file.

Jobs are folders under $SLURM_STAND_IN: the script, its environment and its state. `work` runs those whose
dependencies have completed, one after the other, until none is left that could run. Options that the real
commands would read and this file does not know are refused.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "squeue", "scontrol", "srun", "scancel")
WAITING, RUNNING, COMPLETED, FAILED, CANCELLED = "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"


def install(folder: Path) -> dict[str, str]:
    """Put the commands into `folder`; returns the environment that finds them."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in COMMANDS:
        command = folder / "bin" / name
        command.write_text(f'#!/bin/bash\nexec {sys.executable} {__file__} {name} "$@"\n')
        command.chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SLURM_STAND_IN": str(folder)}


def jobs(folder: Path) -> dict[str, dict[str, Any]]:
    """All jobs by their numbers."""
    found = sorted((folder / "jobs").iterdir(), key=lambda job: int(job.name))
    return {job.name: json.loads((job / "job.json").read_text()) for job in found}


def work(folder: Path, watch: Callable[[str, subprocess.Popen[bytes]], None] | None = None) -> list[str]:
    """Run what can be run; returns "name: state" for each time that a job has ended.

    Args:
        folder: of the stand-in.
        watch: called with a running job's name and process, again and again.
    """
    ended = []
    while True:
        known = jobs(folder)
        for number, job in known.items():
            before = {known[one]["state"] for one in job["after"]}
            if job["state"] == WAITING and before & {FAILED, CANCELLED}:
                _set(folder, number, state=CANCELLED)
                ended.append(f"{job['name']}: {CANCELLED}")
                break
            if job["state"] == WAITING and before <= {COMPLETED}:
                ended.append(f"{job['name']}: {_run(folder, number, job, watch)}")
                break
        else:
            return ended


def _run(
    folder: Path,
    number: str,
    job: dict[str, Any],
    watch: Callable[[str, subprocess.Popen[bytes]], None] | None,
) -> str:
    _set(folder, number, state=RUNNING)
    again = folder / "jobs" / number / "requeue"
    again.unlink(missing_ok=True)
    slurm = {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "node0", "SLURM_NODEID": "0"}
    with Path(job["output"]).open("ab") as log:
        process = subprocess.Popen(
            ["bash", str(folder / "jobs" / number / "script")], cwd=job["cwd"], env={**job["env"], **slurm},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None:
            if watch is not None:
                watch(job["name"], process)
            time.sleep(0.02)
    state = WAITING if again.exists() else FAILED if process.returncode else COMPLETED
    _set(folder, number, state=state)
    return "REQUEUED" if again.exists() else state


def _set(folder: Path, number: str, **what: Any) -> None:
    file = folder / "jobs" / number / "job.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **what}))


# ------------------------------------------------------------------------------------------- the commands


def sbatch(folder: Path, *options: str) -> int:
    text = sys.stdin.read()
    given = [*re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE), *options]
    settings = dict(option.partition("=")[::2] for option in given)
    known = {"--parsable", "--dependency", "--kill-on-invalid-dep", "--job-name", "--nodes", "--output"}
    known |= {"--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--signal", "--requeue"}
    known |= {"--open-mode", "--partition"}
    if unknown := set(settings) - known:
        print(f"sbatch: unrecognized option '{min(unknown)}'", file=sys.stderr)
        return 1
    number = str(101 + len(list((folder / "jobs").iterdir())))
    after = settings.get("--dependency", "").removeprefix("afterok:")
    job = folder / "jobs" / number
    job.mkdir()
    (job / "script").write_text(text)
    (job / "job.json").write_text(
        json.dumps(
            {
                "name": settings["--job-name"],
                "output": settings["--output"],
                "gpus": settings.get("--gpus-per-node", "0"),
                "after": after.split(":") if after else [],
                "state": WAITING,
                "cwd": os.getcwd(),
                "env": dict(os.environ),
            }
        )
    )
    print(number)
    return 0


def squeue(folder: Path, *options: str) -> int:
    assert options == ("--me", "--noheader", "--format=%A"), options
    for number, job in jobs(folder).items():
        if job["state"] in (WAITING, RUNNING):
            print(number)
    return 0


def scontrol(folder: Path, *words: str) -> int:
    if words[:2] == ("show", "hostnames"):
        print("node0")
    else:
        assert words[0] == "requeue", words
        (folder / "jobs" / words[1] / "requeue").touch()
    return 0


def srun(folder: Path, *words: str) -> int:
    command = [word for word in words if not word.startswith("--kill-on-bad-exit")]
    step = subprocess.Popen(command, start_new_session=True)
    (folder / "jobs" / os.environ["SLURM_JOB_ID"] / "step").write_text(str(step.pid))
    status = step.wait()
    return status if status >= 0 else 128 - status


def scancel(folder: Path, option: str, step: str) -> int:
    number, _, _ = step.partition(".")
    assert option == "--signal=TERM", option
    os.killpg(int((folder / "jobs" / number / "step").read_text()), signal.SIGTERM)
    return 0


if __name__ == "__main__":
    COMMAND = {"sbatch": sbatch, "squeue": squeue, "scontrol": scontrol, "srun": srun, "scancel": scancel}
    sys.exit(COMMAND[sys.argv[1]](Path(os.environ["SLURM_STAND_IN"]), *sys.argv[2:]))
