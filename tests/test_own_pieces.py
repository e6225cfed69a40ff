"""A stranger's questions, filter, reward and benchmark, a file each, through the loop at tiny scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalequest.evaluation.benchmarks import sha256_of_rows
from scalequest.records import read_dropped, read_rows
from tiny_model import stories

FILTER = """
def keep(row):
    return "too_many_words" if len(row["question"].split()) > 40 else None
"""
REWARD = """
def score(row):
    return [-float(len(response)) for response in row["responses"]]
"""
TINY = {"chat_format": "tinymath", "engine": {"name": "transformers"}}
SAMPLED = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 96}
CONFIGS: dict[str, dict[str, Any]] = {
    "filter_questions": {"steps": ["language", "MINE/my_filters.py:keep", "duplicates"]},
    "solve_questions": {
        **TINY,
        "model_name_or_path": "recipes/tiny/models/tiny-solver",
        "samples": 2,
        "sampling": SAMPLED,
    },
    "score": {"judge": "function", "function": "MINE/my_reward.py:score"},
    "select_solutions": {"rule": "reward"},
    "evaluate": {
        **TINY,
        "benchmarks": ["MINE/my_benchmark.yaml"],
        "sampling": {"temperature": 0.0, "max_tokens": 64},
    },
}
PIPELINE = """
name: mine
preload: true
stages:
  - {name: filter_questions, script: recipes/filter_questions.py, config: MINE/filter_questions.yaml,
     args: {input: [MINE/questions.jsonl]}}
  - {name: solve_questions, script: recipes/solve_questions.py, config: MINE/solve_questions.yaml,
     args: {input: ["${output}/filter_questions"]}}
  - {name: score, script: recipes/score.py, config: MINE/score.yaml,
     args: {input: ["${output}/solve_questions"]}}
  - {name: select_solutions, script: recipes/select_solutions.py, config: MINE/select_solutions.yaml,
     args: {input: ["${output}/score"]}}
  - {name: sft, script: recipes/sft.py, config: recipes/tiny/sft.yaml,
     args: {input: ["${output}/select_solutions"], num_train_epochs: 1}}
  - {name: evaluate, script: eval/evaluate.py, config: MINE/evaluate.yaml,
     args: {models: {mine: "${output}/sft"}}}
  - {name: report, script: eval/report.py, args: {run: "${output}"}, always: true}
"""


def write(mine: Path) -> None:
    found = stories(26, seed=11)
    questions = [{"question": question} for question, _ in found[:20]]
    questions += [questions[0], {"question": "小明有三个苹果。"}, {"question": "How many? " * 30}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions)
    (mine / "questions.jsonl").write_text(lines)
    problems = [
        {"question": question, "answer": solution.rpartition("{")[2].partition("}")[0]}
        for question, solution in found[20:]
    ]
    (mine / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    benchmark = {"name": "mine", "title": "Mine", "source": "problems.jsonl", "rows": len(problems)}
    benchmark["sha256"] = sha256_of_rows(problems, "question", "answer")
    (mine / "my_benchmark.yaml").write_text(yaml.safe_dump(benchmark))
    (mine / "my_filters.py").write_text(FILTER)
    (mine / "my_reward.py").write_text(REWARD)
    for name, config in CONFIGS.items():
        (mine / f"{name}.yaml").write_text(yaml.safe_dump(config).replace("MINE", str(mine)))
    (mine / "pipeline.yaml").write_text(PIPELINE.replace("MINE", str(mine)))


def run(mine: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "recipes/run.py", str(mine / "pipeline.yaml"), "--output", str(mine / "run")]
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_strangers_pieces_go_through_the_loop(tmp_path: Path) -> None:
    write(tmp_path)
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    output = tmp_path / "run"
    report = (output / "report/report.md").read_text()
    assert "Every row is accounted for." in report
    assert "filter_questions: with my_filters.py:keep (sha256 " in report.replace("\\", "")
    assert "score: with my_reward.py:score (sha256 " in report.replace("\\", "")
    assert "too_many_words 1" in report.replace("\\", "")
    dropped = [row["reason"] for row in read_dropped(output / "filter_questions")]
    assert sorted(dropped) == ["duplicate", "language", "too_many_words"]
    for row in read_rows(output / "score"):
        ends = zip(row["responses"], row["finish_reasons"], strict=True)
        assert row["rewards"] == [-float(len(text)) if end == "stop" else None for text, end in ends]
    assert "Mine" in report
    results = json.loads((output / "evaluate/mine/results.json").read_text())["results"]
    assert [(one["benchmark"], one["n"]) for one in results] == [("mine", 6)]
