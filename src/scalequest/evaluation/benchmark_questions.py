"""Read the questions of all benchmarks, for the stages that keep them out of the training data."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob

from scalequest.config import ConfigError
from scalequest.evaluation.benchmarks import load_benchmark, name_if_missing
from scalequest.questions.contamination import ContaminationRule, TestQuestion
from scalequest.records import Row, read_columns
from scalequest.stage.folder import Stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkQuestions:
    """The questions read, and the names of optional benchmarks whose data are missing."""

    questions: tuple[TestQuestion, ...] = ()
    left_out: tuple[str, ...] = ()


def read_benchmark_questions(rule: ContaminationRule) -> BenchmarkQuestions:
    """Read the questions of all benchmarks in a rule, each with its benchmark's name and its id.

    Raises:
        ConfigError: a pattern matches no file, or a benchmark cannot be read; the data of an optional
            benchmark may be missing, but not wrong.
    """
    tests = [
        TestQuestion(one.source, str(number), row["question"])
        for one in rule.against
        for number, row in enumerate(_read_source(one.source, one.column))
    ]
    wanted = _find_files(rule.benchmarks, "benchmarks")
    optional = [file for file in _find_files(rule.optional, "optional") if file not in wanted]
    absent = {file: name for file in optional if (name := name_if_missing(file)) is not None}
    for file in [*wanted, *optional]:
        if file not in absent:
            benchmark = load_benchmark(file)
            tests += [TestQuestion(benchmark.name, one.id, one.question) for one in benchmark.problems]
    return BenchmarkQuestions(tuple(tests), tuple(absent.values()))


def _read_source(source: str, column: str | None) -> list[Row]:
    columns = {"question": column} if column else None
    return read_columns(source, "question", columns=columns, setting="contamination.against.column")


def report_left_out(questions: BenchmarkQuestions, stage: Stage) -> None:
    """Name the skipped benchmarks in the log and in the receipt, which the report reads."""
    stage.receipt["benchmarks_left_out"] = [*questions.left_out]
    if questions.left_out:
        log.info("benchmarks skipped because their data are missing: %s", ", ".join(questions.left_out))


def _find_files(patterns: Sequence[str], key: str) -> list[str]:
    """Return the files that match the patterns, each once."""
    files: dict[str, None] = {}
    for pattern in patterns:
        matched = sorted(glob(pattern))
        if not matched:
            raise ConfigError(f"contamination.{key}: {pattern}: no such file")
        files |= dict.fromkeys(matched)
    return list(files)


def sha256_of_questions(questions: Sequence[TestQuestion]) -> str:
    """Hash the questions; the same questions from another source have the same hash."""
    text = "\0".join(one.question for one in questions)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
