from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from scalequest.chat import bind, load_format, load_tokenizer
from scalequest.engines.base import Completion, Sampling
from scalequest.evaluation.evaluated_model import EvaluatedModel, connect_engine, decoder_of, strip_reasoning
from scalequest.evaluation.output_grading import (
    GradingPool,
    Submission,
    add_grading,
    compare_answers,
    grade_submission,
    submission_of,
)
from scalequest.evaluation.problems import AnswerRule, BenchmarkProblem
from scalequest.evaluation.prompts import QUESTION_ONLY, EvalPrompt
from scalequest.grading import Grader, GraderOptions


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(GraderOptions()) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("No block, 3.", False, ("No block, 3.", False)),
        ("<think>Say 5.</think> It is 7.", False, ("It is 7.", False)),
        ("Say 5.</think>It is 7.", True, ("It is 7.", False)),  # the prompt opened the block
        ("<think>Say \\boxed{5}", False, ("", True)),
        ("Say \\boxed{5}", True, ("", True)),
        ("<think>a</think> then <think>again", False, ("", True)),
        ("<thinking>Say 5.</thinking> It is 7.", False, ("It is 7.", False)),
        ("<thinking>Say \\boxed{5}", False, ("", True)),
    ],
)
def test_only_what_follows_the_reasoning_counts(text: str, opened: bool, expected: tuple[str, bool]) -> None:
    assert strip_reasoning(text, opened=opened) == expected


def test_an_unclosed_block_is_truncated_though_it_stopped() -> None:
    problem = BenchmarkProblem("1", "?", "5")
    truncated, submission = submission_of("<think>\\boxed{5}", "stop", QUESTION_ONLY, problem)
    assert (truncated, submission.text) == (True, "")
    truncated, submission = submission_of("<think>3</think>\\boxed{5}", "stop", QUESTION_ONLY, problem)
    assert (truncated, submission.text) == (False, "\\boxed{5}")


def test_a_stop_text_ends_an_output_that_ran_on() -> None:
    prompt = EvalPrompt(name="p", text="{question}", stops=["\nProblem:"])
    truncated, submission = submission_of(
        "It is 5.\nProblem: What is 8?", "length", prompt, BenchmarkProblem("1", "?", "5")
    )
    assert (truncated, submission.text) == (False, "It is 5.")
    assert submission_of("It is 5.", "length", prompt, BenchmarkProblem("1", "?", "5"))[0]


def test_only_plain_text_ends_at_its_stop_texts(model_dir: Path) -> None:
    """In a turn stop ids end an output, and what a reasoning block says ends nothing."""
    chat = bind(load_format("tinymath"), load_tokenizer(str(model_dir)))
    evaluated = connect_engine(SimpleNamespace(context=512), chat, Sampling(0.0, 1.0, 64))  # type: ignore[arg-type]

    def ends(turn: str, text: str, stops: list[str]) -> bool | None:
        prompt = EvalPrompt(name="p", text=text, turn=turn, stops=stops)  # type: ignore[arg-type]
        request, _ = evaluated.prepare("1", prompt, BenchmarkProblem("1", "?", "5"), None)
        said = chat.tokenizer("It is 5.\nProblem: 8")["input_ids"]
        return request.ends and request.ends(said)

    assert ends("plain", "{question}", ["\nProblem:"]) is True
    assert ends("plain", "{question}", ["Solution"]) is False
    for turn, text, stops in [
        ("plain", "{question}", []),
        ("plain", "{question}<think>\n", ["\nProblem:"]),
        ("user", "{question}", ["\nProblem:"]),
        ("solve", "{question}", ["\nProblem:"]),
    ]:
        assert ends(turn, text, stops) is None


@pytest.mark.parametrize(
    ("answer", "reference", "rule", "same"),
    [
        ("1, 3", "3, 1", AnswerRule(several=True), True),
        ("[4, 1, 2, 0]", "0, 1, 2, 4", AnswerRule(several=True), True),
        ("(3.5, -0.5)", "(-0.5, 3.5)", AnswerRule(several=True), False),  # a point
        ("(-0.5, 3.5)", "(-0.5, 3.5)", AnswerRule(several=True), True),
        ("1, 3, 5", "3, 1", AnswerRule(several=True), False),
        ("45 \\text{ minutes}", "45", AnswerRule(unit="minute"), True),
        ("44", "45", AnswerRule(unit="minute"), False),
        ("4.3", "4.2", AnswerRule(tolerance=0.1), True),
        ("4.31", "4.2", AnswerRule(tolerance=0.1), False),
        ("1.03", "1", AnswerRule(relative=0.04), True),
        ("1.05", "1", AnswerRule(relative=0.04), False),
        ("\\frac{\\pi}{4}", "0.785", AnswerRule(relative=0.04), True),
        ("0.34, 0.25", "0.333, 0.25", AnswerRule(several=True, relative=0.04), True),
        ("0.25, 0.34", "0.333, 0.25", AnswerRule(several=True, relative=0.04), True),
        ("x", "0.5", AnswerRule(relative=0.04), False),
    ],
)
def test_a_benchmarks_own_rules(
    answer: str, reference: str, rule: AnswerRule, same: bool, grader: Grader
) -> None:
    assert compare_answers(answer, reference, rule, grader)[0] is same


def test_any_of_several_references_is_right(grader: Grader) -> None:
    submission = Submission("So it is \\boxed{(0,0)}.", ("(10,0)", "(0,0)"), AnswerRule())
    found = grade_submission(submission, grader)
    assert (found.correct, found.extracted, found.rule, found.timeout) == (True, "(0,0)", "boxed", False)
    assert not grade_submission(
        Submission("\\boxed{(1,0)}", ("(10,0)", "(0,0)"), AnswerRule()), grader
    ).correct
    assert grade_submission(Submission("I do not know", ("1",), AnswerRule()), grader).extracted is None


class Slow:
    """A model with three blocks, of which the first is hard to grade."""

    def __init__(self) -> None:
        self.given: list[float] = []

    def answer(self, blocks: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[Completion]]]:
        for index, keys in blocks:
            self.given.append(time.monotonic())
            yield index, [Completion(key, (), "stop", 1, 1) for key in keys]


def test_grading_goes_on_beside_the_engine_and_keeps_the_order() -> None:
    slow = Slow()
    answers = {"a": "\\boxed{\\frac{1}{2}}", "b": "\\boxed{3}", "c": "I do not know"}
    evaluated = EvaluatedModel(
        prepare=lambda key, prompt, problem, seed: (key, ""),
        generate=slow.answer,
        read=lambda reply: (answers[reply.key], None),
        opens_reasoning=lambda prompt: False,
    )
    problem = BenchmarkProblem("1", "?", "0.5")
    with GradingPool(GraderOptions()) as pool:
        answer = add_grading(evaluated, pool, lambda key: (QUESTION_ONLY, problem))
        found = list(answer(iter([(0, ["a"]), (1, ["b", "c"]), (2, [])])))
    assert [index for index, _ in found] == [0, 1, 2]
    marks = [reply.grade for _, replies in found for reply in replies]
    assert [(one.extracted, one.correct) for one in marks] == [
        ("\\frac{1}{2}", True),
        ("3", False),
        (None, False),
    ]
    # The first block takes the processes' start to grade; all were generated long before that.
    assert slow.given[-1] - slow.given[0] < 0.5


def test_the_end_of_a_block_is_kept_where_it_is_a_special_token() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>", "<unk>", "</think>", "five", "seven"]
    raw = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "</think>"],
    )
    chat = bind(load_format("tinymath"), tokenizer)
    ids = tokenizer.convert_tokens_to_ids(["five", "</think>", "seven"])
    assert strip_reasoning(decoder_of(chat)(ids), opened=True) == ("seven", False)
