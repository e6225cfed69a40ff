from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

Script = Callable[..., "subprocess.CompletedProcess[str]"]


def given(folder: Path, *labels: object) -> Path:
    path = folder / "in.jsonl"
    rows = [{"prediction": "7", "reference": "7", "known": label, "correct": True} for label in labels]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_known_verdicts_may_be_text(script: Script, tmp_path: Path) -> None:
    path, output = given(tmp_path, "false", "True", 0, 1, True), tmp_path / "out"
    (packed := tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    done = script("grade.py", packed, "--output_dir", output, "--label", "known")
    assert "2 false positives, 0 false negatives" in done.stdout
    with gzip.open(output / "graded.jsonl.gz", "rt") as file:
        assert [json.loads(line)["correct"] for line in file] == [True] * 5
    assert [one.name for one in output.iterdir()] == ["graded.jsonl.gz"]


def test_the_old_spelling_names_the_new_one(script: Script, tmp_path: Path) -> None:
    done = script("grade.py", given(tmp_path, True), "--output", tmp_path / "graded.jsonl", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean 'output_dir'?" in done.stderr


@pytest.mark.parametrize(
    ("output", "label", "message"),
    [
        ("out", "known", "in.jsonl: row 2: known: expected true or false, got 0.5"),
        ("out", "correct", "label: 'correct' is the name of a column that grading writes"),
        ("folder", "known", "folder/graded.jsonl: is a folder; choose another output_dir"),
        ("in.jsonl", "known", "in.jsonl: File exists"),
    ],
)
def test_mistakes_are_one_line(script: Script, tmp_path: Path, output: str, label: str, message: str) -> None:
    (tmp_path / "folder" / "graded.jsonl").mkdir(parents=True)
    words = (given(tmp_path, True, 0.5), "--output_dir", tmp_path / output, "--label", label)
    done = script("grade.py", *words, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


COLUMNS = [
    (["70"], "70"),
    (["2", "3"], "3, 2"),
    ("['70']", "$70$"),
    ("['2', '3']", "2,3"),
    ('["\\\\frac{1}{2}"]', "0.5"),
    ("['2' '3']", "3,2"),
    ("array(['2', '3'], dtype=object)", "2, 3"),
    (["(1, 2)", "(3, 4)"], "(3,4), (1,2)"),
    ("[1, 2)", "[1, 2)"),
    ([["70"]], "70"),
    (70.0, "70"),
    (70, "70.0"),
    ("70", 70),
    ("70", ["70.0"]),
    ("2, 3", ["2", "3"]),
    ("2, 3", "['2', '3']"),
]
DIFFERENT = [(["2", "3"], "2"), (["70"], "7"), ("['2', '3']", "23"), (70, 7), ("['a', 'b']", "a")]


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def verdicts(folder: Path) -> list[object]:
    lines = (folder / "graded.jsonl").read_text().splitlines()
    return [json.loads(line)["correct"] for line in lines]


def test_columns_hold_lists_numbers_and_their_text(script: Script, tmp_path: Path) -> None:
    rows = [{"prediction": answer, "reference": reference} for reference, answer in COLUMNS + DIFFERENT]
    path, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out"
    script("grade.py", path, "--output_dir", output)
    assert verdicts(output) == [True] * len(COLUMNS) + [False] * len(DIFFERENT)


def test_a_parquet_file_as_olympiadbench_ships_it(script: Script, tmp_path: Path) -> None:
    path, output = tmp_path / "in.parquet", tmp_path / "out"
    table = {
        "final_answer": [["70"], ["2", "3"], None, ["$\\frac{1}{2}$"]],
        "output": ["\\boxed{70}", "It is $\\boxed{3}$ or $\\boxed{2}$.", "\\boxed{1}", "The answer is 0.5."],
    }
    parquet.write_table(pyarrow.table(table), path)
    done = script(
        "grade.py", path, "--output_dir", output, "--completion", "output", "--reference", "final_answer"
    )
    assert verdicts(output) == [True, True, None, True]
    assert "3 of 3 correct" in done.stdout
    assert "'final_answer' is missing in 1 of 4 rows, and they are not graded: row 3" in done.stdout


def test_what_is_missing_is_counted(script: Script, tmp_path: Path) -> None:
    nothing = [None, float("nan"), "nan", "", [], "[]", [None]]
    rows = [{"prediction": "7", "reference": value, "known": True} for value in nothing]
    rows += [{"prediction": value, "reference": "7", "known": False} for value in nothing]
    rows += [{"prediction": "7", "reference": "7", "known": True}]
    path, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out"
    done = script("grade.py", path, "--output_dir", output, "--label", "known")
    assert verdicts(output) == [None] * 7 + [False] * 7 + [True]
    assert "'reference' is missing in 7 of 15 rows, and they are not graded: row 1, 2, 3" in done.stdout
    assert "'prediction' is missing in 7 of 15 rows, and they are wrong: row 8, 9" in done.stdout
    assert "agreement 100.00%" in done.stdout


@pytest.mark.parametrize(
    ("row", "words", "message"),
    [
        ({"prediction": "7", "reference": None}, (), "'reference' is missing in every row"),
        ({"prediction": "7"}, (), "no 'reference'"),
        (
            {"prediction": "7", "reference": {"a": 1}},
            (),
            "row 1: reference: expected text, a number or a list",
        ),
        ({"out": ["7", "8"], "reference": "7"}, ("--completion", "out"), "row 1: out: 2 outputs"),
    ],
)
def test_cells_that_are_no_answer(
    script: Script, tmp_path: Path, row: dict[str, object], words: tuple[str, ...], message: str
) -> None:
    path = written(tmp_path / "in.jsonl", [row])
    done = script("grade.py", path, "--output_dir", tmp_path / "out", *words, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
