"""Every experiment of the paper: its file parses at both sizes, and shares its stages with the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scalequest.evaluation.published import load_published
from scalequest.pipeline.look_ahead import look_ahead
from scalequest.pipeline.runner import Step, load, plan

PAPER = Path("recipes/paper")
PYTHON = sys.executable
EXPERIMENTS = sorted(path for path in PAPER.glob("*.yaml") if path.stem.startswith(("table", "fig")))


@pytest.fixture(autouse=True)
def _quick(quick_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read, and costs computed, in forks of a process that has TRL imported."""
    monkeypatch.setattr(sys, "executable", quick_python)


def steps_of(path: Path, profile: str, output: Path) -> list[Step]:
    return plan(load(path, {"profile": profile}), output)


@pytest.mark.parametrize("profile", ["7b", "tiny"])
def test_every_setting_of_every_experiment_is_read(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look ahead over all files, since each starts a process; stages of one name are one stage."""
    monkeypatch.setenv("SCALEQUEST_DATA", "/nowhere")
    known: dict[str, Step] = {}
    for path in EXPERIMENTS:
        for step in steps_of(path, profile, tmp_path / "runs"):
            other = known.setdefault(step.spec.name, step)
            assert step.command == other.command, f"{path}: {step.spec.name} is another stage elsewhere"
    faults = look_ahead(list(known.values()), tmp_path / "runs").faults
    by_hand = ("models/internlm2-7b-reward-tokenizer", "$SCALEQUEST_DATA/")
    assert [fault for fault in faults if profile == "tiny" or not any(one in fault for one in by_hand)] == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_file_says_what_it_is_and_what_is_not_known(path: Path) -> None:
    text = path.read_text()
    head = text.partition("\nname:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"python recipes/run.py {path} --output runs/paper" in head
    for word in ("Hardware:", "Not known:", "Shares"):
        assert word in head, word


def test_every_published_table_that_a_report_names_is_there() -> None:
    for path in EXPERIMENTS:
        for step in steps_of(path, "7b", Path("runs/paper")):
            for published in step.settings.get("published", ()):
                load_published(published)


def test_who_rewrites_is_one_variable(tmp_path: Path) -> None:
    """By default a server, as in the paper; a 70B in one process over all GPUs; the solver on each GPU."""
    commands = {}
    for rewriter in ("server", "llama3_1_70b", "solver", "ranking", "ranking_by_judge"):
        spec = load(PAPER / "table1.yaml", {"rewriter": rewriter})
        (step,) = (step for step in plan(spec, tmp_path) if step.spec.name == f"pairs_qwen2_by_{rewriter}")
        commands[rewriter] = " ".join(step.command)
    assert "gpt-4o-mini" in commands["server"]
    assert "--engine.tensor_parallel_size 8" in commands["llama3_1_70b"]
    assert "accelerate" not in commands["llama3_1_70b"]
    assert "ddp.yaml" in commands["solver"]
    assert "_by_ranking_solutions" in commands["ranking"]
    assert "solvable" in commands["ranking_by_judge"]
    assert load(PAPER / "table1.yaml").vars["rewriter"] == "server"
    assert (PAPER / "rewriters/solver.yaml").read_text().startswith("# NOT what the paper trains on")


def test_the_readme_shows_what_the_tools_compute_and_leaves_out_no_experiment() -> None:
    text = (PAPER / "README.md").read_text()
    shown = text.partition("--write -->\n")[2].partition("\n<!-- end of costs")[0]
    done = subprocess.run(
        [sys.executable, "scripts/paper_costs.py"], capture_output=True, text=True, check=True
    )
    assert shown == done.stdout.rstrip("\n"), "python scripts/paper_costs.py --write"
    rows = [line.strip("| ").split(" | ") for line in shown.splitlines()]
    heads, cells = rows[0], {row[0].strip(): [cell.strip() for cell in row] for row in rows[2:]}
    assert len(heads) == 8
    for path in EXPERIMENTS:
        row = cells.pop(f"[{path.stem}]({path.name})")
        assert len(row) == len(heads)
        assert all(cell not in ("", "–") for cell in row)
        beside = row[heads.index(next(head for head in heads if head.startswith("published")))]
        assert (
            beside.startswith("none:") != Path(f"eval/published/{path.stem.partition('_')[0]}.yaml").exists()
        )
    assert cells.pop("[all](all.yaml)")
    assert list(cells) == ["table 9 (code)", "table 10 (conversations)"], "the experiments without a file"


def test_one_file_runs_all_of_them_and_a_common_stage_once(tmp_path: Path) -> None:
    for profile in ("7b", "tiny"):
        steps = {step.spec.name: step.command for step in steps_of(PAPER / "all.yaml", profile, tmp_path)}
        alone = [step for path in EXPERIMENTS for step in steps_of(path, profile, tmp_path)]
        assert steps == {step.spec.name: step.command for step in alone}
        assert len(alone) > 1.5 * len(steps)


def test_the_noted_tiny_runs_are_of_the_stages_that_the_files_have_now(tmp_path: Path) -> None:
    """Otherwise run the experiment again, and `scripts/paper_costs.py --tiny FOLDER`, then `--write`."""
    noted = [json.loads(line) for line in (PAPER / "tiny_results.jsonl").read_text().splitlines()]
    assert len(noted) == len({one["experiment"] for one in noted})
    for one in noted:
        path = PAPER / f"{one['experiment']}.yaml"
        assert len(steps_of(path, "tiny", tmp_path)) == one["stages"], path
        assert one["cpu_seconds"] > 0
        assert one["cpu"]
        assert one["date"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_experiments_run_whole_at_the_tiny_size(tmp_path: Path) -> None:
    """After all of them, the file of one of them finds its stages finished."""
    for name in ("all", "table3"):
        words = [f"recipes/paper/{name}.yaml", "--output", str(tmp_path), "--set", "profile=tiny"]
        done = subprocess.run(
            [PYTHON, "recipes/run.py", *words],
            env={**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ran = [
        step.spec.name for step in steps_of(PAPER / "table3.yaml", "tiny", tmp_path) if not step.spec.always
    ]
    assert all(f"{name}: finished before" in done.stdout for name in ran)
