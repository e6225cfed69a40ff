"""The functions that the scripts' docstrings show: loaded and called as a stage does."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from scalequest.functions import functions_of, load_function
from scalequest.recipe import load_recipe

ROW = {
    "id": "r1",
    "question": "What is 3 + 4?",
    "responses": ["I think it is 8.5", "It is 7"],
    "answers": ["8.5", "7"],
    "finish_reasons": ["stop", "stop"],
}


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("recipes/filter_questions.py", [ROW], "too_short"),
        ("recipes/score.py", [ROW], [-17, -7]),
        ("recipes/select_solutions.py", [ROW], 1),
        ("eval/evaluate.py", ["It is 7", "7"], True),
        ("eval/grade.py", ["It is 7", "8"], False),
    ],
)
def test_the_example_of_a_docstring(
    root: Path, script: str, arguments: list[Any], expected: object, tmp_path: Path
) -> None:
    text = ast.get_docstring(ast.parse((root / script).read_text())) or ""
    (code,) = re.findall(r"^( +def .*\n(?: {5,}.*\n)+)", text, re.M)
    file, name = re.findall(r"(my_\w+\.py):(\w+)", text)[0]
    (tmp_path / file).write_text(textwrap.dedent(code))
    assert len(code.splitlines()) <= 3
    # The command beside it names the function in the way that the recipe reads
    command = re.findall(r"^ +python (.*(?:\\\n.*)?my_\w+\.py.*)$", text, re.M)[-1]
    words = re.sub(r"\\\n", " ", command).replace(file, str(tmp_path / file)).split()
    recipe = load_recipe(root / script)
    assert recipe is not None
    keys = [key for value in recipe.parse(words[1:]) for key in functions_of(value)]
    assert [key.name for key in keys] == [f"{tmp_path / file}:{name}"]
    assert keys[0].load().call(*arguments) == expected
    assert load_function(keys[0].name, "k", *keys[0].parameters) == keys[0].load()
