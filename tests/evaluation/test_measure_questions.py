from __future__ import annotations

import json
import runpy
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from scalequest.records import read_rows
from scalequest.stage.folder import Stage

Script = Callable[..., "subprocess.CompletedProcess[str]"]

GOOD = "Tom has 12 apples. He buys 7 more apples. How many apples does Tom have now?"
OTHER = "Mia has 20 pens. She gives 5 pens to Ben. How many pens does Mia have now?"
NEGATIVE = "Leo has 3 eggs. He eats 9 eggs. How many eggs does Leo have now?"
JUNK = "Tom Tom apples 7 7 how?"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A generation stage's folder: six questions, two more dropped."""
    stage = Stage.open(
        tmp_path / "questions", name="generate_questions", version=1, config={}, fingerprint={}
    )
    stage.blocks.cut(1, 1)
    kept = [GOOD, GOOD.upper().replace("HOW", "How"), GOOD, OTHER, NEGATIVE, JUNK]
    dropped = [
        ({"id": "q-00000006", "question": "Tom has"}, "truncated"),
        ({"id": "q-7", "question": ""}, "empty"),
    ]
    stage.blocks.write(0, [{"id": f"q-{n:08d}", "question": text} for n, text in enumerate(kept)], dropped)
    stage.finish(rows_in=8, card="")
    return stage.output_dir


def test_measures(questions: Path, tmp_path: Path, script: Script, root: Path) -> None:
    (tmp_path / "training.jsonl").write_text(
        json.dumps({"id": "s", "question": OTHER.replace(" ", "  ")}) + "\n"
    )
    words = ["--generators", f"{{mine: {questions}}}", "--training", tmp_path / "training.jsonl"]
    words += [
        "--benchmarks",
        root / "eval/benchmarks/tinymath_test.yaml",
        "--output_dir",
        tmp_path / "measured",
    ]
    shown = script("recipes/tiny/measure_questions.py", *words)
    assert "Generated questions" in shown.stdout
    measures = json.loads((tmp_path / "measured" / "questions.json").read_text())["generators"]["mine"]
    rows = {row["question"]: row for row in read_rows(tmp_path / "measured")}
    assert rows[GOOD]["parses"]
    assert rows[GOOD]["well_posed"]
    assert not rows[JUNK]["parses"]
    assert rows[NEGATIVE]["fault"] == "negative"
    assert measures["questions"] == 8
    assert measures["parses"]["n"] == 8  # what generation dropped counts as not parsing
    assert measures["well_posed"]["n"] == sum(row["parses"] for row in read_rows(tmp_path / "measured"))
    assert measures["verbatim"] | {"low": 0, "high": 0} == {"value": 1 / 6, "low": 0, "high": 0, "n": 6}
    assert measures["distinct"]["value"] == 4 / 6
    assert measures["steps"]["value"] == 1.0
    assert measures["faults"]["dropped: truncated"] == 1
    assert sum(share["n"] for share in measures["by_length"].values()) == measures["well_posed"]["n"]
    assert measures["well_posed_standardised"]["value"] is None  # too few questions to compare others with
    assert measures["equal_to_test"]["verbatim"] == 0


def test_questions_of_the_test_split_are_counted(tmp_path: Path, script: Script, root: Path) -> None:
    test = read_rows(root / "eval/benchmarks/data/tinymath_test.jsonl.gz", limit=2)
    renamed = test[1]["question"].replace("Paul", "Nina")
    lines = [{"question": test[0]["question"]}, {"question": renamed}, {"question": GOOD}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--generators", f"{{mine: {tmp_path / 'q.jsonl'}}}", "--training", tmp_path / "q.jsonl"]
    words += [
        "--benchmarks",
        root / "eval/benchmarks/tinymath_test.yaml",
        "--output_dir",
        tmp_path / "measured",
    ]
    script("recipes/tiny/measure_questions.py", *words)
    measures = json.loads((tmp_path / "measured" / "questions.json").read_text())["generators"]["mine"]
    assert measures["equal_to_test"]["verbatim"] == 1
    assert measures["equal_to_test"]["masked"] >= 2
    assert measures["verbatim"]["value"] == 1.0

    again = script("recipes/tiny/measure_questions.py", *words)  # finished: only shown
    assert "already finished" in again.stdout
    page = script(
        "report.py", "--questions", tmp_path / "measured", "--output_dir", tmp_path / "report"
    ).stdout
    assert "Generated questions" in page


def test_well_posed_questions_are_compared_at_equal_lengths(root: Path) -> None:
    """A generator that is as good at every length and writes longer questions is not worse."""
    module = runpy.run_path(str(root / "recipes/tiny/measure_questions.py"))

    def measured(short: tuple[int, int], long: tuple[int, int]) -> dict[str, Any]:
        shares = {"1": module["share_of"](*short), "3": module["share_of"](*long)}
        return {"by_length": {length: asdict(share) for length, share in shares.items()}}

    few = measured((1, 1), (0, 20))  # of a generator that hardly writes any
    generators = {"few": few, "short": measured((80, 100), (4, 10)), "long": measured((8, 10), (40, 100))}
    module["add_standardised"](generators)
    _, first, second = (one["well_posed_standardised"] for one in generators.values())
    assert first["value"] == pytest.approx(84 / 110)
    assert second["value"] == pytest.approx(84 / 110)  # 48 of 110 as it stands
    assert second["low"] < first["low"] < first["value"] < first["high"]
