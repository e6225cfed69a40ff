from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scalequest.chat import FormatError, load_format
from scalequest.config import ConfigError, build
from scalequest.evaluation.benchmarks import load_benchmark
from scalequest.evaluation.evaluated_model import opens_reasoning
from scalequest.evaluation.problems import BenchmarkProblem
from scalequest.evaluation.prompts import QUESTION_ONLY, EvalPrompt, load_eval_prompt
from scalequest.evaluation.protocol import apply_prompts
from scalequest.evaluation.settings import EvaluationConfig

PROBLEM = BenchmarkProblem("1", "What is {shots} plus {2}?", "3", row={"kind": True, "unit": None})


def prompt(**given: Any) -> EvalPrompt:
    (made,) = build((EvalPrompt,), {"name": "p", **given})
    return made


def test_slots_are_filled_in_one_pass() -> None:
    made = prompt(
        text="{intro}{shots}Q: {question} \\boxed{x}",
        shot="Q: {question} A: {answer}\n",
        shots=[{"question": "1?", "answer": "{question}"}],
        cases={"intro": {"column": "kind", "texts": {"True": "Many. "}}},
    )
    assert made.fill(PROBLEM) == "Many. Q: 1? A: {question}\nQ: What is {shots} plus {2}? \\boxed{x}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "no slot"}, "must contain {question} exactly once"),
        ({"text": "{shots}{question}"}, "give both {shots} and a list of shots"),
        ({"text": "{shots}{question}", "shots": [{"question": "a", "answer": "b"}]}, "shot: must contain"),
        ({"text": "{question}", "cases": {"x": {"column": "c", "texts": {}}}}, "no slot {x} in text"),
        ({"text": "{question}", "turn": "system"}, "turn: expected solve"),
    ],
)
def test_mistakes(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("{", "\\{").replace("}", "\\}")):
        prompt(**given)


def test_where_the_text_goes(tiny_chat: Any) -> None:
    problem = BenchmarkProblem("1", "Ann has 3 apples and buys 4. How many apples now?", "7")
    assert QUESTION_ONLY.ids(problem, tiny_chat) == tiny_chat.solve_prompt_ids(problem.question)
    plain = prompt(text="Problem: {question}\nSolution:", turn="plain").ids(problem, tiny_chat)
    assert plain[0] == tiny_chat.bos_id
    assert tiny_chat.tokenizer.decode(plain[1:]) == f"Problem: {problem.question}\nSolution:"
    with pytest.raises(FormatError, match="special_token_in_text"):
        prompt(text="{question}", turn="plain").ids(BenchmarkProblem("2", "Say <|end|> now", "1"), tiny_chat)


def test_every_prompt_file_loads(root: Path) -> None:
    paths = sorted((root / "eval/prompts").glob("*.yaml"))
    assert {load_eval_prompt(path).name for path in paths} == {path.stem for path in paths}


def test_a_prompt_of_other_benchmarks_is_refused(root: Path) -> None:
    """It would ask with holes in its text."""
    config = EvaluationConfig(
        models={"m": "x"},
        benchmarks=[],
        chat_format="tinymath",
        prompts=[str(root / "eval/prompts/theoremqa.yaml")],
    )
    benchmark = load_benchmark(root / "eval/benchmarks/tinymath_test.yaml", limit=2)
    with pytest.raises(
        ConfigError, match="'theoremqa' needs column 'Answer_type', which tinymath_test does not"
    ):
        apply_prompts([benchmark], config)


@pytest.mark.parametrize(
    ("given", "opens"),
    [
        ({"turn": "solve"}, False),
        ({"turn": "user"}, True),
        ({"turn": "plain"}, False),
        ({"turn": "plain", "text": "Q: {question}\n<think>\n"}, True),
    ],
)
def test_a_prompt_may_open_a_reasoning_block(given: dict[str, Any], opens: bool) -> None:
    chat = load_format("tinymath")
    thinking = replace(chat, user=f"{chat.user}<think>\n")
    assert opens_reasoning(thinking, prompt(**{"text": "{question}", **given})) is opens


@pytest.mark.data
def test_olympiadbench_is_asked_in_its_own_way(root: Path, data_dir: Path) -> None:
    """Kind of answer, number of answers and unit, and the sentence that its results were read by."""
    benchmark = load_benchmark(root / "eval/benchmarks/olympiadbench.yaml")
    texts = {problem.id: benchmark.prompts[0].fill(problem) for problem in benchmark.problems}
    assert all("So the final answer is \\boxed{" in text and "LaTeX" in text for text in texts.values())
    assert "more than one answer, and each of them is an expression" in texts["1760"].replace(
        "a number", "an expression"
    )
    assert "\\boxed{answers, separated by commas}" in texts["1760"]
    assert "\\boxed{answer} minute." in texts["2253"]
    assert "{" not in texts["1606"].partition("\n")[0].replace("\\boxed{answer}", "")
