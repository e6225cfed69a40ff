"""The questions of all benchmarks, for the stages that keep them out of training data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from glob import glob

from scalequest.config import ConfigError
from scalequest.evaluation.benchmarks import load_benchmark
from scalequest.questions.contamination import ContaminationRule, TestQuestion
from scalequest.records import read_rows


def read_tests(rule: ContaminationRule) -> list[TestQuestion]:
    """Questions of all benchmarks that a rule names, each with its benchmark's name and its id there.

    Raises:
        ConfigError: a pattern matches no file, or a benchmark cannot be read.
    """
    tests = [
        TestQuestion(one.source, str(number), row["question"])
        for one in rule.against
        for number, row in enumerate(read_rows(one.source, columns={"question": one.column}))
    ]
    for pattern in rule.benchmarks:
        files = sorted(glob(pattern))
        if not files:
            raise ConfigError(f"contamination.benchmarks: {pattern}: no such file")
        for file in files:
            benchmark = load_benchmark(file)
            tests += [TestQuestion(benchmark.name, one.id, one.question) for one in benchmark.problems]
    return tests


def digest(tests: Sequence[TestQuestion]) -> str:
    """Identify the questions, wherever they were read from."""
    text = "\0".join(test.question for test in tests)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
