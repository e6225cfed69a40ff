from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[..., "subprocess.CompletedProcess[str]"]


def given(folder: Path, *labels: object) -> Path:
    path = folder / "in.jsonl"
    rows = [{"prediction": "7", "reference": "7", "known": label, "correct": True} for label in labels]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_known_verdicts_may_be_text(script: Script, tmp_path: Path) -> None:
    path, output = given(tmp_path, "false", "True", 0, 1, True), tmp_path / "out" / "graded.jsonl.gz"
    done = script("grade.py", path, "--output", output, "--label", "known")
    assert "2 false positives, 0 false negatives" in done.stdout
    with gzip.open(output, "rt") as file:
        assert [json.loads(line)["correct"] for line in file] == [True] * 5
    assert [one.name for one in output.parent.iterdir()] == ["graded.jsonl.gz"]


@pytest.mark.parametrize(
    ("output", "label", "message"),
    [
        ("graded.jsonl", "known", "in.jsonl: row 2: known: 0.5 is neither true nor false"),
        ("graded.jsonl", "correct", "label: 'correct' is a column that grading writes"),
        ("graded.parquet", "known", "expected a name that ends in .jsonl or .jsonl.gz"),
        ("folder.jsonl", "known", "folder.jsonl: is a folder; give a file's name"),
        ("in.jsonl/graded.jsonl", "known", "in.jsonl: File exists"),
    ],
)
def test_mistakes_are_one_line(script: Script, tmp_path: Path, output: str, label: str, message: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    words = (given(tmp_path, True, 0.5), "--output", tmp_path / output, "--label", label)
    done = script("grade.py", *words, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
