"""Benchmarks: one YAML file each, with the source of the problems and their expected hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalequest import atomic_files
from scalequest.config import ConfigError, build, option, read_yaml, required
from scalequest.config.ranges import COUNT, SHARE_BELOW_1
from scalequest.evaluation.problems import AnswerRule, BenchmarkProblem
from scalequest.evaluation.prompts import QUESTION_ONLY, EvalPrompt, load_eval_prompt
from scalequest.grading.extraction import reference_in
from scalequest.grading.latex.boxes import last_box
from scalequest.records import Row, expand, read_rows, require


@dataclass(frozen=True)
class AnswerRuleColumns:
    """What counts as correct beyond equality; most keys name a column, because rows may differ."""

    several: str | None = option(
        None, "column that is true if the reference consists of several answers in any order"
    )
    unit: str | None = option(None, "column with the unit that the reference omits")
    tolerance: str | None = option(None, "column with the allowed absolute error")
    relative: float = option(
        0.0, "allowed relative error if the reference is a decimal number", within=SHARE_BELOW_1
    )


@dataclass(frozen=True)
class BenchmarkFile:
    """The keys of a benchmark's YAML file."""

    name: str = required("name in results and tables")
    source: str = required(
        "a path ($NAME is expanded; otherwise relative to this file), or hub:owner/name@revision:split"
    )
    rows: int = required("number of rows in the source", within=COUNT)
    sha256: str = required("hash of all columns that affect a grade, see `sha256_of_rows`")
    hub: str | None = option(None, "the same rows on the hub, read instead if requested")
    title: str | None = option(None, "heading of the column in tables; null: the name")
    question: str | list[str] = option("question", "column of the question, or several columns to join")
    answer: str = option("answer", "column of the reference answer")
    id: str | None = option(None, "column of the id; null: rows are numbered")
    answer_after: str | None = option(
        None, "the reference is the text after the last occurrence of this marker, e.g. '####'"
    )
    answer_before: str | None = option(
        None, "the reference is the text before the first occurrence of this marker, e.g. a unit in brackets"
    )
    answer_box: bool = option(False, "the reference is the content of the last box in the answer")
    where: dict[str, Any] = option(
        None, "use only rows whose columns have these values, e.g. {Picture: null}", default_factory=dict
    )
    metadata: list[str] = option(
        None, "columns for breaking down the results, e.g. level", default_factory=list
    )
    judging: AnswerRuleColumns = option(
        None, "rules for what counts as correct", default_factory=AnswerRuleColumns
    )
    prompts: list[str] = option(
        None, "prompt files, relative to this file; none: only the question", default_factory=list
    )
    patch: str | None = option(
        None, "file with corrected references, applied only if requested", fingerprint=False
    )
    about: str = option("", "source, licence and known errors")

    def __post_init__(self) -> None:
        """Check the name, which becomes part of a report's file names."""
        if fault := atomic_files.name_fault(self.name):
            raise ConfigError(f"name: {self.name[:80]!r} cannot be used as a file name: {fault}")


@dataclass(frozen=True)
class Correction:
    """The correct reference for one that is wrong in the source, or several correct ones."""

    id: str = required("id of the problem")
    answer: str | None = option(None, "the complete answer")
    any_of: list[str] = option(None, "answers of which each is correct", default_factory=list)
    why: str = required("what is wrong with the reference in the source")

    def __post_init__(self) -> None:
        """Check that exactly one of the two is given."""
        if (self.answer is None) == (not self.any_of):
            raise ConfigError(f"{self.id}: set either answer or any_of")


@dataclass(frozen=True)
class PatchFile:
    """The keys of a file of corrections."""

    corrections: list[Correction] = required("one entry per wrong reference")


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark that was read and checked; `problems` are its first `limit` problems."""

    name: str
    title: str
    problems: tuple[BenchmarkProblem, ...]
    sha256: str
    limit: int | None = None
    prompts: tuple[EvalPrompt, ...] = (QUESTION_ONLY,)
    patched: str | None = None  # sha256 of the corrections that were applied


def load_benchmark(
    path: str | Path, limit: int | None = None, *, patches: bool = False, hub: bool = False
) -> LoadedBenchmark:
    """Read a benchmark from its YAML file. All of its data are checked, even if `limit` keeps only a part.

    Args:
        path: the YAML file.
        limit: keep only the first problems.
        patches: correct the references that the benchmark's patch file lists.
        hub: read from the hub if the file names a source there.

    Raises:
        ConfigError: the file is wrong, the data are missing, or their hash differs from the one in the file.
    """
    path = Path(path)
    (spec,) = build((BenchmarkFile,), read_yaml(path), str(path))
    # 1. All rows, which must be the ones that the file describes
    source = spec.hub if hub and spec.hub else _source_of(spec, path)
    rows = _read_source(source, spec, path)
    found = _check_rows(rows, source, spec, path)
    # 2. The problems
    chosen = [
        (index, row)
        for index, row in enumerate(rows)
        if all(row.get(column) == value for column, value in spec.where.items())
    ]
    corrections, patched = _read_corrections(path, spec) if patches else ({}, None)
    problems = tuple(_build_problem(spec, row, index, corrections) for index, row in chosen[:limit])
    _check_ids(problems, [index for index, _ in chosen[:limit]], f"{path}: id: column '{spec.id}'", source)
    if limit is None and (unknown := set(corrections) - {problem.id for problem in problems}):
        raise ConfigError(f"{path}: patch: no problem has the id '{min(unknown)}'")
    # 3. Its prompts
    prompts = tuple(load_eval_prompt(path.parent / prompt) for prompt in spec.prompts) or (QUESTION_ONLY,)
    applied = limit if limit is not None and limit < len(chosen) else None
    return LoadedBenchmark(spec.name, spec.title or spec.name, problems, found, applied, prompts, patched)


def _check_rows(rows: Sequence[Row], source: str, spec: BenchmarkFile, path: Path) -> str:
    """Check columns, number of rows and hash; return the hash."""
    columns = [*_question_columns_of(spec), spec.answer]
    for index, row in enumerate(rows):
        require(row, *columns, *([spec.id] if spec.id else []), source=source, index=index)
    rules = spec.judging
    judging = [column for column in (rules.several, rules.unit, rules.tolerance) if column is not None]
    for key, names in (("judging", judging), ("where", spec.where), ("metadata", spec.metadata)):
        for name in names:
            if not any(name in row for row in rows):
                raise ConfigError(f"{path}: {key}: no row of {source} has a column '{name}'")
    found = sha256_of_rows(rows, *columns, *judging, *spec.where)
    if (len(rows), found) != (spec.rows, spec.sha256):
        raise ConfigError(
            f"{path}: {source} contains different problems: {len(rows)} rows with sha256 "
            f"{found}, expected {spec.rows} with {spec.sha256}"
        )
    return found


def _check_ids(problems: Sequence[BenchmarkProblem], rows: Sequence[int], column: str, source: str) -> None:
    seen: dict[str, int] = {}
    for index, problem in zip(rows, problems, strict=True):
        if (other := seen.setdefault(problem.id, index)) != index:
            raise ConfigError(
                f"{column} is not unique: rows {other + 1} and {index + 1} of {source} are both "
                f"'{problem.id}'"
            )


def name_if_missing(path: str | Path) -> str | None:
    """Return the name of a benchmark whose source is missing; None if the source exists, even if it is wrong.

    Raises:
        ConfigError: the file is wrong, or a variable in its source is not set.
    """
    (spec,) = build((BenchmarkFile,), read_yaml(path), str(path))
    source = _source_of(spec, Path(path))
    there = source.startswith("hub:") or expand(source).exists()
    return None if there else str(spec.name)


def sha256_of_rows(rows: Sequence[Row], *columns: str) -> str:
    """Hash some columns as one JSON line per row, so a file and its copy on the hub have the same hash."""
    digest = hashlib.sha256()
    for row in rows:
        values = [row.get(column) for column in columns]
        digest.update(json.dumps(values, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _source_of(spec: BenchmarkFile, path: Path) -> str:
    relative = not spec.source.startswith(("hub:", "$", "/", "~"))
    return str(path.parent / spec.source) if relative else spec.source


def _read_source(source: str, spec: BenchmarkFile, path: Path) -> list[Row]:
    try:
        return read_rows(source)
    except ConfigError as error:
        where = f"; or set hub: true to read {spec.hub}" if spec.hub and source == spec.source else ""
        readme = path.parent / "README.md"
        said = f"; {readme} lists the sources of the data" if readme.is_file() else ""
        raise ConfigError(f"{path}: {error}{said}{where}") from None


def _question_columns_of(spec: BenchmarkFile) -> list[str]:
    return [spec.question] if isinstance(spec.question, str) else spec.question


def _read_corrections(path: Path, spec: BenchmarkFile) -> tuple[dict[str, Correction], str | None]:
    if spec.patch is None:
        return {}, None
    file = path.parent / spec.patch
    (patch,) = build((PatchFile,), read_yaml(file), str(file))
    text = json.dumps(asdict(patch), sort_keys=True, ensure_ascii=False)
    return {one.id: one for one in patch.corrections}, hashlib.sha256(text.encode()).hexdigest()


def _build_problem(
    spec: BenchmarkFile, row: Row, index: int, corrections: Mapping[str, Correction]
) -> BenchmarkProblem:
    number = str(row[spec.id]) if spec.id else f"{index:05d}"
    metadata = {name: row.get(name) for name in spec.metadata}
    answers = [_reference_of(spec, row, index)]
    if (correction := corrections.get(number)) is not None:
        answers = correction.any_of or [str(correction.answer)]
    rules = spec.judging
    error = row.get(rules.tolerance) if rules.tolerance else None
    try:
        tolerance = None if error in (None, "") else float(str(error))
    except ValueError:
        raise ConfigError(
            f"{spec.name}: row {index + 1}: {rules.tolerance}: '{error}' is not a number"
        ) from None
    raw = row[spec.answer]
    listed = raw if isinstance(raw, list) else [raw]
    rule = AnswerRule(
        several=len(listed) > 1 or bool(rules.several and row.get(rules.several)),
        unit=(row.get(rules.unit) or None) if rules.unit else None,
        tolerance=tolerance,
        relative=rules.relative if any(isinstance(one, float) for one in listed) else 0.0,
    )
    question = _join_texts([str(row[column]) for column in _question_columns_of(spec)])
    return BenchmarkProblem(number, question, answers[0], metadata, tuple(answers[1:]), row, rule)


def _reference_of(spec: BenchmarkFile, row: Row, index: int) -> str:
    """Return the reference, which may be only a part of its column, as text."""
    answer = text_of_reference(row[spec.answer])
    if spec.answer_after is not None:
        if spec.answer_after not in answer:
            raise ConfigError(
                f"{spec.name}: row {index + 1}: the answer does not contain '{spec.answer_after}'"
            )
        answer = reference_in(answer, spec.answer_after)
    if spec.answer_before is not None:
        answer = answer.partition(spec.answer_before)[0]
    if spec.answer_box:
        answer = last_box(answer) or ""
        if not answer:
            raise ConfigError(f"{spec.name}: row {index + 1}: the answer does not contain a box")
    return answer.strip()


def text_of_reference(value: Any) -> str:
    """Return a reference as people write it: 145.0 as `145`, [4] as `4`, [0, 5] as `0, 5`."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return ", ".join(map(text_of_reference, value))
    return str(value)


def _join_texts(parts: Sequence[str]) -> str:
    """Join texts as sentences; some of SVAMP's bodies lack their final full stop."""
    ended = [part.strip() if re.search(r"[.?!,:;]\s*$", part) else f"{part.strip()}." for part in parts[:-1]]
    return " ".join([*ended, parts[-1].strip()])
