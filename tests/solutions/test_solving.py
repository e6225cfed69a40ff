from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from scalequest.chat import load_format
from scalequest.config import ConfigError, RunOptions, to_dict
from scalequest.engines.base import Completion, Sampling
from scalequest.grading import majority
from scalequest.records import read_inputs
from scalequest.solutions.solving import (
    Sampled,
    SolveConfig,
    Solving,
    asks_model,
    check_reuse,
    left_out,
    read_answers,
    solve_questions,
)
from scalequest.stage.block_loop import Drop
from scalequest.stage.script import open_stage
from stage_support import dropped, kept, opened
from tiny_model import stories

QUESTIONS = [question for question, _ in stories(6, seed=5)]
SAMPLING = Sampling(0.7, 0.95, 40)


def solve(folder: Path, rows: list[dict[str, Any]], generator: Any, chat: Any, **more: Any) -> dict[str, Any]:
    run = RunOptions(output_dir=str(folder), block_size=4, track="none")
    given = {"input": ["x"], "model_name_or_path": "some/solver", "chat_format": "tinymath", "samples": 3}
    config = SolveConfig(**{**given, "sampling": SAMPLING, **more})
    stage = opened("solve_questions", run, config)
    source = folder.with_name(f"{folder.name}-input.jsonl")
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = read_inputs([str(source)], "question", without=left_out(config))
    return solve_questions(stage, rows, generator, chat, config, run)


def questions(*texts: str) -> list[dict[str, Any]]:
    return [
        {"id": f"q-{n:03d}", "question": text, "generator": "g", "tokens": 9} for n, text in enumerate(texts)
    ]


def test_every_sample_is_kept_with_its_answer(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    rows = questions(*QUESTIONS, "Ann <|end|>", "x " * 300)
    receipt = solve(tmp_path, rows, tiny_generator, tiny_chat)
    assert receipt["dropped"].pop("special_token_in_text") == 1
    assert receipt["dropped"].pop("all_truncated") >= 1, "one does not fit the context"
    solved = kept(tmp_path)
    assert len(solved) >= 4
    for row in solved:
        assert (
            len(row["responses"])
            == len(row["answers"])
            == len(row["finish_reasons"])
            == len(row["tokens"])
            == 3
        )
        for response, answer, reason in zip(
            row["responses"], row["answers"], row["finish_reasons"], strict=True
        ):
            assert (answer is None) or (reason == "stop" and answer in response)
        assert (row["generator"], row["solver"]) == ("g", "solver")
        assert row["agreement"] == majority(row["answers"])[1]
    assert len({response for row in solved for response in row["responses"]}) > len(solved), "seeds differ"


def test_all_cut_is_a_drop(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    receipt = solve(
        tmp_path, questions(*QUESTIONS), tiny_generator, tiny_chat, sampling=Sampling(0.7, 1.0, 2)
    )
    assert receipt["dropped"] == {"all_truncated": len(QUESTIONS)}
    assert dropped(tmp_path)[0]["answers"] == [None] * 3


def test_reused_responses_come_first_and_only_the_rest_is_asked(
    tmp_path: Path, tiny_generator: Any, tiny_chat: Any
) -> None:
    solve(tmp_path / "two", questions(*QUESTIONS), tiny_generator, tiny_chat, samples=2)
    carried = kept(tmp_path / "two")
    receipt = solve(tmp_path / "three", carried, tiny_generator, tiny_chat, reuse=True)
    rows = kept(tmp_path / "three")
    assert [row["responses"][:2] for row in rows] == [row["responses"] for row in carried]
    assert all(
        len(row[key]) == 3 for row in rows for key in ("responses", "answers", "finish_reasons", "tokens")
    )
    assert receipt["tokens"] == sum(row["tokens"][2] for row in rows)
    receipt = solve(tmp_path / "one", carried, tiny_generator, tiny_chat, samples=1, reuse=True)
    assert receipt["tokens"] == 0


def test_reuse_wants_the_same_model_format_and_sampling(tmp_path: Path) -> None:
    chat_format = load_format("tinymath")
    run = RunOptions(output_dir=str(tmp_path), track="none")
    config = SolveConfig(input=["x"], model_name_or_path="m", chat_format="tinymath", sampling=SAMPLING)
    open_stage(
        "filter_questions", 1, run, config, inputs={"m": "abc"}, chat_format=to_dict(chat_format)
    ).close()
    check_reuse([str(tmp_path)], "abc", chat_format, SAMPLING)
    with pytest.raises(ConfigError, match="different sampling"):
        check_reuse([str(tmp_path)], "abc", chat_format, Sampling(0.8, 0.95, 40))
    with pytest.raises(ConfigError, match="chat_format, model_name_or_path"):
        check_reuse([str(tmp_path)], "abd", load_format("smollm2"), SAMPLING)
    with pytest.raises(ConfigError, match="not the folder"):
        check_reuse(["questions.jsonl"], "abc", chat_format, SAMPLING)


def test_hard_questions_get_more_samples(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    rows = questions(*QUESTIONS, *(text.replace("buys", "stamps") for text in QUESTIONS))
    asked = {"samples": 2, "until_agree": 3, "max_samples": 7, "sampling": Sampling(0.7, 1.0, 40)}
    receipt = solve(tmp_path / "one", rows, tiny_generator, tiny_chat, **asked)
    made = kept(tmp_path / "one") + dropped(tmp_path / "one")
    assert len(made) == 12
    lengths = {len(row["responses"]) for row in made}
    assert lengths <= {4, 6, 7}, "rounds of two, the last one cut to the cap"
    assert len(lengths) > 1, "the seeds give easy and hard ones"
    for row in made:
        agreeing = round(row["agreement"] * len(row["answers"]))
        assert agreeing >= 3 or len(row["answers"]) == 7
        assert row["agreement"] == majority(row["answers"])[1]
        before = {4: 2, 6: 4, 7: 6}[len(row["answers"])]
        assert round(majority(row["answers"][:before])[1] * before) < 3, "it stopped once three agreed"
    assert receipt["tokens"] == sum(sum(row["tokens"]) for row in made)
    # a sample is what it would be were there fewer of them, and another split into blocks changes nothing
    fixed = kept_and_dropped(
        tmp_path / "fixed", rows, tiny_generator, tiny_chat, **asked | {"until_agree": None}
    )
    for row in made:
        assert row["responses"][:2] == fixed[row["id"]]["responses"]
    again = kept_and_dropped(tmp_path / "again", rows, tiny_generator, tiny_chat, **asked)
    assert again == {row["id"]: row for row in made}


def kept_and_dropped(folder: Path, *args: Any, **more: Any) -> dict[str, Any]:
    solve(folder, *args, **more)
    return {row["id"]: row for row in kept(folder) + dropped(folder)}


def test_more_samples_behind_reused_ones(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    solve(tmp_path / "two", questions(*QUESTIONS), tiny_generator, tiny_chat, samples=2)
    carried = kept(tmp_path / "two")
    more = {"samples": 2, "until_agree": 2, "max_samples": 5, "reuse": True}
    solve(tmp_path / "more", carried, tiny_generator, tiny_chat, **more)
    for before, row in zip(carried, kept(tmp_path / "more"), strict=True):
        assert row["responses"][:2] == before["responses"]
        assert (len(row["responses"]) == 2) == (before["agreement"] == 1.0)
    # nothing to ask is nothing to load
    agreed = [row for row in carried if row["agreement"] == 1.0]
    config = SolveConfig(input=["x"], model_name_or_path="m", chat_format="tinymath", **more)
    assert not asks_model(agreed, config)
    assert solve(tmp_path / "none", agreed, None, tiny_chat, **more)["tokens"] == 0


def test_reused_answers_count_as_this_stage_reads_them(
    tmp_path: Path, tiny_generator: Any, tiny_chat: Any
) -> None:
    """Two last numbers agree, and are no answers where a phrase is wanted: a sample is missing."""
    row = questions(QUESTIONS[0])[0] | {
        "responses": ["So it is 7", "Thus 7"],
        "answers": ["7", "7"],
        "finish_reasons": ["stop", "stop"],
        "tokens": [4, 2],
    }
    more = {"samples": 2, "until_agree": 2, "max_samples": 3, "reuse": True}
    config = SolveConfig(input=["x"], model_name_or_path="m", chat_format="tinymath", **more)
    assert not asks_model([row], config)
    assert asks_model([row], dataclasses.replace(config, answer_phrase=True))
    solve(tmp_path, [row], tiny_generator, tiny_chat, **more, answer_phrase=True)
    (made,) = kept(tmp_path) + dropped(tmp_path)
    assert len(made["responses"]) == 3


def test_a_judges_reply_is_not_carried_on(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    rows = [row | {"verdict": True, "verdict_text": "long " * 99} for row in questions(*QUESTIONS[:2])]
    solve(tmp_path, rows, tiny_generator, tiny_chat)
    for row in kept(tmp_path) + dropped(tmp_path):
        assert row["verdict"]
        assert "verdict_text" not in row


def test_a_last_number_is_no_answer_where_a_phrase_is_wanted() -> None:
    texts = ["So 3 + 4 = 7", "The answer is 7.", "\\boxed{7}", "The answer is 7."]
    reasons = ["stop", "stop", "stop", "length"]
    assert read_answers(texts, reasons) == ["7", "7", "7", None]
    assert read_answers(texts, reasons, phrase=True) == [None, "7", "7", None]


def test_seeds_by_block_are_the_blocks_own(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    rows = questions(*QUESTIONS, *QUESTIONS)
    first = kept_and_dropped(tmp_path / "a", rows, tiny_generator, tiny_chat, seed_scope="block")
    # what another stage drew in between does not matter
    assert kept_and_dropped(tmp_path / "b", rows, tiny_generator, tiny_chat, seed_scope="block") == first
    assert kept_and_dropped(tmp_path / "c", rows, tiny_generator, tiny_chat) != first


def test_counts_that_contradict_each_other_are_refused() -> None:
    given = {"input": ["x"], "model_name_or_path": "m", "chat_format": "tinymath"}
    with pytest.raises(ConfigError, match="until_agree"):
        SolveConfig(**given, until_agree=9, max_samples=8)
    with pytest.raises(ConfigError, match="max_samples"):
        SolveConfig(**given, until_agree=2, samples=5, max_samples=4)


def completion(chat: Any, number: int, text: str, finish_reason: Any = "stop") -> Completion:
    ids = tuple(chat.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Completion(f"q/{number}", ids, finish_reason, 9, len(ids) + 1)


def test_hooks_ask_for_what_is_missing_and_settle_without_a_folder(tiny_chat: Any) -> None:
    config = SolveConfig(
        input=["x"], model_name_or_path="m", chat_format="tinymath", samples=2, until_agree=2, max_samples=3
    )
    rows = questions(QUESTIONS[0], "Ann <|end|>")
    hooks = Solving(rows, tiny_chat, config, run_seed=1)
    (first,) = hooks.requests(0)
    assert [request.key for request in first.requests] == ["q-000/0", "q-000/1"]
    assert hooks.requests(1) == Drop(rows[1], "special_token_in_text")
    apart = [completion(tiny_chat, n, f"The answer is {n + 3}.") for n in range(2)]
    assert [request.key for request in hooks.more(0, apart)] == ["q-000/2"]
    last = completion(tiny_chat, 2, "The answer is 3.")
    assert hooks.more(0, [last]) == []
    made = hooks.row(0, [Sampled((*apart, last))])
    assert not isinstance(made, Drop)
    assert (made["answers"], made["agreement"]) == (["3", "4", "3"], 2 / 3)
    cut = hooks.row(0, [Sampled((completion(tiny_chat, 0, "The answer", "length"),))])
    assert isinstance(cut, Drop)
    assert cut.reason == "all_truncated"
