"""Functions of the user's in place of our rules: used, limited, hashed, and refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalequest.config import ConfigError, fingerprint_fields
from scalequest.grading import Grader, GraderOptions

CODE = """
import time

def right(response, reference):
    print("said by a user's function")
    if response == "slow":
        time.sleep(60)
    return reference.lower() in response.lower()

def answer(response):
    return response.partition("=>")[2] or None

def odd(response, reference):
    if response == "raises":
        return 1 / 0
    return {"none": None, "text": "yes", "number": 1}[response]
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_a_function_judges_and_another_extracts(code: Path) -> None:
    options = GraderOptions(function=f"{code}:right", extraction=f"{code}:answer", wall_seconds=0.5)
    with Grader(options, 2) as grader:
        assert grader.judge("It is PARIS.", "Paris").correct
        assert grader.judge("It is Rome.", "Paris").layer == "function"
        assert not grader.judge(" ", "").correct, "nothing was said"
        late = grader.judge("slow", "x")
        assert (late.correct, late.layer, late.timed_out) == (False, "timeout", True)
        assert grader.timeouts == [("slow", "x")]
        assert grader.judge("Paris, then", "paris").correct, "after a kill"
        assert grader.find("so =>  7 ").answer == "7"
        assert (grader.find("nothing").answer, grader.find("nothing").rule) == (None, "none")
        assert grader.grade("1/2", "0.5").correct, "the rules are still there"


@pytest.mark.parametrize(
    ("response", "told"),
    [
        ("none", "problem 7: returned None; return True if the response is right, else False"),
        ("text", "problem 7: returned 'yes'; return True"),
        ("number", "problem 7: returned 1; return True"),
        ("raises", "problem 7: ZeroDivisionError: division by zero (mine.py, line 15)"),
        ("other", "problem 7: KeyError: 'other' (mine.py, line 16)"),
    ],
)
def test_what_a_function_may_not_do(code: Path, response: str, told: str) -> None:
    with Grader(GraderOptions(function=f"{code}:odd")) as grader:
        with pytest.raises(ConfigError) as error:
            grader.judge(response, "x", "problem 7")
        assert str(error.value).startswith(f"{code}:odd: {told}")
        assert grader.grade("x+y", "y+x").correct, "the worker lives on"


def test_the_content_is_the_identity(code: Path, tmp_path: Path) -> None:
    options = GraderOptions(function=f"{code}:right")
    before = options.identity
    assert before.keys() == {"function"}
    assert fingerprint_fields(options) == fingerprint_fields(GraderOptions()), "the path is not"
    code.write_text(CODE + "# changed\n")
    assert options.identity != before
    assert GraderOptions().identity == {}
    with pytest.raises(ConfigError, match=r"function: .*mine\.py has no function 'wrong'"):
        GraderOptions(function=f"{code}:wrong").identity  # noqa: B018
