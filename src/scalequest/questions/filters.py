"""Filter generated questions by text, solvability and difficulty.

The order of the paper (section 2.4) is language, solvability, difficulty; duplicates and contamination, which
it does not have, come before anything that needs a forward pass. Text steps look at all rows at once; model
steps go block by block. A function of the user's is a text step like any other (`function_step.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalequest import heartbeat
from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import COUNT
from scalequest.engines.base import EngineConfig, Generator, Sampling
from scalequest.engines.server import ServerConfig
from scalequest.functions import FunctionKey, is_function_name
from scalequest.pages.cards import dataset_card
from scalequest.pages.markup import inline
from scalequest.questions.contamination import ContaminationRule, ContaminationStep, TestQuestion
from scalequest.questions.difficulty import DifficultyRule, DifficultyStep, fail_rates
from scalequest.questions.diversity import DiversityRule, DiversityStep
from scalequest.questions.duplicates import DuplicateRule, DuplicatesStep
from scalequest.questions.function_step import FunctionStep, step_function
from scalequest.questions.judges import Judge, Ledger, check_judge
from scalequest.questions.language import LanguageRule, LanguageStep
from scalequest.questions.length import LengthRule, LengthStep
from scalequest.questions.prompts import Prompt
from scalequest.questions.report import filter_report
from scalequest.questions.solvability import SolvabilityRule, SolvabilityStep
from scalequest.questions.steps import Context, ModelStep, Outcome, Step, TextStep
from scalequest.questions.text import BATCH, read_tokens
from scalequest.records import Row
from scalequest.samples import SAMPLE_COLUMNS
from scalequest.stage.block_loop import Drop, Generate, completing, stream
from scalequest.stage.folder import Stage
from scalequest.stage.progress import Gates
from scalequest.tracking import Tracker

VERSION = 7  # raise by hand when the same configuration gives other rows

# Every filter by its name in `steps`. Its rule is the option with the same name.
STEPS: dict[str, type[Step]] = {
    "language": LanguageStep,
    "length": LengthStep,
    "duplicates": DuplicatesStep,
    "contamination": ContaminationStep,
    "diversity": DiversityStep,
    "solvability": SolvabilityStep,
    "difficulty": DifficultyStep,
}

_THREADS = 4  # for reading text; each holds the arrays of one batch, about 200 MB


@dataclass(frozen=True)
class FilterConfig:
    """The filter stage. It asks at most one model one kind of thing: solutions, verdicts or levels."""

    input: list[str] = required("sources of questions, read one after the other", fingerprint=False)
    steps: list[str] = required(
        f"filters, in order: {', '.join(STEPS)}, or a function of yours, FILE.py:NAME or MODULE:NAME, called "
        "with a row, which returns None to keep it or a reason; those that ask a model come last"
    )
    columns: dict[str, str] = option(
        help="mapping from our column names to those of the input", default_factory=dict
    )
    language: LanguageRule = option(help="step language", default_factory=LanguageRule)
    length: LengthRule = option(help="step length", default_factory=LengthRule)
    duplicates: DuplicateRule = option(help="step duplicates", default_factory=DuplicateRule)
    contamination: ContaminationRule = option(help="step contamination", default_factory=ContaminationRule)
    diversity: DiversityRule = option(help="step diversity", default_factory=DiversityRule)
    solvability: SolvabilityRule = option(help="step solvability", default_factory=SolvabilityRule)
    difficulty: DifficultyRule = option(help="step difficulty", default_factory=DifficultyRule)
    model_name_or_path: str | None = option(None, "judge or solver: a folder or hub id", fingerprint=False)
    model_revision: str | None = option(None, "revision of the model on the hub", fingerprint=False)
    chat_format: str | None = option(
        None, "chat format of the model: a family, a YAML file or auto", fingerprint=False
    )
    samples: int = option(5, "solutions sampled per question, if agreement is measured", within=COUNT)
    keep_responses: bool = option(False, "keep them in the rows, so that solve_questions can reuse them")
    sampling: Sampling = option(help="how the model is sampled", default_factory=Sampling)
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)
    server: ServerConfig = option(help="judge server: which", default_factory=ServerConfig)
    system: str | None = option(None, "judge server: text of the system turn; None sends none")
    gates: Gates = option(
        help="rates that end it early if a server is asked",
        default_factory=lambda: Gates(junk=0.99),
        fingerprint=False,
    )

    def __post_init__(self) -> None:
        for step in self.steps:
            if step not in STEPS and not is_function_name(step):
                raise ConfigError(
                    f"steps: '{step}' is neither {', '.join(STEPS)} nor a function, FILE.py:NAME or "
                    "MODULE:NAME"
                )
        asks = [self._asks(step) for step in self.steps]
        if len(set(self.steps)) != len(self.steps):
            raise ConfigError(f"steps: {self.steps} contains a step twice")
        if asks != sorted(asks):
            raise ConfigError(
                f"steps: {self.steps} has a step that asks a model before one that does not; put "
                "the latter first, or in a filter stage of its own that reads the output of this one"
            )
        kinds = {self._kind(step) for step in self.steps if self._asks(step)}
        if len(kinds) > 1:
            said = " and ".join(sorted(f"{what} by {who}" for what, who in kinds))
            raise ConfigError(f"steps: they ask for {said}, which are two stages; give each its own")
        if self.judge == "server":
            check_judge(self, f"{self.steps[-1]}.judge")
        elif any(asks) and not (self.model_name_or_path and self.chat_format):
            raise ConfigError(f"steps: {self.steps[-1]} needs model_name_or_path and chat_format")
        for step in self.steps:
            if step in STEPS:
                STEPS[step].check(getattr(self, step))
        if any(asks) and self.judge is None and self.samples < 2:
            raise ConfigError(f"samples: {self.samples} cannot agree or disagree; give at least 2")
        if self.by_verdict and self.solvability.votes > 1 and self.sampling.temperature == 0:
            raise ConfigError("solvability.votes: greedy replies are all identical; set sampling.temperature")

    @property
    def functions(self) -> list[FunctionKey]:
        """The steps that are functions of the user's."""
        return [step_function(step) for step in self.steps if step not in STEPS]

    @property
    def identity(self) -> dict[str, Any]:
        """For the fingerprint, the steps with the content of the functions among them, not their paths.

        Raises:
            ConfigError: a function cannot be loaded.
        """
        own = {key.name: key.load().identity for key in self.functions}
        return {"steps": [own.get(step, step) for step in self.steps]} if own else {}

    @property
    def by_verdict(self) -> bool:
        """Whether somebody is asked for a verdict on solvability, not for solutions."""
        return "solvability" in self.steps and self.solvability.judge != "agreement"

    @property
    def judge(self) -> str | None:
        """`model` or `server` if one is asked for verdicts or levels; None if nobody or a solver is asked."""
        judges = [self._kind(step)[1] for step in self.steps if self._asks(step)]
        return judges[0] if judges and judges[0] != "agreement" else None

    @property
    def prompt(self) -> str | None:
        """The judge's prompt file, if there is a judge."""
        if self.judge is None:
            return None
        return self.solvability.prompt if self.by_verdict else self.difficulty.prompt

    @property
    def asks_model(self) -> bool:
        """Whether any step needs a model that is loaded here."""
        return any(self._asks(step) for step in self.steps) and self.judge != "server"

    def _asks(self, step: str) -> bool:
        return step in STEPS and STEPS[step].asks_model(getattr(self, step))

    def _kind(self, step: str) -> tuple[str, str]:
        """What a step that asks asks for, and whom: two steps that ask alike share their requests."""
        judge = str(getattr(self, step).judge)
        return "solutions" if judge == "agreement" else f"{step} in words", judge

    def made(
        self,
        benchmarks: Sequence[TestQuestion] = (),
        seed: int = 0,
        prompt: Prompt | None = None,
        limit: int | None = None,
    ) -> dict[str, TextStep | ModelStep]:
        """Return the steps of the stage by name, in the order in which they run.

        Args:
            benchmarks: for the step contamination.
            seed: of the run.
            prompt: of the judge, if there is one.
            limit: rows that were read at most.

        Raises:
            ConfigError: a function among them cannot be loaded.
        """
        context = Context(seed, benchmarks, self.samples, self.sampling, self.keep_responses, prompt, limit)
        return {
            name: STEPS[name].of(getattr(self, name), context) if name in STEPS else FunctionStep.named(name)
            for name in self.steps
        }


@dataclass(frozen=True)
class TextFindings:
    """The findings of the text steps.

    Attributes:
        reasons: one per row: why it is dropped, or None.
        columns: new columns of rows, by row number.
        outcomes: the outcome of each step, by its name.
    """

    reasons: list[str | None]
    columns: dict[int, Row]
    outcomes: dict[str, Outcome]


def read_text(rows: Sequence[Row], steps: Mapping[str, TextStep | ModelStep]) -> TextFindings:
    """Run the text steps over all rows, in order; a row dropped by one step is not seen by the next.

    Every worker processes all rows, because which of two equal questions is the first depends on all of them.

    Args:
        rows: rows with `id` and `question`.
        steps: the steps of the stage, by name.
    """
    text_steps = {name: step for name, step in steps.items() if isinstance(step, TextStep)}
    found = TextFindings([None] * len(rows), {}, {})
    batches = _read([row["question"] for row in rows], list(text_steps.values()))
    for (name, step), own in zip(text_steps.items(), batches, strict=True):
        left = np.array([reason is None for reason in found.reasons], bool)
        found.outcomes[name] = outcome = step.find(rows, own, left)
        found.reasons[:] = [old or new for old, new in zip(found.reasons, outcome.reasons, strict=True)]
        for number, columns in outcome.columns.items():
            found.columns[number] = found.columns.get(number, {}) | columns
    return found


def _read(texts: Sequence[str], steps: Sequence[TextStep]) -> list[list[Any]]:
    """Return what each step reads from every batch of texts. The tokens of a batch are computed once."""
    if not steps:
        return []

    def read(batch: range) -> list[Any]:
        own = texts[batch.start : batch.stop]
        tokens = read_tokens(own)
        return [step.read(own, tokens) for step in steps]

    found: list[list[Any]] = [[] for _ in steps]
    batches = [range(start, start + BATCH) for start in range(0, len(texts), BATCH)]
    with (
        heartbeat.doing("reading the questions", total=len(texts), unit="questions") as work,
        ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads,  # numpy lets go of the interpreter
    ):
        for batch, parts in zip(batches, threads.map(read, batches), strict=True):
            work.done = batch.start
            for own, part in zip(found, parts, strict=True):
                own.append(part)
    return found


@dataclass(frozen=True)
class Filtering:
    """The hooks of `stream` for the filter stage: what happens to each row.

    Attributes:
        rows: all that came in.
        found: by the text steps.
        steps: that ask a model.
        chat: the solver's chat format, if one is asked.
        without: columns of the input that go no further.
        counted: numbers of the rows for which a counted column is true, by column.
        ledger: of what a server costs.
    """

    rows: Sequence[Row]
    found: TextFindings
    steps: Sequence[ModelStep] = ()
    chat: BoundFormat | None = None
    without: Sequence[str] = ()
    counted: dict[str, set[int]] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)

    def requests(self, number: int) -> Sequence[Any] | Drop:
        """What the model is asked about a row that the text steps kept."""
        row, reason = self._carried(number), self.found.reasons[number]
        if reason is not None:
            return Drop(row, reason)
        if not self.steps:
            return []
        try:
            return self.steps[0].asks.requests(row, self.chat)  # all model steps have the same requests
        except FormatError as error:
            return Drop(row, str(error))

    def row(self, number: int, replies: Sequence[Any]) -> Row | Drop:
        """The row with what was measured, or why one of the steps drops it."""
        row = self._carried(number)
        if not self.steps:
            return row
        self.ledger.add(number, replies)
        asks = self.steps[0].asks
        row |= asks.columns(replies, self.chat)
        for name in asks.counted:
            if row[name]:
                self.counted.setdefault(name, set()).add(number)
        reason = next((why for step in self.steps if (why := step.reason(row)) is not None), None)
        return row if reason is None else Drop(row, reason)

    def counts(self, numbers: range) -> dict[str, int | float]:
        """How many rows of a block have each counted column, and what its requests to a server cost."""
        names = self.steps[0].asks.counted if self.steps else ()
        found = {name: len(self.counted.get(name, set()).intersection(numbers)) for name in names}
        return {**found, **self.ledger.counts(numbers)}

    def _carried(self, number: int) -> Row:
        row = {key: value for key, value in self.rows[number].items() if key not in self.without}
        return row | self.found.columns.get(number, {})


def filter_questions(
    stage: Stage,
    rows: Sequence[Row],
    config: FilterConfig,
    run: RunOptions,
    *,
    benchmarks: Sequence[TestQuestion] = (),
    generator: Generator | None = None,
    chat: BoundFormat | None = None,
    judge: Judge | None = None,
    prompt: Prompt | None = None,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Filter `rows` and finish the stage; kept and dropped rows carry their measurements.

    In addition, report.html and report.json describe what every step did, with flagged pairs side by side.

    Args:
        stage: an open, unfinished stage.
        rows: question rows.
        config: the steps and their rules.
        run: gives the seed and the block size.
        benchmarks: questions for the step contamination.
        generator: the solver, if a step asks one for solutions.
        chat: its chat format.
        judge: whoever is asked in words, if a step has a judge.
        prompt: of the judge.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    # Text steps over all rows
    steps = config.made(benchmarks, run.seed, prompt, run.limit)
    found = read_text(rows, steps)
    # Model steps, block by block
    asking = [step for step in steps.values() if isinstance(step, ModelStep)]
    without = SAMPLE_COLUMNS if config.keep_responses else ()  # a question row counts its own tokens
    paid = config.judge == "server"
    ledger = Ledger(config.server if paid else None)
    rest = Filtering(rows, found, asking, chat, without, ledger=ledger)
    generate: Generate[Any, Any] | None = judge
    if asking and judge is None:
        assert generator is not None, "a model step without a model"
        assert chat is not None, "a model step without a chat format"
        generate = completing(generator, config.sampling, chat.solve_stop_ids)
    stream(
        stage, len(rows), run.block_size,
        requests=rest.requests, generate=generate, row=rest.row, counts=rest.counts, tracker=tracker,
        gates=config.gates if paid else None,
    )  # fmt: skip
    # Card and report
    passed = ", ".join(inline(step.rpartition("/")[2]) for step in config.steps)
    text = f"Questions that passed {passed}. report.html shows what each step did."
    shown = ("id", "question", *(asking[0].asks.shown if asking else ()))
    card = dataset_card("Filtered questions", text, to_dict(config), stage.blocks.samples(8), *shown)

    def report(receipt: Mapping[str, Any]) -> None:
        _report(stage, rows, steps, found, receipt)

    return stage.finish(rows_in=len(rows), card=card, columns=("id", "question"), beside=report)


def _report(
    stage: Stage,
    rows: Sequence[Row],
    steps: Mapping[str, TextStep | ModelStep],
    found: TextFindings,
    receipt: Mapping[str, Any],
) -> None:
    reports = {
        name: step.report(rows, found.outcomes[name], receipt)
        if isinstance(step, TextStep)
        else step.report(receipt)
        for name, step in steps.items()
    }
    by_columns = "difficulty" in found.outcomes  # it has then shown its own measure
    others = [] if by_columns else fail_rates(stage.output_dir)
    reasons = {name: dict.fromkeys(filter(None, outcome.reasons)) for name, outcome in found.outcomes.items()}
    order = [reason for name, step in steps.items() for reason in step.reasons or reasons.get(name, ())]
    filter_report(stage.output_dir, receipt, reports, others, order)
