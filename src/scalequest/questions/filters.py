"""Which generated questions go on: by language, duplicates, contamination, solvability and difficulty.

The order of the paper (section 2.4) is language, solvability, difficulty; duplicates and contamination,
which it does not have, come before anything that costs a forward pass. Text steps look at all rows at once;
model steps go block by block.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scalequest import heartbeat
from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import COUNT
from scalequest.engines.base import Completion, EngineConfig, Generator, Request, Sampling
from scalequest.pages.cards import dataset_card
from scalequest.questions.contamination import ContaminationRule, ContaminationStep, TestQuestion
from scalequest.questions.difficulty import DifficultyRule, DifficultyStep, fail_rates
from scalequest.questions.duplicates import DuplicateRule, DuplicatesStep
from scalequest.questions.language import LanguageRule, LanguageStep
from scalequest.questions.length import LengthRule, LengthStep
from scalequest.questions.prompts import Prompt
from scalequest.questions.report import filter_report
from scalequest.questions.solvability import SolvabilityRule, SolvabilityStep
from scalequest.questions.steps import Context, ModelStep, Outcome, Step, TextStep
from scalequest.questions.text import BATCH, read_tokens
from scalequest.records import Row
from scalequest.samples import SAMPLE_COLUMNS
from scalequest.stage.block_loop import Drop, completing, stream
from scalequest.stage.folder import Stage
from scalequest.tracking import Tracker

VERSION = 6  # raise by hand when the same configuration gives other rows

# Every filter by its name in `steps`, in the order of the report. Its rule is the option of the same name.
STEPS: dict[str, type[Step]] = {
    "language": LanguageStep,
    "length": LengthStep,
    "duplicates": DuplicatesStep,
    "contamination": ContaminationStep,
    "solvability": SolvabilityStep,
    "difficulty": DifficultyStep,
}
if TYPE_CHECKING:
    StepName = str
else:
    StepName = Literal[tuple(STEPS)]

_THREADS = 4  # that read text; each holds the arrays of one batch, some 200 MB


@dataclass(frozen=True)
class FilterConfig:
    """The filter stage. It asks at most one model one kind of thing; two kinds are two stages."""

    input: list[str] = required("question sources, read one after the other", fingerprint=False)
    steps: list[StepName] = required("the filters, in order; those that ask a model come last")
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    language: LanguageRule = option(help="step language", default_factory=LanguageRule)
    length: LengthRule = option(help="step length", default_factory=LengthRule)
    duplicates: DuplicateRule = option(help="step duplicates", default_factory=DuplicateRule)
    contamination: ContaminationRule = option(help="step contamination", default_factory=ContaminationRule)
    solvability: SolvabilityRule = option(help="step solvability", default_factory=SolvabilityRule)
    difficulty: DifficultyRule = option(help="step difficulty", default_factory=DifficultyRule)
    model_name_or_path: str | None = option(
        None, "the judge or solver: a folder or hub id", fingerprint=False
    )
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    chat_format: str | None = option(
        None, "its chat format: a family, a YAML file or auto", fingerprint=False
    )
    samples: int = option(5, "solutions sampled per question, if agreement is measured", within=COUNT)
    keep_responses: bool = option(False, "keep them in the rows, so that solve_questions can reuse them")
    sampling: Sampling = option(help="how the model is sampled", default_factory=Sampling)
    engine: EngineConfig = option(help="what it runs on", default_factory=EngineConfig)

    def __post_init__(self) -> None:
        asks = [self._asks(step) for step in self.steps]
        if len(set(self.steps)) != len(self.steps):
            raise ConfigError(f"steps: {self.steps} names a step twice")
        if asks != sorted(asks):
            raise ConfigError(
                f"steps: {self.steps} asks a model before a step that needs none; put those first"
            )
        if any(asks) and not (self.model_name_or_path and self.chat_format):
            raise ConfigError(f"steps: {self.steps[-1]} needs model_name_or_path and chat_format")
        if self.by_verdict and self._asks("difficulty"):
            raise ConfigError(
                "steps: difficulty needs samples and solvability.judge: model a verdict; make two stages"
            )
        for step in self.steps:
            STEPS[step].check(getattr(self, step))
        if any(asks) and not self.by_verdict and self.samples < 2:
            raise ConfigError(f"samples: {self.samples} cannot agree or disagree; give at least 2")
        if self.by_verdict and self.solvability.votes > 1 and self.sampling.temperature == 0:
            raise ConfigError("solvability.votes: greedy replies are all the same; set sampling.temperature")

    @property
    def by_verdict(self) -> bool:
        """Whether the model is asked for a verdict, not for solutions."""
        return "solvability" in self.steps and self.solvability.judge == "model"

    @property
    def asks_model(self) -> bool:
        """Whether any step needs a model at all."""
        return any(self._asks(step) for step in self.steps)

    def _asks(self, step: str) -> bool:
        return step in self.steps and STEPS[step].asks_model(getattr(self, step))

    def made(
        self, benchmarks: Sequence[TestQuestion] = (), seed: int = 0, prompt: Prompt | None = None
    ) -> dict[str, TextStep | ModelStep]:
        """The steps of the stage by their names, in the order in which they run.

        Args:
            benchmarks: for the step contamination.
            seed: of the run.
            prompt: of the judge, if `solvability.judge` is `model`.
        """
        context = Context(seed, benchmarks, self.samples, self.sampling, self.keep_responses, prompt)
        return {name: STEPS[name].of(getattr(self, name), context) for name in self.steps}


@dataclass(frozen=True)
class TextFindings:
    """What the text steps found.

    Attributes:
        reasons: one per row: why it goes no further, or None.
        columns: what rows get, by row number.
        outcomes: of each step, by its name.
    """

    reasons: list[str | None]
    columns: dict[int, Row]
    outcomes: dict[str, Outcome]


def read_text(rows: Sequence[Row], steps: Mapping[str, TextStep | ModelStep]) -> TextFindings:
    """Run the text steps over all rows, in order; a row that one drops is not seen by the next.

    Every worker does so over all rows: which of two equal questions is the first depends on all of them.

    Args:
        rows: with `id` and `question`.
        steps: of the stage, by their names.
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
    """What each step reads of every batch of texts. The tokens of a batch are made once, for all steps."""
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
    """What becomes of each row of the filter stage: the hooks of `stream`.

    Attributes:
        rows: all that came in.
        found: by the text steps.
        steps: that ask a model.
        chat: the model's chat format; None asks no model.
        without: columns of the input that go no further.
        counted: numbers of the rows for which a counted column is true, by column.
    """

    rows: Sequence[Row]
    found: TextFindings
    steps: Sequence[ModelStep] = ()
    chat: BoundFormat | None = None
    without: Sequence[str] = ()
    counted: dict[str, set[int]] = field(default_factory=dict)

    def requests(self, number: int) -> Sequence[Request] | Drop:
        """What the model is asked about a row that the text steps kept."""
        row, reason = self._carried(number), self.found.reasons[number]
        if reason is not None:
            return Drop(row, reason)
        if not self.steps:
            return []
        assert self.chat is not None, "a model step without a chat format"
        try:
            return self.steps[0].asks.requests(row, self.chat)  # the others ask the same
        except FormatError as error:
            return Drop(row, str(error))

    def row(self, number: int, completions: Sequence[Completion]) -> Row | Drop:
        """The row with what was measured, or why one of the steps drops it."""
        row = self._carried(number)
        if not self.steps:
            return row
        assert self.chat is not None, "a model step without a chat format"
        asks = self.steps[0].asks
        row |= asks.columns(completions, self.chat)
        for name in asks.counted:
            if row[name]:
                self.counted.setdefault(name, set()).add(number)
        reason = next((why for step in self.steps if (why := step.reason(row)) is not None), None)
        return row if reason is None else Drop(row, reason)

    def counts(self, numbers: range) -> dict[str, int]:
        """How many rows of a block have each counted column."""
        names = self.steps[0].asks.counted if self.steps else ()
        return {name: len(self.counted.get(name, set()).intersection(numbers)) for name in names}

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
    prompt: Prompt | None = None,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Filter `rows` and finish the stage; kept and dropped rows carry what was measured.

    Beside the rows, report.html and report.json say what every step did, with flagged pairs side by side.

    Args:
        stage: an open, unfinished stage.
        rows: question rows.
        config: the steps and their rules.
        run: gives the seed and the block size.
        benchmarks: questions for the step contamination.
        generator: judge or solver, if a step needs one.
        chat: its chat format.
        prompt: of the judge, if `solvability.judge` is `model`.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    # Text steps over all rows
    steps = config.made(benchmarks, run.seed, prompt)
    found = read_text(rows, steps)
    # Model steps, block by block
    asking = [step for step in steps.values() if isinstance(step, ModelStep)]
    without = SAMPLE_COLUMNS if config.keep_responses else ()  # a question row counts its own tokens
    rest = Filtering(rows, found, asking, chat, without)
    generate = None
    if asking:
        assert generator is not None, "a model step without a model"
        assert chat is not None, "a model step without a chat format"
        generate = completing(generator, config.sampling, chat.solve_stop_ids)
    stream(
        stage, len(rows), run.block_size,
        requests=rest.requests, generate=generate, row=rest.row, counts=rest.counts, tracker=tracker,
    )  # fmt: skip
    # Card and report
    text = f"Questions that passed {', '.join(config.steps)}. report.html says what each step did."
    shown = ("id", "question", *(asking[0].asks.shown if asking else ()))
    card = dataset_card("Filtered questions", text, to_dict(config), stage.samples(8), *shown)

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
        for name in STEPS
        if (step := steps.get(name)) is not None
    }
    by_columns = "difficulty" in found.outcomes  # and so it has shown its own measure
    others = [] if by_columns else fail_rates(stage.output_dir)
    order = [reason for step in STEPS.values() for reason in step.reasons]
    filter_report(stage.output_dir, receipt, reports, others, order)
