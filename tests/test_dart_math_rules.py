"""DART-Math's rules, as bench/dart_math_rules.py implements them for a comparison on the same outputs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from scalequest.evaluation.benchmarks import load_benchmark


@pytest.fixture(scope="module")
def rules(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dart_math_rules", root / "bench/dart_math_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("First \\boxed{1}. So \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("A set: \\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("We get 12.\n#### 18", None),
        ("Hence 5 is the answer.", "Hence 5"),
        ("The answer is: $x+1$", ": $x+1"),
        ("The answer is $x+1$.", "$x+1"),
        ("It costs $5 and $7 in all.\nA: 12", "5 and "),
        ("It is \\(x+1\\) or so, 3 by 4", "4"),
        ("Nothing at all", ""),
    ],
)
def test_extraction(rules: ModuleType, output: str, answer: str | None) -> None:
    assert rules.extract(output) == (answer if answer is not None else "18")


@pytest.mark.parametrize(
    ("prediction", "reference", "same"),
    [
        ("\\frac12", "0.5", True),
        ("1/2", "\\dfrac{1}{2}", True),
        ("50\\%", "0.5", True),  # percent in either form, and without its sign
        ("75", "0.75", True),
        ("150", "1.5", False),  # neither form may exceed 100
        ("x = 3", "3", True),
        ("5 \\text{ cm}", "5", True),
        ("twelve", "12", True),
        ("x^2+2x+1", "(x+1)^2", True),
        ("x^2+2x", "(x+1)^2", False),
        ("(0, 1]", "(0,1)", False),
        ("\\left(-\\infty, 2\\right]", "(-\\infty,2]", True),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix} 1 \\\\ 2 \\end{bmatrix}", True),
        ("none", "no", True),  # as upstream: "no" anywhere is false
        ("12：30", "12:30", False),  # not ASCII
        ("3", "4", False),
        ("", "0", False),
    ],
)
def test_equality(rules: ModuleType, prediction: str, reference: str, same: bool) -> None:
    assert rules.equal(prediction, reference) is same


def test_sets_are_compared_only_if_the_problem_asks_for_them(rules: ModuleType) -> None:
    row = {"output": "\\boxed{3, -3}", "reference": "-3,3", "problem": "Find the values of x."}
    assert rules.grade(row) == ("3, -3", True)
    assert rules.grade({**row, "problem": "What is x?"}) == ("3, -3", False)
    assert rules.grade({**row, "truncated": True}) == ("3, -3", False)


def test_olympiadbench_has_its_own_judge(rules: ModuleType) -> None:
    row = {"output": "\\boxed{3.14}", "reference": "$\\pi$", "benchmark": "olympiadbench"}
    assert not rules.grade(row)[1]
    assert rules.grade({**row, "tolerance": 0.01})[1]
    assert rules.grade({**row, "output": "\\boxed{1 \\pm 2}", "reference": "$-1$,$3$"})[1]
    assert rules.grade({**row, "output": "\\boxed{2y=2x}", "reference": "$y=x$"})[1]


def test_nothing_that_a_model_wrote_is_run(rules: ModuleType, tmp_path: Path) -> None:
    trap = f"__import__('pathlib').Path('{tmp_path}/run').touch()"
    for sets in (False, True):
        assert rules.equal(trap, "1", sets=sets) is False
    assert not list(tmp_path.iterdir())


def test_the_same_outputs_by_both(root: Path, tmp_path: Path) -> None:
    """Rows as an evaluation leaves them; a peer that hangs, dies or raises loses only that row."""
    problems = load_benchmark(root / "eval/benchmarks/tinymath_test.yaml", limit=6).problems
    rows = [
        {"id": problem.id, "benchmark": "tinymath_test", "completion": f"\\boxed{{}} {number}",
         "reference": problem.answer, "correct": True, "extracted": problem.answer, "truncated": False}
        for number, problem in enumerate(problems)
    ]  # fmt: skip
    outputs = tmp_path / "rows.jsonl"
    outputs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "peer.py").write_text(
        "import os, time\n"
        "def grade(row):\n"
        "    number = int(row['output'][-1])\n"
        "    if number == 1: time.sleep(60)\n"
        "    if number == 2: os._exit(9)\n"
        "    if number == 3: raise ValueError\n"
        "    return str(number), bool(row['problem'])\n"
    )
    command = [
        *(sys.executable, "bench/grading.py", "--outputs", str(outputs), "--rows", "6"),
        *("--peer", f"theirs={tmp_path}/peer.py:grade", "--output", str(tmp_path / "table.json")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = json.loads((tmp_path / "table.json").read_text())
    assert (line["outputs"], line["ours"], line["theirs"]) == (6, 100.0, 50.0)
    assert line["difference"].startswith("+50.0 [")
    assert all(f"({what})" in done.stdout for what in ("stopped", "killed", "ValueError"))
