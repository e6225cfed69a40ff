from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, RunOptions
from scalequest.engines.base import Sampling
from scalequest.questions.judges import model_judge
from scalequest.questions.prompts import Prompt
from scalequest.questions.rewriting import (
    FunctionRewriter,
    Rewrite,
    RewriteConfig,
    Rewriter,
    Rewriting,
    Task,
    asking_rewriter,
    direction,
    optimize_questions,
)
from scalequest.stage.block_loop import Drop
from stage_support import dropped, kept, killed_once_sealed, opened, receipt
from tinymath.rewriter import rewrite

QUESTION = "Ann has 3 apples and buys 2. How many apples now?"


def rows(*questions: str) -> list[dict[str, Any]]:
    return [{"id": f"q-{n:03d}", "question": text, "generator": "g"} for n, text in enumerate(questions)]


def optimize(
    folder: Path, questions: list[dict[str, Any]], rewriter: Rewriter, **more: Any
) -> dict[str, Any]:
    run = RunOptions(output_dir=str(folder), block_size=4, track="none")
    config = RewriteConfig(
        **{"input": ["x"], "rewriter": "function", "function": "tinymath.rewriter:rewrite", **more}
    )
    return optimize_questions(opened("optimize_questions", run, config), questions, rewriter, config, run)


def by_table(table: dict[str, str]) -> Rewriter:
    """A rewriter of one's own, as a server would be: blocks come back in another order."""

    def rewrite(blocks: Iterator[tuple[int, list[Task]]]) -> Iterator[tuple[int, list[Rewrite]]]:
        for index, tasks in reversed(list(blocks)):
            yield index, [Rewrite(table[task.question], table[task.question]) for task in tasks]

    return rewrite


def test_the_rewritten_one_is_chosen_and_drops_have_reasons(tmp_path: Path) -> None:
    table = {
        "What is 2?": "What is 2 + 3?",
        "What is 3?": "what  IS 3?",
        "What is 4?": " ",
        "What is 5?": "5 加 6 是多少？",
        "What is 6?": "What is 6 + 7?",
    }
    receipt = optimize(tmp_path, rows(*table), by_table(table))
    assert receipt["dropped"] == {"empty": 1, "non_english": 1, "unchanged": 1}
    pairs = kept(tmp_path)
    assert [(pair["id"], pair["rejected"], pair["chosen"]) for pair in pairs] == [
        ("q-000", "What is 2?", "What is 2 + 3?"),
        ("q-004", "What is 6?", "What is 6 + 7?"),
    ]
    assert {pair["generator"] for pair in pairs} == {"g"}
    assert "reply" not in pairs[0]
    assert all("reply" in row for row in dropped(tmp_path))


def test_one_direction_a_question_drawn_by_its_id() -> None:
    ways = [direction(42, f"q-{n}", 0.5) for n in range(1000)]
    assert ways == [direction(42, f"q-{n}", 0.5) for n in range(1000)]
    assert 450 < ways.count("solvability") < 550
    assert ways != [direction(43, f"q-{n}", 0.5) for n in range(1000)]
    shares = [direction(42, f"q-{n}", 0.9) for n in range(1000)]
    assert 860 < shares.count("solvability") < 940
    assert {direction(42, f"q-{n}", 1.0) for n in range(100)} == {"solvability"}
    assert {direction(42, f"q-{n}", 0.0) for n in range(100)} == {"difficulty"}


def test_the_rules_rewrite_tinymath(tmp_path: Path) -> None:
    """They are seeded by row: another split into blocks changes nothing."""
    broken = "Anna has {} apples. She buys 4 more apples. How many nuts does Anna have now?"
    questions = rows(*(broken.format(n) for n in range(3, 15)))
    receipt = optimize(tmp_path / "one", questions, FunctionRewriter("tinymath", rewrite))
    assert receipt["kept"] + sum(receipt["dropped"].values()) == 12
    assert receipt["kept"] >= 6
    again = optimize(tmp_path / "two", questions, FunctionRewriter("tinymath", rewrite))
    assert again["output"] == receipt["output"]
    assert {pair["direction"] for pair in kept(tmp_path / "one")} == {"solvability", "difficulty"}


@pytest.mark.parametrize("returned", [None, 5, ZeroDivisionError("of what")], ids=str)
def test_what_a_function_may_not_do(tmp_path: Path, returned: object) -> None:
    def rewritten(*_: object) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    with pytest.raises(ConfigError, match=r"^mine\.py:f: row q-000: (returned (NoneType|int)|ZeroDivision)"):
        optimize(tmp_path / "out", rows("What is 1 + 1?"), FunctionRewriter("mine.py:f", rewritten))


def local(generator: Any, chat: Any, *markers: str, template: str = "{question}") -> Rewriter:
    prompt = Prompt(template, markers)
    sampling = Sampling(0.0, 1.0, 40)
    judge = model_judge(generator, chat, sampling)
    return asking_rewriter(judge, {"solvability": prompt, "difficulty": prompt}, sampling)


def test_a_local_model_is_asked_and_its_reply_parsed(
    tmp_path: Path, tiny_generator: Any, tiny_chat: Any
) -> None:
    # The model solves whatever it is asked; with its own phrase as the marker the rest counts as the rewrite.
    questions = rows(QUESTION, "Ben has <|end|> stamps.", *[QUESTION.replace("Ann", "Ben")] * 3, "x " * 300)
    receipt = optimize(tmp_path / "parsed", questions, local(tiny_generator, tiny_chat, "FINAL", "answer is"))
    # a question that spells a control token is not asked, one that does not fit comes back cut
    assert receipt["dropped"] == {"special_token_in_text": 1, "truncated": 1}
    assert [pair["chosen"][:7] for pair in kept(tmp_path / "parsed")] == ["\\boxed{"] * 4
    assert receipt["tokens"] > 0
    receipt = optimize(
        tmp_path / "unparsed", questions[:1], local(tiny_generator, tiny_chat, "FINAL QUESTION:")
    )
    assert receipt["dropped"] == {"unparsed": 1}
    assert "boxed" in dropped(tmp_path / "unparsed")[0]["reply"]


def test_a_config_that_cannot_work_says_why() -> None:
    with pytest.raises(ConfigError, match="model_name_or_path"):
        RewriteConfig(input=["x"], rewriter="local")
    with pytest.raises(ConfigError, match=r"prompts\.solvability"):
        RewriteConfig(input=["x"], rewriter="local", model_name_or_path="m", chat_format="tinymath")


def test_a_sealed_folder_has_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_once_sealed(monkeypatch)
    table = {"What is 2?": "What is 2 + <b>3</b>?", "What is 4?": " "}
    with pytest.raises(KeyboardInterrupt):
        optimize(tmp_path, rows(*table), by_table(table))
    assert receipt(tmp_path)["finished"]
    page = (tmp_path / "pairs.html").read_text()
    assert "1 of 1, drawn at random" in page
    assert "Dropped: empty (1)" in page


def test_hooks_make_the_pair_without_a_folder() -> None:
    config = RewriteConfig(
        input=["x"], rewriter="function", function="tinymath.rewriter:rewrite", solvability_share=1.0
    )
    hooks = Rewriting(rows("What is 2?"), config, run_seed=1)
    (task,) = hooks.requests(0)
    assert (task.key, task.question, task.direction) == ("q-000", "What is 2?", "solvability")
    made = hooks.row(0, [Rewrite("What is 2 + 3?", "reply")])
    pair = {"id": "q-000", "chosen": "What is 2 + 3?", "rejected": "What is 2?"}
    assert made == pair | {"direction": "solvability", "generator": "g"}
    dropped = hooks.row(0, [Rewrite("", "reply", fault="unparsed")])
    assert dropped == Drop(
        pair | {"chosen": "", "direction": "solvability", "generator": "g", "reply": "reply"}, "unparsed"
    )
