"""Kinds of answers that users of public graders have reported, with instances of our own for each.

A file in `reports/` holds one kind: the thread it comes from, what the thread says in our words, and cases.
A case compares an answer with a reference (`answer`, `reference`, `same`), or looks for the answer in a whole
output (`output`, `reference`, `same`). `bench/grading.py --reports` counts them beside other graders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scalequest.grading import equivalent, extract

REPORTS = Path(__file__).parent / "reports"


def cases() -> list[Any]:
    found = []
    for path in sorted(REPORTS.glob("*.yaml")):
        for index, case in enumerate(yaml.safe_load(path.read_text(encoding="utf-8"))["cases"]):
            found.append(pytest.param(case, id=f"{path.stem}-{index}"))
    return found


@pytest.mark.parametrize("case", cases())
def test_case(case: dict[str, Any]) -> None:
    answer = extract(case["output"]).answer if "output" in case else case["answer"]
    assert equivalent(answer or "", case["reference"]) is case["same"], (answer, case)


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_file(path: Path) -> None:
    report = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(report) == {"kind", "source", "report", "cases"}
    assert len(report["cases"]) >= 20
    assert {case["same"] for case in report["cases"]} == {True, False}, "a kind needs both verdicts"
    for case in report["cases"]:
        assert set(case) - {"held_out"} in ({"answer", "reference", "same"}, {"output", "reference", "same"})
