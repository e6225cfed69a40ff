"""Several solutions sampled for one question: how they are requested, and which columns they become.

Filtering measures a solver's agreement with itself by them, and solving keeps them (paper, section 1.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scalequest.chat import BoundFormat
from scalequest.engines.base import Completion, Request, Sampling
from scalequest.grading import extract, majority
from scalequest.records import Row, row_seed

SAMPLE_COLUMNS = ("responses", "answers", "finish_reasons", "tokens")


def sample_requests(
    row: Row, numbers: Iterable[int], run_seed: int, stage: str, sampling: Sampling, chat: BoundFormat
) -> list[Request]:
    """Requests for the samples of one question with these numbers, each with its own seed (none if greedy).

    Raises:
        FormatError: the chat format cannot hold the question.
    """
    ids = chat.solve_prompt_ids(row["question"])

    def seed(number: int) -> int | None:
        return row_seed(run_seed, stage, row["id"], number) if sampling.temperature > 0 else None

    return [Request(f"{row['id']}/{number}", ids, seed(number)) for number in numbers]


def read_answers(
    responses: Sequence[str], finish_reasons: Sequence[str], *, phrase: bool = False
) -> list[str | None]:
    """The answer of each response, or None.

    A truncated response has no answer: what is read from half a solution is an intermediate result. With
    `phrase` neither has one whose answer would be no more than its last number (paper, section 2.5).
    """
    answers: list[str | None] = []
    for response, reason in zip(responses, finish_reasons, strict=True):
        found = extract(response) if reason == "stop" else None
        answers.append(found.answer if found and not (phrase and found.rule == "number") else None)
    return answers


def sampled(completions: Sequence[Completion], chat: BoundFormat, *, phrase: bool = False) -> Row:
    """Columns of one question's samples: responses, answers, finish reasons, tokens, agreement.

    `agreement` is the share of all samples, those without an answer included, that give the most frequent
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
        "agreement": majority(answers)[1],
    }
