"""Rows to ids: token-exact, nothing cut, nothing lost."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.records import read_inputs
from scalequest.training import data

QUESTION = "Ann has 3 apples and buys 2 more. How many apples does Ann have now?"


def test_question_trains_on_everything_and_ends_in_a_stop(chat: Any) -> None:
    ids = data.question({"question": QUESTION}, chat, max_length=None)
    assert ids["labels"] == ids["input_ids"]
    assert ids["input_ids"][: len(chat.question_prefix_ids)] == chat.question_prefix_ids
    assert ids["labels"][-1] in chat.question_stop_ids
    assert ids["input_ids"].count(chat.bos_id) == 1


def test_repeated_eos_is_the_authors_packing(chat: Any) -> None:
    ids = data.question({"question": QUESTION}, chat, max_length=None, repeat_eos=True)["input_ids"]
    assert ids[-2:] == [chat.eos_id, chat.eos_id]


def test_solution_masks_the_prompt_and_trains_the_stop(chat: Any) -> None:
    row = {"query": QUESTION, "response": "3 + 2 = 5\nThe answer is \\boxed{5}."}
    ids = data.solution(row, chat, max_length=None)
    prompt = chat.solve_prompt_ids(QUESTION)
    assert ids["input_ids"][: len(prompt)] == prompt
    assert set(ids["labels"][: len(prompt)]) == {data.IGNORED}
    assert ids["labels"][len(prompt) :] == ids["input_ids"][len(prompt) :]
    assert ids["labels"][-1] in chat.solve_stop_ids
    assert data.shown(ids, chat) == f"⟦<s><|user|>{QUESTION}<|end|><|assistant|>⟧{row['response']}<|end|>"


def test_pair_is_prefix_and_two_rests(chat: Any) -> None:
    row = {"id": "q-1", "chosen": QUESTION, "rejected": "How many?"}
    ids = data.preference(row, chat, max_length=None)
    assert ids["prompt_ids"] == chat.question_prefix_ids
    assert ids["prompt_ids"] + ids["chosen_ids"] == chat.question_ids(QUESTION)
    assert ids["prompt_ids"] + ids["rejected_ids"] == chat.question_ids("How many?")


def test_a_pair_with_equal_sides_is_dropped_and_counted(chat: Any, tmp_path: Path) -> None:
    """DPO's loss of such a pair is log 2 whatever the model does; it only dilutes a batch and its metrics."""
    spaced = QUESTION.replace(" How", "\n\nHow") + " "
    assert chat.question_ids(spaced) != chat.question_ids(QUESTION), "or this would test nothing"
    pairs = [(QUESTION, QUESTION), (QUESTION, spaced), (spaced, QUESTION), (QUESTION, "Why?"), ("", "")]
    rows = [{"id": f"q-{n}", "chosen": one, "rejected": other} for n, (one, other) in enumerate(pairs)]
    for seed in (None, 1):
        folder = tmp_path / str(seed)
        counts = data.prepare(folder, rows, partial(data.preference, max_length=None, swap_seed=seed), chat)
        assert (counts.rows_in, counts.train) == (5, 1)
        assert counts.dropped == {"equal_sides": 3, "empty": 1}
        dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
        assert [row["id"] for row in dropped if row["reason"] == "equal_sides"] == ["q-0", "q-1", "q-2"]


def test_sides_that_only_the_tokenizer_makes_equal_are_dropped(chat: Any, tmp_path: Path) -> None:
    """E.g. an accent as one character or as two, in a tokenizer that composes them."""
    from copy import deepcopy

    from tokenizers import normalizers

    composing = deepcopy(chat)
    composing.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    one, other = "How much is a café?", "How much is a cafe\u0301?"
    assert one != other
    assert composing.question_ids(one) == composing.question_ids(other)
    rows = [{"id": "q-0", "chosen": one, "rejected": other}, {"id": "q-1", "chosen": one, "rejected": "Why?"}]
    counts = data.prepare(tmp_path / "d", rows, partial(data.preference, max_length=None), composing)
    assert counts.dropped == {"equal_sides": 1}


def test_swapping_is_by_row_and_about_half(chat: Any) -> None:
    rows = [{"id": f"q-{n}", "chosen": "One?", "rejected": "Two?"} for n in range(200)]
    swap = partial(data.preference, chat=chat, max_length=None, swap_seed=7)
    chosen = [swap(row)["chosen_ids"] for row in rows]
    swapped = [one != data.preference(rows[0], chat, max_length=None)["chosen_ids"] for one in chosen]
    assert 70 < sum(swapped) < 130
    assert [swap(row)["chosen_ids"] for row in reversed(rows)] == chosen[::-1]


def test_every_row_is_kept_held_out_or_dropped_with_a_reason(chat: Any, tmp_path: Path) -> None:
    rows = [
        {"id": f"q-{n}", "question": text}
        for n, text in enumerate([QUESTION, "Why?", " ", "a <|end|> b"] * 5)
    ]
    render = partial(data.question, max_length=12)
    counts = data.prepare(tmp_path / "d", rows, render, chat, holdout=2, seed=1)
    assert counts.rows_in == 20 == counts.train + counts.holdout + sum(counts.dropped.values())
    assert counts.dropped == {"too_long": 5, "empty": 5, "special_token_in_text": 5}
    train, holdout = data.load(tmp_path / "d")
    assert holdout is not None
    assert (len(train), len(holdout)) == (counts.train, counts.holdout)
    assert counts.tokens == sum(map(len, train["input_ids"])) == counts.targets
    why = chat.question_ids("Why?")
    assert all(ids == why for ids in train["input_ids"]), "a row was cut instead of dropped"
    dropped = [json.loads(line) for line in (tmp_path / "d" / "dropped.jsonl").read_text().splitlines()]
    assert {row["id"] for row in dropped} == {f"q-{n}" for n in range(20) if n % 4 != 1}


def test_rows_are_drawn_until_they_have_enough_tokens(chat: Any, tmp_path: Path) -> None:
    rows = [{"id": f"q-{n}", "question": f"{QUESTION} " * (1 + n % 3)} for n in range(40)]
    render = partial(data.question, max_length=None)
    sizes = [len(chat.question_ids(row["question"])) for row in rows]

    def drawn(tokens: int, seed: int, **more: Any) -> tuple[data.Counts, list[list[int]]]:
        folder = tmp_path / f"{tokens}-{seed}-{len(more)}"
        counts = data.prepare(folder, rows, render, chat, tokens=tokens, seed=seed, **more)
        return counts, data.load(folder)[0]["input_ids"][:]

    counts, ids = drawn(600, 1)
    assert 600 <= sum(map(len, ids)) == counts.tokens < 600 + max(sizes)
    assert counts.dropped == {"not_drawn": 40 - counts.train}
    assert counts.rows_in == counts.train + counts.holdout + sum(counts.dropped.values())
    assert drawn(600, 2)[1] != ids, "the seed draws"
    fewer = drawn(300, 1)[1]
    assert len(fewer) < len(ids)
    assert all(row in ids for row in fewer), "more tokens add rows to the same draw"
    assert drawn(600, 1, holdout=5)[0].holdout == 5
    assert drawn(sum(sizes), 1)[0].dropped == {}
    with pytest.raises(ConfigError, match=f"draw_tokens asks for .*, and the rows have {sum(sizes):,}"):
        drawn(sum(sizes) + 1, 1)
    assert drawn(sum(sizes) + 1, 1, limit=40)[0].train == 40


def test_threads_keep_the_order_of_rows(chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_AT_A_TIME", 3)
    rows = [{"id": f"q-{n}", "question": f"{QUESTION} {n}" if n % 4 else ""} for n in range(100)]
    data.prepare(tmp_path / "d", rows, partial(data.question, max_length=None), chat)
    wanted = [chat.question_ids(row["question"]) for row in rows if row["question"]]
    assert data.load(tmp_path / "d")[0]["input_ids"][:] == wanted


def test_a_torn_preparation_is_made_again(chat: Any, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "rows.arrow").write_bytes(b"torn")
    data.prepare(
        tmp_path / "d",
        [{"id": "q", "question": QUESTION}],
        partial(data.question, max_length=None),
        chat,
    )
    assert len(data.load(tmp_path / "d")[0]) == 1


def test_two_sources_may_name_their_columns_differently(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "One?"}) + "\n")
    (tmp_path / "math.jsonl").write_text(json.dumps({"problem": "Two?"}) + "\n")
    sources = [str(tmp_path / "gsm8k.jsonl"), str(tmp_path / "math.jsonl")]
    read = read_inputs(sources, "question", columns={"question": "problem"})
    assert [row["question"] for row in read] == ["One?", "Two?"]
    assert len(read_inputs(sources, "question", columns={"question": "problem"}, limit=1)) == 1
    with pytest.raises(ConfigError, match=r"math.jsonl: row 1: no 'question'"):
        read_inputs(sources, "question", columns={"question": "text"})


def test_nothing_left_is_an_error(chat: Any, tmp_path: Path) -> None:
    render = partial(data.question, max_length=2)
    with pytest.raises(ConfigError, match=r"nothing is left to train on .*too_long: 1"):
        data.prepare(tmp_path / "d", [{"id": "q", "question": QUESTION}], render, chat)
    assert not (tmp_path / "d").exists()
