"""Several sampled solutions a question, each with the answer that is read from it (paper, section 1.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scalequest.cards import dataset_card
from scalequest.chat import BoundFormat, FormatError
from scalequest.config import RunOptions, option, required, to_dict
from scalequest.engines.base import Completion, EngineConfig, Generator, Request, Sampling
from scalequest.engines.stream import Drop, completing, stream
from scalequest.grading import extract, majority
from scalequest.records import Row, model_label, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 1  # raise by hand when the same configuration gives other rows
COLUMNS = (
    "id",
    "question",
    "generator",
    "solver",
    "responses",
    "answers",
    "finish_reasons",
    "tokens",
    "agreement",
)


@dataclass(frozen=True)
class SolveConfig:
    """The solving stage."""

    input: list[str] = required("question sources, read one after the other", fingerprint=False)
    model_name_or_path: str = required("solver: a model folder or hub id", fingerprint=False)
    chat_format: str = required("its chat format: a family or a YAML file", fingerprint=False)
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    samples: int = option(5, "solutions a question")
    sampling: Sampling = option(
        help="how they are sampled", default_factory=lambda: Sampling(0.7, 0.95, 2048)
    )
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)


def sample_requests(
    row: Row, samples: int, run_seed: int, stage: str, sampling: Sampling, format: BoundFormat
) -> list[Request]:
    """`samples` requests for one question, each with a seed of its own (none where sampling is greedy).

    Raises:
        FormatError: the question cannot be put into the chat format.
    """
    ids = format.solve_prompt_ids(row["question"])
    keys = [f"{row['id']}/{sample}" for sample in range(samples)]
    if sampling.temperature == 0:
        return [Request(key, ids, None) for key in keys]
    return [
        Request(key, ids, row_seed(run_seed, stage, row["id"], sample)) for sample, key in enumerate(keys)
    ]


def sampled(completions: Sequence[Completion], format: BoundFormat) -> Row:
    """Columns of one question's samples: responses, answers, finish reasons, tokens, agreement.

    A truncated response has no answer: what is read from half a solution is an intermediate result.
    `agreement` is the share of all samples, those without an answer included, that give the most frequent
    answer.
    """
    responses = [format.decode(completion.ids) for completion in completions]
    answers = [
        extract(response).answer if completion.finish_reason == "stop" else None
        for response, completion in zip(responses, completions, strict=True)
    ]
    return {
        "responses": responses,
        "answers": answers,
        "finish_reasons": [completion.finish_reason for completion in completions],
        "tokens": [completion.tokens for completion in completions],
        "agreement": majority(answers)[1],
    }


def solve_questions(
    stage: Stage,
    rows: Sequence[Row],
    generator: Generator,
    format: BoundFormat,
    config: SolveConfig,
    run: RunOptions,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Sample `config.samples` solutions of every question and finish the stage; other columns are carried.

    Dropped, each with its reason: a `FormatError`, `all_truncated`, `no_answer` (in no complete one).

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    solver = model_label(config.model_name_or_path)

    def ask(number: int) -> Sequence[Request] | Drop:
        try:
            return sample_requests(
                rows[number], config.samples, run.seed, "solve_questions", config.sampling, format
            )
        except FormatError as error:
            return Drop(rows[number], str(error))

    def settle(number: int, completions: Sequence[Completion]) -> Row | Drop:
        row = rows[number] | sampled(completions, format) | {"solver": solver}
        if "stop" not in row["finish_reasons"]:
            return Drop(row, "all_truncated")
        return row if any(answer is not None for answer in row["answers"]) else Drop(row, "no_answer")

    answer = completing(generator, config.sampling, format.solve_stop_ids)
    stream(stage, len(rows), run.block_size, ask=ask, answer=answer, settle=settle, tracker=tracker)
    text = f"{config.samples} solutions a question, sampled from {solver}; cut ones have no answer."
    samples = [
        {**row, "response": row["responses"][0], "answers": ", ".join(map(str, row["answers"]))}
        for row in stage.samples(4)
    ]
    columns = ("id", "question", "response", "answers", "agreement")
    card = dataset_card("Sampled solutions", text, to_dict(config), samples, *columns)
    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS)
