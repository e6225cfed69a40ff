"""Benchmarks: one YAML file each, which says where the problems are and which problems they have to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, build, option, read_yaml, required
from scalequest.records import Row, read_rows, require


@dataclass(frozen=True)
class BenchmarkFile:
    """The keys of a benchmark's YAML file."""

    name: str = required("what results and tables call it")
    source: str = required(
        "a path ($NAME is expanded; else relative to this file), or hub:owner/name@revision:split"
    )
    rows: int = required("how many problems it has")
    sha256: str = required("of its questions and answers, see `content_sha256`")
    title: str | None = option(None, "heading of its column; None is the name")
    question: str = option("question", "column of the question")
    answer: str = option("answer", "column of the reference answer")
    id: str | None = option(None, "column of the id; None numbers the rows")
    answer_after: str | None = option(
        None, "the reference is what follows the last of this marker, e.g. '####'"
    )
    metadata: list[str] = option(None, "columns that results are split by, e.g. level", default_factory=list)
    about: str = option("", "where it comes from, its licence, its known faults")


@dataclass(frozen=True)
class Problem:
    """One question with its reference answer; `metadata` holds what the YAML file asks for."""

    id: str
    question: str
    answer: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that was checked: `problems` are the first `limit` of exactly those that `sha256` names."""

    name: str
    title: str
    problems: tuple[Problem, ...]
    sha256: str
    limit: int | None = None


def load_benchmark(path: str | Path, limit: int | None = None) -> Benchmark:
    """Read a benchmark by its YAML file and check it whole, also where `limit` keeps only the first problems.

    Raises:
        ConfigError: the file is wrong, the data are missing, or they are not the data that the file names.
    """
    path = Path(path)
    (spec,) = build((BenchmarkFile,), read_yaml(path), str(path))
    source = spec.source
    if not source.startswith(("hub:", "$", "/", "~")):
        source = str(path.parent / source)
    rows = read_rows(source)
    for index, row in enumerate(rows):
        require(row, spec.question, spec.answer, *([spec.id] if spec.id else []), source=source, index=index)
    found = content_sha256(rows, spec.question, spec.answer)
    if (len(rows), found) != (spec.rows, spec.sha256):
        raise ConfigError(
            f"{path}: {source} holds other problems: {len(rows)} rows with sha256 {found}, "
            f"expected {spec.rows} with {spec.sha256}"
        )
    problems = tuple(_problem(spec, row, index) for index, row in enumerate(rows[:limit]))
    if len({problem.id for problem in problems}) != len(problems):
        raise ConfigError(f"{path}: id: column '{spec.id}' is not unique")
    applied = limit if limit is not None and limit < len(rows) else None
    return Benchmark(spec.name, spec.title or spec.name, problems, found, applied)


def content_sha256(rows: Sequence[Row], question: str, answer: str) -> str:
    """Hash questions and answers, one JSON line a row: the same for a file and its copy on the hub."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row[question], row[answer]], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _problem(spec: BenchmarkFile, row: Row, index: int) -> Problem:
    answer = str(row[spec.answer])
    if spec.answer_after is not None:
        if spec.answer_after not in answer:
            raise ConfigError(f"{spec.name}: row {index + 1}: no '{spec.answer_after}' in its answer")
        answer = answer.rpartition(spec.answer_after)[2]
    number = str(row[spec.id]) if spec.id else f"{index:05d}"
    metadata = {name: row.get(name) for name in spec.metadata}
    return Problem(number, str(row[spec.question]).strip(), answer.strip(), metadata)
