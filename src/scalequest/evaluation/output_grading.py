"""Grade a model's outputs in separate processes while the engine continues to generate."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import TYPE_CHECKING, Generic

from scalequest import grading
from scalequest.config import ConfigError
from scalequest.engines.base import FinishReason
from scalequest.evaluation.evaluated_model import A, EvaluatedModel, KeyedReply, Q, strip_reasoning
from scalequest.evaluation.problems import AnswerRule, BenchmarkProblem
from scalequest.evaluation.prompts import EvalPrompt
from scalequest.stage.block_loop import Generate

if TYPE_CHECKING:  # the grader takes half a second to import
    from scalequest.grading import Extracted, Grader, GraderOptions


@dataclass(frozen=True)
class Submission:
    """What is graded for one request: the part of the output that counts, and the references.

    `where` names the problem in error messages.
    """

    text: str
    references: tuple[str, ...]
    answer_rule: AnswerRule
    where: str = ""


@dataclass(frozen=True)
class OutputGrade:
    """The grade of one output.

    Attributes:
        extracted: the extracted answer; None if there is none.
        rule: how the answer was found.
        correct: whether the answer is correct.
        layer: the grader's rule that decided.
        timeout: whether a comparison exceeded its time limit.
        fault: why a function of the user's gave no verdict; the output then does not count as correct.
    """

    extracted: str | None
    rule: str
    correct: bool
    layer: str
    timeout: bool = False
    fault: str | None = None


@dataclass(frozen=True)
class GradedReply:
    """A reply with its text and its grade; `fault` says why a reply failed."""

    reply: KeyedReply
    text: str
    truncated: bool
    grade: OutputGrade
    fault: str | None = None

    @property
    def tokens(self) -> int:
        """Number of generated tokens."""
        return self.reply.tokens

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens in the prompt."""
        return self.reply.prompt_tokens

    @property
    def finish_reason(self) -> FinishReason:
        """The reason why generation ended."""
        return self.reply.finish_reason


def submission_of(
    text: str, finish_reason: str, prompt: EvalPrompt, problem: BenchmarkProblem, *, thinks: bool = False
) -> tuple[bool, Submission]:
    """Return whether an output is truncated, and the submission to grade.

    Args:
        text: the complete output.
        finish_reason: the reason why generation ended.
        prompt: the prompt, whose stop strings also end an output.
        problem: the problem.
        thinks: whether the prompt opened a reasoning block.
    """
    answer, inside = strip_reasoning(text, opened=thinks)
    answer, ended = prompt.cut(answer)
    truncated = inside or (finish_reason == "length" and not ended)
    references, where = (problem.answer, *problem.also), f"problem {problem.id}"
    return truncated, Submission(answer, references, problem.answer_rule, where)


# ---------------------------------------------------------------------------------------------------- grading


def grade_submission(submission: Submission, grader: Grader) -> OutputGrade:
    """Find the answer and compare it with every reference, or let the user's functions do so.

    What a function of the user's does wrong becomes the grade's `fault`, because the other outputs, which may
    have taken days, can be graded all the same.
    """
    try:
        found = grader.find(submission.text, submission.where)
        if grader.options.function is not None:
            return _judged(submission, found, grader)
    except ConfigError as error:
        return OutputGrade(None, "failed", False, "failed", fault=str(error))
    if found.answer is None:
        return OutputGrade(None, found.rule, False, "none", found.rule == "timeout")
    late = False
    for reference in submission.references:
        correct, layer, timed_out = compare_answers(found.answer, reference, submission.answer_rule, grader)
        if correct:
            return OutputGrade(found.answer, found.rule, True, layer)
        late = late or timed_out
    return OutputGrade(found.answer, found.rule, False, "timeout" if late else layer, late)


def _judged(submission: Submission, found: Extracted, grader: Grader) -> OutputGrade:
    """Ask the user's function about every reference; `found` is only shown."""
    late = False
    for reference in submission.references:
        verdict = grader.judge(submission.text, reference, submission.where)
        if verdict.correct:
            return OutputGrade(found.answer, found.rule, True, verdict.layer)
        late = late or verdict.timed_out
    return OutputGrade(found.answer, found.rule, False, "timeout" if late else "function", late)


def compare_answers(answer: str, reference: str, rule: AnswerRule, grader: Grader) -> tuple[bool, str, bool]:
    """Return whether two answers are equal, which rule decided, and whether the comparison timed out.

    A benchmark may accept more than equality: a unit that the reference omits; several numbers in any order
    (OlympiadBench, TheoremQA); an absolute error given in the row, plus the 1 % that OlympiadBench's judge
    adds to it; a relative error (TheoremQA).
    """
    from scalequest.grading.latex.normalise import normalise

    verdict = grader.grade(answer, reference)
    if verdict.correct:
        return True, verdict.layer, False
    if rule.unit and grader.grade(answer, f"{reference} {rule.unit}").correct:
        return True, "unit", False
    if rule.several or rule.tolerance is not None or rule.relative:
        mine, theirs = _numbers_of(answer), _numbers_of(reference)
        if rule.several and not re.fullmatch(r"[(\[].*[)\]]", normalise(reference), re.S):  # not a point
            mine, theirs = sorted(mine), sorted(theirs)
        if theirs and len(mine) == len(theirs):
            errors = [(abs(a - b), _allowed_error_of(b, rule)) for a, b in zip(mine, theirs, strict=True)]
            if all(error <= allowed for error, allowed in errors):
                return True, "tolerance", False
    return False, verdict.layer, verdict.timed_out


def _allowed_error_of(reference: float, rule: AnswerRule) -> float:
    return max(1.01 * (rule.tolerance or 0.0), rule.relative * abs(reference), 1e-12 * abs(reference))


def _numbers_of(text: str) -> list[float]:
    """Return the numbers of a list without its brackets; an empty result if any element is not a number."""
    from scalequest.grading.latex.normalise import LONGEST, normalise

    if len(text) > LONGEST:
        return []
    text = normalise(text)
    if (whole := _number_of(text)) is not None:
        return [whole]
    inner = re.sub(r"^(?:\\\{|[(\[{])|(?:\\\}|[)\]}])$", "", text)
    found = [_number_of(item.strip()) for item in inner.split(",")]
    numbers = [number for number in found if number is not None]
    return numbers if len(numbers) == len(found) else []


def _number_of(text: str) -> float | None:
    """Return the value of a constant, such as a decimal or a fraction of pi; None for anything else."""
    from scalequest.grading.compare import numeric
    from scalequest.grading.latex.exact import value
    from scalequest.grading.latex.expressions import readings

    try:
        exact = value(text)
        if exact is None:
            trees = readings(text)
            if len(trees) != 1 or numeric.names(trees[0]):
                return None
            exact = numeric.value(trees[0])
        return float(exact)
    except (ValueError, OverflowError, ArithmeticError, TypeError):
        return None


class GradingPool:
    """Grading processes. Use it as a context manager; they start at once, while the engine loads."""

    def __init__(self, options: GraderOptions, processes: int = 1) -> None:
        """Start the processes with `spawn`, because forking a process with an engine's threads may hang."""
        self._pool = ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _start_worker, (options,)
        )
        for _ in range(processes):
            self._pool.submit(_grade_all, [])

    def submit(self, submissions: Sequence[Submission]) -> Future[list[OutputGrade]]:
        """Grade submissions as soon as a process is free."""
        return self._pool.submit(_grade_all, list(submissions))

    def __enter__(self) -> GradingPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


_grader: Grader  # in a worker process


def _start_worker(options: GraderOptions) -> None:
    """Start a worker process that ends together with the process that started it, even if that is killed."""
    global _grader
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    _grader = grading.Grader(options)
    with suppress(RuntimeError):  # on a busy machine it may be slow to start; it then starts when needed
        _grader.start()


def _grade_all(submissions: Sequence[Submission]) -> list[OutputGrade]:
    return [grade_submission(submission, _grader) for submission in submissions]


# --------------------------------------------------------------------------------- grading beside the engine


@dataclass(frozen=True)
class _PendingReply(Generic[A]):
    """A reply that has been read but not graded yet."""

    reply: A
    text: str
    fault: str | None
    truncated: bool
    submission: Submission


@dataclass(frozen=True)
class _PendingBlock(Generic[A]):
    """A block of replies, and their grades once available."""

    index: int
    replies: Sequence[_PendingReply[A]]
    grades: Future[list[OutputGrade]]

    def settle(self) -> tuple[int, list[GradedReply]]:
        """Wait for the grades."""
        pairs = zip(self.replies, self.grades.result(), strict=True)
        return self.index, [
            GradedReply(one.reply, one.text, one.truncated, grade, one.fault) for one, grade in pairs
        ]


def add_grading(
    model: EvaluatedModel[Q, A],
    pool: GradingPool,
    asked: Callable[[str], tuple[EvalPrompt, BenchmarkProblem]],
) -> Generate[Q, GradedReply]:
    """Extend the model's `answer` by grading; a block is passed on once all its replies are graded.

    Args:
        model: generates the replies.
        pool: grades them.
        asked: returns the prompt and the problem of a reply's key.
    """

    def read_reply(reply: A) -> _PendingReply[A]:
        text, fault = model.read(reply)
        prompt, problem = asked(reply.key)
        thinks = model.opens_reasoning(prompt)
        truncated, submission = submission_of(text, reply.finish_reason, prompt, problem, thinks=thinks)
        return _PendingReply(reply, text, fault, truncated, submission)

    def answer_graded(blocks: Iterator[tuple[int, list[Q]]]) -> Iterator[tuple[int, list[GradedReply]]]:
        waiting: deque[_PendingBlock[A]] = deque()
        for index, replies in model.generate(blocks):
            pending = [read_reply(reply) for reply in replies]
            grades = pool.submit([one.submission for one in pending])
            waiting.append(_PendingBlock(index, pending, grades))
            while waiting and waiting[0].grades.done():
                yield waiting.popleft().settle()
        while waiting:
            yield waiting.popleft().settle()

    return answer_graded
