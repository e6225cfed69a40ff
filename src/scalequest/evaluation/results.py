"""What one model did on one benchmark, with all that it takes to defend the number."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scalequest import durable
from scalequest.config import ConfigError
from scalequest.evaluation.benchmarks import LoadedBenchmark
from scalequest.evaluation.problems import BenchmarkProblem
from scalequest.evaluation.statistics import Estimate, accuracy_of, best_of, majority_vote, pass_at_k
from scalequest.grading import GraderOptions, groups
from scalequest.records import Row

RESULTS = "results.json"
RESULTS_FORMAT = 2
EXPLAINS = 0.5  # share of the wrong outputs from which truncation or the like is said to explain an accuracy


@dataclass(frozen=True)
class Result:
    """What one model did on one benchmark.

    Attributes:
        model: its label.
        benchmark: its name; `title` is its heading.
        n: problems.
        correct: outputs that are right, of n × prompts × samples.
        accuracy: over problems; with several samples or prompts, of their means (avg@k).
        truncated: share of outputs that were cut; `no_answer` of those without an answer (problems that could
            not be asked count here), `timeouts` of those whose comparison ran out of time.
        explained: share of the wrong outputs that were cut, held no answer or ran out of time.
        rules: how answers were found, outputs a rule; `layers`, by which rule they were right.
        tokens_mean: generated per output.
        split: accuracy by metadata column and value, and by length of question and output.
        protocol: what two numbers must share to stand in one column; `fingerprint` is of that.
        prompts_sha256: of all prompts as ids.
        samples: outputs a problem and prompt.
        metrics: pass@k, maj@k, avg@k and best@k, where there are several samples.
        by_prompt: accuracy with each prompt, where there are several; `by_sample` with each sample number.
    """

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
    timeouts: float = 0.0
    explained: float | None = None
    layers: dict[str, int] = field(default_factory=dict)
    samples: int = 1
    metrics: dict[str, Estimate] = field(default_factory=dict)
    by_prompt: dict[str, Estimate] = field(default_factory=dict)
    by_sample: list[float] = field(default_factory=list)

    @property
    def prompt_spread(self) -> float | None:
        """Standard deviation of the accuracy over prompts, None where there is one."""
        values = [one.value for one in self.by_prompt.values() if one.value is not None]
        return stdev(values) if len(values) > 1 else None

    @property
    def sample_spread(self) -> float | None:
        """Standard deviation of the accuracy over samples, None where there is one."""
        return stdev(self.by_sample) if len(self.by_sample) > 1 else None


def summarise(
    rows: Iterable[Row],
    benchmark: LoadedBenchmark,
    *,
    label: str,
    prompts: Sequence[str],
    samples: int,
    cut_counts: bool,
    protocol: Mapping[str, Any],
    model_fingerprint: str,
    commit: str | None,
    grading: GraderOptions | None = None,
    score: str | None = None,
) -> Result:
    """One result from the rows of one benchmark.

    Args:
        rows: one an output; an output that was never asked for has none, and counts as wrong.
        benchmark: what was asked.
        label: the model's.
        prompts: names of the prompts that were used.
        samples: outputs a problem and prompt.
        cut_counts: whether a truncated output is graded.
        protocol: see `Result`.
        model_fingerprint: of the model.
        commit: of the code.
        grading: by which the answers of several samples are called the same.
        score: column of the score for best@k.
    """
    mine = list(rows)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in mine:
        groups.setdefault((row["prompt"], row["id"]), []).append(row)
    problems = benchmark.problems
    asked = len(problems) * len(prompts) * samples

    def scores(of: Callable[[list[Row]], float], names: Sequence[str] = prompts) -> list[float]:
        """One score a problem, the mean over prompts."""
        return [fmean(of(groups.get((name, p.id), [])) for name in names) for p in problems]

    def right(group: list[Row]) -> float:
        return sum(bool(row["correct"]) for row in group) / samples

    per_problem = scores(right)
    correct = sum(bool(row["correct"]) for row in mine)
    missing = asked - len(mine)
    flawed = [row for row in mine if not row["correct"] and _is_flawed(row)]
    tokens = {
        p.id: fmean([row["tokens"] for name in prompts for row in groups.get((name, p.id), [])] or [0.0])
        for p in problems
    }
    return Result(
        model=label,
        benchmark=benchmark.name,
        title=benchmark.title,
        n=len(problems),
        correct=correct,
        accuracy=accuracy_of(per_problem),
        truncated=sum(bool(row["truncated"]) for row in mine) / asked,
        no_answer=(sum(row["extracted"] is None for row in mine) + missing) / asked,
        timeouts=sum(bool(row["timeout"]) for row in mine) / asked,
        explained=(len(flawed) + missing) / (asked - correct) if correct < asked else None,
        rules=dict(sorted(Counter(row["rule"] for row in mine).items())),
        layers=dict(sorted(Counter(row["layer"] for row in mine if row["correct"]).items())),
        tokens_mean=sum(row["tokens"] for row in mine) / max(1, len(mine)),
        split=_split_accuracy(problems, per_problem, tokens),
        protocol=dict(protocol),
        fingerprint=sha256_of(json.dumps(protocol, sort_keys=True))[:12],
        prompts_sha256=sha256_of("".join(row["prompt_sha256"] for row in mine)),
        model_fingerprint=model_fingerprint,
        commit=commit,
        samples=samples,
        metrics=_metrics_of(scores, samples, cut_counts, grading, score) if samples > 1 else {},
        by_prompt={name: accuracy_of(scores(right, [name])) for name in prompts} if len(prompts) > 1 else {},
        by_sample=_accuracies_of_samples(mine, samples, len(problems) * len(prompts)) if samples > 1 else [],
    )


def _is_flawed(row: Row) -> bool:
    return bool(row["truncated"] or row["timeout"] or row["extracted"] is None)


def _accuracies_of_samples(rows: Sequence[Row], samples: int, each: int) -> list[float]:
    right = Counter(row["sample"] for row in rows if row["correct"])
    return [right[number] / each for number in range(samples)]


def _metrics_of(
    scores: Callable[[Callable[[list[Row]], float]], list[float]],
    n: int,
    cut_counts: bool,
    grading: GraderOptions | None,
    score: str | None,
) -> dict[str, Estimate]:
    """The measures of several samples, each a mean over problems."""

    def votes(group: list[Row]) -> float:
        counted = [row for row in group if cut_counts or not row["truncated"]]
        return majority_vote(group_answers(counted, grading), [bool(row["correct"]) for row in counted])

    def best(group: list[Row]) -> float:
        if not group:
            return 0.0
        return best_of([float(row[str(score)]) for row in group], [bool(row["correct"]) for row in group])

    found = {}
    for k in sorted({1 << power for power in range(n.bit_length()) if 1 << power <= n} | {n}):

        def passed(group: list[Row], k: int = k) -> float:
            return pass_at_k(sum(bool(row["correct"]) for row in group), n, k)

        found[f"pass@{k}"] = accuracy_of(scores(passed))
    found[f"maj@{n}"] = accuracy_of(scores(votes))
    found[f"avg@{n}"] = accuracy_of(scores(lambda group: sum(bool(row["correct"]) for row in group) / n))
    if score is not None:
        found[f"best@{n} by {score}"] = accuracy_of(scores(best))
    return found


def group_answers(rows: Sequence[Row], grading: GraderOptions | None = None) -> list[int | None]:
    """Which answer each output of one problem gives: equal answers have equal numbers, no answer has None."""
    # All that equal the reference equal each other.
    wrong = iter(groups([row["extracted"] for row in rows if not row["correct"]], grading))
    return [-1 if row["correct"] else next(wrong) for row in rows]


def _split_accuracy(
    problems: Sequence[BenchmarkProblem], scores: Sequence[float], tokens: Mapping[str, float]
) -> dict[str, dict[str, Estimate]]:
    """Accuracy by each value of each metadata column, and by thirds of two lengths."""
    ids = [problem.id for problem in problems]
    columns: dict[str, dict[str, str]] = {
        name: {p.id: str(p.metadata.get(name)) for p in problems}
        for name in dict.fromkeys(name for p in problems for name in p.metadata)
    }
    columns["question words"] = thirds_of({p.id: len(p.question.split()) for p in problems})
    columns["output tokens"] = thirds_of(tokens)
    score = dict(zip(ids, scores, strict=True))
    out: dict[str, dict[str, Estimate]] = {}
    for column, values in columns.items():
        by: dict[str, list[float]] = {}
        for i in ids:
            by.setdefault(values[i], []).append(score[i])
        out[column] = {value: accuracy_of(by[value]) for value in sorted(by, key=_natural_key_of)}
    return out


def thirds_of(sizes: Mapping[str, float]) -> dict[str, str]:
    """Name the third in which each size lies, e.g. `12 to 30`; equal sizes are in the same third."""
    ordered = sorted(sizes.values())
    cuts = sorted({ordered[len(ordered) * part // 3] for part in (1, 2)})
    parts: dict[int, list[float]] = {}
    place = {key: sum(size >= cut for cut in cuts) for key, size in sizes.items()}
    for key, part in place.items():
        parts.setdefault(part, []).append(sizes[key])
    digits = 0 if all(float(size).is_integer() for size in ordered) else 1  # means of several outputs
    names = {part: f"{min(found):.{digits}f} to {max(found):.{digits}f}" for part, found in parts.items()}
    return {key: names[part] for key, part in place.items()}


def _natural_key_of(name: str) -> list[str | int]:
    """Sort key by which 9 stands before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


# ------------------------------------------------------------------------------------------------------ files


def write_results(folder: str | Path, results: Sequence[Result]) -> Path:
    """Write `results.json` beside a model's rows, all or nothing."""
    path = Path(folder) / RESULTS
    content = {"format": RESULTS_FORMAT, "results": [asdict(result) for result in results]}
    durable.write(path, durable.as_json(content))
    return path


def read_results(path: str | Path) -> list[Result]:
    """Read a `results.json`.

    Raises:
        ConfigError: it is not one, or of another format.
    """
    try:
        content = durable.read_object(path)
        if content["format"] != RESULTS_FORMAT:
            raise ConfigError(
                f"{path}: format {content['format']}, expected {RESULTS_FORMAT}; evaluate again"
            )
        return [_parse_result(item) for item in content["results"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not a result file: {error}") from None


def _parse_result(item: dict[str, Any]) -> Result:
    def estimates(found: dict[str, Any]) -> dict[str, Estimate]:
        return {name: Estimate(**one) for name, one in found.items()}

    return Result(
        **{
            **item,
            "accuracy": Estimate(**item["accuracy"]),
            "split": {column: estimates(by) for column, by in item["split"].items()},
            "metrics": estimates(item["metrics"]),
            "by_prompt": estimates(item["by_prompt"]),
        }
    )


def row_of_result(result: Result) -> Row:
    """A result as one flat row of the folder above the models'."""
    kept = ("model", "benchmark", "n", "samples", "correct", "truncated", "no_answer", "timeouts")
    return {
        **{key: getattr(result, key) for key in kept},
        **{key: getattr(result, key) for key in ("tokens_mean", "fingerprint")},
        "accuracy": result.accuracy.value,
        "low": result.accuracy.low,
        "high": result.accuracy.high,
    }


def sha256_of(text: str) -> str:
    """Of a text's bytes."""
    return hashlib.sha256(text.encode()).hexdigest()
