"""Sample several solutions per question: build the requests and the resulting columns.

The filters measure a solver's agreement with itself from them, and solving keeps them (paper, section 2.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scalequest import grading
from scalequest.chat import BoundFormat
from scalequest.engines.base import Completion, Request, Sampling
from scalequest.records import Row, row_seed

SAMPLE_COLUMNS = ("responses", "answers", "finish_reasons", "tokens")


def sample_requests(
    row: Row, numbers: Iterable[int], run_seed: int, stage: str, sampling: Sampling, chat: BoundFormat
) -> list[Request]:
    """Return requests for samples of one question by number, each with its own seed (none if greedy).

    Raises:
        FormatError: the chat format cannot represent the question.
    """
    ids = chat.solve_prompt_ids(row["question"])

    def seed(number: int) -> int | None:
        return row_seed(run_seed, stage, row["id"], number) if sampling.temperature > 0 else None

    return [Request(f"{row['id']}/{number}", ids, seed(number)) for number in numbers]


def read_answers(
    responses: Sequence[str], finish_reasons: Sequence[str], *, phrase: bool = False
) -> list[str | None]:
    """Return the answer of each response, or None.

    A truncated response has no answer, because what half a solution contains is an intermediate result. With
    `phrase`, a response whose answer would only be its last number has none either (paper, section 2.5).
    """
    answers: list[str | None] = []
    for response, reason in zip(responses, finish_reasons, strict=True):
        found = grading.extract(response) if reason == "stop" else None
        answers.append(found.answer if found and not (phrase and found.rule == "number") else None)
    return answers


def sampled(completions: Sequence[Completion], chat: BoundFormat, *, phrase: bool = False) -> Row:
    """Return the columns of one question's samples: responses, answers, finish reasons, tokens, agreement.

    `agreement` is the share of all samples, including those without an answer, that give the most frequent
    answer.
    """
    responses = [chat.decode_solution(completion.ids) for completion in completions]
    reasons = [completion.finish_reason for completion in completions]
    answers = read_answers(responses, reasons, phrase=phrase)
    return {
        "responses": responses,
        "answers": answers,
        "finish_reasons": reasons,
        "tokens": [completion.tokens for completion in completions],
        "agreement": grading.majority(answers)[1],
    }
