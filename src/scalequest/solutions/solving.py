"""Sample several solutions per question and extract the answer of each (paper, section 2.5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scalequest import grading
from scalequest.chat import BoundFormat, ChatFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import COUNT
from scalequest.engines.base import Completion, EngineConfig, FinishReason, Generator, Request, Sampling
from scalequest.engines.vllm_engine import check_block_seeds
from scalequest.pages.cards import dataset_card
from scalequest.pages.markup import inline
from scalequest.receipts import read_receipt
from scalequest.records import Row, expand, model_label
from scalequest.samples import SAMPLE_COLUMNS, read_answers, sample_requests, sampled
from scalequest.stage.block_loop import Drop, Generate, completing, stream
from scalequest.stage.folder import Stage
from scalequest.stage.launch import LAUNCH, RAY_WORKERS, Launch
from scalequest.stage.progress import Gates
from scalequest.tracking import Tracker

VERSION = 2  # increase by hand when the same settings give other rows
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
    """The settings of the solving stage."""

    input: list[str] = required("sources of questions, read one after the other", fingerprint=False)
    model_name_or_path: str = required("solver: a model folder or hub id", fingerprint=False)
    chat_format: str = required("chat format of the solver: a family, a YAML file or auto", fingerprint=False)
    columns: dict[str, str] = option(
        help="mapping from our column names to those of the input", default_factory=dict
    )
    model_revision: str | None = option(None, "revision of the solver on the hub", fingerprint=False)
    samples: int = option(5, "solutions per question; with until_agree, per round", within=COUNT)
    until_agree: int | None = option(
        None,
        "sample in rounds until this many solutions give the same answer, so difficult questions get more",
        within=COUNT,
    )
    max_samples: int = option(40, "until_agree: maximum number of solutions per question", within=COUNT)
    answer_phrase: bool = option(
        False,
        "extract answers only from a box, after ####, or after an answer phrase, not from the last number",
    )
    reuse: bool = option(
        False, "reuse the responses kept by filter_questions and sample only what is missing"
    )
    sampling: Sampling = option(help="sampling settings", default_factory=lambda: Sampling(0.7, 0.95, 2048))
    seed_scope: Literal["row", "block"] = option(
        "row",
        "one seed per sample, or one per block of rows, which is faster on GPUs, because "
        "seeded requests use slower sampling",
    )
    engine: EngineConfig = option(help="engine and its settings", default_factory=EngineConfig)
    launch: Launch = option("local", LAUNCH, fingerprint=False)
    ray_workers: int | None = option(None, RAY_WORKERS, fingerprint=False, within=COUNT)
    gates: Gates = option(
        help="limits on error rates that stop the run early", default_factory=Gates, fingerprint=False
    )

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.until_agree is not None and self.until_agree > self.max_samples:
            raise ConfigError(f"until_agree: {self.until_agree} exceeds max_samples")
        if self.until_agree is not None and self.max_samples < self.samples:
            raise ConfigError(f"max_samples: {self.max_samples} is less than samples, {self.samples}")
        if self.seed_scope == "block":
            check_block_seeds(self.engine)


@dataclass(frozen=True)
class SampleRequest:
    """The samples requested for one question in the first round."""

    number: int
    requests: Sequence[Request]


@dataclass(frozen=True)
class Sampled:
    """All samples of one question; it counts as one reply."""

    completions: tuple[Completion, ...]

    @property
    def tokens(self) -> int:
        """The number of generated tokens of all samples."""
        return sum(completion.tokens for completion in self.completions)

    @property
    def prompt_tokens(self) -> int:
        """The number of input tokens of all samples."""
        return sum(completion.prompt_tokens for completion in self.completions)

    @property
    def finish_reason(self) -> FinishReason:
        """`stop` if more than half of them stopped."""
        stopped = sum(completion.finish_reason == "stop" for completion in self.completions)
        return "stop" if 2 * stopped > len(self.completions) else "length"


@dataclass(frozen=True)
class SampleUntilAgreement:
    """The `generate` hook of `stream` that samples every question in rounds.

    It allocates samples by difficulty as DART-Math does, with agreement in place of the known answer. A round
    of a block is a block of its own, and new blocks are taken while others are in a later round, so the
    engine is always busy.

    Attributes:
        complete: generates with the model.
        more: returns the requests for the next round from a question's number and new samples; none end its
            rounds.
    """

    complete: Generate[Request, Completion]
    more: Callable[[int, Sequence[Completion]], Sequence[Request]]

    def __call__(
        self, blocks: Iterator[tuple[int, list[SampleRequest]]]
    ) -> Iterator[tuple[int, list[Sampled]]]:
        """Sample every question of every block."""
        rounds = _Rounds(blocks, self.more)
        while True:
            for index, completions in self.complete(rounds.requests()):
                if (sampled_block := rounds.add(index, completions)) is not None:
                    yield index, sampled_block
            if not rounds.due:  # else a last round became due after the last block
                return


@dataclass(frozen=True)
class _Rounds:
    """The blocks of a `SampleUntilAgreement`.

    Attributes:
        blocks: the blocks not started yet.
        more: see `SampleUntilAgreement`.
        samples: for each block in progress, the samples so far, by question.
        in_flight: for each block, the question of each of its samples in the engine.
        due: later rounds that wait for the engine.
    """

    blocks: Iterator[tuple[int, list[SampleRequest]]]
    more: Callable[[int, Sequence[Completion]], Sequence[Request]]
    samples: dict[int, dict[int, list[Completion]]] = field(default_factory=dict)
    in_flight: dict[int, list[int]] = field(default_factory=dict)
    due: deque[tuple[int, list[Request]]] = field(default_factory=deque)

    def requests(self) -> Iterator[tuple[int, list[Request]]]:
        """Yield rounds that are due first, then new blocks."""
        while True:
            if self.due:
                yield self.due.popleft()
                continue
            if (block := next(self.blocks, None)) is None:
                return
            index, asked = block
            self.samples[index] = {one.number: [] for one in asked}
            self.in_flight[index] = [one.number for one in asked for _ in one.requests]
            yield index, [request for one in asked for request in one.requests]

    def add(self, index: int, completions: Sequence[Completion]) -> list[Sampled] | None:
        """Add a round's completions; return all samples of the block, or None if it needs another round."""
        new: dict[int, list[Completion]] = {}
        for number, completion in zip(self.in_flight.pop(index), completions, strict=True):
            new.setdefault(number, []).append(completion)
        for number, found in new.items():
            self.samples[index][number] += found
        wanted = {number: self.more(number, found) for number, found in new.items()}
        requests = [request for own in wanted.values() for request in own]
        if not requests:
            return [Sampled(tuple(found)) for found in self.samples.pop(index).values()]
        self.in_flight[index] = [number for number, own in wanted.items() for _ in own]
        self.due.append((index, requests))
        return None


def further(answers: Sequence[str | None], config: SolveConfig) -> int:
    """Return how many samples a question with these answers (None for a sample without one) still gets."""
    have = len(answers)
    if have < config.samples:
        return config.samples - have
    if config.until_agree is None or have >= config.max_samples:
        return 0
    agreeing = round(grading.majority(answers)[1] * have)
    return 0 if agreeing >= config.until_agree else min(config.samples, config.max_samples - have)


def check_reuse(
    sources: Sequence[str], model_fingerprint: str, chat_format: ChatFormat, sampling: Sampling
) -> None:
    """Check that the responses in these stage folders were sampled as this stage would sample them.

    Raises:
        ConfigError: a source is not a stage folder, or its model, chat format or sampling settings differ.
    """
    for source in sources:
        receipt = read_receipt(expand(source))
        if receipt is None:
            raise ConfigError(f"reuse: {source} is not the folder of a filter_questions stage")
        theirs = receipt.get("fingerprint_fields", {})
        differing = [
            name
            for name, ours in (("chat_format", to_dict(chat_format)), ("sampling", to_dict(sampling)))
            if theirs.get(name) != ours
        ]
        if model_fingerprint not in receipt.get("inputs", {}).values():
            differing.append("model_name_or_path")
        if differing:
            raise ConfigError(
                f"reuse: {source} was sampled with a different {', '.join(differing)}; set reuse: false"
            )


def left_out(config: SolveConfig) -> tuple[str, ...]:
    """Return the input columns that are not passed on: a judge's reply, and samples that are not reused."""
    # A question row has its own token count, in a column of another type.
    return ("verdict_text", *(() if config.reuse else SAMPLE_COLUMNS))


def asks_model(rows: Sequence[Row], config: SolveConfig) -> bool:
    """Return whether any sample is missing; if not, no engine needs to be started."""
    return any(further(reused_samples(row, config)["answers"], config) for row in rows)


def reused_samples(row: Row, config: SolveConfig) -> Row:
    """Return the samples that a row already has, with answers extracted here; none without `reuse`."""
    if not config.reuse:
        return {key: [] for key in SAMPLE_COLUMNS}
    keep = None if config.until_agree is not None else config.samples
    have = {key: row[key][:keep] for key in SAMPLE_COLUMNS}
    if config.answer_phrase:
        have["answers"] = read_answers(have["responses"], have["finish_reasons"], phrase=True)
    return have


@dataclass(frozen=True)
class Solving:
    """The hooks of `stream`: what is asked for each row, and what happens to it.

    Attributes:
        rows: question rows.
        chat: the solver's chat format.
        config: the stage's settings.
        run_seed: the run's seed.
        answers: the answers of questions in progress, by row number, reused ones first.
    """

    rows: Sequence[Row]
    chat: BoundFormat
    config: SolveConfig
    run_seed: int
    answers: dict[int, list[str | None]] = field(default_factory=dict)

    def requests(self, number: int) -> list[SampleRequest] | Drop:
        """Return the first round of a row, if samples are missing."""
        try:
            requests = self.more(number, ())
        except FormatError as error:
            return Drop(self.rows[number], str(error))
        return [SampleRequest(number, requests)] if requests else []

    def more(self, number: int, completions: Sequence[Completion]) -> list[Request]:
        """Return a row's next round, given the samples of the previous one; no requests if it has enough."""
        if completions and self.config.until_agree is None:
            return []
        row = self.rows[number]
        answers = self.answers.setdefault(number, list(reused_samples(row, self.config)["answers"]))
        if completions:
            answers += self._sampled(completions)["answers"]
        missing = range(len(answers), len(answers) + further(answers, self.config))
        if not missing:
            return []
        requests = sample_requests(
            row, missing, self.run_seed, "solve_questions", self.config.sampling, self.chat
        )
        if self.config.seed_scope == "row":
            return requests
        return [replace(request, seed=None) for request in requests]

    def generate(self, generator: Generator) -> Generate[SampleRequest, Sampled]:
        """Return the hook that samples with this model until the answers agree."""
        by_row = self.config.seed_scope == "row"
        seeds = None if by_row else (self.run_seed, "solve_questions")
        sampling, stop_ids = self.config.sampling, self.chat.solve_stop_ids
        return SampleUntilAgreement(completing(generator, sampling, stop_ids, block_seeds=seeds), self.more)

    def row(self, number: int, replies: Sequence[Sampled]) -> Row | Drop:
        """Return the row with all its samples, or drop it with a reason."""
        self.answers.pop(number, None)
        reused = reused_samples(self.rows[number], self.config)
        new = self._sampled(replies[0].completions if replies else ())
        new |= {key: reused[key] + new[key] for key in SAMPLE_COLUMNS}
        new["agreement"] = grading.majority(new["answers"])[1]
        row = self.rows[number] | new | {"solver": model_label(self.config.model_name_or_path)}
        if "stop" not in row["finish_reasons"]:
            return Drop(row, "all_truncated")
        return row if any(answer is not None for answer in row["answers"]) else Drop(row, "no_answer")

    def _sampled(self, completions: Sequence[Completion]) -> Row:
        return sampled(completions, self.chat, phrase=self.config.answer_phrase)


def solve_questions(
    stage: Stage,
    rows: Sequence[Row],
    generator: Generator | None,
    chat: BoundFormat,
    config: SolveConfig,
    run: RunOptions,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Sample solutions of every question and finish the stage; other columns are passed on.

    Each question gets `config.samples` solutions, or with `until_agree`, as many rounds of them as needed.
    `agreement` is the share of the samples, including those without an answer, that give the most frequent
    answer.

    Rows are dropped, with the reason, for a `FormatError`, `all_truncated`, or `no_answer` (in no complete
    one).

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    # Sample, block by block
    hooks = Solving(rows, chat, config, run.seed)
    stream(
        stage, len(rows), run.block_size,
        requests=hooks.requests, generate=hooks.generate(generator) if generator else None, row=hooks.row,
        tracker=tracker, gates=config.gates,
    )  # fmt: skip
    # Card
    more_text = f", up to {config.max_samples} until {config.until_agree} agree" if config.until_agree else ""
    text = (
        f"{config.samples} solutions per question{more_text}, sampled from "
        f"{inline(model_label(config.model_name_or_path))}; truncated solutions have no "
        "answer."
    )
    samples = [
        {**row, "response": row["responses"][0], "answers": ", ".join(map(str, row["answers"]))}
        for row in stage.blocks.samples(4)
    ]
    columns = ("id", "question", "response", "answers", "agreement")
    card = dataset_card("Sampled solutions", text, to_dict(config), samples, *columns)
    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS)
