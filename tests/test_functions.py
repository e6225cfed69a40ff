"""Functions that a config names: found, hashed, and refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalequest.config import ConfigError
from scalequest.functions import load_function


def test_a_function_of_a_file_and_of_a_module(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\n\n"
        "@dataclass\nclass Kept:\n    why: str\n\n"
        "def keep(row, least=3):\n    return Kept('long') if len(row) > least else None\n"
    )
    found = load_function(f"{path}:keep", "steps", "row")
    assert found.call("abcd").why == "long"
    assert found.call("a") is None
    again = load_function(f"{path}:keep", "steps", "row")
    assert again == found
    assert load_function("tinymath.rewriter:rewrite", "function", "question", "direction", "random").call


def test_the_fingerprint_is_of_the_text_not_of_the_place(tmp_path: Path) -> None:
    found = []
    for folder, text in (
        ("a", "def f(x): return 1"),
        ("b", "def f(x): return 1"),
        ("c", "def f(x): return 2"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(text)
        found.append(load_function(f"{tmp_path / folder / 'own.py'}:f", "k", "x").identity)
    assert found[0] == found[1] != found[2]
    assert found[0]["function"] == "f"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("keep", "expected FILE.py:FUNCTION or MODULE:FUNCTION, got"),
        (":keep", "expected FILE.py:FUNCTION"),
        ("mine.py:", "expected FILE.py:FUNCTION"),
        ("mine.py:a b", "expected FILE.py:FUNCTION"),
        ("nowhere.py:keep", "nowhere.py: no such file"),
        ("no.such.module:keep", "cannot import no.such.module: ModuleNotFoundError"),
        ("..x:keep", "cannot import ..x: "),
        ("takes_none:keep", "No module named 'takes_none'; the file is named as takes_none.py:NAME"),
        ("exits.py:keep", "exits.py: SystemExit: 3"),
        ("builtins:len", "builtins has no file to fingerprint"),
        ("mine.py:lacks", "mine.py has no function 'lacks'"),
        ("mine.py:NUMBER", "mine.py has no function 'NUMBER'"),
        ("mine.py:takes_two", "mine.py:takes_two must take the arguments (row)"),
        ("broken.py:keep", "broken.py: SyntaxError"),
        ("raises.py:keep", "raises.py: ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("NUMBER = 5\ndef takes_two(a, b): pass\n")
    Path("takes_none.py").write_text("def keep(): pass\n")
    Path("exits.py").write_text("raise SystemExit(3)\n")
    Path("broken.py").write_text("def keep(:\n")
    Path("raises.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError) as error:
        load_function(name, "steps[1]", "row")
    assert str(error.value).startswith("steps[1]: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)
