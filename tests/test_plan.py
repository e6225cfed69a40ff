"""The plan: rows from stage to stage, the paper's lines from first principles, and what does not fit."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalequest.config import ConfigError
from scalequest.estimate import A100_40G, DEVICES

ROOT = Path(__file__).parents[1]
PLAN = runpy.run_path(str(ROOT / "scripts/plan.py"))
PlanConfig, stages_of, line_of = PLAN["PlanConfig"], PLAN["stages_of"], PLAN["line_of"]
PROFILE = "recipes/qwen2_math_7b"


def pipeline(folder: Path, *stages: dict[str, Any]) -> str:
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "stages": list(stages)}))
    return str(path)


def stage(script: str, config: str, **args: Any) -> dict[str, Any]:
    return {
        "name": script,
        "script": f"recipes/{script}.py",
        "config": f"{PROFILE}/{config}.yaml",
        "args": args,
    }


GENERATE = stage("generate_questions", "generate_questions", num_questions=1000)
FILTER = stage("filter_questions", "filter_questions", input=["${output}/generate_questions"])
SOLVE = stage("solve_questions", "solve_questions", input=["${output}/filter_questions[:500]"], samples=4)
SCORE = stage("score", "score_responses", input=["${output}/solve_questions"])


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def planned(folder: Path, *stages: dict[str, Any]) -> list[Any]:
    return stages_of(PlanConfig(pipelines=[pipeline(folder, *stages)]))


def test_rows_go_from_stage_to_stage(tmp_path: Path) -> None:
    _, filtered, solved, scored = planned(tmp_path, GENERATE, FILTER, SOLVE, SCORE)
    assert filtered.rows.questions == 1000
    assert filtered.made.questions == pytest.approx(1000 * (1 - 0.201 - 0.194)), "paper, App. B"
    assert solved.rows.questions == 500, "the slice"
    assert (scored.rows.questions, scored.rows.samples) == (500, 4)
    assert [one.line for one in (filtered, solved, scored)] == [
        "solvability and difficulty",
        "responses",
        "reward scores",
    ]


def test_the_data_sets_that_are_prepared_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCALEQUEST_DATA", raising=False)
    data = ["$SCALEQUEST_DATA/gsm8k_train.jsonl.gz", "$SCALEQUEST_DATA/math_train.jsonl.gz"]
    (solved,) = planned(tmp_path, {**SOLVE, "args": {"input": data}})
    assert solved.rows.questions == 7473 + 7500


def test_the_papers_synthesis_is_within_30_per_cent() -> None:
    """Both generators' pipelines as they stand in recipes/, on the paper's machine and engine."""
    lines = PLAN["beside_table_4"](PlanConfig(), stages_of(PlanConfig()))
    assert [one.name for one in lines] == list(PLAN["PAPER"]), "no line is left out"
    assert 0.7 <= sum(one.hours for one in lines) / sum(one.paper for one in lines) <= 1.3
    ratios = {one.name: one.hours / one.paper for one in lines}
    for name in ("solvability and difficulty", "responses", "reward scores"):  # nine tenths of its hours
        assert 0.7 <= ratios[name] <= 1.3, name
    assert ratios["question generation"] < 0.7, "which the plan says, with the reason"
    paper = {one.name: one.paper for one in lines}
    assert paper["question generation"] == 38.4
    assert paper["solvability and difficulty"] == 110.6


def test_what_does_not_fit_says_what_to_change(tmp_path: Path) -> None:
    args = {"input": ["some.jsonl[:100]"], "engine": {"name": "vllm", "max_model_len": 1_000_000}}
    (one,) = planned(tmp_path, {**SOLVE, "args": args})
    line = line_of(one, PlanConfig(), A100_40G, 8)
    assert "DOES NOT FIT" in line.memory
    assert line.hours == 0
    assert line.changes[0] == "engine.tensor_parallel_size: 2"
    assert any(change.startswith("another GPU: ") for change in line.changes)


def test_more_and_faster_gpus_take_less_time(tmp_path: Path) -> None:
    (solved,) = planned(tmp_path, {**SOLVE, "args": {"input": ["some.jsonl[:100000]"]}})
    a100, h100 = (line_of(solved, PlanConfig(), DEVICES[name], 8).hours for name in ("A100-40G", "H100"))
    # 3.17 times the arithmetic of an A100
    assert 2.5 < a100 / h100 < 3.5


def test_disk_is_the_rows_and_the_replies(tmp_path: Path) -> None:
    disk = [
        line_of(one, PlanConfig(), A100_40G, 8).disk for one in planned(tmp_path, GENERATE, FILTER, SOLVE)
    ]
    question, response = 2 * 195 + 200, 2 * 1214 + 200
    assert disk == [1000 * question, 1000 * (question + response), 500 * (question + 4 * response)]


def test_rates_are_read_from_the_receipts_that_the_stages_write(tmp_path: Path) -> None:
    def rate(name: str, **fields: object) -> float:
        path = tmp_path / f"{name}.json"
        receipt = {"stage": name, "finished": True, "rows_in": 1000, "seconds": 3600.0,
                   "fingerprint_fields": {}, **fields}  # fmt: skip
        path.write_text(json.dumps(receipt))
        return float(PLAN["own_rates"]([str(path)])[name])

    assert rate("filter_questions") == 1000
    assert rate("solve_questions", fingerprint_fields={"samples": 4}) == 4000
    assert rate("score", counts={"responses": 2000}) == 2000
    with pytest.raises(ConfigError, match="scored questions"):
        rate("score", fingerprint_fields={"what": "question"})
    with pytest.raises(ConfigError, match="expected the receipt"):
        rate("select_solutions")


def test_the_command_prints_tables_arithmetic_and_assumptions(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/plan.py", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    file = pipeline(tmp_path, GENERATE, FILTER, SOLVE, SCORE)
    done = run("--pipelines", file, "--clusters", "8xA100-40G", "64xH100", "--price", "3")
    assert done.returncode == 0, done.stderr
    for words in ("8xA100-40G", "64xH100", "Beside the paper's table 4", "GFLOP", "Assumed for every stage"):
        assert words in done.stdout
    done = run("--clusters", "8xTPU", "--pipelines", file)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: clusters: '8xTPU'")
