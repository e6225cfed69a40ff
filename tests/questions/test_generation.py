from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, RunOptions
from scalequest.engines.base import Completion, Sampling
from scalequest.questions.generation import (
    GenerationConfig,
    QuestionSampling,
    Shots,
    generate_questions,
    read_examples,
)
from scalequest.records import read_inputs, row_seed
from scalequest.stage.block_loop import Drop
from stage_support import dropped, kept, opened


def generate(
    folder: Path, generator: Any, chat: Any, *, run: dict[str, Any] | None = None, **more: Any
) -> dict:
    options = RunOptions(**{"output_dir": str(folder), "block_size": 8, "track": "none", **(run or {})})
    given = {"model_name_or_path": "some/model", "chat_format": "tinymath", "num_questions": 30, **more}
    given.setdefault("sampling", Sampling(1.0, 0.99, 40))
    config = GenerationConfig(**given)
    stage = opened("generate_questions", options, config)
    return generate_questions(stage, generator, chat, config, options)


def number_of(row: dict[str, Any]) -> int:
    return int(row["id"].rpartition("-")[2])


def test_rows_say_where_they_come_from(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    receipt = generate(tmp_path, tiny_generator, tiny_chat, id_prefix="tiny")
    rows = kept(tmp_path)
    assert receipt["rows_in"] == 30 == len(rows) + sum(receipt["dropped"].values())
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert len({row["question"] for row in rows}) > 20, "the seeds set the rows apart"
    for row in rows:
        number = number_of(row)
        assert row["seed"] == row_seed(42, "generate_questions", number)
        assert row["generator"] == "model"
        assert row["finish_reason"] == "stop"
        # what it wrote, and the stop token, are what it would be trained on
        ids = tiny_chat.question_ids(row["question"])
        assert row["tokens"] >= len(ids) - len(tiny_chat.question_prefix_ids)
    assert receipt["counts"]["prompt_tokens"] == 30 * len(tiny_chat.question_prefix_ids)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    generate(one, tiny_generator, tiny_chat)
    generate(two, tiny_generator, tiny_chat)
    assert (one / "data/train-00000-of-00001.parquet").read_bytes() == (
        two / "data/train-00000-of-00001.parquet"
    ).read_bytes()


def test_a_limit_takes_the_first_rows_and_a_seed_changes_them(
    tmp_path: Path, tiny_generator: Any, tiny_chat: Any
) -> None:
    generate(tmp_path / "all", tiny_generator, tiny_chat)
    generate(tmp_path / "first", tiny_generator, tiny_chat, run={"limit": 16})
    generate(tmp_path / "other", tiny_generator, tiny_chat, run={"seed": 43})
    rows = kept(tmp_path / "all")
    first = [row for row in rows if number_of(row) < 16]
    assert kept(tmp_path / "first") == first
    more = kept(tmp_path / "other")
    other = {number_of(row): row["question"] for row in more}
    assert sum(other.get(number_of(row)) == row["question"] for row in rows) < len(rows) / 2
    # a second run of the generator can be mixed with the first, and the same run twice cannot
    assert not {row["id"] for row in rows} & {row["id"] for row in more}
    both = read_inputs([str(tmp_path / "all"), str(tmp_path / "other")], "question")
    assert len(both) == len(rows) + len(more)
    with pytest.raises(ConfigError, match="duplicate id 'q-42-00000000'; generate one of the sources with"):
        read_inputs([str(tmp_path / "all"), str(tmp_path / "first")], "question")


def test_shots_stand_before_the_question(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    texts = [f"Ann has {n} apples. How many apples?" for n in range(9)]
    source = tmp_path / "seeds.jsonl"
    lines = [{"question": text} for text in (*texts, "<|end|> is a token")]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shots = Shots([str(source)], 3)
    config = GenerationConfig(model_name_or_path="m", chat_format="tinymath", num_questions=30, shots=shots)
    hooks = QuestionSampling(tiny_chat, config, 1, read_examples(shots, tiny_chat))
    prompts = [list(hooks.requests(number)[0].prompt_ids) for number in range(30)]
    head = tiny_chat.question_prefix_ids
    for prompt in prompts:
        assert prompt.count(tiny_chat.bos_id) == 1, "double BOS"
        assert prompt[0] == tiny_chat.bos_id
        turns = tiny_chat.tokenizer.decode(prompt).split("<|user|>")
        assert (len(turns), turns[-1]) == (5, "")
        assert all(turn.removesuffix("<|end|>").strip() in texts for turn in turns[1:-1])
        assert len(set(turns[1:-1])) == 3, "drawn without repeats"
    assert len({tuple(prompt) for prompt in prompts}) > 20, "drawn anew for each question"
    assert prompts == [list(hooks.requests(number)[0].prompt_ids) for number in range(30)]
    bare = GenerationConfig(model_name_or_path="m", chat_format="tinymath", num_questions=30)
    assert QuestionSampling(tiny_chat, bare, 1).requests(0)[0].prompt_ids == head

    receipt = generate(tmp_path / "out", tiny_generator, tiny_chat, shots=shots)
    assert receipt["counts"]["prompt_tokens"] > 30 * 3 * len(head)
    with pytest.raises(ConfigError, match=r"shots\.number: 10, but shots\.input has 9 usable"):
        generate(tmp_path / "many", tiny_generator, tiny_chat, shots=Shots([str(source)], 10))
    with pytest.raises(ConfigError, match=r"max_tokens: with the prefix"):
        generate(tmp_path / "long", tiny_generator, tiny_chat, shots=shots, sampling=Sampling(1.0, 1.0, 500))
    with pytest.raises(ConfigError, match="give both"):
        Shots([], 3)


def test_what_does_not_stop_is_dropped_as_truncated(
    tmp_path: Path, tiny_generator: Any, tiny_chat: Any
) -> None:
    receipt = generate(tmp_path, tiny_generator, tiny_chat, sampling=Sampling(1.0, 1.0, 6))
    assert (receipt["kept"], receipt["dropped"]) == (0, {"truncated": 30})
    assert kept(tmp_path) == []
    assert {row["reason"] for row in dropped(tmp_path)} == {"truncated"}


def test_noise_is_dropped_with_its_reason(tiny_chat: Any) -> None:
    config = GenerationConfig(model_name_or_path="m", chat_format="tinymath", num_questions=1)
    hooks = QuestionSampling(tiny_chat, config, 1)

    def fault(*ids: int) -> str | None:
        outcome = hooks.row(0, [Completion("0", ids, "stop", 2, len(ids) + 1)])
        return outcome.reason if isinstance(outcome, Drop) else None

    accented = tiny_chat.tokenizer("é", add_special_tokens=False)["input_ids"]
    assert len(accented) == 2
    assert fault(*accented) is None
    assert fault(*accented[:1]) == "undecodable", "half a character is no text"
    assert fault(*accented, tiny_chat.bos_id, *accented) == "special_token_in_text"
    assert fault() == "empty"


def test_a_context_too_small_is_said_at_once(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        generate(tmp_path, tiny_generator, tiny_chat, sampling=Sampling(1.0, 1.0, 511))


def test_seeds_by_block_are_no_workers_own(tmp_path: Path, tiny_generator: Any, tiny_chat: Any) -> None:
    """A block's rows depend on its number: not on what was drawn before it, so not on who else has blocks."""
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    generate(whole, tiny_generator, tiny_chat, seed_scope="block")
    options = RunOptions(output_dir=str(rest), block_size=8, track="none")
    config = GenerationConfig(
        model_name_or_path="some/model", chat_format="tinymath", num_questions=30,
        sampling=Sampling(1.0, 0.99, 40), seed_scope="block",
    )  # fmt: skip
    stage = opened("generate_questions", options, config)
    stage.blocks.write(0, [{"id": f"q-42-{n:08d}", "question": "other"} for n in range(8)])
    generate_questions(stage, tiny_generator, tiny_chat, config, options)
    same = [row for row in kept(whole) if number_of(row) >= 8]
    assert [row for row in kept(rest) if number_of(row) >= 8] == same
    texts = [row["question"] for row in kept(whole)]
    assert len(set(texts)) > 20, "blocks differ"
    assert {row["seed"] for row in same} == {None}
