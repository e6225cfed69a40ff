"""Evaluate one model on several benchmarks: one queue, every completion kept, one result per benchmark.

The protocol is the paper's (section 3.1) unless the settings say otherwise: zero-shot, greedy, chain of
thought; a truncated output is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Generic

from scalequest import heartbeat
from scalequest.chat import FormatError
from scalequest.config import ConfigError, RunOptions, to_dict
from scalequest.evaluation.benchmarks import LoadedBenchmark
from scalequest.evaluation.evaluated_model import A, EvaluatedModel, Q, opens_reasoning
from scalequest.evaluation.output_grading import (
    GradedReply,
    GradingPool,
    OutputGrade,
    Submission,
    add_grading,
    submission_of,
)
from scalequest.evaluation.problems import BenchmarkProblem
from scalequest.evaluation.prompts import EvalPrompt
from scalequest.evaluation.protocol import (
    format_of,
    grading_settings_of,
    protocol_of,
    read_receipt,
    request_settings_of,
)
from scalequest.evaluation.results import RESULTS, Result, summarise, write_results
from scalequest.evaluation.settings import EvaluationConfig
from scalequest.evaluation.tables import describe_differences
from scalequest.pages.cards import dataset_card
from scalequest.pages.markup import inline
from scalequest.records import Row, read_rows, row_seed
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.tracking import Tracker

VERSION = 3  # increase by hand when the same settings give other rows

COLUMNS = (
    *("benchmark", "id", "prompt", "sample", "metadata", "reference", "prompt_sha256", "completion"),
    *("finish_reason", "tokens", "truncated", "extracted", "rule", "correct", "layer", "timeout"),
)
_OUTPUT_KEY = ("benchmark", "id", "prompt", "sample")  # columns that together identify an output


# --------------------------------------------------------------------------------------------- asking a model


@dataclass(frozen=True)
class ModelRequest:
    """One requested output: which sample of which problem, with which prompt."""

    benchmark: LoadedBenchmark
    prompt: EvalPrompt
    problem: BenchmarkProblem
    sample: int

    @property
    def columns(self) -> Row:
        """Return the columns of a row that identify the request."""
        problem = self.problem
        return {
            "benchmark": self.benchmark.name,
            "id": problem.id,
            "prompt": self.prompt.name,
            "sample": self.sample,
            "metadata": json.dumps(problem.metadata, ensure_ascii=False, sort_keys=True),
            "reference": " or ".join([problem.answer, *problem.also]),
        }

    def seed(self, run_seed: int) -> int:
        """Return the seed of this output, which only depends on the run's seed and the request."""
        return row_seed(
            run_seed, "evaluate", self.benchmark.name, self.prompt.name, self.problem.id, self.sample
        )


def requests_of(benchmarks: Sequence[LoadedBenchmark], samples: int) -> Iterator[ModelRequest]:
    """Return all requested outputs, in order."""
    for benchmark in benchmarks:
        for prompt in benchmark.prompts:
            for problem in benchmark.problems:
                for sample in range(samples):
                    yield ModelRequest(benchmark, prompt, problem, sample)


@dataclass(frozen=True)
class EvaluationHooks(Generic[Q, A]):
    """The hooks of `stream` for each request, by its number in the queue."""

    model: EvaluatedModel[Q, A]
    config: EvaluationConfig
    seed: int
    queue: Sequence[ModelRequest]
    prompt_hashes: dict[int, str] = field(default_factory=dict)  # of the requests in progress

    def requests(self, number: int) -> Sequence[Q] | Drop:
        """Prepare the request for the model, or drop it if the chat format cannot represent it."""
        one = self.queue[number]
        seed = one.seed(self.seed) if self.config.sampling.temperature > 0 else None
        key = f"{one.benchmark.name}/{one.problem.id}/{number}"
        try:
            request, self.prompt_hashes[number] = self.model.prepare(key, one.prompt, one.problem, seed)
        except FormatError as error:
            return Drop(one.columns, str(error))
        return [request]

    def asked(self, key: str) -> tuple[EvalPrompt, BenchmarkProblem]:
        """Return the prompt and the problem of a request's key."""
        one = self.queue[int(key.rpartition("/")[2])]
        return one.prompt, one.problem

    def row(self, number: int, replies: Sequence[GradedReply]) -> Row | Drop:
        """Turn the graded reply into a row, or drop the request if the reply failed."""
        (reply,) = replies
        columns = self.queue[number].columns
        if reply.fault is not None:
            return Drop(columns, reply.fault)
        return {
            **columns,
            "prompt_sha256": self.prompt_hashes.pop(number),
            "completion": reply.text,
            "finish_reason": reply.finish_reason,
            "tokens": reply.tokens,
            **grade_columns_of(reply.truncated, reply.grade, self.config),
        }


def evaluate(
    stage: Stage,
    model: EvaluatedModel[Q, A],
    config: EvaluationConfig,
    run: RunOptions,
    benchmarks: Sequence[LoadedBenchmark],
    pool: GradingPool,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Ask every problem of every benchmark, grade the outputs as they arrive, and finish the stage.

    A problem that the chat format cannot represent, or that a server does not answer, is dropped with the
    reason and counts as wrong.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    heartbeat.about(stage.output_dir.name)  # the model's label
    hooks = EvaluationHooks(model, config, run.seed, list(requests_of(benchmarks, config.samples)))
    generate = add_grading(model, pool, hooks.asked)
    count = len(hooks.queue)
    stream(
        stage,
        count,
        run.block_size,
        requests=hooks.requests,
        generate=generate,
        row=hooks.row,
        tracker=tracker,
    )
    return finish(stage, config, benchmarks, count)


def grade_columns_of(truncated: bool, grade: OutputGrade, config: EvaluationConfig) -> Row:
    """Return the columns of a row that describe the grade of its output."""
    return {
        "truncated": truncated,
        "extracted": grade.extracted,
        "rule": grade.rule,
        "correct": grade.correct and (not truncated or config.truncated == "graded"),
        "layer": grade.layer,
        "timeout": grade.timeout,
        **({"grading_fault": grade.fault} if config.grading.functions else {}),
    }


def finish(
    stage: Stage, config: EvaluationConfig, benchmarks: Sequence[LoadedBenchmark], asked: int
) -> dict[str, Any]:
    """Write the folder's card and receipt."""
    names = ", ".join(inline(benchmark.title) for benchmark in benchmarks)
    text = f"All answers to {names}, one row per output; `{RESULTS}` has the results."
    shown = ("benchmark", "id", "completion", "extracted", "reference", "correct")
    card = dataset_card("Evaluation", text, to_dict(config), stage.blocks.samples(4), *shown)
    return stage.finish(rows_in=asked, card=card, columns=COLUMNS)


# -------------------------------------------------------------------------------------------------- results


def collect_results(
    folder: str | Path,
    config: EvaluationConfig,
    label: str,
    benchmarks: Sequence[LoadedBenchmark],
    earlier: Sequence[Result] = (),
) -> list[Result]:
    """Summarise one model's finished folder and write its `results.json`.

    If a function of the user's could not grade some of the outputs, nothing is written; `check_graded` tells.

    Args:
        folder: the model's folder.
        config: the settings of the evaluation.
        label: the model's label.
        benchmarks: the benchmarks that were evaluated.
        earlier: the results of the evaluation whose outputs were graded again, which keep their protocol
            except for the grading.
    """
    rows = read_rows(folder)
    if any(row.get("grading_fault") for row in rows):
        return []
    results = summarise_rows(rows, folder, config, label, benchmarks, earlier)
    write_results(folder, results)
    return results


def check_graded(folder: Path, label: str) -> None:
    """Check that every output of a model was graded.

    Args:
        folder: of the evaluation.
        label: the model's label.

    Raises:
        ConfigError: a function of the user's failed on some outputs; says which, and how to go on.
    """
    rows = read_rows(folder / label)
    if faults := [row["grading_fault"] for row in rows if row.get("grading_fault")]:
        raise ConfigError(
            f"{label}: {len(faults)} of {len(rows)} outputs were not graded, first {faults[0]}; all outputs "
            f"are kept: correct the function and grade them with --regrade {folder} and another output_dir"
        )


def summarise_rows(
    rows: list[Row],
    folder: str | Path,
    config: EvaluationConfig,
    label: str,
    benchmarks: Sequence[LoadedBenchmark],
    earlier: Sequence[Result] = (),
) -> list[Result]:
    """Return the results of one model's rows; see `collect_results`."""
    before = {result.benchmark: result for result in earlier}
    receipt, by_benchmark = read_receipt(folder), {b.name: list[Row]() for b in benchmarks}
    for row in add_scores(rows, config, label):
        by_benchmark[row["benchmark"]].append(row)

    results = []
    for benchmark in benchmarks:
        if (old := before.get(benchmark.name)) is None:
            protocol = protocol_of(receipt, config, label, benchmark)
            model_fingerprint = receipt["fingerprint_fields"]["inputs"][0]
        else:
            protocol = {**old.protocol, **grading_settings_of(config, benchmark)}
            model_fingerprint = old.model_fingerprint
        result = summarise(
            by_benchmark[benchmark.name],
            benchmark,
            label=label,
            prompts=[prompt.name for prompt in benchmark.prompts],
            samples=config.samples,
            cut_counts=config.truncated == "graded",
            protocol=protocol,
            model_fingerprint=model_fingerprint,
            commit=receipt.get("commit"),
            grading=config.grading,
            score=config.score,
        )
        results.append(result)
    return results


def add_scores(rows: list[Row], config: EvaluationConfig, label: str) -> list[Row]:
    """Add the score of each row from another file.

    Raises:
        ConfigError: an output has no score, or its score is not finite.
    """
    if config.score is None:
        return rows
    source = config.scores[label]
    scores = {}
    for number, row in enumerate(read_rows(source), 1):
        score = row.get(config.score)
        if score is not None and not (isinstance(score, int | float) and isfinite(score)):
            raise ConfigError(f"{source}: row {number}: {config.score}: {score!r} is not a finite number")
        scores[tuple(row.get(name) for name in _OUTPUT_KEY)] = score
    for row in rows:
        row[config.score] = scores.get(tuple(row[name] for name in _OUTPUT_KEY))
        if row[config.score] is None:
            raise ConfigError(
                f"{source}: no '{config.score}' for {row['benchmark']}, {row['id']}, sample {row['sample']}"
            )
    return rows


# ------------------------------------------------------------------------------------- grading outputs again


@dataclass(frozen=True)
class SavedSubmission:
    """Return the submission of a saved output, and the columns that identify its request."""

    columns: Row
    truncated: bool
    submission: Submission


def regrade(
    stage: Stage,
    rows: Sequence[Row],
    dropped: Sequence[Row],
    config: EvaluationConfig,
    run: RunOptions,
    label: str,
    benchmarks: Sequence[LoadedBenchmark],
    pool: GradingPool,
) -> dict[str, Any]:
    """Grade the saved outputs of one model again with the current rules, and finish the stage.

    A request without an output is dropped again.

    Raises:
        ConfigError: an output belongs to a problem or a prompt that the benchmarks do not have.
    """
    saved = submissions_of(rows, config, label, benchmarks)
    drops = [({key: row[key] for key in row if key != "reason"}, row["reason"]) for row in dropped]
    total = len(rows) + len(drops)
    # 1. Submit all blocks to the pool
    pending = []
    for index, block in stage.blocks.pending(total, run.block_size):
        numbers = [number for number in block if number < len(rows)]
        lost = [drops[number - len(rows)] for number in block if number >= len(rows)]
        grades = pool.submit([saved[number].submission for number in numbers])
        pending.append((index, numbers, lost, grades))
    # 2. Write each block when it is graded
    with heartbeat.doing(f"{label}: grading the outputs again", total=len(rows), unit="outputs") as work:
        for index, numbers, lost, grades in pending:
            kept = []
            for number, grade in zip(numbers, grades.result(), strict=True):
                one = saved[number]
                columns = grade_columns_of(one.truncated, grade, config)
                kept.append({**rows[number], **one.columns, **columns})
            stage.blocks.write(index, kept, lost)
            work.done += len(numbers)
    return finish(stage, config, benchmarks, total)


def submissions_of(
    rows: Sequence[Row], config: EvaluationConfig, label: str, benchmarks: Sequence[LoadedBenchmark]
) -> list[SavedSubmission]:
    """Yield the submissions of one model's saved outputs, truncated as they were during generation.

    Raises:
        ConfigError: an output belongs to a problem or a prompt that the benchmarks do not have.
    """
    problems = {(b.name, p.id): (b, p) for b in benchmarks for p in b.problems}
    prompts = {(b.name, prompt.name): prompt for b in benchmarks for prompt in b.prompts}
    chat_format = None if config.server.url is not None else format_of(config, label)
    found = []
    for row in rows:
        known = problems.get((row["benchmark"], row["id"]))
        prompt = prompts.get((row["benchmark"], row["prompt"]))
        if known is None or prompt is None:
            raise ConfigError(
                f"regrade: no problem '{row['id']}' with prompt '{row['prompt']}' in "
                f"{row['benchmark']}; use the benchmarks and prompts of the original evaluation"
            )
        benchmark, problem = known
        thinks = chat_format is not None and opens_reasoning(chat_format, prompt)
        text, reason = row["completion"], row["finish_reason"]
        truncated, submission = submission_of(text, reason, prompt, problem, thinks=thinks)
        columns = ModelRequest(benchmark, prompt, problem, row["sample"]).columns
        found.append(SavedSubmission(columns, truncated, submission))
    return found


def check_same_questions(
    earlier: Sequence[Result], config: EvaluationConfig, benchmarks: Sequence[LoadedBenchmark]
) -> None:
    """Check that the saved outputs answer the questions that they are graded against.

    Raises:
        ConfigError: a benchmark, its limit, its prompts or the number of samples differs.
    """
    now = {benchmark.name: request_settings_of(config, benchmark) for benchmark in benchmarks}
    if never := [name for name in now if name not in {old.benchmark for old in earlier}]:
        raise ConfigError(
            f"regrade: the original evaluation did not ask {never[0]}, so there are no "
            "outputs to grade; remove it"
        )
    for old in earlier:
        then = {key: old.protocol[key] for key in now.get(old.benchmark, ())}
        if what := describe_differences(now.get(old.benchmark, {}), then):
            raise ConfigError(
                f"regrade: {old.benchmark} differs from the original evaluation in {what}; use "
                "the same settings"
            )
