"""Which generated questions go on: by language, duplicates, contamination, solvability and difficulty.

The order of the paper (section 2.4) is language, solvability, difficulty; duplicates and contamination,
which it does not have, come before anything that costs a forward pass. Steps that read text alone look at all
rows at once; those that ask a model go block by block.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scalequest import heartbeat
from scalequest.cards import dataset_card
from scalequest.chat import BoundFormat, FormatError
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.base import Completion, EngineConfig, Generator, Request, Sampling
from scalequest.engines.stream import Drop, completing, stream
from scalequest.questions.contamination import ContaminationRule, Index, Match, TestQuestion
from scalequest.questions.difficulty import DifficultyRule, measured, outside_difficulty, select_difficulty
from scalequest.questions.duplicates import DuplicateRule, Sketch, find_duplicates, sketch
from scalequest.questions.language import LanguageRule, languages
from scalequest.questions.prompts import Prompt
from scalequest.questions.report import TextFindings, filter_report
from scalequest.questions.solvability import SolvabilityRule, judged, unsolvable
from scalequest.questions.text import BATCH, read_tokens
from scalequest.ranges import COUNT
from scalequest.records import Row, row_seed
from scalequest.shards import Stage
from scalequest.solutions.solving import SAMPLE_COLUMNS, sample_requests, sampled
from scalequest.tracking import Tracker

VERSION = 6  # raise by hand when the same configuration gives other rows

Step = Literal["language", "duplicates", "contamination", "solvability", "difficulty"]
MODEL_STEPS = ("solvability", "difficulty")
_THREADS = 4  # that read text; each holds the arrays of one batch, some 200 MB


@dataclass(frozen=True)
class FilterConfig:
    """The filter stage. It asks at most one model one kind of thing; two kinds are two stages."""

    input: list[str] = required("question sources, read one after the other", fingerprint=False)
    steps: list[Step] = required("the filters, in order; those that ask a model come last")
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    language: LanguageRule = option(help="step language", default_factory=LanguageRule)
    duplicates: DuplicateRule = option(help="step duplicates", default_factory=DuplicateRule)
    contamination: ContaminationRule = option(help="step contamination", default_factory=ContaminationRule)
    solvability: SolvabilityRule = option(help="step solvability", default_factory=SolvabilityRule)
    difficulty: DifficultyRule = option(help="step difficulty", default_factory=DifficultyRule)
    model_name_or_path: str | None = option(
        None, "the judge or solver: a folder or hub id", fingerprint=False
    )
    model_revision: str | None = option(None, "its revision on the hub", fingerprint=False)
    chat_format: str | None = option(None, "its chat format: a family or a YAML file", fingerprint=False)
    samples: int = option(5, "solutions sampled a question, where agreement is measured", within=COUNT)
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
        if self.by_verdict and not self.solvability.prompt:
            raise ConfigError("solvability.prompt: judge: model needs a prompt file")
        if any(asks) and not self.by_verdict and self.samples < 2:
            raise ConfigError(f"samples: {self.samples} cannot agree or disagree; give at least 2")
        if "contamination" in self.steps and not self.contamination.given:
            raise ConfigError(
                "contamination.against: step contamination needs a benchmark, here or in .benchmarks"
            )
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

    def _asks(self, step: Step) -> bool:
        return (
            step in self.steps
            and step in MODEL_STEPS
            and not (step == "difficulty" and self.difficulty.columns)
        )


def read_text(
    rows: Sequence[Row], config: FilterConfig, benchmarks: Sequence[TestQuestion] = (), seed: int = 0
) -> TextFindings:
    """Run the steps that need no model over all rows, in order; a row that one stops is not seen by the next.

    Every worker does so over all rows: which of two equal questions is the first depends on all of them.

    Args:
        rows: with `id` and `question`.
        config: the steps and their rules.
        benchmarks: for the step contamination.
        seed: of the run, where difficulty is selected by a column.
    """
    texts: list[str] = [row["question"] for row in rows]
    index = Index(benchmarks, config.contamination)

    def read(batch: range) -> tuple[list[str | None], list[Sketch], list[Match | None]]:
        own = texts[batch.start : batch.stop]
        tokens = read_tokens(own)
        return (
            languages(own, tokens, config.language) if "language" in config.steps else [],
            [sketch(tokens, config.duplicates)] if "duplicates" in config.steps else [],
            index.matches(tokens) if "contamination" in config.steps else [],
        )

    spoken: list[str | None] = []
    sketches: list[Sketch] = []
    matches: list[Match | None] = []
    ranges = [range(start, start + BATCH) for start in range(0, len(texts), BATCH)]
    with (
        heartbeat.doing("reading the questions", total=len(texts), unit="questions") as work,
        ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads,  # numpy lets go of the interpreter
    ):
        for batch, (batch_spoken, batch_sketches, batch_matches) in zip(
            ranges, threads.map(read, ranges), strict=True
        ):
            work.done = batch.start
            spoken += batch_spoken
            sketches += batch_sketches
            matches += batch_matches
    found = TextFindings([None] * len(rows), [{} for _ in rows], [text.isascii() for text in texts])

    def drop(reasons: Sequence[str | None]) -> None:
        found.reasons[:] = [old or new for old, new in zip(found.reasons, reasons, strict=True)]

    for step in config.steps:
        if step == "language":
            drop(spoken)
        elif step == "duplicates" and sketches:
            among = np.array([reason is None for reason in found.reasons])
            with heartbeat.doing(f"looking for duplicates among {len(texts):,} questions"):
                found.duplicates = find_duplicates(texts, Sketch.joined(sketches), config.duplicates, among)
            for number, reason in enumerate(found.duplicates.reasons):
                if reason is not None:
                    found.columns[number]["duplicate_of"] = rows[int(found.duplicates.kept[number])]["id"]
            drop(found.duplicates.reasons)
        elif step == "contamination":
            for number, match in enumerate(matches):
                if match is not None and found.reasons[number] is None:
                    found.matches[number] = match
                    found.columns[number] |= match.columns
            found.clean = index.clean_ratios()
            if config.contamination.drop:
                drop(["contamination" if number in found.matches else None for number in range(len(rows))])
        elif step == "difficulty" and config.difficulty.columns:
            left = [number for number, reason in enumerate(found.reasons) if reason is None]
            chosen = select_difficulty([rows[number] for number in left], config.difficulty, seed)
            values = measured([rows[number] for number in left], config.difficulty.columns)
            found.difficulties = values, [v for v, why in zip(values, chosen, strict=True) if why is None]
            for number, why in zip(left, chosen, strict=True):
                found.reasons[number] = why
    return found


def filter_questions(
    stage: Stage,
    rows: Sequence[Row],
    config: FilterConfig,
    run: RunOptions,
    *,
    benchmarks: Sequence[TestQuestion] = (),
    generator: Generator | None = None,
    format: BoundFormat | None = None,
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
        generator: judge or solver, where a step needs one.
        format: its chat format.
        prompt: the judge's, where `solvability.judge` is `model`.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    found = read_text(rows, config, benchmarks, run.seed)
    disagreeing: set[int] = set()
    left_out = SAMPLE_COLUMNS if config.keep_responses else ()  # a question row counts its own tokens

    def base(number: int) -> Row:
        row = {key: value for key, value in rows[number].items() if key not in left_out}
        return row | found.columns[number]

    def judge_seed(row: Row, vote: int) -> int | None:
        return row_seed(run.seed, "judge", row["id"], vote) if config.sampling.temperature > 0 else None

    def ask(number: int) -> Sequence[Request] | Drop:
        row, reason = base(number), found.reasons[number]
        if reason is not None:
            return Drop(row, reason)
        if format is None:
            return []
        try:
            if config.by_verdict:
                assert prompt is not None, "judge: model without a prompt"
                ids = format.user_prompt_ids(prompt.fill(row["question"]))
                return [
                    Request(f"{row['id']}/{n}", ids, judge_seed(row, n))
                    for n in range(config.solvability.votes)
                ]
            return sample_requests(
                row, range(config.samples), run.seed, "filter_questions", config.sampling, format
            )
        except FormatError as error:
            return Drop(row, str(error))

    def settle(number: int, completions: Sequence[Completion]) -> Row | Drop:
        row = base(number)
        if format is None:
            return row
        if config.by_verdict:
            replies = [format.decode(completion.ids) for completion in completions]
            ends = [completion.finish_reason for completion in completions]
            row |= judged(replies, ends, config.solvability)
            row["verdict_tokens"] = sum(len(completion.ids) for completion in completions)
            if row["rules_disagree"]:
                disagreeing.add(number)
        else:
            measures = sampled(completions, format)
            row |= measures if config.keep_responses else {"agreement": measures["agreement"]}
            row["fail_rate"] = 1 - measures["agreement"]
        reason = None
        for step in config.steps:
            if step == "solvability":
                reason = reason or unsolvable(row, config.solvability)
            elif step == "difficulty" and not config.difficulty.columns:
                reason = reason or outside_difficulty(row, config.difficulty)
        return row if reason is None else Drop(row, reason)

    def disagreements(numbers: range) -> dict[str, int]:
        return {"rules_disagree": len(disagreeing & set(numbers))}

    answer = None
    if config.asks_model:
        assert generator is not None, "a model step without a model"
        assert format is not None, "a model step without a chat format"
        answer = completing(generator, config.sampling, format.solve_stop_ids)
    stream(
        stage,
        len(rows),
        run.block_size,
        ask=ask,
        answer=answer,
        settle=settle,
        counts=disagreements if config.by_verdict else None,
        tracker=tracker,
    )
    columns = ["verdict"] if config.by_verdict else ["agreement", "fail_rate"] if config.asks_model else []
    text = f"Questions that passed {', '.join(config.steps)}. report.html says what each step did."
    card = dataset_card(
        "Filtered questions", text, to_dict(config), stage.samples(8), "id", "question", *columns
    )

    def report(receipt: Mapping[str, Any]) -> None:
        filter_report(stage.output_dir, rows, found, receipt, config.steps)

    return stage.finish(rows_in=len(rows), card=card, columns=("id", "question"), beside=report)
