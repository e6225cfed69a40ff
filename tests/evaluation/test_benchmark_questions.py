"""Which benchmarks questions are held against, and what is said of those whose data are not there."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from scalequest.config import ConfigError, RunOptions
from scalequest.evaluation.benchmark_questions import (
    BenchmarkQuestions,
    read_benchmark_questions,
    report_left_out,
    sha256_of_questions,
)
from scalequest.evaluation.benchmarks import sha256_of_rows
from scalequest.questions.contamination import ContaminationRule
from stage_support import dropped, opened, receipt

ROWS = [{"question": "What is 1 + 1?", "answer": "2"}, {"question": "3?", "answer": "3"}]


def benchmark(folder: Path, name: str, *, source: str | None = None, data: bool = True) -> str:
    """The YAML file of a benchmark of two questions, with or without its data."""
    folder.mkdir(exist_ok=True)
    if data:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    digest = sha256_of_rows(ROWS, "question", "answer")
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\nsource: {source or f'{name}.jsonl'}\nrows: 2\nsha256: {digest}\n")
    return str(path)


def test_an_optional_benchmark_may_lack_its_data(tmp_path: Path) -> None:
    benchmark(tmp_path, "there")
    gone = benchmark(tmp_path, "gone", data=False)
    tests = read_benchmark_questions(ContaminationRule(optional=[f"{tmp_path}/*.yaml"]))
    assert [(test.benchmark, test.id) for test in tests.questions] == [("there", "00000"), ("there", "00001")]
    assert tests.left_out == ("gone",)
    with pytest.raises(ConfigError, match=r"gone.jsonl: no such file"):
        read_benchmark_questions(ContaminationRule(benchmarks=[gone], optional=[f"{tmp_path}/*.yaml"]))
    assert read_benchmark_questions(ContaminationRule()) == BenchmarkQuestions()


def test_one_that_is_wanted_twice_is_read_once(tmp_path: Path) -> None:
    files = [benchmark(tmp_path, name) for name in ("a", "b")]
    pattern = f"{tmp_path}/*.yaml"
    tests = read_benchmark_questions(
        ContaminationRule(benchmarks=[files[1], pattern], optional=[pattern, files[0]])
    )
    assert [test.benchmark for test in tests.questions] == ["b", "b", "a", "a"]
    assert sha256_of_questions(tests.questions) != sha256_of_questions(tests.questions[:2]), (
        "what is left out can change a row"
    )


def test_what_is_there_has_to_be_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark(tmp_path, "cut")
    (tmp_path / "cut.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(ConfigError, match="contains different problems: 1 rows"):
        read_benchmark_questions(ContaminationRule(optional=[f"{tmp_path}/*.yaml"]))
    with pytest.raises(ConfigError, match=r"contamination.optional: .*/nothing\*: no such file"):
        read_benchmark_questions(ContaminationRule(optional=[f"{tmp_path}/nothing*"]))
    # a variable that is not set is a slip, and no benchmark that one does without
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    benchmark(tmp_path / "other", "unset", source="$NOT_SET_HERE/x.jsonl", data=False)
    with pytest.raises(ConfigError, match="variable NOT_SET_HERE is not set"):
        read_benchmark_questions(ContaminationRule(optional=[f"{tmp_path}/other/*.yaml"]))


def test_the_filter_says_what_it_left_out(tmp_path: Path) -> None:
    benchmark(tmp_path / "benchmarks", "there")
    benchmark(tmp_path / "benchmarks", "gone", data=False)
    questions = ["3?", "How many eggs?"]
    source = tmp_path / "questions.jsonl"
    source.write_text("".join(json.dumps({"question": one}) + "\n" for one in questions))
    folder = tmp_path / "filtered"
    settings = f"{{optional: [{tmp_path}/benchmarks/*.yaml], rules: [exact]}}"
    done = subprocess.run(
        [sys.executable, "recipes/filter_questions.py", "--output_dir", str(folder), "--track", "none",
         "--input", str(source), "--steps", "contamination", "--contamination", settings],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "benchmarks skipped because their data are missing: gone" in done.stdout
    assert [row["matches"] for row in dropped(folder)] == ["there/00001"]
    assert receipt(folder)["benchmarks_left_out"] == ["gone"]
    assert json.loads((folder / "report.json").read_text())["contamination"]["left_out"] == ["gone"]
    assert "Skipped, because their data were missing: gone." in (folder / "report.html").read_text()


def test_nothing_is_said_where_nothing_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = opened(
        "filter_questions", RunOptions(output_dir=str(tmp_path), track="none"), ContaminationRule()
    )
    with caplog.at_level(logging.INFO):
        report_left_out(BenchmarkQuestions(), stage)
    assert stage.receipt["benchmarks_left_out"] == []
    assert "left out" not in caplog.text
