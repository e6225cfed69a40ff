"""Filtering through the recipe with a judge behind a server that misbehaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fault_server import Answer, Asked, FaultServer, completion, error
from scalequest.config import ConfigError, build
from scalequest.engines.server import BudgetSpent
from scalequest.questions.difficulty import DifficultyRule
from scalequest.questions.filters import FilterConfig
from scalequest.questions.solvability import SolvabilityRule
from scalequest.recipe import load_recipe
from scalequest.stage.progress import GateError
from stage_support import data_files, dropped, kept, receipt

LEVELS = DifficultyRule(judge="server", prompt="p.yaml")
RECIPE = load_recipe(Path(__file__).parents[2] / "recipes/filter_questions.py")


def settings(folder: Path, questions: Path, url: str, step: str, **rule: Any) -> dict[str, Any]:
    given = {"judge": "server", "prompt": f"recipes/prompts/{step}_judge.yaml", **rule}
    return {
        "output_dir": str(folder),
        "input": [str(questions)],
        "steps": ["language", step],
        step: given,
        "block_size": 4,
        "track": "none",
        "server": {"url": url, "model": "judge", "max_wait": 0.05, "concurrency": 4},
        "sampling": {"temperature": 0.0, "max_tokens": 64},
    }


def filtered(given: dict[str, Any]) -> dict[str, Any]:
    assert RECIPE is not None
    RECIPE(*build(RECIPE.configs(), given))
    return receipt(given["output_dir"])


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q-{n:03d}", "question": f"What is {n} + {n}?"} for n in range(24)]
    rows[23]["question"] = "一加一等于多少？"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def number_of(one: Asked) -> int:
    return int(one.text.rpartition("What is ")[2].partition(" ")[0])


def yes_from_ten_on(one: Asked) -> Answer:
    return completion(f"Conclusion: {'Yes' if number_of(one) >= 10 else 'No'}", read=100, generated=20)


def test_solvability_by_a_server_that_misbehaves(tmp_path: Path, questions: Path) -> None:
    def behaviour(one: Asked) -> Answer | None:
        n = number_of(one)
        said = {11: "Yesterday was a nice day", 12: "It is Yes or No", 13: "\x00\ufffd" * 20, 14: ""}
        if n in said:
            return completion(said[n], read=100, generated=20)
        if n == 15:
            return completion("Is it solvable? Yes. But", "length", read=100, generated=20)
        if n == 16:
            return error(400, "no such question")
        if n == 17:
            return completion(None, "content_filter", read=100, generated=0)
        if one.attempt == 0 and n % 2:
            return [error(429), error(500), Answer(200, b"nonsense"), None][n // 2 % 4]
        return yes_from_ten_on(one)

    folder = tmp_path / "kept"
    with FaultServer(behaviour).running() as server:
        given = settings(folder, questions, server.url, "solvability")
        given["server"] |= {"price_in": 1.0, "price_out": 2.0}
        made = filtered(given)
        assert made["counts"]["requests"] == len(server.asked) > 23
    assert made["dropped"] == {
        "content_filter": 1, "language": 1, "refused": 1, "unsolvable": 10,
        "verdict_truncated": 1, "verdict_unparsed": 4,
    }  # fmt: skip
    assert {row["id"] for row in kept(folder)} == {"q-010", *(f"q-0{n}" for n in range(18, 23))}
    cost = (made["counts"]["prompt_tokens"] * 1.0 + made["tokens"] * 2.0) / 1e6
    assert made["counts"]["cost"] == pytest.approx(cost)
    assert "engine" not in made
    lost = {row["id"]: row for row in dropped(folder)}
    assert lost["q-011"]["verdict_text"] == "Yesterday was a nice day"
    assert lost["q-016"]["verdict_fault"] == "refused"
    facts = json.loads((folder / "report.json").read_text())["solvability"]
    assert (facts["judged"], facts["no_verdict"]) == (23, 7)


def test_the_papers_rule_takes_no_reply_for_no_yes(tmp_path: Path, questions: Path) -> None:
    """Yes anywhere counts, but what never came is a fault, not a No."""

    def behaviour(one: Asked) -> Answer:
        return error(400) if number_of(one) == 3 else completion("Yesterday. Conclusion: No")

    folder = tmp_path / "kept"
    with FaultServer(behaviour).running() as server:
        made = filtered(settings(folder, questions, server.url, "solvability", paper_exact=True))
    assert made["dropped"] == {"language": 1, "refused": 1}
    assert made["counts"]["rules_disagree"] == 22


def test_votes_of_a_server_have_seeds_and_a_budget(tmp_path: Path, questions: Path) -> None:
    folder, whole = tmp_path / "kept", tmp_path / "whole"

    def vote(one: Asked) -> Answer:
        return completion("Yes." if one.body["seed"] % 3 else "No.", read=100, generated=20)

    with FaultServer(vote).running() as server:
        given = settings(folder, questions, server.url, "solvability", votes=3)
        given["sampling"] = {"temperature": 1.0, "max_tokens": 64}
        paid = given["server"]
        with pytest.raises(BudgetSpent, match=r"server\.budget_tokens"):
            filtered({**given, "server": {**paid, "budget_tokens": 5000}})
        assert 0 < len(server.asked) < 69
        filtered(given)
        assert len(server.asked) == 69, "nothing is paid for twice"
        filtered({**given, "output_dir": str(whole)})
    assert data_files(folder) == data_files(whole)
    assert len({one.body["seed"] for one in server.asked}) == 69
    assert all(len(row["verdicts"]) == 3 for row in kept(folder))


def test_difficulty_by_a_server(tmp_path: Path, questions: Path) -> None:
    levels = ["very easy", "easy", "medium", "hard", "very hard", "easy to medium"]

    def behaviour(one: Asked) -> Answer:
        return completion(f'{{"difficulty": "{levels[number_of(one) % 6]}"}}', read=100, generated=20)

    folder = tmp_path / "kept"
    with FaultServer(behaviour).running() as server:
        given = settings(folder, questions, server.url, "difficulty", min_level="easy", max_level="hard")
        made = filtered(given)
    assert made["dropped"] == {"language": 1, "level_unparsed": 3, "too_easy": 4, "too_hard": 4}
    rows = kept(folder)
    assert {(row["difficulty_level"], row["difficulty_score"]) for row in rows} == {
        ("easy", 40.0), ("medium", 60.0), ("hard", 80.0),
    }  # fmt: skip
    facts = json.loads((folder / "report.json").read_text())["difficulty"]
    assert facts == {"judged": 23, "no_level": 3, "too_easy": 4, "too_hard": 4}
    # and a later stage cuts by the scores
    later = {"output_dir": str(tmp_path / "later"), "input": [str(folder)], "steps": ["difficulty"],
             "difficulty": {"columns": ["difficulty_score"], "keep": 5}, "track": "none"}  # fmt: skip
    assert filtered(later)["kept"] == 5
    assert {row["difficulty_level"] for row in kept(tmp_path / "later")} == {"hard", "medium"}


def test_a_judge_that_only_talks_nonsense_is_stopped(tmp_path: Path, questions: Path) -> None:
    with FaultServer(lambda _: completion("Moo.")).running() as server:
        given = settings(tmp_path / "kept", questions, server.url, "solvability")
        with pytest.raises(GateError, match=r"gates\.junk"):
            filtered({**given, "gates": {"after": 8}})
        assert len(server.asked) < 23
        assert not receipt(tmp_path / "kept")["finished"]
        assert filtered({**given, "gates": {"junk": 1.0}})["dropped"]["verdict_unparsed"] == 23
        assert len(server.asked) == 23


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"server": {}}, r"solvability\.judge: server needs server\.url"),
        ({"solvability": SolvabilityRule(judge="server")}, r"solvability\.prompt: judge: server"),
        ({"steps": ["difficulty"], "difficulty": DifficultyRule(judge="server")}, r"difficulty\.prompt"),
        (
            {
                "steps": ["solvability", "difficulty"],
                "difficulty": DifficultyRule(judge="server", prompt="p"),
            },
            "two stages",
        ),
        ({"steps": ["solvability", "difficulty"]}, "two stages"),
    ],
)
def test_a_judge_that_cannot_be_asked_says_why(change: dict[str, Any], named: str) -> None:
    rule = SolvabilityRule(judge="server", prompt="p.yaml")
    given: dict[str, Any] = {"input": ["x"], "steps": ["solvability"], "solvability": rule}
    given["server"] = {"url": "http://localhost:1/v1", "model": "m"}
    config = {"output_dir": "x", **given, **change}
    with pytest.raises(ConfigError, match=named):
        FilterConfig(**{key: value for key, value in _built(config).items() if key != "output_dir"})


def _built(config: dict[str, Any]) -> dict[str, Any]:
    from scalequest.engines.server import ServerConfig

    return {**config, "server": ServerConfig(**config["server"])}


def test_rules_of_levels_that_keep_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_level is harder"):
        DifficultyRule(judge="model", prompt="p", min_level="hard", max_level="easy")
    with pytest.raises(ConfigError, match="exclude each other"):
        DifficultyRule(judge="server", prompt="p", columns=["x"])
