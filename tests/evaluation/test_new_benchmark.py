"""A file of problems becomes a benchmark in one command, which tells what is odd about it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalequest.evaluation.benchmarks import load_benchmark
from scalequest.evaluation.new_benchmark import fault
from scalequest.grading import Grader

SCRIPT = "scripts/add_benchmark.py"
CSV = (
    "problem_id,Problem,Level,Final Answer\n"
    "p1,What is 2 + 3?,easy,5\n"
    'p2,"Which, of\nthese?",hard,\\frac{1}{2}\n'
    "p3,what  is 2 + 3?,easy,6\n"
    "p4,When does it leave?,easy,3:30 p.m.\n"
    "p5,How many?,easy,{5\n"
)


def add(python: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, SCRIPT, *words], capture_output=True, text=True, check=False)


def test_one_command_writes_what_the_harness_reads(tmp_path: Path, quick_python: str) -> None:
    source, output = tmp_path / "data/mine.csv", tmp_path / "benchmarks/mine.yaml"
    source.parent.mkdir()
    source.write_text(CSV)
    words = [os.path.relpath(source)]
    done = add(quick_python, *words, "--name", "mine", "--output", str(output), "--metadata", "Level")
    assert done.returncode == 0, done.stderr
    content = yaml.safe_load(output.read_text())
    assert content["rows"] == 5
    assert (content["question"], content["answer"], content["id"]) == (
        "Problem",
        "Final Answer",
        "problem_id",
    )
    benchmark = load_benchmark(output)
    assert [problem.id for problem in benchmark.problems] == ["p1", "p2", "p3", "p4", "p5"]
    assert benchmark.problems[1].question == "Which, of\nthese?"
    assert benchmark.problems[1].metadata == {"Level": "hard"}
    for said in (
        "5 problems; question: Problem; reference: Final Answer; id: problem_id",
        "duplicate questions: 1",
        "rows 1, 3: different references",
        "references that the grader cannot read: 2 (40.0% of the problems)",
        "row 4, '3:30 p.m.': only the same text equals",
        "row 5, '{5': an output that boxes it is read as",
        "p1: What is 2 + 3? => 5",
    ):
        assert said in done.stdout, done.stdout
    before = output.read_bytes()
    again = add(quick_python, *words, "--name", "other", "--output", str(output))
    assert again.returncode == 2
    assert "--force writes over it" in again.stderr
    assert output.read_bytes() == before
    forced = add(quick_python, *words, "--name", "other", "--output", str(output), "--force")
    assert forced.returncode == 0, forced.stderr
    assert load_benchmark(output).name == "other"
    assert [path.name for path in output.parent.iterdir()] == ["mine.yaml"]


def test_the_harness_evaluates_on_it(tmp_path: Path, quick_python: str) -> None:
    rows = [json.loads(line) for line in _tinymath()]
    source = tmp_path / "mine.jsonl"
    source.write_text(
        "".join(json.dumps({"prompt": r["question"], "target": r["answer"]}) + "\n" for r in rows)
    )
    output = tmp_path / "mine.yaml"
    done = add(quick_python, str(source), "--name", "mine", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(output.read_text())["source"] == "mine.jsonl"
    run = subprocess.run(
        [quick_python, "eval/evaluate.py", "--models", "{tiny: recipes/tiny/models/tiny-solver}",
         "--chat_format", "tinymath", "--benchmarks", str(output), "--sampling.max_tokens", "64",
         "--engine.name", "transformers", "--output_dir", str(tmp_path / "out"),
         "--track", "none"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "mine" in run.stdout


def _tinymath() -> list[str]:
    import gzip

    with gzip.open("eval/benchmarks/data/tinymath_dev.jsonl.gz", "rt") as file:
        return [next(file) for _ in range(4)]


@pytest.mark.parametrize(
    ("solutions", "key", "value"),
    [
        (("So 3.\n#### 3", "#### 4"), "answer_after", "####"),
        (("\\boxed{3}", "It is \\fbox{4}."), "answer_box", True),
        (("\\boxed{3}", "It is 4."), "answer_box", None),
    ],
)
def test_where_the_reference_stands_in_a_solution(
    solutions: tuple[str, ...], key: str, value: Any, tmp_path: Path, quick_python: str
) -> None:
    source, output = tmp_path / "a.jsonl", tmp_path / "a.yaml"
    rows = [{"problem": text[:2], "solution": text} for text in solutions]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = add(quick_python, str(source), "--name", "a", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(output.read_text()).get(key) == value
    if value:
        assert [problem.answer for problem in load_benchmark(output).problems] == ["3", "4"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"problem": "a", "prompt": "b", "answer": "1"},
            "'problem' or 'prompt'; say which: question: problem",
        ),
        (
            {"exercise": "a", "answer": "1"},
            "no column of the question is recognised (it has exercise, answer)",
        ),
        ({"question": "a", "text": "1"}, "no column of the answer is recognised"),
        ({"question": " ", "answer": "1"}, "row 1: 'question' is blank"),
        ({"question": "a", "answer": None}, "row 1: no 'answer'"),
    ],
)
def test_what_is_unclear_is_one_line_and_nothing_is_written(
    row: dict[str, Any], said: str, tmp_path: Path, quick_python: str
) -> None:
    source, output = tmp_path / "a.jsonl", tmp_path / "a.yaml"
    source.write_text(json.dumps(row) + "\n")
    done = add(quick_python, str(source), "--name", "a", "--output", str(output))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not output.exists()


GOOD = (
    "5", "-1,234.5", "\\frac{\\pi}{2}", "(1, 2]", "x^2 + 1", "\\{1, 2\\}", "12 \\text{ cm}", "50\\%",
    "x = 3 \\text{ or } x = 4", "[0, \\infty)", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
)  # fmt: skip


def test_references_that_can_be_read_raise_no_alarm() -> None:
    with Grader() as grader:
        for good in GOOD:
            assert fault(good, grader) is None, good
        for bad in ("", "{5", "\\frac{1}{2", "1" * 5_000, "\\dot{x}_0 + 1"):
            assert fault(bad, grader), bad
