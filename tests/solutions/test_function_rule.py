"""Selection by a user's function: what it chooses, why it drops a row, and what it may not return."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, build
from stage_support import dropped, kept, receipt

SAMPLES = [
    ("short \\boxed{7}", "7", "stop", 0.25),
    ("a long way to \\boxed{8}", "8", "stop", 0.5),
    ("cut \\boxed{7}", "7", "length", None),
    ("no answer, only a boxed word", None, "stop", 1.0),
]
RULE = """
import numpy as np

def choose(row):
    if row["id"] == "r3":
        return None
    if row["id"] == "r4":
        return "All are <bad>!"
    row["responses"].reverse()
    return np.int64(int(row["id"][1:]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "solutions.jsonl"
    columns = ("responses", "answers", "finish_reasons", "rewards")
    row = {
        "question": "What is 3 + 4?",
        **dict(zip(columns, map(list, zip(*SAMPLES, strict=True)), strict=True)),
    }
    path.write_text("".join(json.dumps({"id": f"r{n}", **row}) + "\n" for n in (0, 1, 2, 3, 4)))
    return path


def run(source: Path, output: Path, code: str, *, rule: str = "function", **more: Any) -> None:
    (source.parent / "my_rule.py").write_text(code)
    recipe = runpy.run_path("recipes/select_solutions.py")["RECIPE"]
    given = {"input": [str(source)], "output_dir": str(output), "track": "none", "rule": rule, **more}
    recipe(*build(recipe.configs(), {**given, "function": f"{source.parent}/my_rule.py:choose"}, "a test"))


def test_a_function_chooses_or_says_why_not(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", RULE)
    assert [(row["response"], row["answer"], row["reward"]) for row in kept(tmp_path / "out")] == [
        ("short \\boxed{7}", "7", 0.25),
        ("a long way to \\boxed{8}", "8", 0.5),
    ]
    reasons = {row["id"]: row["reason"] for row in dropped(tmp_path / "out")}
    assert reasons == {"r2": "chosen_truncated", "r3": "none_chosen", "r4": "all_are_bad"}
    assert all(row["responses"][0] == SAMPLES[0][0] for row in dropped(tmp_path / "out")), (
        "copies were changed"
    )
    function = receipt(tmp_path / "out")["fingerprint_fields"]["function"]
    assert function["function"] == "choose"
    assert "selected by my\\_rule.py:choose" in (tmp_path / "out/README.md").read_text()


def test_a_response_without_an_answer_may_be_chosen(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", "def choose(row):\n    return 3\n")
    assert [row["answer"] for row in kept(tmp_path / "out")] == [None] * 5
    run(source, tmp_path / "limits", "def choose(row):\n    return 0\n", min_reward=0.3)
    assert receipt(tmp_path / "limits")["dropped"] == {"low_reward": 5}


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("4", r"row r0: returned 4; return the index of a response, 0 to 3, or None or a reason"),
        ("-1", r"row r0: returned -1; return the index"),
        ("True", r"row r0: returned True; return the index"),
        ("1.0", r"row r0: returned 1\.0; return the index"),
        ("row['responses'][0]", r"one of more than 50"),
        ("row['nothing']", r"row r0: KeyError: 'nothing' \(my_rule\.py, line 2\)"),
        ("'?'", r"row r0: returned '\?', a reason without letters"),
    ],
)
def test_what_a_rule_may_not_return(source: Path, tmp_path: Path, returned: str, told: str) -> None:
    if "more than" in told:  # a response in place of its index: as many reasons as rows
        row = json.loads(source.read_text().partition("\n")[0])
        lines = [{**row, "id": f"r{n}", "responses": [f"{n} words"] * 4} for n in range(60)]
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match=f"my_rule.py:choose: .*{told}"):
        run(source, tmp_path / "out", f"def choose(row):\n    return {returned}\n")


def test_the_rule_function_needs_a_function() -> None:
    recipe = runpy.run_path("recipes/select_solutions.py")["RECIPE"]
    with pytest.raises(ConfigError, match=r"rule: function needs function: FILE.py:NAME or MODULE:NAME"):
        build(recipe.configs(), {"input": ["x"], "output_dir": "y", "rule": "function"}, "a test")
