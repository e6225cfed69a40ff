"""From an output to a verdict, in processes beside the engine: it goes on generating while they grade."""

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

from scalequest.engines.base import FinishReason
from scalequest.engines.stream import Answer
from scalequest.evaluation.evaluated_model import A, EvaluatedModel, KeyedReply, Q, strip_reasoning
from scalequest.evaluation.problems import AnswerRule, BenchmarkProblem
from scalequest.evaluation.prompts import EvalPrompt
from scalequest.grading import Grader, GraderOptions, extract, numeric
from scalequest.grading.exact import value
from scalequest.grading.expressions import readings
from scalequest.grading.normalise import LONGEST, normalise


@dataclass(frozen=True)
class Submission:
    """What is handed in for one problem: the text that counts, and what it is compared with."""

    text: str
    references: tuple[str, ...]
    judging: AnswerRule


@dataclass(frozen=True)
class OutputGrade:
    """What an examiner finds; `layer` is the rule that decided."""

    extracted: str | None
    rule: str
    correct: bool
    layer: str
    timeout: bool = False


@dataclass(frozen=True)
class GradedReply:
    """A reply with its text and its mark; `fault` says why there is none."""

    reply: KeyedReply
    text: str
    truncated: bool
    mark: OutputGrade
    fault: str | None = None

    @property
    def tokens(self) -> int:
        """Generated for it."""
        return self.reply.tokens

    @property
    def prompt_tokens(self) -> int:
        """Read for it."""
        return self.reply.prompt_tokens

    @property
    def finish_reason(self) -> FinishReason:
        """How it ended."""
        return self.reply.finish_reason


def submission_of(
    text: str, finish_reason: str, prompt: EvalPrompt, problem: BenchmarkProblem, *, thinks: bool = False
) -> tuple[bool, Submission]:
    """Whether an output was cut short, and the paper that is marked.

    Args:
        text: the whole output.
        finish_reason: how it ended.
        prompt: its stops end it, too.
        problem: what it is compared with.
        thinks: whether the prompt opened a reasoning block.
    """
    answer, inside = strip_reasoning(text, opened=thinks)
    answer, ended = prompt.cut(answer)
    truncated = inside or (finish_reason == "length" and not ended)
    return truncated, Submission(answer, (problem.answer, *problem.also), problem.judging)


# ---------------------------------------------------------------------------------------------------- marking


def grade_submission(paper: Submission, grader: Grader) -> OutputGrade:
    """Find the answer and compare it with every reference."""
    found = extract(paper.text)
    if found.answer is None:
        return OutputGrade(None, found.rule, False, "none")
    late = False
    for reference in paper.references:
        correct, layer, timed_out = compare_answers(found.answer, reference, paper.judging, grader)
        if correct:
            return OutputGrade(found.answer, found.rule, True, layer)
        late = late or timed_out
    return OutputGrade(found.answer, found.rule, False, "timeout" if late else layer, late)


def compare_answers(
    answer: str, reference: str, judging: AnswerRule, grader: Grader
) -> tuple[bool, str, bool]:
    """Whether two answers are the same, by which rule, and whether the comparison ran out of time.

    Beyond equality: a unit that the reference leaves out; several numbers in any order (OlympiadBench,
    TheoremQA); an absolute error that the row allows, with the 1 % on top of it that OlympiadBench's judge
    has; a relative error (TheoremQA).
    """
    verdict = grader.grade(answer, reference)
    if verdict.correct:
        return True, verdict.layer, False
    if judging.unit and grader.grade(answer, f"{reference} {judging.unit}").correct:
        return True, "unit", False
    if judging.several or judging.tolerance is not None or judging.relative:
        mine, theirs = _numbers_of(answer), _numbers_of(reference)
        if judging.several and not re.fullmatch(r"[(\[].*[)\]]", normalise(reference), re.S):  # no point
            mine, theirs = sorted(mine), sorted(theirs)
        if theirs and len(mine) == len(theirs):
            errors = [(abs(a - b), _allowed_error_of(b, judging)) for a, b in zip(mine, theirs, strict=True)]
            if all(error <= allowed for error, allowed in errors):
                return True, "tolerance", False
    return False, verdict.layer, verdict.timed_out


def _allowed_error_of(reference: float, judging: AnswerRule) -> float:
    return max(1.01 * (judging.tolerance or 0.0), judging.relative * abs(reference), 1e-12 * abs(reference))


def _numbers_of(text: str) -> list[float]:
    """The numbers of a list, its brackets left out; none where any element is something else."""
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
    """Value of a constant, e.g. a decimal or a fraction of pi; None for anything else."""
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
    """Processes that mark. Use as a context manager; they start at once, while an engine is still loading."""

    def __init__(self, options: GraderOptions, processes: int = 1) -> None:
        """Start them; by `spawn`, since a fork of a process with an engine's threads may hang."""
        self._pool = ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _start_worker, (options,)
        )
        for _ in range(processes):
            self._pool.submit(_grade_all, [])

    def submit(self, papers: Sequence[Submission]) -> Future[list[OutputGrade]]:
        """Mark them when there is time."""
        return self._pool.submit(_grade_all, list(papers))

    def __enter__(self) -> GradingPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        self._pool.shutdown(wait=True, cancel_futures=True)


_grader: Grader  # of an examiner's process


def _start_worker(options: GraderOptions) -> None:
    """Begin an examiner's process, which ends with the one that started it, however that went."""
    global _grader
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    _grader = Grader(options)
    with suppress(RuntimeError):  # slow to come up on a busy machine: it starts when it is needed
        _grader.start()


def _grade_all(papers: Sequence[Submission]) -> list[OutputGrade]:
    return [grade_submission(paper, _grader) for paper in papers]


def add_grading(
    examinee: EvaluatedModel[Q, A],
    examiners: GradingPool,
    asked: Callable[[str], tuple[EvalPrompt, BenchmarkProblem]],
) -> Answer[Q, GradedReply]:
    """The `answer` of `stream` with marks; a block is passed on once it is marked.

    Args:
        examinee: answers.
        examiners: mark.
        asked: a reply's key to what was asked.
    """

    def hand_in(reply: A) -> tuple[A, str, str | None, bool, Submission]:
        text, fault = examinee.read(reply)
        prompt, problem = asked(reply.key)
        thinks = examinee.thinks(prompt)
        return reply, text, fault, *submission_of(text, reply.finish_reason, prompt, problem, thinks=thinks)

    def marked(blocks: Iterator[tuple[int, list[Q]]]) -> Iterator[tuple[int, list[GradedReply]]]:
        waiting: deque[
            tuple[int, list[tuple[A, str, str | None, bool, Submission]], Future[list[OutputGrade]]]
        ] = deque()

        def settled() -> tuple[int, list[GradedReply]]:
            index, handed, future = waiting.popleft()
            return index, [
                GradedReply(reply, text, truncated, found, fault)
                for (reply, text, fault, truncated, _), found in zip(handed, future.result(), strict=True)
            ]

        for index, replies in examinee.answer(blocks):
            handed = [hand_in(reply) for reply in replies]
            waiting.append((index, handed, examiners.submit([paper for *_, paper in handed])))
            while waiting and waiting[0][2].done():
                yield settled()
        while waiting:
            yield settled()

    return marked
