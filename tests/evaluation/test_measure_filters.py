"""The report on judges, measures and rules: what the oracle says against what the samples say."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Script = Callable[..., "subprocess.CompletedProcess[str]"]

QUESTIONS = [
    ("Ann has 3 apples. Ann buys 4 apples. How many apples does Ann have now?", "7"),
    ("Ben has 9 books. Ben gives away 2 books. How many books does Ben have now?", "7"),
    ("Ann has 3 apples. How many pears does Ben have now?", None),
]


def row(number: int, answers: list[str | None], rewards: list[float], agreement: float) -> dict[str, Any]:
    return {
        "id": f"q-{number}",
        "question": QUESTIONS[number][0],
        "responses": [f"\\boxed{{{answer}}}" for answer in answers],
        "answers": answers,
        "finish_reasons": ["stop"] * len(answers),
        "tokens": [10] * len(answers),
        "rewards": rewards,
        "agreement": agreement,
    }


def test_the_tables_say_what_the_rules_did(tmp_path: Path, script: Script) -> None:
    source = tmp_path / "solved.jsonl"
    rows = [
        row(0, ["7", "8", "8"], [2.0, 0.0, 0.0], 2 / 3),
        row(1, ["7", "7", "8"], [2.0, 1.0, 0.0], 2 / 3),
        row(2, ["1", "2", "3"], [0.0, 0.0, 0.0], 1 / 3),
    ]
    source.write_text("".join(json.dumps(one) + "\n" for one in rows))
    judged = tmp_path / "judged.jsonl"
    verdicts = [{"id": f"q-{n}", "question": "?", "verdict": n == 0, "verdict_tokens": 20} for n in range(3)]
    judged.write_text("".join(json.dumps(one) + "\n" for one in verdicts))
    filtered = tmp_path / "filtered.jsonl"
    filtered.write_text(json.dumps(row(0, ["7", "7"], [0.0, 0.0], 1.0)) + "\n")
    done = script(
        "recipes/tiny/measure_filters.py",
        *("--solved", source, "--judged", judged, "--filtered", filtered, "--output_dir", tmp_path / "out"),
    )
    assert "Pick accuracy" in done.stdout
    facts = json.loads((tmp_path / "out" / "filters.json").read_text())
    picked = {one["rule"]: one["right"].partition(" ")[0] for one in facts["selection"]}
    assert picked["reward"] == "100.0"
    assert picked["majority"] == picked["majority_reward"] == "50.0"
    assert picked["any sample (mean)"] == "50.0"
    judges = {one["judge"]: one for one in facts["solvability"]}
    assert judges["keep all"]["precision"].startswith("66.7")
    assert judges["agreement >= 0.6"]["precision"].startswith("100.0")
    assert judges["agreement >= 0.8"]["kept"] == "0"
    assert judges["agreement >= 0.4"]["cost"] == "30"
    said = judges["verdict Yes"]
    assert said["precision"].startswith("100.0")
    assert said["recall"].startswith("50.0")
    assert (said["kept"], said["cost"]) == ("1", "20")
    assert judges["all filters"]["recall"].startswith("50.0")
    assert judges["all filters"]["cost"] == "27"  # three verdicts of 20 tokens and two samples of 10


def test_only_questions_that_the_judge_saw_are_measured(tmp_path: Path, script: Script) -> None:
    source, judged = tmp_path / "solved.jsonl", tmp_path / "judged.jsonl"
    rows = [row(number, ["7", "8"], [0.0, 0.0], 0.5) for number in range(3)]
    source.write_text("".join(json.dumps(one) + "\n" for one in rows))
    verdicts = [
        {"id": "q-0", "question": "?", "verdict": None, "verdict_tokens": None},  # dropped before
        {"id": "q-1", "question": "?", "verdict": True, "verdict_tokens": 5},
    ]
    judged.write_text("".join(json.dumps(one) + "\n" for one in verdicts))
    script(
        "recipes/tiny/measure_filters.py",
        *("--solved", source, "--judged", judged, "--output_dir", tmp_path / "out"),
    )
    facts = json.loads((tmp_path / "out" / "filters.json").read_text())
    kept = {one["judge"]: one["kept"] for one in facts["solvability"]}
    assert kept["keep all"] == kept["verdict Yes"] == "1"
