"""The study: what is measured, shared, resumed and told; most stages here are stand-ins."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from scalequest.config import ConfigError

ROOT = Path(__file__).parents[2]
STUDY = "recipes/tiny/study.yaml"

# A stage: it says that it began, waits or fails if told to, and is measured as an evaluation would be.
STAGE = """
import json, os, pathlib, sys, time
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(words["--output_dir"])
with open("{log}", "a") as log:
    log.write(words["--say"] + chr(10))
if words["--say"] == os.environ.get("WAIT_IN"):
    time.sleep(60)
if words["--say"] == os.environ.get("FAIL_IN"):
    sys.exit("it broke")
(folder / "student").mkdir(parents=True)
result = {{"accuracy": {{"value": float(words.get("--value", "0"))}}, "n": 100}}
(folder / "student" / "results.json").write_text(json.dumps({{"results": [result]}}))
"""
PIPELINE = """
name: stand_in
vars: {{seed: "0", value: "0.5", about: one}}
stages:
  - {{name: base, script: {at}/stage.py, config: {at}/none.yaml, args: {{say: "base ${{seed}}"}}}}
  - name: evaluate
    script: {at}/stage.py
    config: {at}/none.yaml
    args: {{say: "${{about}} ${{seed}}", value: "0.${{value}}${{seed}}"}}
    needs: [base]
"""
DECLARED = """
reference: old
profiles: [{{name: quick, seeds: [1, 2, 3]}}]
measures: [{{name: accuracy, title: "accuracy, %", least: 1}}]
arms:
  - {{name: old, pipeline: {at}/pipeline.yaml, vars: {{value: "1", about: old}}}}
  - {{name: new, pipeline: {at}/pipeline.yaml, vars: {{value: "4", about: new}}}}
claims:
  - {{name: better, says: New is better, paper: "1", place: "Table 1", measure: accuracy, first: new,
      second: old, control: luck, caution: Much.}}
"""


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study_script", ROOT / "recipes/tiny/study.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["study_script"] = made  # dataclasses look there for their annotations
    spec.loader.exec_module(made)
    return made


study = module()


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A study of two arms that share their first stage."""
    (tmp_path / "none.yaml").write_text("")
    (tmp_path / "stage.py").write_text(STAGE.format(log=tmp_path / "log"))
    (tmp_path / "pipeline.yaml").write_text(PIPELINE.format(at=tmp_path))
    (tmp_path / "study.yaml").write_text(DECLARED.format(at=tmp_path))
    return tmp_path


def command(folder: Path, *words: str) -> list[str]:
    file = str(folder / "study.yaml")
    return [sys.executable, "recipes/tiny/study.py", file, "--output", str(folder / "runs"), *words]


def ran(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(command(folder, *words), capture_output=True, text=True, env=env, check=False)


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def test_arms_share_stages_and_finished_ones_are_not_run_again(stand_in: Path) -> None:
    done = ran(stand_in)
    assert done.returncode == 0, done.stderr
    once = [f"{name} {seed}" for seed in (1, 2, 3) for name in ("base", "old", "new")]
    assert log(stand_in) == once
    result = json.loads((stand_in / "runs/study.json").read_text())
    assert result["seeds"] == [1, 2, 3]
    effect = result["claims"]["better"]["effect"]
    assert effect["value"] == pytest.approx(30.0)  # 0.41 - 0.11, 0.42 - 0.12, 0.43 - 0.13
    assert result["arms"]["old"]["accuracy"]["value"] == pytest.approx(12.0)
    rows = [json.loads(line) for line in (stand_in / "runs/measurements.jsonl").read_text().splitlines()]
    assert {"seed": 2, "arm": "new", "measure": "accuracy", "value": 42.0, "n": 100} in rows
    assert (stand_in / "runs/effects.png").stat().st_size > 1_000
    assert "New is better" in done.stdout
    assert ran(stand_in).returncode == 0
    assert log(stand_in) == once


def test_seeds_of_several_machines_are_put_together(
    stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(stand_in, "--seeds", "1", "3").returncode == 0
    assert log(stand_in) == [f"{name} {seed}" for seed in (1, 3) for name in ("base", "old", "new")]
    elsewhere = stand_in / "elsewhere.jsonl"
    rows = (stand_in / "runs/measurements.jsonl").read_text().replace('"value": 4', '"value": 9')
    elsewhere.write_text(rows)
    alone = ["--seeds", "2", "3", "7", "--measurements", str(elsewhere)]
    assert ran(stand_in, *alone).returncode == 0
    result = json.loads((stand_in / "runs/study.json").read_text())
    assert result["seeds"] == [1, 2, 3, 7]  # the profile's seeds are no limit
    # the new arm: 91 elsewhere, and 42, 43 and 47 here, where seed 3 was run, too
    assert result["arms"]["new"]["accuracy"]["value"] == pytest.approx((91 + 42 + 43 + 47) / 4)
    for words, error in (
        (["--seeds", "4", "-1"], "error: --seeds: expected at least 0, at most 4294967295, got -1\n"),
        (["--only-run", "--page"], "error: --page: --only-run writes no results for it\n"),
        (["--jobs", "0"], "error: --jobs: expected at least 1, got 0\n"),
        (["--measurements", "nowhere"], "error: --measurements: nowhere: not a measurements.jsonl: "),
    ):
        asked = [str(stand_in / "study.yaml"), "--output", str(stand_in / "runs"), *words]
        assert study.main(study.parser().parse_args(asked)) == 2
        assert capsys.readouterr().err.startswith(error)


def test_seeds_run_at_once_and_all_are_told(stand_in: Path) -> None:
    done = ran(stand_in, "--jobs", "3", WAIT_IN="nothing")
    assert done.returncode == 0, done.stderr
    assert set(log(stand_in)) == {f"{name} {seed}" for seed in (1, 2, 3) for name in ("base", "old", "new")}
    assert all(f"seed {seed}: [" in done.stdout for seed in (1, 2, 3))
    assert done.stdout.count("Profile quick, ") == 1, "the results have one writer"
    result = json.loads((stand_in / "runs/study.json").read_text())
    assert result["claims"]["better"]["effect"]["n"] == 3
    failing = ran(
        stand_in, "--jobs", "3", "--arms", "new", "--output", str(stand_in / "more"), FAIL_IN="new 2"
    )
    assert failing.returncode == 1
    assert "seed 2: failed: arm new, seed 2: stage evaluate" in failing.stdout


@pytest.mark.parametrize(
    ("seeds", "jobs", "cores", "threads"),
    [(3, 2, 2, [1, 1, 2]), (4, 2, 2, [1] * 4), (5, 3, 6, [2, 2, 2, 3, 3]), (2, 4, 2, [1, 1]), (1, 1, 8, [8])],
)
def test_the_last_seeds_share_all_cores(seeds: int, jobs: int, cores: int, threads: list[int]) -> None:
    assert [study.threads_of(place, seeds, jobs, cores) for place in range(seeds)] == threads


def test_seeds_that_run_at_once_stop_together(stand_in: Path) -> None:
    process = subprocess.Popen(
        command(stand_in, "--jobs", "2"), env={**os.environ, "WAIT_IN": "old 1"}, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not ((stand_in / "log").exists() and {"old 1", "new 2"} <= set(log(stand_in))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) > 1
    before = log(stand_in)
    time.sleep(1)
    assert log(stand_in) == before, "a seed goes on"


def test_arms_end_at_the_stages_that_are_named(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(stand_in, "--to", "base").returncode == 0
    assert log(stand_in) == [f"base {seed}" for seed in (1, 2, 3)]
    assert '"seconds"' not in (stand_in / "runs/measurements.jsonl").read_text(), "they are not the arm's"
    words = [str(stand_in / "study.yaml"), "--output", str(stand_in / "runs"), "--to", "measure", "select"]
    assert study.main(study.parser().parse_args(words)) == 2
    assert capsys.readouterr().err == "error: --to: no arm has a stage called measure or select\n"


def test_a_kill_costs_the_stage_that_was_running(stand_in: Path) -> None:
    process = subprocess.Popen(
        command(stand_in), env={**os.environ, "WAIT_IN": "old 2"}, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while not ((stand_in / "log").exists() and "old 2" in log(stand_in)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = log(stand_in)
    assert ran(stand_in).returncode == 0
    assert log(stand_in)[len(before) :] == ["old 2", "new 2", "base 3", "old 3", "new 3"]


def test_an_arm_that_fails_is_named_and_the_others_go_on(stand_in: Path) -> None:
    done = ran(stand_in, FAIL_IN="old 2")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "failed: arm old, seed 2: stage evaluate"
    assert {"new 2", "old 3", "new 3"} <= set(log(stand_in))
    result = json.loads((stand_in / "runs/study.json").read_text())
    assert result["claims"]["better"]["effect"]["n"] == 2
    assert ran(stand_in).returncode == 0
    assert log(stand_in).count("old 2") == 2
    assert log(stand_in).count("new 2") == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("first: new", "first: newest", "claim 'better': no arm is called 'newest'"),
        ("measure: accuracy", "measure: speed", "claim 'better': no measure is called 'speed'"),
        ("name: new,", "name: old,", "arms: 'old' is there twice"),
        ("caution: Much.", "cautoin: Much.", "unknown key 'claims[0].cautoin'"),
        ('/pipeline.yaml, vars: {value: "4"', '/none.yaml, vars: {value: "4"', "none.yaml"),
        ('vars: {value: "4"', 'to: sft, vars: {value: "4"', "arm 'new': to: no stage of"),
        ("reference: old", "reference: older", "reference: no arm is called 'older'"),
    ],
)
def test_a_wrong_study_is_one_line(
    stand_in: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    file = stand_in / "study.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    asked = study.parser().parse_args([str(file), "--output", str(stand_in / "runs")])
    assert study.main(asked) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert not (stand_in / "runs").exists()


def test_well_posedness_at_equal_length_is_not_moved_by_length() -> None:
    """Both arms are as good at each length; the second one writes longer questions."""
    rows = [
        study.Row(1, arm, f"{study.OF_LENGTH}{length}", share, n)
        for arm, counts in (("short", (90, 10)), ("long", (10, 90)))
        for length, share, n in zip((1, 2), (80.0, 40.0), counts, strict=True)
    ]
    rows.append(study.Row(1, "long", f"{study.OF_LENGTH}3", 10.0, 50))  # which the first one never writes
    look = study.Measured(rows)
    assert look("short", study.EQUAL_LENGTH, "long") == look("long", study.EQUAL_LENGTH, "short") == {1: 60.0}
    assert look("short", study.EQUAL_LENGTH, None) == {1: pytest.approx(76.0)}


def test_every_arm_of_the_study_plans_and_shares_its_synthesis() -> None:
    read = study.read_study(STUDY)
    assert {profile.name for profile in read.profiles} == {"quick", "full"}
    assert len(read.profiles[0].seeds) == 3
    assert len(read.profiles[1].seeds) >= 5
    for profile in read.profiles:
        arms = study.pipelines(read.arms, profile, profile.seeds[0])
        pools = {arms[name].names["pool"] for name in ("qpo", "by_agreement", "by_reward", "pairs_double")}
        assert len(pools) == 1
        assert arms["hot"].names["pool"] not in pools
        assert arms["swapped"].names["qpo"] != arms["qpo"].names["qpo"]
    used = {arm for claim in read.claims for arm in claim.arms}
    unused = {arm.name for arm in read.arms} - used
    assert unused <= {"hot_and_wide"}, "an arm that no claim needs costs minutes"


def test_the_settings_of_every_stage_of_the_study_are_read() -> None:
    from scalequest.pipeline.look_ahead import look_ahead
    from scalequest.pipeline.runner import plan
    from scalequest.pipeline.shared_stages import union

    read = study.read_study(STUDY)
    arms = study.pipelines(read.arms, read.profiles[0], 1)
    steps = plan(union("all", [arm.spec for arm in arms.values()]), Path("nowhere"))
    assert look_ahead(steps, Path("nowhere")).faults == []


def test_the_page_is_current() -> None:
    text = study.PAGE.read_text(encoding="utf-8")
    assert study.page_of(study.read_study(STUDY), text) == text, "python recipes/tiny/study.py --page"


def test_a_profile_or_arm_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--profile: 'slow' is none of quick"):
        study.named("--profile", "slow", study.read_study(STUDY).profiles)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_smallest_study_runs(tmp_path: Path) -> None:
    """Real stages: two seeds, arms that share a generator, and one that fails since it asks for too much."""
    words = ["tests/tinymath/smallest_study.yaml", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "recipes/tiny/study.py", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert failed == [f"failed: arm too_many, seed {seed}: stage sft" for seed in (1, 2)]
    result = json.loads((tmp_path / "study.json").read_text())
    assert result["claims"]["posed"]["effect"]["n"] == 2
    assert result["claims"]["scaling"]["effect"]["n"] == 2
    assert (tmp_path / "scaling.png").exists()
    folders = [path.name for path in (tmp_path / "seed_1").iterdir()]
    assert sum(name.startswith("qft-") for name in folders) == 1
    assert (
        sum(name.startswith("generate_questions-") for name in folders) == 3
    )  # for pairs, after QFT and QPO
