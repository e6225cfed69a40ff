"""Evaluations that a user's function grades: in the protocol, in the rows, and recovered if it fails."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from scalequest.evaluation.results import read_results
from scalequest.evaluation.tables import tables_of_results
from scalequest.records import read_rows

Script = Callable[..., "subprocess.CompletedProcess[str]"]
LIMIT = 6
CODE = """
def even(response, reference):
    return int(reference) % 2 == 0

def fails(response, reference):
    return int(reference) % 2 == 0 or [][1]

def first_letter(response):
    return response[0]
"""


def evaluate(model: Path, output: Path, *more: object) -> list[object]:
    return [
        *(
            "evaluate.py",
            "--models",
            f"{{one: {model}}}",
            "--benchmarks",
            "eval/benchmarks/tinymath_test.yaml",
        ),
        *(
            "--chat_format",
            "tinymath",
            "--output_dir",
            output,
            "--engine.name",
            "transformers",
            "--track",
            "none",
        ),
        *("--sampling.max_tokens", 12, "--truncated", "graded", "--limit", LIMIT, *more),
    ]


def test_a_function_grades_and_the_tables_say_so(script: Script, model_dir: Path, tmp_path: Path) -> None:
    (code := tmp_path / "mine.py").write_text(CODE)
    script(*evaluate(model_dir, tmp_path / "ours"))
    own = ("--grading.function", f"{code}:even", "--grading.extraction", f"{code}:first_letter")
    script("evaluate.py", "--regrade", tmp_path / "ours", "--output_dir", tmp_path / "own", *own)
    rows = read_rows(tmp_path / "own" / "one")
    assert [row["correct"] for row in rows] == [int(row["reference"]) % 2 == 0 for row in rows]
    assert {row["layer"] for row in rows} == {"function"}
    assert [row["extracted"] for row in rows] == [row["completion"].strip()[:1] or None for row in rows]
    (ours,) = read_results(tmp_path / "ours" / "one" / "results.json")
    (result,) = read_results(tmp_path / "own" / "one" / "results.json")
    assert result.correct == sum(row["correct"] for row in rows)
    assert result.protocol["grading"]["function"]["function"] == "even"
    assert "function" not in ours.protocol["grading"]
    assert result.fingerprint != ours.fingerprint
    shown = json.dumps([str(table) for table in tables_of_results([ours, result])])
    assert "grading.function" in shown, "the tables mark results of another policy"


def test_outputs_survive_a_function_that_fails(script: Script, model_dir: Path, tmp_path: Path) -> None:
    (code := tmp_path / "mine.py").write_text(CODE)
    asked = evaluate(model_dir, tmp_path / "out", "--grading.function", f"{code}:fails")
    for _ in range(2):  # started again it says the same, and asks nothing
        done = script(*asked, check=False)
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert f"outputs were not graded, first {code}:fails: problem " in line
        assert "IndexError: list index out of range (mine.py, line 6)" in line
        assert f"--regrade {tmp_path / 'out'} and another output_dir" in line
    assert not (tmp_path / "out/one/results.json").exists()
    rows = read_rows(tmp_path / "out/one")
    assert len(rows) == LIMIT
    code.write_text(CODE.replace("[][1]", "False"))
    script("evaluate.py", "--regrade", tmp_path / "out", "--output_dir", tmp_path / "again")
    again = read_rows(tmp_path / "again/one")
    assert [row["completion"] for row in again] == [row["completion"] for row in rows]
    assert [row["correct"] for row in again] == [int(row["reference"]) % 2 == 0 for row in again]
    (result,) = read_results(tmp_path / "again" / "one" / "results.json")
    assert result.protocol["chat_format"] == "tinymath"
    more = ("--limit", LIMIT - 1, "--output_dir", tmp_path / "other")
    done = script("evaluate.py", "--regrade", tmp_path / "out", *more, check=False)
    assert "regrade: tinymath_test differs from the original evaluation in limit" in done.stderr
    done = script(*evaluate(model_dir, tmp_path / "no", "--grading.function", f"{code}:missing"), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "grading.function: " not in done.stdout
    assert f"{code} has no function 'missing'" in done.stderr


def test_a_file_is_graded_by_a_function(script: Script, tmp_path: Path) -> None:
    (code := tmp_path / "mine.py").write_text(CODE)
    path, output = tmp_path / "in.jsonl", tmp_path / "out"
    rows = [
        {"output": "one", "reference": 2},
        {"output": "two", "reference": "3"},
        {"output": None, "reference": 4},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("grade.py", path, "--completion", "output", "--output_dir", output)
    own = ("--function", f"{code}:even", "--extraction", f"{code}:first_letter")
    script(*given, *own, "--workers", 2)
    graded = [json.loads(line) for line in (output / "graded.jsonl").read_text().splitlines()]
    assert [(row["correct"], row["layer"], row["extracted"]) for row in graded] == [
        (True, "function", "o"),
        (False, "function", "t"),
        (False, "function", None),
    ]
    done = script(*given, "--function", f"{code}:fails", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"error: {code}:fails: row 2: IndexError: list index out of range (mine.py, line 6)" in done.stderr
    done = script(*given[:2], "--prediction", "output", "--output_dir", output, *own[2:], check=False)
    assert "extraction: is for complete outputs; name their column with --completion" in done.stderr
