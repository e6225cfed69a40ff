"""Filters that users write: dropped for their reasons, counted, hashed, and refused in one line."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, build
from scalequest.functions import MOST_REASONS
from scalequest.questions.filters import FilterConfig, read_text
from scalequest.stage.folder import StageError
from stage_support import dropped, kept, receipt

QUESTIONS = ["What is 3 + 4?", "小明", "What is 3 + 4 ?", "How many legs do 100 hens have?", "What is 5 + 4?"]
DIGITS = """
def keep(row):
    return f"Too many: digits!" if sum(map(str.isdigit, row["question"])) > 2 else None
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{n}", "question": text, "topic": "sums"} for n, text in enumerate(QUESTIONS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(source: Path, output: Path, *steps: str, **more: Any) -> None:
    recipe = runpy.run_path("recipes/filter_questions.py")["RECIPE"]
    given = {"input": [str(source)], "output_dir": str(output), "steps": list(steps), "track": "none", **more}
    recipe(*build(recipe.configs(), given, "a test"))


def read(code: str, tmp_path: Path, *names: str, rows: int = 3) -> Any:
    path = tmp_path / "mine.py"
    path.write_text(code)
    steps = [*names[:-1], f"{path}:{names[-1]}"]
    config = build((FilterConfig,), {"input": ["x"], "steps": steps}, "a test")[0]
    return read_text([{"id": f"q{n}", "question": f"What is {n}?"} for n in range(rows)], config.made())


def test_a_function_stands_among_the_steps_and_in_every_account(source: Path, tmp_path: Path) -> None:
    code, output = tmp_path / "my_filters.py", tmp_path / "out"
    code.write_text(DIGITS)
    run(source, output, "language", f"{code}:keep", "duplicates")
    found = receipt(output)
    assert found["dropped"] == {"duplicate": 1, "language": 1, "too_many_digits": 1}
    assert [row["id"] for row in kept(output)] == ["q0", "q4"]
    assert [row["topic"] for row in dropped(output)] == ["sums"] * 3
    steps = found["fingerprint_fields"]["steps"]
    assert [steps[0], steps[1]["function"], steps[2]] == ["language", "keep", "duplicates"]
    report = json.loads((output / "report.json").read_text())
    own = report[f"{code}:keep"]
    assert (own["seen"], own["kept"], own["dropped"]) == (4, 3, {"too_many_digits": 1}), "after language"
    assert own["sha256"] == steps[1]["sha256"]
    page = (output / "report.html").read_text()
    assert page.index(">language<") < page.index(">too_many_digits<") < page.index(">duplicate<")
    assert "Step my_filters.py:keep" in page
    assert "100 hens" in page
    assert "my\\_filters.py:keep" in (output / "README.md").read_text()


def test_the_fingerprint_is_of_the_code_not_of_its_path(source: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(DIGITS)
    run(source, tmp_path / "out", f"{tmp_path}/a/mine.py:keep")
    first = receipt(tmp_path / "out")
    run(source, tmp_path / "out", f"{tmp_path}/b/mine.py:keep")  # the same code: there is nothing to do
    assert receipt(tmp_path / "out") == first
    (tmp_path / "b/mine.py").write_text(DIGITS.replace("2", "1"))
    with pytest.raises(StageError, match="steps"):
        run(source, tmp_path / "out", f"{tmp_path}/b/mine.py:keep")


def test_a_function_of_an_installed_package(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "own_filters"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from own_filters.rules import keep\n")
    (package / "rules.py").write_text(DIGITS)
    monkeypatch.syspath_prepend(package.parent)
    run(source, tmp_path / "out", "own_filters:keep")
    assert receipt(tmp_path / "out")["dropped"] == {"too_many_digits": 1}
    before = FilterConfig(input=["x"], steps=["own_filters:keep"]).identity
    (package / "rules.py").write_text(DIGITS + "# changed\n")
    assert FilterConfig(input=["x"], steps=["own_filters:keep"]).identity != before, "what __init__ imports"


def test_a_function_sees_copies_of_the_rows_that_are_left(tmp_path: Path) -> None:
    code = """
def one(row):
    row["question"] = row["seen"] = "mine"
    return "first" if row["id"] == "q0" else None

def all_of_them(rows):
    for row in rows:
        row.clear()
    return [None, "Second one"]
"""
    assert read(code, tmp_path, "one").reasons == ["first", None, None]
    names = (f"{tmp_path / 'mine.py'}:one", "all_of_them")
    assert read(code, tmp_path, *names).reasons == ["first", None, "second_one"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 1 / 0", "row q0: ZeroDivisionError: division by zero (mine.py, line 2)"),
        ("return row['topic']", "row q0: KeyError: 'topic' (mine.py, line 2)"),
        ("raise SystemExit(3)", "row q0: SystemExit: 3 (mine.py, line 2)"),
        ("return True", "row q0: returned True; return None to keep the row or, as a string, a reason"),
        ("return 'Kept!'", "row q0: returned 'Kept!'; return None to keep the row"),
        ("return ['long']", "row q0: returned ['long']; return None"),
        ("return ' -- '", "row q0: returned ' -- ', a reason without letters"),
        ("return 'x' * 5000 + row['question']", None),
        (
            "return row['question']",
            f"row q{MOST_REASONS}: returned 'What is {MOST_REASONS}?', one of more",
        ),
    ],
)
def test_what_a_function_may_not_do(tmp_path: Path, body: str, told: str | None) -> None:
    code = f"def keep(row):\n    {body}\n"
    if told is None:
        assert read(code, tmp_path, "keep").reasons == ["x" * 60] * 3
        return
    with pytest.raises(ConfigError) as error:
        read(code, tmp_path, "keep", rows=MOST_REASONS + 1)
    assert str(error.value).startswith(f"{tmp_path / 'mine.py'}:keep: {told}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("returned", ["[None]", "None", "{1: None, 2: None, 3: None}", "(n for n in rows)"])
def test_a_batch_gets_an_answer_for_each_row(tmp_path: Path, returned: str) -> None:
    with pytest.raises(
        ConfigError, match=r"3 rows: returned .*; return a list with None or a reason for each"
    ):
        read(f"def keep(rows):\n    return {returned}\n", tmp_path, "keep")


def test_a_function_that_was_corrected_is_another_one(source: Path, tmp_path: Path) -> None:
    code, output = tmp_path / "mine.py", tmp_path / "out"
    code.write_text("def keep(row):\n    return 1 / 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        run(source, output, f"{code}:keep")
    code.write_text("def keep(row):\n    return None\n")
    with pytest.raises(StageError, match=r"begun with other settings: steps: .* Give --fresh to start again"):
        run(source, output, f"{code}:keep")
    run(source, output, f"{code}:keep", fresh=True)
    assert receipt(output)["kept"] == len(QUESTIONS)


def test_what_is_no_step(tmp_path: Path) -> None:
    for step in ("langage", "mine.py", "mine.py:", "mine.py:a b"):
        with pytest.raises(
            ConfigError, match=r"steps: .* is neither language, .* nor a function, FILE\.py:NAME"
        ):
            build((FilterConfig,), {"input": ["x"], "steps": [step]}, "a test")
    given = {"input": ["x"], "steps": ["solvability", "mine.py:keep"], "model_name_or_path": "m"}
    with pytest.raises(ConfigError, match="or in a filter stage of its own"):
        build((FilterConfig,), {**given, "chat_format": "tinymath"}, "a test")
