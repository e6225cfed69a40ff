"""Questions from nothing: a question generator completes the bare head of a user's turn (paper, section 1.3).

The prompt is the same for every row, so the seed is all that sets two rows apart: there is one for every row,
or one for every block, and never one that two workers share. With `shots`, few-shot prompting of a model that
is no question generator, example questions stand before that head, each as QFT would train on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import COUNT
from scalequest.engines.base import Completion, EngineConfig, Generator, Request, Sampling
from scalequest.engines.vllm_engine import check_block_seeds
from scalequest.pages.cards import dataset_card
from scalequest.pages.markup import inline
from scalequest.questions.text import normalised
from scalequest.records import Row, model_label, read_inputs, row_seed
from scalequest.stage.block_loop import Drop, completing, stream
from scalequest.stage.folder import Stage
from scalequest.stage.launch import LAUNCH, RAY_WORKERS, Launch
from scalequest.stage.progress import Gates
from scalequest.tracking import Tracker

VERSION = 2  # raise by hand when the same configuration gives other rows
COLUMNS = ("id", "question", "generator", "seed", "finish_reason", "tokens")


SeedScope = Literal["row", "block"]
SEED_SCOPE = "one seed per row, or one per block of rows: faster on GPUs, where seeded rows sample natively"


@dataclass(frozen=True)
class Shots:
    """Example questions before the one to write: few-shot prompting."""

    input: list[str] = option(help="sources of the examples", default_factory=list, fingerprint=False)
    number: int | None = option(None, "examples per question, drawn anew for each", within=COUNT)

    def __post_init__(self) -> None:
        if bool(self.input) != bool(self.number):
            raise ConfigError("input, number: give both, or neither")


@dataclass(frozen=True)
class GenerationConfig:
    """The question generation stage."""

    model_name_or_path: str = required("question generator: a model folder or hub id", fingerprint=False)
    chat_format: str = required("its chat format: a family, a YAML file or auto", fingerprint=False)
    num_questions: int = required("questions to sample; dropped ones count", within=COUNT)
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    label: str | None = option(None, "what the rows call the generator; None is its folder's name")
    id_prefix: str = option(
        "q", "ids are <prefix>-<seed>-00000000 on: one prefix per generator, one seed per run of it"
    )
    seed_scope: SeedScope = option("row", SEED_SCOPE)
    shots: Shots = option(help="few-shot prompting", default_factory=Shots)
    sampling: Sampling = option(help="how it is sampled", default_factory=lambda: Sampling(1.0, 0.99, 512))
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)
    launch: Launch = option("local", LAUNCH, fingerprint=False)
    ray_workers: int | None = option(None, RAY_WORKERS, fingerprint=False, within=COUNT)
    gates: Gates = option(help="rates that end it early", default_factory=Gates, fingerprint=False)

    def __post_init__(self) -> None:
        if self.seed_scope == "block":
            check_block_seeds(self.engine)


@dataclass(frozen=True)
class QuestionSampling:
    """What is asked for each row, and what becomes of it: the hooks of `stream`.

    Attributes:
        chat: the generator's chat format.
        config: the stage's settings.
        run_seed: the seed of the run.
        examples: what `config.shots` are drawn from, as `BoundFormat.question_ids` returns them.
    """

    chat: BoundFormat
    config: GenerationConfig
    run_seed: int
    examples: Sequence[Sequence[int]] = ()

    @property
    def label(self) -> str:
        """What the rows call the generator."""
        return self.config.label or model_label(self.config.model_name_or_path)

    @property
    def block_seeds(self) -> tuple[int, str] | None:
        """What the seeds of blocks are made of, if there is one per block."""
        return (self.run_seed, "generate_questions") if self.config.seed_scope == "block" else None

    def requests(self, number: int) -> list[Request]:
        """The head of a user's turn, after the row's examples, with the row's seed."""
        return [Request(str(number), self.chat.few_shot_prefix_ids(self._shots(number)), self._seed(number))]

    def row(self, number: int, completions: Sequence[Completion]) -> Row | Drop:
        """The question row, or why it is dropped."""
        (completion,) = completions
        row: Row = {
            "id": f"{self.config.id_prefix}-{self.run_seed}-{number:08d}",
            "question": self.chat.decode(completion.ids),
            "generator": self.label,
            "seed": self._seed(number),
            "finish_reason": completion.finish_reason,
            "tokens": completion.tokens,
        }
        reason = self._fault(row, completion)
        return row if reason is None else Drop(row, reason)

    def _shots(self, number: int) -> list[Sequence[int]]:
        random = Random(row_seed(self.run_seed, "shots", number))
        return random.sample(self.examples, self.config.shots.number or 0)

    def _seed(self, number: int) -> int | None:
        by_row = self.config.seed_scope == "row"
        return row_seed(self.run_seed, "generate_questions", number) if by_row else None

    def _fault(self, row: Row, completion: Completion) -> str | None:
        if completion.finish_reason == "length":
            return "truncated"
        if not row["question"]:
            return "empty"
        if "\N{REPLACEMENT CHARACTER}" in row["question"]:
            return "undecodable"
        return "special_token_in_text" if self.chat.special_ids.intersection(completion.ids) else None


def read_examples(shots: Shots, chat: BoundFormat) -> list[list[int]]:
    """Return the example questions that a chat format can hold, as ids.

    Raises:
        ConfigError: there are fewer than are shown at a time, or a source cannot be read.
    """
    found = []
    for row in read_inputs(shots.input, "question"):
        with suppress(FormatError):
            found.append(chat.question_ids(row["question"]))
    if len(found) < (shots.number or 0):
        raise ConfigError(f"shots.number: {shots.number}, but shots.input has {len(found)} usable questions")
    return found


def generate_questions(
    stage: Stage,
    generator: Generator,
    chat: BoundFormat,
    config: GenerationConfig,
    run: RunOptions,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Sample `config.num_questions` questions (at most `run.limit`) and finish the stage.

    Dropped, each with its reason: `truncated` (no stop token came), `empty`, `undecodable` (bytes that are
    not UTF-8) and `special_token_in_text`.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    # Whether the questions fit the context, even after the longest examples
    hooks = QuestionSampling(chat, config, run.seed, read_examples(config.shots, chat))
    longest = sorted(hooks.examples, key=len)[len(hooks.examples) - (config.shots.number or 0) :]
    taken = len(chat.few_shot_prefix_ids(longest)) + config.sampling.max_tokens
    if taken > generator.context:
        raise ConfigError(
            f"sampling.max_tokens: with the prefix {taken}, more than the context, {generator.context}"
        )
    # Sample, block by block
    rows = config.num_questions if run.limit is None else min(config.num_questions, run.limit)
    stream(
        stage, rows, run.block_size,
        requests=hooks.requests,
        generate=completing(
            generator, config.sampling, chat.question_stop_ids, block_seeds=hooks.block_seeds
        ),
        row=hooks.row,
        tracker=tracker, gates=config.gates, text=lambda row: normalised(row["question"]),
    )  # fmt: skip
    # Card
    label = inline(hooks.label)
    given = f"{config.shots.number} example questions and" if config.shots.number else "nothing but"
    text = f"Questions sampled from {label}, which was given {given} the head of a user's turn."
    card = dataset_card(
        "Generated questions", text, to_dict(config), stage.blocks.samples(8), "id", "question", "tokens"
    )
    return stage.finish(rows_in=rows, card=card, columns=COLUMNS)
