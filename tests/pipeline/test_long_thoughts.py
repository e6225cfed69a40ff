"""Table 8: answers of 16K tokens that begin inside the thinking markup, from the solver to the student."""

from __future__ import annotations

from pathlib import Path

import pytest

import real_tokenizers
from scalequest.chat import BoundFormat, FormatError, bind, load_format, load_tokenizer
from scalequest.config import read_configs
from scalequest.engines.base import Completion
from scalequest.evaluation.evaluated_model import strip_reasoning
from scalequest.pipeline.runner import Step, load, plan
from scalequest.records import Row
from scalequest.samples import sampled
from scalequest.solutions.selection import SelectConfig, select
from scalequest.stage.block_loop import Drop
from scalequest.training.data import DoesNotFit, solution

QUESTION = "How many of the numbers from 1 to 12 are prime?"
THOUGHTS = "Is it \\boxed{4}? Let me count again: 2, 3, 5, 7, 11. " * 560
ANSWER = "There are five of them, so the answer is \\boxed{5}."


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> BoundFormat:
    folder = real_tokenizers.built("r1_distill", tmp_path_factory.getbasetemp())
    return bind(load_format("r1_distill"), load_tokenizer(str(folder)))


@pytest.fixture(scope="module")
def steps() -> dict[str, Step]:
    planned = plan(load("recipes/paper/table8.yaml", {"profile": "7b"}), Path("runs/paper"))
    return {step.spec.name: step for step in planned}


def completion(chat: BoundFormat, text: str, *, cut: int | None = None) -> Completion:
    """What an engine returns: ids without the stop token, or the first `cut` of them."""
    ids = tuple(chat.tokenizer.encode(text, add_special_tokens=False))[:cut]
    return Completion("key", ids, "stop" if cut is None else "length", prompt_tokens=40, tokens=len(ids))


def setting(step: Step, key: str) -> object:
    return {**read_configs(*step.spec.configs), **step.settings}[key]


def test_what_a_solver_may_write_fits_into_every_later_stage(steps: dict[str, Step]) -> None:
    written, context = (
        int(str(setting(steps["solve_long"], key))) for key in ("sampling.max_tokens", "engine.max_model_len")
    )
    assert (written, context - written) == (16_384, 1_024)
    assert int(str(setting(steps["sft_long"], "max_length"))) == context
    assert setting(steps["sft_long"], "thinking") == "keep"
    assert setting(steps["set_long"], "one_box") in (False, "false")
    assert setting(steps["select_long"], "rule") == "first"
    assert setting(steps["evaluate_table8"], "sampling.max_tokens") == setting(
        steps["solve_long"], "sampling.max_tokens"
    )
    formats = {
        str(setting(steps[name], "chat_format")) for name in ("solve_long", "sft_long", "evaluate_table8")
    }
    assert formats == {"r1_distill"}
    for key in ("questions_for_qpo_long", "qft_long", "qpo_long"):
        assert setting(steps[key], "chat_format") == "qwen2_5_math"


def test_a_long_chain_of_thought_from_the_solver_to_the_student(
    chat: BoundFormat, steps: dict[str, Step]
) -> None:
    whole = completion(chat, f"{THOUGHTS}\n</think>\n\n{ANSWER}")
    cut = completion(chat, f"{THOUGHTS}\n</think>\n\n{ANSWER}", cut=9_000)
    assert 12_000 < len(whole.ids) < 16_384
    # solving: the prompt opens the thoughts; what they try in between is no answer, nor is what was cut
    assert chat.tokenizer.decode(chat.solve_prompt_ids(QUESTION)).endswith("<think>\n")
    solved = sampled([cut, whole], chat)
    assert solved["answers"] == [None, "5"]
    # selection: the first complete response, with its thoughts
    pair = select({"id": "q", "question": QUESTION, **solved}, SelectConfig(input=["x"], rule="first"))
    assert not isinstance(pair, Drop)
    assert pair["answer"] == "5"
    assert pair["response"].startswith("<think>\n")
    assert pair["response"].endswith(ANSWER)
    # SFT: the target is what the solver wrote, to the token, without the markup that the prompt opened
    longest = int(str(setting(steps["sft_long"], "max_length")))
    made = solution(pair, chat, max_length=longest)
    prompt = chat.solve_prompt_ids(QUESTION)
    assert made["input_ids"] == [*prompt, *whole.ids, chat.eos_id]
    assert made["labels"] == [-100] * len(prompt) + [*whole.ids, chat.eos_id]
    with pytest.raises(DoesNotFit):
        solution(pair, chat, max_length=4_096)
    # evaluation: the answer is looked for after the thoughts
    said = chat.decode(whole.ids)
    assert strip_reasoning(said, opened=True) == (ANSWER, False)
    assert strip_reasoning(chat.decode(cut.ids), opened=True) == ("", True)


def test_thoughts_that_were_not_closed_are_neither_answer_nor_target(chat: BoundFormat) -> None:
    row: Row = {"id": "q", "question": QUESTION, **sampled([completion(chat, THOUGHTS)], chat)}
    assert row["answers"] == [None]
    assert isinstance(select(row, SelectConfig(input=["x"], rule="first")), Drop)
    with pytest.raises(FormatError, match="unclosed_thoughts"):
        solution({"query": QUESTION, "response": row["responses"][0]}, chat, max_length=None)
