"""Solutions and questions scored through the recipe by a judge behind a server that misbehaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fault_server import Answer, Asked, FaultServer, completion, error
from scalequest.config import ConfigError, build
from scalequest.engines.server import BudgetSpent
from scalequest.recipe import load_recipe
from scalequest.solutions.judged_scores import read_marks
from stage_support import data_files, dropped, kept, receipt

ROOT = Path(__file__).parents[2]
RECIPE = load_recipe(ROOT / "recipes/score.py")
SELECT = load_recipe(ROOT / "recipes/select_solutions.py")


def settings(folder: Path, source: Path, url: str, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "input": [str(source)],
        "block_size": 2,
        "track": "none",
        "judge": "server",
        "prompt": "recipes/prompts/solution_judge.yaml",
        "server": {"url": url, "model": "big/judge", "max_wait": 0.05, "concurrency": 4},
        "sampling": {"temperature": 0.0, "max_tokens": 64},
        **more,
    }


def scored(given: dict[str, Any]) -> dict[str, Any]:
    assert RECIPE is not None
    RECIPE(*build(RECIPE.configs(), given))
    return receipt(given["output_dir"])


@pytest.fixture
def solved(tmp_path: Path) -> Path:
    path = tmp_path / "solved.jsonl"
    rows = [
        {
            "id": f"q-{n}",
            "question": f"What is {n} + {n}? {{response}}",
            "responses": [rf"Answer {a}. \boxed{{{a}}}" for a in range(3)] + ["cut"],
            "answers": ["0", "1", "2", None],
            "finish_reasons": ["stop", "stop", "stop", "length"],
        }
        for n in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def marks(one: Asked) -> Answer:
    """The higher the answer, the better."""
    answer = int(one.text.rpartition("Answer ")[2][0])
    return completion(f"Its score: good.\nScore: {2 + 3 * answer}/10", read=100, generated=20)


def number_of(one: Asked) -> int:
    return int(one.text.rpartition("What is ")[2].partition(" ")[0])


def test_responses_get_marks_or_a_reason(tmp_path: Path, solved: Path) -> None:
    def behaviour(one: Asked) -> Answer | None:
        n, first = number_of(one), "Answer 0" in one.text
        if n == 1 and first:
            return completion("Score: 11", read=100, generated=20)
        if n == 2 and first:
            return completion("Score: 7", "length", read=100, generated=20)
        if n == 3 and first:
            return error(400, "no")
        if n == 4:
            return completion("Moo.", read=100, generated=20)
        if one.attempt == 0 and one.number % 5 == 0:
            return error(429)
        return marks(one)

    folder = tmp_path / "scored"
    with FaultServer(behaviour).running() as server:
        made = scored(settings(folder, solved, server.url))
        assert made["counts"]["requests"] == len(server.asked) > 24
        assert any("{response}" in one.text for one in server.asked), "what a question holds is text"
    assert made["dropped"] == {"no_reward": 1}
    assert made["counts"]["judge_faults"] == 6
    rows = {row["id"]: row for row in kept(folder)}
    assert rows["q-0"]["rewards"] == [2.0, 5.0, 8.0, None]
    assert rows["q-0"]["reward_faults"] == [None, None, None, "response_cut"]
    assert rows["q-0"]["reward_model"] == "judge"
    for name, fault in (("q-1", "unparsed"), ("q-2", "truncated"), ("q-3", "refused")):
        assert rows[name]["rewards"] == [None, 5.0, 8.0, None]
        assert rows[name]["reward_faults"][0] == fault
    (lost,) = dropped(folder)
    assert lost["reward_faults"] == ["unparsed"] * 3 + ["response_cut"]
    # and the best one is selected by them
    assert SELECT is not None
    SELECT(*build(SELECT.configs(), {"output_dir": str(tmp_path / "best"), "input": [str(folder)],
                                     "rule": "reward", "track": "none"}))  # fmt: skip
    assert {row["answer"] for row in kept(tmp_path / "best")} == {"2"}
    assert {row["reward"] for row in kept(tmp_path / "best")} == {8.0}


def test_a_budget_stops_it_and_nothing_is_paid_for_twice(tmp_path: Path, solved: Path) -> None:
    folder, whole = tmp_path / "scored", tmp_path / "whole"
    with FaultServer(marks).running() as server:
        given = settings(folder, solved, server.url)
        with pytest.raises(BudgetSpent):
            scored({**given, "server": {**given["server"], "budget_tokens": 2500}})
        assert 0 < len(server.asked) < 24
        scored(given)
        assert len(server.asked) == 24
        scored({**given, "output_dir": str(whole)})
    assert data_files(folder) == data_files(whole)


def test_questions_get_the_score_of_their_level(tmp_path: Path, solved: Path) -> None:
    def behaviour(one: Asked) -> Answer:
        n = number_of(one)
        return error(413) if n == 7 else completion("Difficulty: " + ("hard" if n else "trivial"))

    folder = tmp_path / "scored"
    with FaultServer(behaviour).running() as server:
        given = settings(folder, solved, server.url, what="question")
        made = scored(given | {"prompt": "recipes/prompts/difficulty_judge.yaml"})
    assert made["dropped"] == {"level_unparsed": 1, "refused": 1}
    assert {(row["difficulty"], row["difficulty_by"]) for row in kept(folder)} == {(80.0, "judge")}


def test_a_judge_that_cannot_be_asked_says_why(tmp_path: Path, solved: Path) -> None:
    given = settings(tmp_path / "out", solved, "http://localhost:1/v1")
    for change, said in (
        ({"prompt": None}, "needs a prompt file"),
        ({"server": {}}, r"server\.url and server\.model"),
        ({"judge": "model"}, "model_name_or_path and chat_format"),
        ({"judge": "scorer"}, "model_name_or_path: name the scorer"),
        ({"prompt": "recipes/prompts/difficulty_judge.yaml"}, r"contains \{response\} exactly once"),
    ):
        with pytest.raises(ConfigError, match=said):
            scored({**given, **change})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Score: 7", 7),
        ("**Score:** 7/10", 7),
        ("Score = 7.5 out of 10.", 7.5),
        (r"Score: \boxed{9}", 9),
        ('{"score": 8}', 8),
        ("Score: 3 for its form.\nScore: 6", 6),
        ("Score: 0", 0),
        ("Score: 3\nScore: 7-8", None),
        ("Score: 7 to 8", None),
        ("Score: 7/5", None),
        ("Score: 7,5", None),
        ("Score: 11", None),
        ("Score: -1", None),
        ("Score: 1e3", None),
        ("Score: NaN", None),
        ("The answer is 7.", None),
        ("", None),
    ],
)
def test_marks_are_read_only_where_they_are_given(text: str, found: float | None) -> None:
    assert read_marks(text) == found
