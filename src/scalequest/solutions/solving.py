"""Several sampled solutions a question, each with the answer that is read from it (paper, section 1.5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scalequest.cards import dataset_card
from scalequest.chat import BoundFormat, ChatFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.base import Completion, EngineConfig, FinishReason, Generator, Request, Sampling
from scalequest.engines.progress import Gates
from scalequest.engines.stream import Answer, Drop, completing, stream
from scalequest.engines.vllm_engine import check_block_seeds
from scalequest.grading import extract, majority
from scalequest.launch import LAUNCH, RAY_WORKERS, Launch
from scalequest.markup import inline
from scalequest.ranges import COUNT
from scalequest.receipts import read_receipt
from scalequest.records import Row, expand, model_label, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 2  # raise by hand when the same configuration gives other rows
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
    samples: int = option(5, "solutions a question; with until_agree, in each round", within=COUNT)
    until_agree: int | None = option(
        None,
        "sample on, round after round, until so many give one answer: hard questions get more",
        within=COUNT,
    )
    max_samples: int = option(40, "until_agree: most solutions a question", within=COUNT)
    answer_phrase: bool = option(
        False, "only a box, #### or an answer phrase counts as an answer, not the last number"
    )
    reuse: bool = option(
        False, "take over the responses that filter_questions kept, and sample what is missing"
    )
    sampling: Sampling = option(
        help="how they are sampled", default_factory=lambda: Sampling(0.7, 0.95, 2048)
    )
    seed_scope: Literal["row", "block"] = option(
        "row",
        "a seed a sample, or one a block of rows: faster on GPUs, where seeded rows are sampled natively",
    )
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)
    launch: Launch = option("local", LAUNCH, fingerprint=False)
    ray_workers: int | None = option(None, RAY_WORKERS, fingerprint=False, within=COUNT)
    gates: Gates = option(help="rates that end it early", default_factory=Gates, fingerprint=False)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.until_agree is not None and self.until_agree > self.max_samples:
            raise ConfigError(f"until_agree: {self.until_agree} is more than max_samples")
        if self.until_agree is not None and self.max_samples < self.samples:
            raise ConfigError(f"max_samples: {self.max_samples} is less than samples, {self.samples}")
        if self.seed_scope == "block":
            check_block_seeds(self.engine)


@dataclass(frozen=True)
class Puzzle:
    """One question, and the samples that it is asked for first."""

    number: int
    requests: Sequence[Request]


@dataclass(frozen=True)
class Sampled:
    """All samples of one question; it counts as one reply."""

    completions: tuple[Completion, ...]

    @property
    def tokens(self) -> int:
        """Generated for all of them."""
        return sum(completion.tokens for completion in self.completions)

    @property
    def prompt_tokens(self) -> int:
        """Read for all of them."""
        return sum(completion.prompt_tokens for completion in self.completions)

    @property
    def finish_reason(self) -> FinishReason:
        """`stop` where more than half of them stopped."""
        stopped = sum(completion.finish_reason == "stop" for completion in self.completions)
        return "stop" if 2 * stopped > len(self.completions) else "length"


def in_rounds(
    complete: Answer[Request, Completion], more: Callable[[int, Sequence[Completion]], Sequence[Request]]
) -> Answer[Puzzle, Sampled]:
    """Ask the samples of every question in rounds, until `more` (of its number and new samples) wants none.

    The budget by difficulty of DART-Math, with agreement in place of the known answer. A round of a block is
    a block of its own, and new blocks are taken while others are in a later round, so the engine stays full.
    """

    def answer(blocks: Iterator[tuple[int, list[Puzzle]]]) -> Iterator[tuple[int, list[Sampled]]]:
        opened: dict[int, dict[int, list[Completion]]] = {}
        asked: dict[int, list[int]] = {}  # block to the question of each of its samples in flight
        again: deque[tuple[int, list[Request]]] = deque()

        def rounds() -> Iterator[tuple[int, list[Request]]]:
            while True:
                if again:
                    yield again.popleft()
                    continue
                if (block := next(blocks, None)) is None:
                    return
                index, puzzles = block
                opened[index] = {puzzle.number: [] for puzzle in puzzles}
                asked[index] = [puzzle.number for puzzle in puzzles for _ in puzzle.requests]
                yield index, [request for puzzle in puzzles for request in puzzle.requests]

        while True:
            for index, completions in complete(rounds()):
                done, new = opened[index], dict[int, list[Completion]]()
                for number, completion in zip(asked.pop(index), completions, strict=True):
                    new.setdefault(number, []).append(completion)
                for number, found in new.items():
                    done[number] += found
                wanted = {number: more(number, found) for number, found in new.items()}
                requests = [request for row in wanted.values() for request in row]
                if requests:
                    asked[index] = [number for number, row in wanted.items() for _ in row]
                    again.append((index, requests))
                    continue
                del opened[index]
                yield index, [Sampled(tuple(found)) for found in done.values()]
            if not again:  # else a last round became due after the engine had asked for the last block
                return

    return answer


def further(answers: Sequence[str | None], config: SolveConfig) -> int:
    """How many samples a question with these answers (None for a sample without one) still gets."""
    have = len(answers)
    if have < config.samples:
        return config.samples - have
    if config.until_agree is None or have >= config.max_samples:
        return 0
    agreeing = round(majority(answers)[1] * have)
    return 0 if agreeing >= config.until_agree else min(config.samples, config.max_samples - have)


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


def sampled(completions: Sequence[Completion], format: BoundFormat, *, phrase: bool = False) -> Row:
    """Columns of one question's samples: responses, answers, finish reasons, tokens, agreement.

    `agreement` is the share of all samples, those without an answer included, that give the most frequent
    answer.
    """
    responses = [format.decode(completion.ids) for completion in completions]
    reasons = [completion.finish_reason for completion in completions]
    answers = read_answers(responses, reasons, phrase=phrase)
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
        receipt = read_receipt(expand(source))
        if receipt is None:
            raise ConfigError(f"reuse: {source} is not the folder of a filter_questions stage")
        theirs = receipt.get("fingerprint_fields", {})
        differing = [
            name
            for name, ours in (("chat_format", to_dict(format)), ("sampling", to_dict(sampling)))
            if theirs.get(name) != ours
        ]
        if model_fingerprint not in receipt.get("inputs", {}).values():
            differing.append("model_name_or_path")
        if differing:
            raise ConfigError(
                f"reuse: {source} was sampled with another {', '.join(differing)}; set reuse: false"
            )


def left_out(config: SolveConfig) -> tuple[str, ...]:
    """Columns of the input that go no further: a judge's whole reply, and samples that are not taken over."""
    # A question row counts its own tokens, in a column of another type.
    return ("verdict_text", *(() if config.reuse else SAMPLE_COLUMNS))


def asks_model(rows: Sequence[Row], config: SolveConfig) -> bool:
    """Whether any sample is missing; where none is, no engine need be started."""
    return any(further(taken_over(row, config)["answers"], config) for row in rows)


def taken_over(row: Row, config: SolveConfig) -> Row:
    """The samples that a row brings along, answers read as this stage reads them; none without `reuse`."""
    if not config.reuse:
        return {key: [] for key in SAMPLE_COLUMNS}
    keep = None if config.until_agree is not None else config.samples
    have = {key: row[key][:keep] for key in SAMPLE_COLUMNS}
    if config.answer_phrase:
        have["answers"] = read_answers(have["responses"], have["finish_reasons"], phrase=True)
    return have


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
    """Sample solutions of every question and finish the stage; other columns are carried.

    `config.samples` of each; with `until_agree` as many rounds of so many as it takes. `agreement` is the
    share of the samples, those without an answer included, that give the most frequent answer.

    Dropped, each with its reason: a `FormatError`, `all_truncated`, `no_answer` (in no complete one).

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    solver = model_label(config.model_name_or_path)
    by_row = config.seed_scope == "row"
    answers_of: dict[int, list[str | None]] = {}  # of the questions that are being asked

    def more(number: int, completions: Sequence[Completion]) -> list[Request]:
        if completions and config.until_agree is None:
            return []
        answers = answers_of.setdefault(number, list(taken_over(rows[number], config)["answers"]))
        if completions:
            answers += sampled(completions, format, phrase=config.answer_phrase)["answers"]
        missing = range(len(answers), len(answers) + further(answers, config))
        if not missing:
            return []
        requests = sample_requests(
            rows[number], missing, run.seed, "solve_questions", config.sampling, format
        )
        return requests if by_row else [replace(request, seed=None) for request in requests]

    def ask(number: int) -> Sequence[Puzzle] | Drop:
        try:
            requests = more(number, ())
        except FormatError as error:
            return Drop(rows[number], str(error))
        return [Puzzle(number, requests)] if requests else []

    def settle(number: int, replies: Sequence[Sampled]) -> Row | Drop:
        answers_of.pop(number, None)
        completions = replies[0].completions if replies else ()
        row, have = rows[number], taken_over(rows[number], config)
        new = sampled(completions, format, phrase=config.answer_phrase)
        new |= {key: have[key] + new[key] for key in SAMPLE_COLUMNS}
        new["agreement"] = majority(new["answers"])[1]
        row = row | new | {"solver": solver}
        if "stop" not in row["finish_reasons"]:
            return Drop(row, "all_truncated")
        return row if any(answer is not None for answer in row["answers"]) else Drop(row, "no_answer")

    answer = None
    if generator:
        seeds = None if by_row else (run.seed, "solve_questions")
        complete = completing(generator, config.sampling, format.solve_stop_ids, block_seeds=seeds)
        answer = in_rounds(complete, more)
    stream(
        stage,
        len(rows),
        run.block_size,
        ask=ask,
        answer=answer,
        settle=settle,
        tracker=tracker,
        gates=config.gates,
    )
    more_text = f", up to {config.max_samples} until {config.until_agree} agree" if config.until_agree else ""
    text = (
        f"{config.samples} solutions a question{more_text}, sampled from {inline(solver)}; "
        "cut ones have no answer."
    )
    samples = [
        {**row, "response": row["responses"][0], "answers": ", ".join(map(str, row["answers"]))}
        for row in stage.samples(4)
    ]
    columns = ("id", "question", "response", "answers", "agreement")
    card = dataset_card("Sampled solutions", text, to_dict(config), samples, *columns)
    return stage.finish(rows_in=len(rows), card=card, columns=COLUMNS)
