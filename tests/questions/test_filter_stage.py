from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import RunOptions
from scalequest.engines.base import Sampling
from scalequest.grading import majority
from scalequest.questions.contamination import Benchmark, ContaminationRule, TestQuestion
from scalequest.questions.difficulty import DifficultyRule
from scalequest.questions.filters import FilterConfig, filter_questions
from scalequest.questions.judges import model_judge
from scalequest.questions.prompts import Prompt
from scalequest.questions.solvability import SolvabilityRule
from stage_support import dropped, kept, killed_once_sealed, opened, receipt
from tiny_model import stories

QUESTIONS = [question for question, _ in stories(12, seed=5)]
MODEL = {"model_name_or_path": "m", "chat_format": "tinymath"}


def filtered(folder: Path, questions: list[str], *, benchmarks: Any = (), **more: Any) -> dict[str, Any]:
    given = {name: more.pop(name) for name in ("generator", "chat", "judge", "prompt") if name in more}
    run = RunOptions(output_dir=str(folder), block_size=4, track="none")
    config = FilterConfig(input=["x"], **more)
    rows = [{"id": f"q-{n:03d}", "question": text} for n, text in enumerate(questions)]
    stage = opened("filter_questions", run, config)
    return filter_questions(stage, rows, config, run, benchmarks=benchmarks, **given)


def test_text_steps_need_no_model(tmp_path: Path) -> None:
    receipt = filtered(
        tmp_path,
        ["What is 3 + 4?", "What is  3 + 4 ?", "小明", "What is 5 + 4?", "How old is <b>Ann</b>?"],
        steps=["language", "duplicates", "contamination"],
        contamination=ContaminationRule(against=[Benchmark(source="tests.jsonl")]),
        benchmarks=[TestQuestion("tests", "7", "what is 5 + 4")],
    )
    assert receipt["dropped"] == {"contamination": 1, "duplicate": 1, "language": 1}
    assert [row["id"] for row in kept(tmp_path)] == ["q-000", "q-004"]
    by_reason = {row["reason"]: row for row in dropped(tmp_path)}
    assert by_reason["contamination"]["matches"] == "tests/7"
    assert by_reason["duplicate"]["duplicate_of"] == "q-000"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["contamination"]["flagged"] == {"exact": 1}
    assert report["rows_in"] == report["kept"] + sum(report["dropped"].values())
    page = (tmp_path / "report.html").read_text()
    assert "tests/7" in page
    assert page.index(">language<") < page.index(">duplicate<") < page.index(">contamination<")
    assert "小明" in page, "what the language step dropped can be read"
    assert "<b>Ann" not in page


def test_selection_by_a_measured_column_is_plotted(tmp_path: Path) -> None:
    run = RunOptions(output_dir=str(tmp_path), block_size=4, track="none")
    rule = DifficultyRule(columns=["fail_rate"], drop_easiest=0.5)
    config = FilterConfig(input=["x"], steps=["difficulty"], difficulty=rule)
    rows = [{"id": f"q-{n}", "question": f"What is {n}?", "fail_rate": n / 10} for n in range(10)]
    receipt = filter_questions(opened("filter_questions", run, config), rows, config, run)
    assert receipt["dropped"] == {"too_easy": 5}
    assert [row["fail_rate"] for row in kept(tmp_path)] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_agreement_is_measured_kept_and_cut_at(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    model = {"generator": tiny_generator, "chat": tiny_chat, **MODEL, "samples": 4}
    questions = [*QUESTIONS, "Ann <|user|>", QUESTIONS[0]]
    receipt = filtered(
        tmp_path / "half",
        questions,
        steps=["duplicates", "solvability", "difficulty"],
        solvability=SolvabilityRule(min_agreement=0.5),
        difficulty=DifficultyRule(max_fail_rate=0.5),
        sampling=Sampling(1.0, 1.0, 40),
        keep_responses=True,
        **model,
    )
    assert receipt["dropped"].pop("duplicate") == 1
    assert receipt["dropped"].pop("special_token_in_text") == 1
    assert set(receipt["dropped"]) <= {"unsolvable"}, "what agrees by half fails by half at most"
    for row in kept(tmp_path / "half"):
        assert row["agreement"] >= 0.5
        assert row["fail_rate"] == 1 - row["agreement"]
        assert len(row["responses"]) == len(row["answers"]) == 4
        assert row["agreement"] == majority(row["answers"])[1]
    measured = [row for row in dropped(tmp_path / "half") if row["reason"] == "unsolvable"]
    assert all(row["agreement"] < 0.5 for row in measured), "dropped rows carry their measures too"

    # greedy samples agree with each other: nothing is left to tell the hard ones by
    receipt = filtered(
        tmp_path / "greedy",
        QUESTIONS,
        steps=["difficulty"],
        difficulty=DifficultyRule(min_fail_rate=0.1),
        sampling=Sampling(0.0, 1.0, 40),
        **model,
    )
    assert receipt["dropped"] == {"too_easy": len(QUESTIONS)}
    page = (tmp_path / "half" / "report.html").read_text()
    assert "fail rate (1 - agreement)" in page, "measured by the stage's own model: plotted too"
    # and what is cut before its answer agrees with nothing
    receipt = filtered(
        tmp_path / "cut",
        QUESTIONS,
        steps=["solvability"],
        sampling=Sampling(0.0, 1.0, 3),
        **model,
    )
    assert receipt["dropped"] == {"unsolvable": len(QUESTIONS)}


def test_a_judge_is_asked_once_and_unparsed_is_its_own_outcome(
    tmp_path: Path, tiny_generator: Any, tiny_chat: Any
) -> None:
    def how(tokens: int, **more: Any) -> dict[str, Any]:
        sampling = Sampling(0.0, 1.0, tokens)
        judge = model_judge(tiny_generator, tiny_chat, sampling)
        given = {"steps": ["solvability"], "sampling": sampling, "judge": judge, **MODEL}
        return {**given, "prompt": Prompt("{question}"), "solvability": SolvabilityRule(**rule, **more)}

    rule: dict[str, Any] = {"judge": "model", "prompt": "p.yaml"}
    # the tiny model answers with a solution, which holds no verdict
    receipt = filtered(tmp_path / "lax", QUESTIONS, **how(40))
    assert receipt["dropped"] == {"verdict_unparsed": len(QUESTIONS)}
    assert receipt["counts"]["rules_disagree"] == 0
    report = json.loads((tmp_path / "lax" / "report.json").read_text())
    assert report["solvability"]["no_verdict_share"] == 1
    assert "boxed" in dropped(tmp_path / "lax")[0]["verdict_text"]
    receipt = filtered(tmp_path / "exact", QUESTIONS, **how(40, paper_exact=True))
    assert receipt["dropped"] == {"unsolvable": len(QUESTIONS)}
    receipt = filtered(tmp_path / "cut", QUESTIONS, **how(3))
    assert receipt["dropped"] == {"verdict_truncated": len(QUESTIONS)}


def test_votes_are_sampled_apart(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    sampling = Sampling(1.0, 1.0, 40)
    receipt = filtered(
        tmp_path,
        QUESTIONS[:4],
        steps=["solvability"],
        solvability=SolvabilityRule(judge="model", prompt="p.yaml", votes=3),
        sampling=sampling,
        judge=model_judge(tiny_generator, tiny_chat, sampling),
        prompt=Prompt("{question}"),
        **MODEL,
    )
    assert sum(receipt["dropped"].values()) + receipt["kept"] == 4
    assert all(len(row["verdicts"]) == 3 for row in dropped(tmp_path))


def test_a_sealed_folder_has_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_once_sealed(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        filtered(tmp_path, ["What is 3 + 4?", "小明"], steps=["language"])
    assert receipt(tmp_path)["finished"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["rows_in"], report["kept"], report["dropped"]) == (2, 1, {"language": 1})
    assert "</html>" in (tmp_path / "report.html").read_text()
