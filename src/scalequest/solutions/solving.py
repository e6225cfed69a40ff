"""Several sampled solutions a question, each with the answer that is read from it (paper, section 1.5)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scalequest.cards import dataset_card
from scalequest.chat import BoundFormat, ChatFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.base import Completion, EngineConfig, Generator, Request, Sampling
from scalequest.engines.stream import Drop, completing, stream
from scalequest.grading import extract, majority
from scalequest.records import Row, expand, model_label, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 1  # raise by hand when the same configuration gives other rows
SAMPLE_COLUMNS = ("responses", "answers", "finish_reasons", "tokens")
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
    reuse: bool = option(
        False, "take over the responses that filter_questions kept, and sample what is missing"
    )
    sampling: Sampling = option(
        help="how they are sampled", default_factory=lambda: Sampling(0.7, 0.95, 2048)
    )
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)


def sample_requests(
    row: Row, numbers: Iterable[int], run_seed: int, stage: str, sampling: Sampling, format: BoundFormat
) -> list[Request]:
    """Requests for the samples of one question with these numbers, each with its own seed (none if greedy).

    Raises:
        FormatError: the question cannot be put into the chat format.
    """
    ids = format.solve_prompt_ids(row["question"])

    def seed(number: int) -> int | None:
        return row_seed(run_seed, stage, row["id"], number) if sampling.temperature > 0 else None

    return [Request(f"{row['id']}/{number}", ids, seed(number)) for number in numbers]


def sampled(completions: Sequence[Completion], format: BoundFormat) -> Row:
    """Columns of one question's samples: responses, answers, finish reasons, tokens, agreement.

    A truncated response has no answer: what is read from half a solution is an intermediate result.
    `agreement` is the share of all samples, those without an answer included, that give the most frequent
    answer.
    """
    responses = [format.decode(completion.ids) for completion in completions]
    reasons = [completion.finish_reason for completion in completions]
    answers = [
        extract(response).answer if reason == "stop" else None
        for response, reason in zip(responses, reasons, strict=True)
    ]
    return {
        "responses": responses,
        "answers": answers,
        "finish_reasons": reasons,
        "tokens": [completion.tokens for completion in completions],
        "agreement": majority(answers)[1],
    }


def check_reuse(
    sources: Sequence[str], model_fingerprint: str, format: ChatFormat, sampling: Sampling
) -> None:
    """Make sure that the responses in these stage folders were sampled as this stage would sample them.

    Raises:
        ConfigError: a source is no stage folder, or its model, chat format or sampling is another.
    """
    for source in sources:
        try:
            receipt = json.loads((expand(source) / "receipt.json").read_bytes())
        except OSError:
            raise ConfigError(f"reuse: {source} is not the folder of a filter_questions stage") from None
        theirs = receipt["fingerprint_fields"]
        differing = [
            name
            for name, ours in (("chat_format", to_dict(format)), ("sampling", to_dict(sampling)))
            if theirs.get(name) != ours
        ]
        if model_fingerprint not in receipt["inputs"].values():
            differing.append("model_name_or_path")
        if differing:
            raise ConfigError(
                f"reuse: {source} was sampled with another {', '.join(differing)}; set reuse: false"
            )


def asks_model(rows: Sequence[Row], config: SolveConfig) -> bool:
    """Whether any sample is missing; where none is, no engine need be started."""
    return not config.reuse or any(len(row["responses"]) < config.samples for row in rows)


def solve_questions(
    stage: Stage,
    rows: Sequence[Row],
    generator: Generator | None,
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
    if not config.reuse:  # a question row counts its own tokens, in a column of another type
        rows = [{key: value for key, value in row.items() if key not in SAMPLE_COLUMNS} for row in rows]

    def ask(number: int) -> Sequence[Request] | Drop:
        missing = range(len(rows[number]["responses"]) if config.reuse else 0, config.samples)
        try:
            return sample_requests(
                rows[number], missing, run.seed, "solve_questions", config.sampling, format
            )
        except FormatError as error:
            return Drop(rows[number], str(error))

    def settle(number: int, completions: Sequence[Completion]) -> Row | Drop:
        row, new = rows[number], sampled(completions, format)
        if config.reuse:
            new = {key: (row[key] + new[key])[: config.samples] for key in SAMPLE_COLUMNS}
            new["agreement"] = majority(new["answers"])[1]
        row = row | new | {"solver": solver}
        if "stop" not in row["finish_reasons"]:
            return Drop(row, "all_truncated")
        return row if any(answer is not None for answer in row["answers"]) else Drop(row, "no_answer")

    answer = completing(generator, config.sampling, format.solve_stop_ids) if generator else None
    stream(stage, len(rows), run.block_size, ask=ask, answer=answer, settle=settle, tracker=tracker)
    text = f"{config.samples} solutions a question, sampled from {solver}; cut ones have no answer."
    samples = [
        {**row, "response": row["responses"][0], "answers": ", ".join(map(str, row["answers"]))}
        for row in stage.samples(4)
    ]
    columns = ("id", "question", "response", "answers", "agreement")
    card = dataset_card("Sampled solutions", text, to_dict(config), samples, *columns)
    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS)
