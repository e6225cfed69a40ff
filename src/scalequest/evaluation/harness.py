"""One model over several benchmarks: one queue of problems, every completion kept, one result a benchmark.

The protocol is the paper's (section 3.1) unless told otherwise: zero-shot, greedy, chain of thought; a cut
output is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from scalequest import heartbeat
from scalequest.cards import dataset_card
from scalequest.chat import FormatError, load_format
from scalequest.config import ConfigError, RunOptions, to_dict
from scalequest.engines.stream import Drop, stream
from scalequest.evaluation.benchmarks import Benchmark
from scalequest.evaluation.examinee import A, Examinee, Q, opens_thoughts
from scalequest.evaluation.marking import Examiners, Mark, Marked, Paper, handed_in, marking
from scalequest.evaluation.problems import Problem
from scalequest.evaluation.prompts import EvalPrompt
from scalequest.evaluation.protocol import asking, judged, protocol, read_receipt
from scalequest.evaluation.results import RESULTS, Result, summarise, write_results
from scalequest.evaluation.settings import EvaluationConfig
from scalequest.evaluation.tables import differences
from scalequest.markup import inline
from scalequest.records import Row, read_rows, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 3  # raise by hand when the same configuration gives other rows

COLUMNS = (
    *("benchmark", "id", "prompt", "sample", "metadata", "reference", "prompt_sha256", "completion"),
    *("finish_reason", "tokens", "truncated", "extracted", "rule", "correct", "layer", "timeout"),
)


def evaluate(
    stage: Stage,
    examinee: Examinee[Q, A],
    config: EvaluationConfig,
    run: RunOptions,
    benchmarks: Sequence[Benchmark],
    examiners: Examiners,
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Ask every problem of every benchmark, grade what comes back meanwhile, and finish the stage.

    A problem that the chat format cannot hold, or that a server does not answer, is dropped with the reason,
    and counts as wrong.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    queue: list[tuple[Benchmark, EvalPrompt, Problem, int]] = [
        (benchmark, prompt, problem, sample)
        for benchmark in benchmarks
        for prompt in benchmark.prompts
        for problem in benchmark.problems
        for sample in range(config.samples)
    ]
    digests: dict[int, str] = {}
    heartbeat.about(stage.output_dir.name)  # the model's label

    def ask(number: int) -> Sequence[Q] | Drop:
        benchmark, prompt, problem, sample = queue[number]
        sampled = config.sampling.temperature > 0
        parts = (benchmark.name, prompt.name, problem.id, sample)
        seed = row_seed(run.seed, "evaluate", *parts) if sampled else None
        try:
            key = f"{benchmark.name}/{problem.id}/{number}"
            question, digests[number] = examinee.put(key, prompt, problem, seed)
        except FormatError as error:
            return Drop(head(*queue[number]), str(error))
        return [question]

    def asked(key: str) -> tuple[EvalPrompt, Problem]:
        _, prompt, problem, _ = queue[int(key.rpartition("/")[2])]
        return prompt, problem

    def settle(number: int, replies: Sequence[Marked]) -> Row | Drop:
        (reply,) = replies
        if reply.fault is not None:
            return Drop(head(*queue[number]), reply.fault)
        return {
            **head(*queue[number]),
            "prompt_sha256": digests.pop(number),
            "completion": reply.text,
            "finish_reason": reply.finish_reason,
            "tokens": reply.tokens,
            **verdict(reply.truncated, reply.mark, config),
        }

    answer = marking(examinee, examiners, asked)
    stream(stage, len(queue), run.block_size, requests=ask, generate=answer, row=settle, tracker=tracker)
    return finish(stage, config, benchmarks, len(queue))


def head(benchmark: Benchmark, prompt: EvalPrompt, problem: Problem, sample: int) -> Row:
    """The columns that say what was asked."""
    return {
        "benchmark": benchmark.name,
        "id": problem.id,
        "prompt": prompt.name,
        "sample": sample,
        "metadata": json.dumps(problem.metadata, ensure_ascii=False, sort_keys=True),
        "reference": " or ".join([problem.answer, *problem.also]),
    }


def verdict(truncated: bool, mark: Mark, config: EvaluationConfig) -> Row:
    """The columns that say what came of it."""
    return {
        "truncated": truncated,
        "extracted": mark.extracted,
        "rule": mark.rule,
        "correct": mark.correct and (not truncated or config.truncated == "graded"),
        "layer": mark.layer,
        "timeout": mark.timeout,
    }


def finish(
    stage: Stage, config: EvaluationConfig, benchmarks: Sequence[Benchmark], asked: int
) -> dict[str, Any]:
    """Write the folder's card and receipt."""
    names = ", ".join(inline(benchmark.title) for benchmark in benchmarks)
    text = f"Every answer to {names}, one row an output; `{RESULTS}` holds what comes of them."
    shown = ("benchmark", "id", "completion", "extracted", "reference", "correct")
    card = dataset_card("Evaluation", text, to_dict(config), stage.samples(4), *shown)
    return stage.finish(rows_in=asked, card=card, columns=COLUMNS)


def collect(
    folder: str | Path,
    config: EvaluationConfig,
    label: str,
    benchmarks: Sequence[Benchmark],
    earlier: Sequence[Result] = (),
) -> list[Result]:
    """Summarise one model's finished folder and write its `results.json`.

    Args:
        folder: of the model.
        config: how it was asked.
        label: the model's.
        benchmarks: what was asked.
        earlier: results of the evaluation whose outputs were graded again: only the grading is of this run.
    """
    before = {result.benchmark: result for result in earlier}
    receipt, by_benchmark = read_receipt(folder), {b.name: list[Row]() for b in benchmarks}
    for row in scored(read_rows(folder), config, label):
        by_benchmark[row["benchmark"]].append(row)
    results = [
        summarise(
            by_benchmark[benchmark.name],
            benchmark,
            label=label,
            prompts=[prompt.name for prompt in benchmark.prompts],
            samples=config.samples,
            cut_counts=config.truncated == "graded",
            protocol=(
                {**old.protocol, **judged(config, benchmark)}
                if (old := before.get(benchmark.name))
                else protocol(receipt, config, label, benchmark)
            ),
            model_fingerprint=old.model_fingerprint if old else receipt["fingerprint_fields"]["inputs"][0],
            commit=receipt.get("commit"),
            grading=config.grading,
            score=config.score,
        )
        for benchmark in benchmarks
    ]
    write_results(folder, results)
    return results


def scored(rows: list[Row], config: EvaluationConfig, label: str) -> list[Row]:
    """The rows with the score that another file has for each.

    Raises:
        ConfigError: an output has no score, or one that is no finite number.
    """
    if config.score is None:
        return rows
    source = config.scores[label]
    key = ("benchmark", "id", "prompt", "sample")
    found = {}
    for number, row in enumerate(read_rows(source), 1):
        score = row.get(config.score)
        if score is not None and not (isinstance(score, int | float) and isfinite(score)):
            raise ConfigError(f"{source}: row {number}: {config.score}: {score!r} is no finite number")
        found[tuple(row.get(name) for name in key)] = score
    for row in rows:
        row[config.score] = found.get(tuple(row[name] for name in key))
        if row[config.score] is None:
            raise ConfigError(
                f"{source}: no '{config.score}' for {row['benchmark']}, {row['id']}, sample {row['sample']}"
            )
    return rows


def regrade(
    stage: Stage,
    rows: Sequence[Row],
    dropped: Sequence[Row],
    config: EvaluationConfig,
    run: RunOptions,
    label: str,
    benchmarks: Sequence[Benchmark],
    examiners: Examiners,
) -> dict[str, Any]:
    """Grade the saved outputs of one model again, by today's rules, and finish the stage.

    What had no output is dropped again.

    Raises:
        ConfigError: an output is of a problem or a prompt that the benchmarks do not have.
    """
    settled = [*rows, *dropped]
    handed = papers(rows, config, label, benchmarks)
    pending = []
    for index, block in stage.pending(len(settled), run.block_size):
        mine = [number for number in block if number < len(rows)]
        lost = [settled[number] for number in block if number >= len(rows)]
        drops = [({key: row[key] for key in row if key != "reason"}, row["reason"]) for row in lost]
        pending.append((index, mine, drops, examiners.submit([handed[number].paper for number in mine])))
    with heartbeat.doing(f"{label}: grading again", total=len(rows), unit="outputs") as work:
        for index, mine, drops, future in pending:
            kept = []
            for number, mark in zip(mine, future.result(), strict=True):
                one = handed[number]
                kept.append({**rows[number], **one.head, **verdict(one.truncated, mark, config)})
            stage.write_block(index, kept, drops)
            work.done += len(mine)
    return finish(stage, config, benchmarks, len(settled))


@dataclass(frozen=True)
class HandedIn:
    """A saved output as it was handed in: see `head` and `handed_in`."""

    head: Row
    truncated: bool
    paper: Paper


def papers(
    rows: Sequence[Row], config: EvaluationConfig, label: str, benchmarks: Sequence[Benchmark]
) -> list[HandedIn]:
    """What the saved outputs of one model hand in, cut as when they came.

    Raises:
        ConfigError: an output is of a problem or a prompt that the benchmarks do not have.
    """
    problems = {(b.name, p.id): (b, p) for b in benchmarks for p in b.problems}
    prompts = {(b.name, prompt.name): prompt for b in benchmarks for prompt in b.prompts}
    format = None if config.server.url is not None else load_format(config.format_of(label))
    found = []
    for row in rows:
        known = problems.get((row["benchmark"], row["id"]))
        prompt = prompts.get((row["benchmark"], row["prompt"]))
        if known is None or prompt is None:
            raise ConfigError(
                f"regrade: no problem '{row['id']}' with prompt '{row['prompt']}' in {row['benchmark']}; "
                "give the benchmarks and prompts of that evaluation"
            )
        benchmark, problem = known
        thinks = format is not None and opens_thoughts(format, prompt)
        text, reason = row["completion"], row["finish_reason"]
        cut, paper = handed_in(text, reason, prompt, problem, thinks=thinks)
        found.append(HandedIn(head(benchmark, prompt, problem, row["sample"]), cut, paper))
    return found


def same_questions(
    earlier: Sequence[Result], config: EvaluationConfig, benchmarks: Sequence[Benchmark]
) -> None:
    """Check that outputs are graded against the questions that they answer.

    Raises:
        ConfigError: a benchmark, its limit, its prompts or the number of samples is another than it was.
    """
    now = {benchmark.name: asking(config, benchmark) for benchmark in benchmarks}
    if never := [name for name in now if name not in {old.benchmark for old in earlier}]:
        raise ConfigError(f"regrade: {never[0]} was not asked there, and has no outputs; leave it out")
    for old in earlier:
        then = {key: old.protocol[key] for key in now.get(old.benchmark, ())}
        if what := differences(now.get(old.benchmark, {}), then):
            raise ConfigError(
                f"regrade: {old.benchmark} is not what was asked: {what}; give what that evaluation asked"
            )
