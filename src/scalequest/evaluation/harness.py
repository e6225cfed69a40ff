"""One model over several benchmarks: one queue of problems, every completion kept, one result a benchmark.

The protocol is the paper's (section 3.1): zero-shot, greedy, chain of thought; a cut output is wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from scalequest.cards import dataset_card
from scalequest.chat import BoundFormat, FormatError, load_format
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.engines.base import Completion, EngineConfig, Generator, Request, Sampling
from scalequest.engines.stream import Drop, completing, stream
from scalequest.evaluation.benchmarks import Benchmark
from scalequest.evaluation.statistics import Estimate, share
from scalequest.grading import GRADER_VERSION, equivalent, extract
from scalequest.records import Row, model_fingerprint, read_rows, row_seed
from scalequest.shards import Stage
from scalequest.tracking import Tracker

VERSION = 1  # raise by hand when the same configuration gives other rows

COLUMNS = (
    *("benchmark", "id", "metadata", "reference", "prompt_sha256", "completion", "finish_reason", "tokens"),
    *("extracted", "rule", "correct"),
)
RESULTS = "results.json"
RESULTS_FORMAT = 1


@dataclass(frozen=True)
class EvaluationConfig:
    """An evaluation: which models, on what, and how they are asked."""

    models: dict[str, str] = required("label: model folder or hub id", fingerprint=False)
    benchmarks: list[str] = required("YAML files of benchmarks", fingerprint=False)
    chat_format: str = required("chat format of the models: a family or a YAML file", fingerprint=False)
    chat_formats: dict[str, str] = option(
        None, "label: its chat format, where it is another", fingerprint=False, default_factory=dict
    )
    revisions: dict[str, str] = option(
        None, "label: its revision on the hub", fingerprint=False, default_factory=dict
    )
    only: str | None = option(None, "label of the one model to run now", fingerprint=False)
    truncated: Literal["wrong", "graded"] = option(
        "wrong", "an output cut at max_tokens is wrong (paper), or graded"
    )
    sampling: Sampling = option(
        None, "greedy unless changed", default_factory=lambda: Sampling(0.0, 1.0, 2048)
    )
    engine: EngineConfig = option(None, "what it runs on", default_factory=EngineConfig)

    def __post_init__(self) -> None:
        """Check labels: they name folders."""
        for label in self.models:
            reserved = label in ("data", "dropped", "parts") or label.endswith(".tmp")
            if not label or reserved or label.startswith(".") or any(char in label for char in "/\\\0"):
                raise ConfigError(f"models: label '{label}' cannot name a folder")
        for key, labels in (("chat_formats", self.chat_formats), ("revisions", self.revisions)):
            if unknown := set(labels) - set(self.models):
                raise ConfigError(f"{key}: no model has the label '{min(unknown)}'")
        if self.only is not None and self.only not in self.models:
            raise ConfigError(
                f"only: no model has the label '{self.only}'; there are {', '.join(self.models)}"
            )

    def format_of(self, label: str) -> str:
        """The chat format of one model."""
        return self.chat_formats.get(label, self.chat_format)


@dataclass(frozen=True)
class Result:
    """What one model did on one benchmark; shares are of all `n` problems, `split` is by metadata column."""

    model: str
    benchmark: str
    title: str
    n: int
    correct: int
    accuracy: Estimate
    truncated: float
    no_answer: float
    rules: dict[str, int]
    tokens_mean: float
    split: dict[str, dict[str, Estimate]]
    protocol: dict[str, Any]
    fingerprint: str
    prompts_sha256: str
    model_fingerprint: str
    commit: str | None


def identity(
    config: EvaluationConfig, labels: Sequence[str], benchmarks: Sequence[Benchmark]
) -> dict[str, Any]:
    """What can change a row beside the settings themselves and the models, for the stage's fingerprint."""
    return {
        "labels": list(labels),
        "engine_name": engine_name(config.engine),
        "grader": grader(),
        "chat_format_sha256": {label: format_sha256(config.format_of(label)) for label in labels},
        "benchmarks": {b.name: {"sha256": b.sha256, "problems": len(b.problems)} for b in benchmarks},
    }


def models(config: EvaluationConfig, labels: Sequence[str]) -> dict[str, str]:
    """Every model's path with its fingerprint."""
    return {
        config.models[label]: model_fingerprint(config.models[label], config.revisions.get(label))
        for label in labels
    }


def evaluate(
    stage: Stage,
    generator: Generator,
    format: BoundFormat,
    config: EvaluationConfig,
    run: RunOptions,
    benchmarks: Sequence[Benchmark],
    *,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Ask every problem of every benchmark once, grade what comes back, and finish the stage.

    A question that the chat format cannot hold is dropped with the `FormatError`'s reason, and counts as
    wrong.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    queue = [(benchmark, problem) for benchmark in benchmarks for problem in benchmark.problems]

    def head(number: int) -> Row:
        benchmark, problem = queue[number]
        metadata = json.dumps(problem.metadata, ensure_ascii=False, sort_keys=True)
        return {
            "benchmark": benchmark.name,
            "id": problem.id,
            "metadata": metadata,
            "reference": problem.answer,
        }

    def ask(number: int) -> Sequence[Request] | Drop:
        benchmark, problem = queue[number]
        try:
            ids = format.solve_prompt_ids(problem.question)
        except FormatError as error:
            return Drop(head(number), str(error))
        sampled = config.sampling.temperature > 0
        seed = row_seed(run.seed, "evaluate", benchmark.name, problem.id) if sampled else None
        return [Request(f"{benchmark.name}/{problem.id}", ids, seed)]

    def settle(number: int, completions: Sequence[Completion]) -> Row | Drop:
        (completion,) = completions
        _, problem = queue[number]
        text = format.decode(completion.ids)
        found = extract(text)
        counts = completion.finish_reason == "stop" or config.truncated == "graded"
        return {
            **head(number),
            "prompt_sha256": _sha256(json.dumps(list(format.solve_prompt_ids(problem.question)))),
            "completion": text,
            "finish_reason": completion.finish_reason,
            "tokens": completion.tokens,
            "extracted": found.answer,
            "rule": found.rule,
            "correct": bool(counts and found.answer is not None and equivalent(found.answer, problem.answer)),
        }

    answer = completing(generator, config.sampling, format.solve_stop_ids)
    stream(stage, len(queue), run.block_size, ask=ask, answer=answer, settle=settle, tracker=tracker)
    names = ", ".join(benchmark.title for benchmark in benchmarks)
    text = f"Every answer to {names}, one row a problem; `{RESULTS}` holds what comes of them."
    shown = ("benchmark", "id", "completion", "extracted", "reference", "correct")
    card = dataset_card("Evaluation", text, to_dict(config), stage.samples(4), *shown)
    return stage.finish(rows_in=len(queue), card=card, columns=COLUMNS)


def collect(
    folder: str | Path, config: EvaluationConfig, label: str, benchmarks: Sequence[Benchmark]
) -> list[Result]:
    """Summarise one model's finished folder and write its `results.json`."""
    results = summarise(read_rows(folder), read_receipt(folder), config, label, benchmarks)
    write_results(folder, results)
    return results


def summarise(
    rows: Iterable[Row],
    receipt: Mapping[str, Any],
    config: EvaluationConfig,
    label: str,
    benchmarks: Sequence[Benchmark],
) -> list[Result]:
    """One result a benchmark, from a finished stage's rows and receipt alone."""
    by_benchmark: dict[str, list[Row]] = {benchmark.name: [] for benchmark in benchmarks}
    for row in rows:
        by_benchmark[row["benchmark"]].append(row)
    results = []
    for benchmark in benchmarks:
        mine, n = by_benchmark[benchmark.name], len(benchmark.problems)
        right = {row["id"] for row in mine if row["correct"]}
        protocol = _protocol(receipt, config, label, benchmark)
        results.append(
            Result(
                model=label,
                benchmark=benchmark.name,
                title=benchmark.title,
                n=n,
                correct=len(right),
                accuracy=share(len(right), n),
                truncated=sum(row["finish_reason"] == "length" for row in mine) / n,
                no_answer=(sum(row["extracted"] is None for row in mine) + n - len(mine)) / n,
                rules=dict(sorted(Counter(row["rule"] for row in mine).items())),
                tokens_mean=sum(row["tokens"] for row in mine) / max(1, len(mine)),
                split=_split(benchmark, right),
                protocol=protocol,
                fingerprint=_sha256(json.dumps(protocol, sort_keys=True))[:12],
                prompts_sha256=_sha256("".join(row["prompt_sha256"] for row in mine)),
                model_fingerprint=receipt["fingerprint_fields"]["inputs"][0],
                commit=receipt.get("commit"),
            )
        )
    return results


def write_results(folder: str | Path, results: Sequence[Result]) -> Path:
    """Write `results.json` beside a model's rows, all or nothing."""
    path = Path(folder) / RESULTS
    temporary = path.with_suffix(".tmp")
    content = {"format": RESULTS_FORMAT, "results": [asdict(result) for result in results]}
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def read_results(path: str | Path) -> list[Result]:
    """Read a `results.json`.

    Raises:
        ConfigError: it is not one, or of another format.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != RESULTS_FORMAT:
            raise ConfigError(
                f"{path}: format {content['format']}, expected {RESULTS_FORMAT}; evaluate again"
            )
        results = []
        for item in content["results"]:
            estimates = {
                "accuracy": Estimate(**item["accuracy"]),
                "split": {c: {v: Estimate(**e) for v, e in by.items()} for c, by in item["split"].items()},
            }
            results.append(Result(**{**item, **estimates}))
        return results
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not a result file: {error}") from None


def read_receipt(folder: str | Path) -> dict[str, Any]:
    """The receipt of a stage's folder."""
    receipt: dict[str, Any] = json.loads((Path(folder) / "receipt.json").read_text(encoding="utf-8"))
    return receipt


def result_row(result: Result) -> Row:
    """A result as one flat row of the folder above the models'."""
    low, high = result.accuracy.low, result.accuracy.high
    kept = ("model", "benchmark", "n", "correct", "truncated", "no_answer", "tokens_mean", "fingerprint")
    return {
        **{key: getattr(result, key) for key in kept},
        "accuracy": result.accuracy.value,
        "low": low,
        "high": high,
    }


def engine_name(engine: EngineConfig) -> str:
    """The engine that `auto` stands for here; decided without importing it."""
    if engine.name != "auto":
        return engine.name
    return "vllm" if find_spec("vllm") else "transformers"


def grader() -> str:
    """Version of what decides a verdict: ours, and math-verify's below it."""
    from importlib.metadata import version

    return f"scalequest-{GRADER_VERSION}, math-verify {version('math-verify')}"


def format_sha256(name_or_path: str) -> str:
    """Hash of a chat format's content, wherever its file lies."""
    return _sha256(json.dumps(asdict(load_format(name_or_path)), sort_keys=True, default=str))


def _protocol(
    receipt: Mapping[str, Any], config: EvaluationConfig, label: str, benchmark: Benchmark
) -> dict[str, Any]:
    """What two numbers must share to stand in one column; prompt ids follow from format and tokenizer."""
    fields = receipt["fingerprint_fields"]
    name = fields["engine_name"]
    versions = receipt.get("versions", {})
    return {
        "benchmark": benchmark.name,
        "benchmark_sha256": benchmark.sha256,
        "limit": benchmark.limit,
        "shots": 0,
        "chat_format": load_format(config.format_of(label)).name,
        "chat_format_sha256": fields["chat_format_sha256"][label],
        "sampling": fields["sampling"],
        "seed": fields["seed"] if config.sampling.temperature > 0 else None,
        "truncated": fields["truncated"],
        "grader": fields["grader"],
        "engine": name,
        "engine_version": versions.get(name) or versions.get(f"{name}-cpu"),
        "dtype": _dtype(config, label),
    }


def _dtype(config: EvaluationConfig, label: str) -> str:
    """The precision it ran in: the engine's, or the checkpoint's own."""
    if config.engine.dtype != "auto":
        return config.engine.dtype
    try:
        settings = json.loads((Path(config.models[label]) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "the checkpoint's"
    return str(settings.get("dtype") or settings.get("torch_dtype") or "float32")


def _split(benchmark: Benchmark, right: set[str]) -> dict[str, dict[str, Estimate]]:
    """Accuracy by each value of each metadata column."""
    out: dict[str, dict[str, Estimate]] = {}
    for column in dict.fromkeys(name for problem in benchmark.problems for name in problem.metadata):
        groups: dict[str, list[str]] = {}
        for problem in benchmark.problems:
            groups.setdefault(str(problem.metadata.get(column)), []).append(problem.id)
        out[column] = {
            value: share(sum(i in right for i in ids), len(ids)) for value, ids in sorted(groups.items())
        }
    return out


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
