"""The result of one model on one benchmark, with everything needed to check the number."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scalequest import atomic_files, receipts
from scalequest.config import ConfigError
from scalequest.evaluation.benchmarks import LoadedBenchmark
from scalequest.evaluation.problems import BenchmarkProblem
from scalequest.evaluation.statistics import Estimate, accuracy_of, best_of, majority_vote, pass_at_k
from scalequest.grading.options import GraderOptions
from scalequest.records import Row

RESULTS = "results.json"
RESULTS_FORMAT = 2
EXPLAINS = 0.5  # minimum share of wrong outputs for flaws such as truncation to count as the explanation


@dataclass(frozen=True)
class Result:
    """The result of one model on one benchmark.

    Attributes:
        model: the model's label.
        benchmark: the benchmark's name; `title` is its heading in tables.
        n: the number of problems.
        correct: the number of correct outputs, of n × prompts × samples.
        accuracy: over problems; with several samples or prompts, over each problem's mean (avg@k).
        truncated: the share of truncated outputs; `no_answer`: the share without an answer (including
            problems that could not be asked); `timeouts`: the share whose comparison timed out.
        explained: the share of wrong outputs that were truncated, had no answer or timed out.
        rules: the number of outputs by how the answer was found; `layers`: of correct outputs by the grader's
            rule.
        tokens_mean: generated tokens per output.
        split: accuracy by metadata column and value, and by length of question and output.
        protocol: what two numbers must share to be comparable; `fingerprint` is its hash.
        prompts_sha256: the hash of all prompts as token ids.
        samples: outputs per problem and prompt.
        metrics: pass@k, maj@k, avg@k and best@k, if there are several samples.
        by_prompt: the accuracy with each prompt, if there are several; `by_sample`: for each sample number.
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
        """Standard deviation of the accuracy over prompts; None if there is only one."""
        values = [one.value for one in self.by_prompt.values() if one.value is not None]
        return stdev(values) if len(values) > 1 else None

    @property
    def sample_spread(self) -> float | None:
        """Standard deviation of the accuracy over samples; None if there is only one."""
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
    """Build the result from the rows of one benchmark.

    Args:
        rows: one row per output; an output that was never requested has no row and counts as wrong.
        benchmark: the benchmark.
        label: the model's label.
        prompts: the names of the prompts.
        samples: outputs per problem and prompt.
        cut_counts: whether truncated outputs are graded.
        protocol: see `Result`.
        model_fingerprint: the model's fingerprint.
        commit: the commit of the code.
        grading: the rules for when the answers of several samples count as equal.
        score: the score column for best@k.
    """
    outputs = _Outputs(list(rows), benchmark.problems, prompts, samples)
    mine, asked, per_problem = outputs.rows, outputs.asked, outputs.mean_over_problems(outputs.share_right)
    several = samples > 1
    return Result(
        model=label,
        benchmark=benchmark.name,
        title=benchmark.title,
        n=len(benchmark.problems),
        correct=outputs.correct,
        accuracy=accuracy_of(per_problem),
        truncated=sum(bool(row["truncated"]) for row in mine) / asked,
        no_answer=(sum(row["extracted"] is None for row in mine) + asked - len(mine)) / asked,
        timeouts=sum(bool(row["timeout"]) for row in mine) / asked,
        explained=outputs.share_explained,
        rules=dict(sorted(Counter(row["rule"] for row in mine).items())),
        layers=dict(sorted(Counter(row["layer"] for row in mine if row["correct"]).items())),
        tokens_mean=sum(row["tokens"] for row in mine) / max(1, len(mine)),
        split=_split_accuracy(benchmark.problems, per_problem, outputs.mean_tokens()),
        protocol=dict(protocol),
        fingerprint=sha256_of(json.dumps(protocol, sort_keys=True))[:12],
        prompts_sha256=sha256_of("".join(row["prompt_sha256"] for row in mine)),
        model_fingerprint=model_fingerprint,
        commit=commit,
        samples=samples,
        metrics=_metrics_of(outputs, cut_counts, grading, score) if several else {},
        by_prompt=outputs.accuracy_by_prompt() if len(prompts) > 1 else {},
        by_sample=outputs.accuracy_by_sample() if several else [],
    )


@dataclass(frozen=True)
class _Outputs:
    """The rows of one benchmark, by prompt and problem."""

    rows: Sequence[Row]
    problems: Sequence[BenchmarkProblem]
    prompts: Sequence[str]
    samples: int

    @cached_property
    def groups(self) -> dict[tuple[str, str], list[Row]]:
        """The samples of each prompt and problem."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row["prompt"], row["id"]), []).append(row)
        return groups

    @property
    def asked(self) -> int:
        """The number of requested outputs."""
        return len(self.problems) * len(self.prompts) * self.samples

    @property
    def correct(self) -> int:
        """The number of correct outputs."""
        return sum(bool(row["correct"]) for row in self.rows)

    @property
    def share_explained(self) -> float | None:
        """The share of wrong outputs that are missing or flawed; None if no output is wrong."""
        flawed = sum(
            bool(row["truncated"] or row["timeout"] or row["extracted"] is None)
            for row in self.rows
            if not row["correct"]
        )
        missing = self.asked - len(self.rows)
        return (flawed + missing) / (self.asked - self.correct) if self.correct < self.asked else None

    def share_right(self, group: Sequence[Row]) -> float:
        """Return the share of correct outputs among the samples of one prompt and problem."""
        return sum(bool(row["correct"]) for row in group) / self.samples

    def mean_over_problems(
        self, score: Callable[[list[Row]], float], prompts: Sequence[str] = ()
    ) -> list[float]:
        """Return one score per problem: the mean over prompts (all of them by default)."""
        names = prompts or self.prompts
        return [fmean(score(self.groups.get((name, p.id), [])) for name in names) for p in self.problems]

    def mean_tokens(self) -> dict[str, float]:
        """Return the generated tokens per output of each problem, by its id."""
        found = {
            p.id: [row["tokens"] for name in self.prompts for row in self.groups.get((name, p.id), [])]
            for p in self.problems
        }
        return {id: fmean(tokens or [0.0]) for id, tokens in found.items()}

    def accuracy_by_prompt(self) -> dict[str, Estimate]:
        """Return the accuracy with each prompt."""
        return {name: accuracy_of(self.mean_over_problems(self.share_right, [name])) for name in self.prompts}

    def accuracy_by_sample(self) -> list[float]:
        """Return the accuracy of the first, second, ... sample of every problem and prompt."""
        right = Counter(row["sample"] for row in self.rows if row["correct"])
        each = len(self.problems) * len(self.prompts)
        return [right[number] / each for number in range(self.samples)]


def _metrics_of(
    outputs: _Outputs, cut_counts: bool, grading: GraderOptions | None, score: str | None
) -> dict[str, Estimate]:
    """Return the metrics over several samples, each a mean over problems."""
    n = outputs.samples

    def vote(group: list[Row]) -> float:
        counted = [row for row in group if cut_counts or not row["truncated"]]
        return majority_vote(group_answers(counted, grading), [bool(row["correct"]) for row in counted])

    def best(group: list[Row]) -> float:
        if not group:
            return 0.0
        return best_of([float(row[str(score)]) for row in group], [bool(row["correct"]) for row in group])

    def passed(group: list[Row], k: int) -> float:
        return pass_at_k(sum(bool(row["correct"]) for row in group), n, k)

    measures: dict[str, Callable[[list[Row]], float]] = {
        f"pass@{k}": partial(passed, k=k)
        for k in sorted({1 << power for power in range(n.bit_length()) if 1 << power <= n} | {n})
    }
    measures |= {f"maj@{n}": vote, f"avg@{n}": outputs.share_right}
    if score is not None:
        measures[f"best@{n} by {score}"] = best
    return {name: accuracy_of(outputs.mean_over_problems(measure)) for name, measure in measures.items()}


def group_answers(rows: Sequence[Row], grading: GraderOptions | None = None) -> list[int | None]:
    """Number the answers of one problem's outputs: equal answers get equal numbers, no answer gets None."""
    from scalequest.grading import groups  # takes half a second to import

    # All answers that equal the reference equal each other.
    wrong = iter(groups([row["extracted"] for row in rows if not row["correct"]], grading))
    return [-1 if row["correct"] else next(wrong) for row in rows]


def _split_accuracy(
    problems: Sequence[BenchmarkProblem], scores: Sequence[float], tokens: Mapping[str, float]
) -> dict[str, dict[str, Estimate]]:
    """Return the accuracy for each value of each metadata column, and for thirds of two lengths."""
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
    """Name the third that each size belongs to, e.g. `12 to 30`; equal sizes are in the same third."""
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
    """Return a sort key that puts 9 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


# ------------------------------------------------------------------------------------------------------ files


def write_results(folder: str | Path, results: Sequence[Result]) -> Path:
    """Write `results.json` next to a model's rows, atomically, and its hash into their receipt."""
    path = Path(folder) / RESULTS
    content = {"format": RESULTS_FORMAT, "results": [asdict(result) for result in results]}
    atomic_files.write(path, atomic_files.as_json(content))
    receipts.add_file(path.parent, RESULTS)
    return path


def read_results(path: str | Path) -> list[Result]:
    """Read a `results.json`; receipts of older versions may lack its hash, which is not an error.

    Raises:
        ConfigError: it is not a result file, has another format, or was altered after the evaluation.
    """
    try:
        receipts.check_file(Path(path).parent, RESULTS)
        content = atomic_files.read_object(path)
        if content["format"] != RESULTS_FORMAT:
            raise ConfigError(
                f"{path}: format {content['format']}, expected {RESULTS_FORMAT}; run the evaluation again"
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
    """Return a result as one flat row, for the folder above the models' folders."""
    kept = ("model", "benchmark", "n", "samples", "correct", "truncated", "no_answer", "timeouts")
    return {
        **{key: getattr(result, key) for key in kept},
        **{key: getattr(result, key) for key in ("tokens_mean", "fingerprint")},
        "accuracy": result.accuracy.value,
        "low": result.accuracy.low,
        "high": result.accuracy.high,
    }


def sha256_of(text: str) -> str:
    """Return the hash of a text, encoded as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
