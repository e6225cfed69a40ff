"""Questions from nothing: a question generator completes the bare head of a user's turn (paper, section 1.3).

The prompt is the same for every row, so the seed is all that sets two rows apart: there is one for every row,
or one for every block, and never one that two workers share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scalequest.cards import dataset_card
from scalequest.chat import BoundFormat
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.base import Completion, EngineConfig, Generator, Request, Sampling
from scalequest.engines.progress import Gates
from scalequest.engines.stream import Drop, completing, stream
from scalequest.engines.vllm_engine import check_block_seeds
from scalequest.launch import LAUNCH, RAY_WORKERS, Launch
from scalequest.markup import inline
from scalequest.questions.text import normalised
from scalequest.ranges import COUNT
from scalequest.records import Row, model_label, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 1  # raise by hand when the same configuration gives other rows
COLUMNS = ("id", "question", "generator", "seed", "finish_reason", "tokens")


SeedScope = Literal["row", "block"]
SEED_SCOPE = "a seed a row, or one a block of rows: faster on GPUs, where seeded rows are sampled natively"


@dataclass(frozen=True)
class GenerationConfig:
    """The question generation stage."""

    model_name_or_path: str = required("question generator: a model folder or hub id", fingerprint=False)
    chat_format: str = required("its chat format: a family or a YAML file", fingerprint=False)
    num_questions: int = required("questions to sample; dropped ones count", within=COUNT)
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    label: str | None = option(None, "what the rows call the generator; None is its folder's name")
    id_prefix: str = option("q", "ids are <prefix>-00000000 on; give each generator of a pipeline its own")
    seed_scope: SeedScope = option("row", SEED_SCOPE)
    sampling: Sampling = option(help="how it is sampled", default_factory=lambda: Sampling(1.0, 0.99, 512))
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)
    launch: Launch = option("local", LAUNCH, fingerprint=False)
    ray_workers: int | None = option(None, RAY_WORKERS, fingerprint=False, within=COUNT)
    gates: Gates = option(help="rates that end it early", default_factory=Gates, fingerprint=False)

    def __post_init__(self) -> None:
        if self.seed_scope == "block":
            check_block_seeds(self.engine)


def generate_questions(
    stage: Stage,
    generator: Generator,
    format: BoundFormat,
    config: GenerationConfig,
    run: RunOptions,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Sample `config.num_questions` questions (at most `run.limit`) and finish the stage.

    Dropped, each with its reason: `truncated` (no stop token came), `empty`, `undecodable` (bytes that are no
    text) and `special_token_in_text`.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    taken = len(format.question_prefix_ids) + config.sampling.max_tokens
    if taken > generator.context:
        raise ConfigError(
            f"sampling.max_tokens: with the prefix {taken}, more than the context, {generator.context}"
        )
    rows = config.num_questions if run.limit is None else min(config.num_questions, run.limit)
    by_row = config.seed_scope == "row"
    label = config.label or model_label(config.model_name_or_path)

    def seed(number: int) -> int:
        return row_seed(run.seed, "generate_questions", number)

    def ask(number: int) -> Sequence[Request]:
        return [Request(str(number), format.question_prefix_ids, seed(number) if by_row else None)]

    def settle(number: int, completions: Sequence[Completion]) -> Row | Drop:
        (completion,) = completions
        row: Row = {
            "id": f"{config.id_prefix}-{number:08d}",
            "question": format.decode(completion.ids),
            "generator": label,
            "seed": seed(number) if by_row else None,
            "finish_reason": completion.finish_reason,
            "tokens": completion.tokens,
        }
        reason = _fault(row, completion, format)
        return row if reason is None else Drop(row, reason)

    block_seeds = None if by_row else (run.seed, "generate_questions")
    answer = completing(generator, config.sampling, format.question_stop_ids, block_seeds=block_seeds)
    stream(
        stage,
        rows,
        run.block_size,
        ask=ask,
        answer=answer,
        settle=settle,
        tracker=tracker,
        gates=config.gates,
        text=lambda row: normalised(row["question"]),
    )
    text = f"Questions sampled from {inline(label)}, which was given nothing but the head of a user's turn."
    card = dataset_card(
        "Generated questions", text, to_dict(config), stage.samples(8), "id", "question", "tokens"
    )
    return stage.finish(rows_in=rows, card=card, columns=COLUMNS)


def _fault(row: Row, completion: Completion, format: BoundFormat) -> str | None:
    if completion.finish_reason == "length":
        return "truncated"
    if not row["question"]:
        return "empty"
    if "\N{REPLACEMENT CHARACTER}" in row["question"]:
        return "undecodable"
    return "special_token_in_text" if format.special_ids.intersection(completion.ids) else None
