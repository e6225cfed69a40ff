"""Columns are found under the names that people give them, and never chosen among several that fit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.records import read_columns, read_inputs

Q, A = "What is 2 + 3?", "It is 5."


def file(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chat(*turns: str, role: str = "role", content: str = "content") -> list[dict[str, Any]]:
    return [dict(zip((role, content), turn.split(": ", 1), strict=True)) for turn in turns]


ONE = chat(f"user: {Q}", f"assistant: {A}")
SETS = {  # as known data sets have them
    "ScaleQuest, MetaMath": {"query": Q, "response": A, "type": "x", "original_question": "y"},
    "GSM8K, Orca-Math": {"question": Q, "answer": A},
    "MATH, NuminaMath": {"source": "x", "problem": Q, "solution": A, "messages": ONE},
    "MMIQC, MathInstruct": {"source": "x", "instruction": Q, "output": A},
    "Alpaca without inputs": {"instruction": Q, "input": "", "output": A},
    "spreadsheets": {"Nr": "1", "Problem Statement": Q, "Model Solution": A},
    "camel case": {"questionText": Q, "questionId": "x", "finalAnswer": A},
    "measurements beside": {"prompt": Q, "prompt_tokens": 9, "completion": A, "completion_id": "x"},
    "chat": {"messages": ONE},
    "ShareGPT": {"id": "1", "conversations": chat(f"human: {Q}", f"gpt: {A}", role="from", content="value")},
    "with a system message": {"messages": chat("system: Be brief.", f"user: {Q}", f"assistant: {A}")},
    "TRL": {"prompt": chat(f"user: {Q}"), "completion": chat(f"assistant: {A}")},
    "UltraChat": {"prompt": Q, "prompt_id": "x", "messages": ONE},
    "parts": {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": Q[8:]}]},
        {"role": "assistant", "content": A},
    ]},
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_usual_names(name: str, tmp_path: Path) -> None:
    source = file(tmp_path, SETS[name], SETS[name])
    assert [(row["query"], row["response"]) for row in read_columns(source, "query", "response")] == [
        (Q, A)
    ] * 2
    assert [row["question"] for row in read_columns(source, "question")] == [Q] * 2


def test_one_log_line_says_what_was_guessed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = file(tmp_path, {"problem": Q, "messages": SETS["with a system message"]["messages"]})
    caplog.set_level(logging.INFO)
    (row,) = read_inputs([source], "query", "response", without=("id",))
    assert caplog.messages == [
        f"{source}: 'query' is read from column 'problem', 'response' is read from column 'messages', "
        "the system messages of 1 rows are not used"
    ]
    assert list(row) == ["messages", "query", "response"], "a chat stays, what else was renamed does not"
    caplog.clear()
    read_inputs([source], "query", "response", columns={"query": "problem", "response": "messages"})
    assert caplog.messages == [f"{source}: the system messages of 1 rows are not used"]
    caplog.clear()
    read_inputs([file(tmp_path, {"query": Q, "response": A})], "query", "response")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("row", "key", "named"),
    [
        ({"problem": Q, "prompt": "x"}, "question", "'problem' or 'prompt'"),
        ({"instruction": Q, "input": "x", "output": A}, "query", "'instruction' or 'input'"),
        ({"problem": Q, "solution": A, "answer": "5"}, "response", "'solution' or 'answer'"),
        ({"generated_solution": A, "expected_answer": "5"}, "response", "'generated_solution' or 'expected"),
        ({"chosen": ONE, "rejected": ONE}, "query", "'chosen' or 'rejected'"),
    ],
)
def test_an_ambiguous_guess_names_the_candidates(
    row: dict[str, Any], key: str, named: str, tmp_path: Path
) -> None:
    source = file(tmp_path, row)
    with pytest.raises(
        ConfigError, match=rf"mine\.jsonl: '{key}' may be column {named}.*columns: \{{{key}: "
    ) as e:
        read_columns(source, key)
    assert "\n" not in str(e.value)
    (first, *_) = (name for name in row if f"'{name}'" in named)
    assert read_columns(source, key, columns={key: first})[0][key] in (Q, A)


def test_an_explicit_column_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = file(tmp_path, {"question": "x", "text": Q, "answer": A, "output": "x"})
    columns = {"query": "text", "response": "answer"}
    assert read_columns(source, "query", "response", columns=columns) == [
        {"question": "x", "output": "x", "query": Q, "response": A}
    ]
    swapped = {"query": "answer", "response": "text"}
    assert read_columns(source, "query", "response", columns=swapped)[0]["query"] == A
    assert not caplog.messages


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (chat(f"user: {Q}", f"assistant: {A}", "user: Why?", "assistant: So."), "2 turns of the user"),
        (chat(f"user: {Q}"), "no turn of the assistant"),
        (chat(f"user: {Q}", "tool: 5", f"assistant: {A}"), "unknown role 'tool'; known: user, human"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}, *ONE[1:]],
            "a part of a turn is not text",
        ),
        ([{"role": "user", "content": 5}, *ONE[1:]], "'query' must be a string, got 5"),
    ],
)
def test_a_chat_that_is_no_pair_is_named(messages: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.jsonl: row 2: .*{said}"):
        read_columns(file(tmp_path, {"messages": ONE}, {"messages": messages}), "query", "response")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"problem": 5, "solution": A}, "row 2: 'query' must be a string, got 5"),
        ({"problem": Q, "solution": ["It"]}, "row 2: 'response' must be a string"),
        ({"problem": None, "solution": A}, "row 2: no 'query'"),
        ({"question": Q, "solution": A}, "'query' may be column 'problem' or 'question'"),
    ],
)
def test_rows_of_several_types_are_named(second: dict[str, Any], said: str, tmp_path: Path) -> None:
    source = file(tmp_path, {"problem": Q, "solution": A}, second)
    with pytest.raises(ConfigError, match=said):
        read_columns(source, "query", "response")


def test_what_holds_no_text_is_no_candidate(tmp_path: Path) -> None:
    source = file(tmp_path, {"question": Q, "answer": 5, "solution": A, "output": None, "response_ok": True})
    assert read_columns(source, "response")[0]["response"] == A
    assert read_columns(source, "answer")[0]["answer"] == 5
    with pytest.raises(ConfigError, match=r"row 1: no 'response' \(it has question, answer\)"):
        read_columns(file(tmp_path, {"question": Q, "answer": 5}), "response")
