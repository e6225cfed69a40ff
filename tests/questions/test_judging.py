"""Whole sets of questions judged through the recipe: by a server that misbehaves, a function, and a model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fault_server import Answer, Asked, FaultServer, completion, error
from scalequest.config import ConfigError, build
from scalequest.engines.server import BudgetSpent
from scalequest.questions.levels import read_level, read_topic
from scalequest.recipe import load_recipe
from stage_support import data_files, dropped, kept, receipt

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes/judge_questions.py"
RECIPE = load_recipe(SCRIPT)
PROMPTS = {
    aspect: f"recipes/prompts/{aspect}_judge.yaml" for aspect in ("solvability", "difficulty", "topic")
}


def settings(folder: Path, generators: dict[str, Path], url: str, **server: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "generators": {label: str(path) for label, path in generators.items()},
        "block_size": 4,
        "track": "none",
        "judge": "server",
        "server": {"url": url, "model": "big/judge", "max_wait": 0.05, "concurrency": 4, **server},
        "prompts": PROMPTS,
        "sampling": {"temperature": 0.0, "max_tokens": 64},
    }


def judge(given: dict[str, Any]) -> dict[str, Any]:
    assert RECIPE is not None
    RECIPE(*build(RECIPE.configs(), given))
    return receipt(given["output_dir"])


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Path]:
    """Twenty questions before, and the same with other words after; every fifth ends in "sheep"."""
    rows = [{"id": f"q-{n:03d}", "question": f"What is {n} + {n}?"} for n in range(20)]
    rows[5]["question"] = "What is <script>alert(5)</script> & 5?"
    more = [row | {"question": row["question"].replace("What", "Then what")} for row in rows]
    return {
        "before": written(tmp_path / "before.jsonl", rows),
        "after": written(tmp_path / "after.jsonl", more),
    }


def aspect_of(one: Asked) -> str:
    return "topic" if "<TOPIC>" in one.text else "difficulty" if '"difficulty"' in one.text else "solvability"


def number_of(one: Asked) -> int:
    return int(one.text.rpartition("hat is ")[2].partition(" ")[0].replace("<script>alert(5)</script>", "5"))


def honest(one: Asked) -> Answer:
    """Below 5 unsolvable, unless it begins with "Then"; harder from 10 on; all of it algebra."""
    n, then = number_of(one), "Then what" in one.text
    said = {
        "solvability": f"I try to solve it. Yes, I can add. Conclusion: {'Yes' if n >= 5 or then else 'No'}",
        "difficulty": f'{{"intent": "a sum", "difficulty": "{"medium" if n >= 10 else "very easy"}"}}',
        "topic": "It is a sum. <TOPIC> Algebra </TOPIC>",
    }
    return completion(said[aspect_of(one)], read=100, generated=20)


def test_two_sets_are_judged_measured_and_compared(
    tmp_path: Path, sets: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "judged"
    with FaultServer(honest).running() as server:
        made = judge(settings(folder, sets, server.url, price_in=2.0, price_out=10.0))
        assert len(server.asked) == made["counts"]["requests"] == 120
    assert made["counts"]["cost"] == pytest.approx(120 * (100 * 2 + 20 * 10) / 1e6)
    assert made["counts"]["no_verdict"] == 0
    first = kept(folder)[0]
    assert list(first)[:6] == ["generator", "id", "question", "solvable", "difficulty", "topic"]
    assert (first["solvable"], first["difficulty"], first["topic"]) == (False, "very easy", "algebra")
    assert "Conclusion: No" in first["solvability_text"]
    found = report(folder)
    before, after = found["generators"]["before"], found["generators"]["after"]
    assert before["solvability"]["solvable"]["value"] == 0.75
    assert before["solvability"]["solvable"]["low"] == pytest.approx(0.5313, abs=1e-3)  # Wilson of 15 in 20
    assert after["solvability"]["solvable"]["value"] == 1
    assert before["difficulty"]["shares"]["medium"]["value"] == 0.5
    assert before["difficulty"]["mean"]["value"] == 40
    assert before["topic"]["shares"]["algebra"]["value"] == 1
    solvable, difficulty = found["differences"]
    assert (solvable["value"], solvable["n"], solvable["paired"]) == (0.25, 20, True)
    assert solvable["low"] > 0.02, "five gained and none lost: Tango's interval"
    assert (difficulty["value"], difficulty["n"]) == (0, 20)
    # what the terminal and the page show
    said = capsys.readouterr().out
    assert "| before | 20 | 75.0 [53.1, 88.8] (n 20) | 40.0 [31.0, 49.0] (n 20) |" in said
    assert "| after | before | solvable, points | +25.0 [" in said
    assert "Spent: 120 requests, 12,000 tokens read, 2,400 generated, cost 0.05 by the prices given." in said
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "http" not in page.partition("</style>")[2]
    assert "Called unsolvable" in page


def test_a_server_that_misbehaves_costs_a_verdict_and_never_gives_one(
    tmp_path: Path, sets: dict[str, Path]
) -> None:
    nonsense = {1: "The yeses have it", 2: "Yes or No?", 3: "Yes. But then", 4: "", 6: "<TOPIC>sheep</TOPIC>"}

    def behaviour(one: Asked) -> Answer | None:
        n = number_of(one)
        if "Then what" in one.text:
            if one.attempt == 0 and one.number % 3 == 0:
                return [error(429), error(503, Retry_After="0"), Answer(200, b"nonsense"), None][n % 4]
            return honest(one)
        if n in nonsense:
            return completion(nonsense[n], "length" if n == 3 else "stop", read=100, generated=20)
        if n == 7:
            return error(400, "too long")
        if n == 8 and aspect_of(one) == "difficulty":
            return completion('{"difficulty": "easy to medium"}', read=100, generated=20)
        return honest(one)

    folder = tmp_path / "judged"
    with FaultServer(behaviour).running() as server:
        made = judge(settings(folder, sets, server.url))
        assert made["counts"]["requests"] == len(server.asked) > 120
    lost = {row["id"]: row for row in dropped(folder)}
    assert made["dropped"] == {"refused": 1, "truncated": 1, "unparsed": 4}
    assert lost["q-007"]["topic_fault"] == "refused"
    assert lost["q-003"]["solvability_fault"] == "truncated"
    assert lost["q-001"]["solvability_text"] == "The yeses have it"
    (eighth,) = [row for row in kept(folder) if row["id"] == "q-008" and row["generator"] == "before"]
    assert (eighth["solvable"], eighth["difficulty"], eighth["difficulty_fault"]) == (True, None, "unparsed")
    assert made["counts"]["no_verdict"] == 6 * 3 + 1
    found = report(folder)["generators"]
    assert found["before"]["difficulty"]["no_verdict"] == {"unparsed": 5, "truncated": 1, "refused": 1}
    assert found["before"]["solvability"]["judged"] == 14
    assert found["after"]["solvability"]["judged"] == 20, "what was refused for a moment was asked again"


def test_a_budget_stops_it_and_a_higher_one_pays_for_the_rest_only(
    tmp_path: Path, sets: dict[str, Path]
) -> None:
    folder, whole = tmp_path / "judged", tmp_path / "whole"
    with FaultServer(honest).running() as server:
        with pytest.raises(BudgetSpent, match=r"server\.budget"):
            judge(settings(folder, sets, server.url, budget_tokens=9000))
        assert 0 < len(server.asked) < 120
        assert not receipt(folder)["finished"]
        made = judge(settings(folder, sets, server.url))
        assert len(server.asked) == 120, "nothing is asked twice"
        judge(settings(whole, sets, server.url))
    assert made["counts"]["prompt_tokens"] == 12_000
    assert data_files(folder) == data_files(whole)
    assert report(folder) == report(whole)


def test_killed_and_begun_again_it_pays_once(tmp_path: Path, sets: dict[str, Path]) -> None:
    folder = tmp_path / "judged"

    def slow(one: Asked) -> Answer:
        answer = honest(one)
        answer.seconds = 0.03
        return answer

    with FaultServer(slow).running() as server:
        given = settings(folder, sets, server.url)
        config = tmp_path / "config.json"
        config.write_text(json.dumps(given))
        command = [sys.executable, str(SCRIPT), "--config", str(config.rename(tmp_path / "config.yaml"))]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while len(server.asked) < 40:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = len(server.asked)
        assert before < 120
        made = judge(given)
        times = Counter(json.dumps(one.body["messages"]) for one in server.asked)
    assert len(times) == 120
    assert sum(times.values()) - 120 <= 4, "only what was in flight is asked again"
    assert made["counts"]["requests"] >= 120 - 4
    assert made["kept"] == 40


def test_labels_and_a_second_judge_are_compared_without_asking_again(
    tmp_path: Path, sets: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: 4 of 5 verdicts agree, chance would make 14 of 25 do so: kappa is 6/11."""
    before = {"generator": "before"}
    people = written(
        tmp_path / "people.jsonl",
        [
            {**before, "id": "q-000", "solvable": "No", "difficulty": "Very easy", "topic": "Algebra"},
            {**before, "id": "q-001", "solvable": True, "difficulty": "easy"},
            {**before, "id": "q-010", "solvable": True, "difficulty": "medium"},
            {**before, "id": "q-011", "solvable": True, "difficulty": "medium"},
            {"generator": "after", "id": "q-012", "solvable": True},
        ],
    )
    first, second = tmp_path / "first", tmp_path / "second"

    def lenient(one: Asked) -> Answer:
        return completion("Conclusion: Yes") if aspect_of(one) == "solvability" else honest(one)

    with FaultServer(honest).running() as server:
        judge(settings(first, sets, server.url))
        asked = len(server.asked)
        judge(settings(first, sets, server.url) | {"against": {"people": str(people)}})
        assert len(server.asked) == asked
    by = {one["aspect"]: one for one in report(first)["agreement"]}
    solvable, difficulty = by["solvability"], by["difficulty"]
    assert (solvable["n"], solvable["share"]["value"]) == (5, 0.8)
    # the judge: 2 no, 3 yes; people: 1 no, 4 yes; chance (2 * 1 + 3 * 4) / 25 = 14/25
    assert solvable["kappa"]["value"] == pytest.approx((0.8 - 14 / 25) / (1 - 14 / 25))
    assert solvable["kappa"]["low"] < 6 / 11 < solvable["kappa"]["high"]
    assert (difficulty["n"], difficulty["weights"]) == (4, "quadratic")
    # weights 1 - (d / 4)^2: one pair is a level apart; chance from (2, 0, 2) and (1, 1, 2) of 4 each
    observed, chance = 1 - (1 / 16) / 4, (2 * (1 + 15 / 16 + 2 * 12 / 16) + 2 * (12 / 16 + 15 / 16 + 2)) / 16
    assert difficulty["kappa"]["value"] == pytest.approx((observed - chance) / (1 - chance))
    assert "| people | solvability | 5 | 80.0 [" in capsys.readouterr().out
    page = (first / "report.html").read_text()
    assert "Where the judge and people differ" in page
    with FaultServer(lenient).running() as server:
        judge(settings(second, sets, server.url) | {"against": {"first": str(first)}})
    (solvable, *_) = report(second)["agreement"]
    assert (solvable["n"], solvable["share"]["value"], solvable["kappa"]["value"]) == (40, 0.875, 0)
    assert solvable["table"] == [[35, 5], [0, 0]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "q-099", "solvable": True}, "no question has the id 'q-099'"),
        ({"id": "q-001", "generator": "raw", "solvable": True}, "of generator 'raw' has the id 'q-001'"),
        ({"id": "q-001", "solvable": True}, "before, after all have the id 'q-001'"),
        ({"id": "q-001", "generator": "after"}, "contains none of solvable, difficulty, topic"),
        ({"id": "q-001", "generator": "after", "difficulty": 3}, "difficulty is 3, which is none of"),
        ({"id": "q-001", "generator": "after", "solvable": "maybe"}, "solvable is 'maybe'"),
        ({"id": "q-000", "generator": "after", "solvable": True}, "is a duplicate"),
        ({"solvable": True}, "no 'id'"),
    ],
)  # fmt: skip
def test_labels_that_fit_nothing_are_one_line_before_anything_is_asked(
    tmp_path: Path, sets: dict[str, Path], row: dict[str, Any], said: str
) -> None:
    labels = written(
        tmp_path / "labels.jsonl", [{"id": "q-000", "generator": "after", "solvable": False}, row]
    )
    given = settings(tmp_path / "out", sets, "http://localhost:1/v1") | {"against": {"people": str(labels)}}
    with pytest.raises(ConfigError) as caught:
        judge(given)
    assert said in str(caught.value)
    assert "labels.jsonl: row 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_in_questions_and_config_are_one_line(tmp_path: Path, sets: dict[str, Path]) -> None:
    given = settings(tmp_path / "out", sets, "http://localhost:1/v1")
    twice = written(tmp_path / "twice.jsonl", [{"id": "a", "question": "x"}] * 2)
    other = written(tmp_path / "other.jsonl", [{"id": "a", "exercise": "x"}])
    changes = (
        ({"generators": {"one": str(twice)}}, "duplicate id 'a'"),
        (
            {"generators": {"one": str(other)}},
            r"no 'question' \(it has id, exercise\); map it with `question_columns\.one`",
        ),
        ({"question_columns": {"raw": "x"}}, "no generator 'raw'"),
        ({"generators": {}}, "at least one source"),
        ({"prompts": {}}, "at least one of solvability"),
        ({"server": {}}, r"server\.url and server\.model"),
        ({"judge": "model"}, "model_name_or_path and chat_format"),
        ({"judge": "function"}, r"FILE\.py:NAME"),
        ({"topics": ["Algebra", "algebra"]}, "topics"),
        ({"prompts": {"topic": PROMPTS["solvability"]}}, r"contains \{topics\} exactly once"),
    )
    for number, (change, said) in enumerate(changes):
        with pytest.raises(ConfigError, match=said):
            judge({**given, **change, "output_dir": str(tmp_path / f"out-{number}")})


def test_pairs_are_two_sets_and_a_sample_keeps_them_together(tmp_path: Path) -> None:
    rows = [
        {"id": f"q-{n}", "rejected": f"What is {n} ?", "chosen": f"Then what is {n} ?"} for n in range(40)
    ]
    pairs = written(tmp_path / "pairs.jsonl", rows)
    folder = tmp_path / "judged"
    with FaultServer(honest).running() as server:
        given = settings(folder, {"before": pairs, "after": pairs}, server.url)
        given |= {"question_columns": {"before": "rejected", "after": "chosen"}, "sample": 15}
        judge(given)
        assert len(server.asked) == 2 * 15 * 3
    ids = {label: {r["id"] for r in kept(folder) if r["generator"] == label} for label in ("before", "after")}
    assert len(ids["before"]) == 15
    assert ids["before"] == ids["after"]
    assert all(one["paired"] and one["n"] == 15 for one in report(folder)["differences"])


@pytest.mark.parametrize("count", [20, 30])
def test_sets_of_other_questions_are_compared_as_independent(
    tmp_path: Path, sets: dict[str, Path], count: int
) -> None:
    other = [{"id": f"r-{n}", "question": f"Then what is {n} ?"} for n in range(count)]
    folder = tmp_path / "judged"
    with FaultServer(honest).running() as server:
        given = settings(folder, {"a": sets["before"], "b": written(tmp_path / "b.jsonl", other)}, server.url)
        judge({**given, "prompts": {"solvability": PROMPTS["solvability"]}})
        assert len(server.asked) == 20 + count
    (found,) = report(folder)["differences"]
    assert (found["paired"], found["value"], found["n"]) == (False, 0.25, 20)
    assert 0 < found["low"] < 0.25 < found["high"]
    assert "topic" not in report(folder)["generators"]["a"]


def test_a_function_judges_and_says_what_it_does_not_know(tmp_path: Path, sets: dict[str, Path]) -> None:
    code = tmp_path / "rules.py"
    code.write_text(
        "def rules(question):\n"
        "    level = None if 'alert' in question else 'Medium'\n"
        "    return {'solvable': 'script' not in question, 'difficulty': level}\n"
        "def wrong(question):\n    return {'solvable': 'perhaps'}\n"
        "def other(question):\n    return {'colour': 'red'}\n"
        "def broken(question):\n    return 1 / 0\n"
    )
    given = settings(tmp_path / "out", sets, "http://localhost:1/v1")
    given |= {"judge": "function", "function": f"{code}:rules"}
    made = judge(given)
    assert made["counts"]["no_verdict"] == 2
    found = report(tmp_path / "out")
    assert found["judged_by"] == "function"
    assert found["generators"]["before"]["solvability"]["solvable"]["value"] == 0.95
    assert found["generators"]["before"]["difficulty"]["no_verdict"] == {"none_given": 1}
    for name, said in (
        ("wrong", "solvable is 'perhaps'"),
        ("other", "expected a mapping with"),
        ("broken", "ZeroDivision"),
    ):
        with pytest.raises(ConfigError, match=f"{name}: row q-000: .*{said}"):
            judge({**given, "function": f"{code}:{name}", "output_dir": str(tmp_path / name)})


def test_the_tiny_preset_is_the_oracle_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stories = [
        "Tom has 3 red pens. Tom buys 4 more red pens. How many red pens does Tom have now?",
        "Tom has some red pens. Tom buys 4 more red pens. How many red pens does Tom have now?",
    ]
    source = written(tmp_path / "raw.jsonl", [{"question": text} for text in stories])
    words = ["--config", "recipes/tiny/judge_questions.yaml", "--output_dir", str(tmp_path / "out"),
             "--generators", json.dumps({"raw": str(source)}), "--track", "none"]  # fmt: skip
    assert RECIPE is not None
    RECIPE(*RECIPE.parse(words))
    assert [(row["solvable"], row["difficulty"]) for row in kept(tmp_path / "out")] == [
        (True, "very easy"),
        (False, None),
    ]
    assert "which decides by rules and is not a language model" in capsys.readouterr().out


def test_a_model_on_an_engine_judges(tmp_path: Path, sets: dict[str, Path]) -> None:
    """The tiny solver solves whatever it is asked: no verdict of any kind, counted, and nothing invented."""
    prompt = tmp_path / "prompt.yaml"
    prompt.write_text("template: '{question}'\n")
    folder = tmp_path / "judged"
    given = settings(folder, {"before": sets["before"]}, "http://localhost:1/v1")
    del given["server"]
    given |= {
        "judge": "model",
        "model_name_or_path": "recipes/tiny/models/tiny-solver",
        "chat_format": "tinymath",
        "prompts": {"solvability": str(prompt), "difficulty": str(prompt)},
        "engine": {"name": "transformers"},
        "limit": 4,
        "sampling": {"temperature": 0.0, "max_tokens": 24},
    }
    made = judge(given)
    assert made["kept"] == 0
    assert set(made["dropped"]) <= {"unparsed", "truncated"}
    assert made["counts"]["no_verdict"] == 8
    assert report(folder)["generators"]["before"]["solvability"]["solvable"]["value"] is None
    assert "Warning: before: 100 % have no verdict on solvability" in (folder / "report.html").read_text()


def test_a_model_that_was_taught_to_judge_gives_the_verdicts_of_its_replies(tmp_path: Path) -> None:
    """How good they are is not tested: every verdict is what the reply says, or is missing with a reason."""
    story = "Tom has {} red pens. Tom buys 4 more red pens. How many red pens does Tom have now?"
    whole = [story.format(n) for n in range(2, 14)]
    lacking = [story.format("some")] * 12
    sets = {
        label: written(
            tmp_path / f"{label}.jsonl", [{"id": f"{n}", "question": q} for n, q in enumerate(own)]
        )
        for label, own in (("whole", whole), ("lacking", lacking))
    }
    folder = tmp_path / "judged"
    given = settings(folder, sets, "http://localhost:1/v1")
    del given["server"]
    given |= {
        "judge": "model",
        "model_name_or_path": "recipes/tiny/models/tiny-judge",
        "chat_format": "tinymath",
        "prompts": {"solvability": "recipes/tiny/prompts/judge.yaml"},
        "engine": {"name": "transformers"},
        "sampling": {"temperature": 0.0, "max_tokens": 96},
    }
    made = judge(given)
    judged, lost = kept(folder), dropped(folder)
    assert len(judged) + len(lost) == 24
    for row in judged:
        last = re.findall(r"\b(yes|no)\b", row["solvability_text"].lower())[-1]
        assert (row["solvable"], row["solvability_fault"]) == (last == "yes", None), row
    assert all(row["solvable"] is None and row["solvability_fault"] for row in lost)
    assert made["counts"]["no_verdict"] == len(lost)
    assert made["counts"]["prompt_tokens"] > 24
    assert made["tokens"] > 24
    for label, found in report(folder)["generators"].items():
        own = [row["solvable"] for row in judged if row["generator"] == label]
        assert found["solvability"]["judged"] == len(own)
        assert found["solvability"]["solvable"]["value"] == (sum(own) / len(own) if own else None)
    assert len(judged) > 12


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ('{"intent": "x", "difficulty": "hard"}', "hard"),
        ("Difficulty: **Very Hard**", "very hard"),
        ("**Difficulty level:** very_easy.", "very easy"),
        ("The difficulty is medium, because two steps are needed.", "medium"),
        (r"Difficulty: \boxed{\text{easy}}", "easy"),
        ("difficulty: easy at first. But in the end, difficulty: hard", "hard"),
        ("Medium.", "medium"),
        ("difficulty: easy to medium", None),
        ("difficulty: easy. Or rather, difficulty: medium/hard", None),
        ("difficulty: easy - medium", None),
        ("one of: difficulty: very easy, easy, medium, hard, very hard", None),
        ('"difficulty": ["easy", "hard"]', None),
        ("Its difficulty is hard to judge.", None),
        ("difficulty: impossible", None),
        ("This is a hard one.", None),
        ("", None),
    ],
)
def test_a_level_is_read_only_where_one_is_given(text: str, level: str | None) -> None:
    assert read_level(text) == level


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("<TOPIC>algebra</TOPIC>", "algebra"),
        ("<topic>\n Number  Theory.</topic> I am sure.", "number theory"),
        ("<TOPIC>algebra</TOPIC>, or rather <TOPIC>**geometry**</TOPIC>", "geometry"),
        ("<TOPIC>sheep</TOPIC>", None),
        ("<TOPIC>algebra, geometry</TOPIC>", None),
        ("algebra", None),
    ],
)
def test_a_topic_is_one_of_the_list(text: str, topic: str | None) -> None:
    assert read_topic(text, ("algebra", "geometry", "number theory")) == topic
