"""A pipeline as a chain of jobs, on a stand-in for Slurm: order, restarts, and nothing submitted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import slurm_stand_in as slurm  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[2]
# A data stage of blocks, as ours are.
STAGE = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from scalequest.config import RunOptions, fingerprint_fields, option, to_dict
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import read_rows, source_fingerprint
from scalequest.stage.folder import Stage

@dataclass(frozen=True)
class Numbers(RunOptions):
    source: str | None = option(None)
    pause: float = option(0.0, fingerprint=False)
    fail: str | None = option(None, fingerprint=False)
    api_key: str | None = option(None, fingerprint=False)

def main(config):
    if config.fail and Path(config.fail).exists():
        raise SystemExit(3)
    inputs = {config.source: source_fingerprint(config.source)} if config.source else {}
    stage = Stage.open(config.output_dir, name="numbers", version=1, config=to_dict(config),
                       fingerprint=fingerprint_fields(config), inputs=inputs)
    if stage.finished:
        return
    rows = read_rows(config.source) if config.source else [{"id": f"n-{i}"} for i in range(40)]
    for index, block in stage.blocks.pending(len(rows), 4):
        time.sleep(config.pause)
        stage.blocks.write(index, [dict(rows[i]) for i in block], [])
    stage.finish(rows_in=len(rows), card="numbers", tokens=1, seconds=1.0)

RECIPE = Recipe("numbers", 1, "evaluation", lambda: (Numbers,), main)
if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, "counts"))
"""


class Cluster:
    """A folder with a pipeline and a stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.slurm, self.output = folder, folder / "slurm", folder / "runs"
        self.environment = slurm.install(self.slurm)
        self.environment |= {"PYTHONPATH": f"{ROOT / 'src'}", "HF_HUB_OFFLINE": "1"}
        self.cwd = folder

    def write(self, stages: list[dict[str, Any]], **more: Any) -> None:
        (self.folder / "pipeline.yaml").write_text(
            yaml.safe_dump({"name": "chain", "stages": stages, **more}, sort_keys=False)
        )

    def submit(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "recipes/run.py"), str(self.folder / "pipeline.yaml"),
             "--output", str(self.output), "--launch", "slurm", *options],
            cwd=self.cwd, env=self.environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip

    def states(self) -> list[str]:
        return [f"{job['name']} {job['state']}" for job in slurm.jobs(self.slurm).values()]

    def rows(self, stage: str) -> list[str]:
        from scalequest.records import read_rows

        return [row["id"] for row in read_rows(self.output / stage)]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "report.py").write_text("import os\nprint('the report', os.environ['WANDB_RUN_GROUP'][:6])\n")
    (tmp_path / "rows.yaml").write_text("seed: 1\n")
    made.write(
        [
            {"name": "first", "script": "stage.py", "config": "rows.yaml",
             "args": {"fail": str(tmp_path / "broken"), "pause": 0.1}},
            {"name": "other", "script": "stage.py", "config": "rows.yaml"},
            {"name": "second", "script": "stage.py", "config": "rows.yaml",
             "args": {"source": "${output}/first"}},
            {"name": "report", "script": "report.py", "needs": ["second"]},
        ]
    )  # fmt: skip
    return made


def test_each_stage_is_a_job_behind_those_that_it_needs(cluster: Cluster) -> None:
    planned = cluster.submit("--dry_run")
    assert planned.returncode == 0, planned.stderr
    lines = [line for line in planned.stdout.splitlines() if line.startswith("sbatch")]
    assert lines[0] == "sbatch --parsable  # first: 1 x no GPUs"
    assert lines[2].startswith("sbatch --parsable --dependency=afterok:<first> --kill-on-invalid-dep=yes")
    assert not cluster.output.exists()
    done = cluster.submit("--sbatch=--partition=cpu")
    assert done.stdout.splitlines() == [
        "first: submitted as job 101",
        "other: submitted as job 102",
        "second: submitted as job 103, behind 101",
        "report: submitted as job 104, behind 103",
    ], done.stderr
    assert "#SBATCH --partition=cpu\n" in (cluster.slurm / "jobs/101/script").read_text()
    # again, before anything has run: nothing twice
    assert [line.partition(" as ")[0] for line in cluster.submit().stdout.splitlines()] == [
        f"{name}: in the queue" for name in ("first", "other", "second", "report")
    ]
    assert len(slurm.jobs(cluster.slurm)) == 4
    ended = slurm.work(cluster.slurm)
    assert ended == [f"chain-{name}: COMPLETED" for name in ("first", "other", "second", "report")]
    assert cluster.rows("second") == [f"n-{number}" for number in range(40)]
    assert "the report chain-" in (cluster.output / "logs/report.log").read_text(), "one group for all"
    # and when all is done only what leaves no receipt
    assert cluster.submit().stdout.splitlines() == [
        "first: finished before",
        "other: finished before",
        "second: finished before",
        "report: submitted as job 105",
    ]


def test_a_failed_job_takes_those_behind_it_along_and_the_same_command_goes_on(cluster: Cluster) -> None:
    (cluster.folder / "broken").touch()
    cluster.submit()
    ended = slurm.work(cluster.slurm)
    assert ended[0] == "chain-first: FAILED"
    assert {"chain-second: CANCELLED", "chain-report: CANCELLED", "chain-other: COMPLETED"} == set(ended[1:])
    (cluster.folder / "broken").unlink()
    again = cluster.submit().stdout.splitlines()
    assert again[1] == "other: finished before"
    assert [line.partition(" as ")[0] for line in again[:1] + again[2:]] == [
        f"{name}: submitted" for name in ("first", "second", "report")
    ]
    assert slurm.work(cluster.slurm) == [f"chain-{name}: COMPLETED" for name in ("first", "second", "report")]


def test_a_stage_that_is_told_to_stop_keeps_its_number_and_goes_on(cluster: Cluster) -> None:
    told = []

    def watch(name: str, job: subprocess.Popen[bytes]) -> None:
        if name == "chain-first" and not told and len(list(cluster.output.glob("first/parts/*.jsonl"))) > 2:
            told.append(name)
            job.send_signal(signal.SIGTERM)  # Slurm signals the batch script alone

    cluster.submit()
    ended = slurm.work(cluster.slurm, watch)
    assert ended[0] == "chain-first: REQUEUED"
    assert sorted(ended[1:]) == sorted(
        f"chain-{name}: COMPLETED" for name in ("first", "other", "second", "report")
    )
    assert len(slurm.jobs(cluster.slurm)) == 4
    assert cluster.rows("first") == [f"n-{number}" for number in range(40)]


def test_faults_are_said_before_anything_is_submitted(cluster: Cluster) -> None:
    assert (
        "error: stage 'second' needs 'first', which is not finished"
        in cluster.submit("--only", "second").stderr
    )
    assert "--fresh: a requeued job would start from scratch" in cluster.submit("--fresh").stderr
    refused = cluster.submit("--sbatch=--colour=red")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == "error: sbatch: sbatch: unrecognized option '--colour'"
    assert not slurm.jobs(cluster.slurm)
    cluster.environment["PATH"] = os.environ["PATH"]
    assert "error: squeue: not found; submit from a machine with Slurm's commands" in cluster.submit().stderr
    assert cluster.submit("--dry_run").returncode == 0


def test_secrets_are_submitted_and_not_shown(cluster: Cluster) -> None:
    key = "x9F2kLq07vTzPw3B"
    command = [
        sys.executable,
        str(ROOT / "slurm/launch.py"),
        "cpu.yaml",
        "stage.py",
        "--output_dir",
        "runs/a",
    ]
    (cluster.folder / "cpu.yaml").write_text((ROOT / "accelerate_configs/cpu.yaml").read_text())
    for words in (["--api_key", key], [f"--api_key={key}"]):
        printed = subprocess.run(
            [*command, *words], cwd=cluster.folder, env=cluster.environment, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert key not in printed.stdout + printed.stderr
        assert "<secret>" in printed.stdout
    submitting = [*command[:2], "--submit", *command[2:], "--api_key", key]
    done = subprocess.run(
        submitting, cwd=cluster.folder, env=cluster.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "submitted as job 101\n"
    assert key in (cluster.slurm / "jobs/101/script").read_text()
    # a pipeline's variables go with the job, and into nothing that is printed or written as a script
    cluster.write([{"name": "other", "script": "stage.py", "config": "rows.yaml"}], env={"HF_TOKEN": key})
    assert key not in cluster.submit("--dry_run").stdout
    assert key not in cluster.submit().stdout
    assert slurm.jobs(cluster.slurm)["102"]["env"]["HF_TOKEN"] == key
    assert key not in (cluster.slurm / "jobs/102/script").read_text()
    assert key not in (cluster.output / "slurm.json").read_text()


def tiny(cluster: Cluster) -> None:
    """QFT, questions and their filter at the `tiny` profile, on engines that sample alike each time."""
    profile = "recipes/tiny"
    cluster.cwd = ROOT
    cluster.write(
        [
            {"name": "qft", "script": "recipes/qft.py", "config": f"{profile}/qft.yaml",
             "args": {"limit": 512, "save_strategy": "steps", "save_steps": 2, "use_cpu": True}},
            {"name": "generate", "script": "recipes/generate_questions.py",
             "config": f"{profile}/generate_questions.yaml",
             "args": {"model_name_or_path": "${output}/qft", "num_questions": 96, "block_size": 16,
                      "engine": {"name": "transformers"}}},
            {"name": "filter", "script": "recipes/filter_questions.py",
             "config": f"{profile}/filter_questions.yaml",
             "args": {"input": ["${output}/generate"], "steps": ["language", "duplicates"]}},
        ]
    )  # fmt: skip


def made(cluster: Cluster) -> dict[str, bytes]:
    """Weights and rows."""
    files = [*cluster.output.glob("qft/*.safetensors"), *cluster.output.glob("*/data/*.parquet")]
    return {str(file.relative_to(cluster.output)): file.read_bytes() for file in sorted(files)}


@pytest.mark.slow
def test_a_chain_that_was_killed_twice_makes_what_an_undisturbed_one_makes(tmp_path: Path) -> None:
    calm, rough = Cluster(tmp_path / "calm"), Cluster(tmp_path / "rough")
    for one in (calm, rough):
        tiny(one)
        done = one.submit()
        assert done.returncode == 0, done.stderr
    assert slurm.work(calm.slurm) == [f"chain-{name}: COMPLETED" for name in ("qft", "generate", "filter")]
    hit = set()

    def watch(name: str, job: subprocess.Popen[bytes]) -> None:
        if name == "chain-qft" and name not in hit and list(rough.output.glob("qft/checkpoint-*")):
            hit.add(name)
            job.send_signal(signal.SIGTERM)
        if name == "chain-generate" and name not in hit and list(rough.output.glob("generate/parts/*.jsonl")):
            hit.add(name)
            for process in [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]:
                process.kill()  # as a machine that is lost

    ended = slurm.work(rough.slurm, watch)
    assert ended[:3] == ["chain-qft: REQUEUED", "chain-qft: COMPLETED", "chain-generate: FAILED"]
    assert ended[3:] == ["chain-filter: CANCELLED"]
    again = rough.submit().stdout.splitlines()
    assert again[0] == "qft: finished before"
    assert slurm.work(rough.slurm) == ["chain-generate: COMPLETED", "chain-filter: COMPLETED"]
    expected, found = made(calm), made(rough)
    assert [name for name in expected if name.endswith(".safetensors")]
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
