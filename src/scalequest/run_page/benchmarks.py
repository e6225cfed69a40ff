"""The benchmark results of a run: the tables of the report, intervals, and other measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalequest import atomic_files
from scalequest.config import ConfigError, read_yaml
from scalequest.evaluation import comparison, tables
from scalequest.evaluation.benchmarks import load_benchmark
from scalequest.evaluation.published import PublishedTable, build_published_table, fits, published_scores_of
from scalequest.evaluation.results import RESULTS, Result, read_results
from scalequest.evaluation.tables import Table


@dataclass(frozen=True)
class Interval:
    """An accuracy in % with its interval; `published` is the number that others reported for this model."""

    evaluation: str
    benchmark: str
    model: str
    value: float
    low: float
    high: float
    n: int
    published: float | None = None


@dataclass(frozen=True)
class Benchmarks:
    """The results of all evaluations.

    `measured` holds the tables of generated questions, and `notes` says what could not be read.
    """

    tables: tuple[Table, ...] = ()
    intervals: tuple[Interval, ...] = ()
    differences: tuple[Table, ...] = ()
    measured: tuple[Table, ...] = ()
    contamination: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def read_benchmarks(
    folder: Path, published: Sequence[PublishedTable], published_as: Mapping[str, str]
) -> Benchmarks:
    """Read all evaluations below a folder, and compare the models of each with its first model."""
    shown: list[Table] = []
    intervals: list[Interval] = []
    differences: list[Table] = []
    notes: list[str] = []
    every: list[Result] = []
    evaluations = dict.fromkeys(path.parent.parent for path in sorted(folder.rglob(RESULTS), key=str))
    for place in evaluations:
        name = str(place.relative_to(folder)) if place.is_relative_to(folder) else place.name
        try:
            results = _results_of(place)
            theirs, sources = published_scores_of(published, _models_of(results), published_as)
            made = tables.tables_of_results(results, theirs, sources)
            shown += [_titled(table, name, len(evaluations)) for table in made]
            intervals += _intervals_of(name, results, theirs)
            differences += [_titled(one, name, len(evaluations)) for one in _compare(place, results)]
            every += results
        except ConfigError as error:
            notes.append(str(error))
    shown += _published_beside(published, every, published_as, notes)
    return Benchmarks(
        tuple(shown), tuple(intervals), tuple(differences),
        tuple(_read_measured(folder)), tuple(_read_contamination(folder)), tuple(notes),
    )  # fmt: skip


def _results_of(evaluation: Path) -> list[Result]:
    """Return the results of an evaluation, with the models in the order of its settings."""
    by_model = {path.parent.name: read_results(path) for path in sorted(evaluation.glob(f"*/{RESULTS}"))}
    order = [name for name in _settings_of(evaluation).get("models") or {} if name in by_model]
    return [result for name in dict.fromkeys([*order, *by_model]) for result in by_model[name]]


def _settings_of(folder: Path) -> Mapping[str, Any]:
    try:
        return read_yaml(folder / "config.yaml")
    except (ConfigError, OSError):
        return {}


def _models_of(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.model for result in results))


def _titled(table: Table, evaluation: str, of: int) -> Table:
    return table if of == 1 else replace(table, title=f"{table.title} ({evaluation})")


def _intervals_of(
    evaluation: str, results: Sequence[Result], theirs: Mapping[tuple[str, str], str]
) -> list[Interval]:
    found = []
    for one in results:
        value, low, high = one.accuracy.value, one.accuracy.low, one.accuracy.high
        if value is None or low is None or high is None:
            continue
        printed = theirs.get((one.model, one.benchmark))
        numbers = (100 * value, 100 * low, 100 * high)
        beside = None if printed is None else float(printed)
        found.append(Interval(evaluation, one.title, one.model, *numbers, one.n, beside))
    return found


def _compare(evaluation: Path, results: Sequence[Result]) -> list[Table]:
    """Compare every model with the first one, on the problems that both were asked."""
    models = _models_of(results)
    if len(models) < 2:
        return []
    there = [model for model in models if (evaluation / model).is_dir()]
    rows = {model: comparison.read_outputs(evaluation / model) for model in there}
    by_model = {model: [one for one in results if one.model == model] for model in rows}
    first, *others = rows
    found: list[comparison.Comparison] = []
    for other in others:
        differs = comparison.compare_protocols(by_model[first], by_model[other])
        found += comparison.compare(rows[first], rows[other], (first, other), differs=differs)
    return comparison.tables_of_comparisons(found, {one.benchmark: one.title for one in results})


def _published_beside(
    published: Sequence[PublishedTable],
    results: Sequence[Result],
    published_as: Mapping[str, str],
    notes: list[str],
) -> list[Table]:
    """Return the published tables that contain a benchmark of ours, with our numbers beside theirs."""
    made = []
    for table in published:
        if fits(table, results):
            try:
                made.append(build_published_table(table, results, published_as))
            except ConfigError as error:
                notes.append(str(error))
    return made


def _read_measured(folder: Path) -> list[Table]:
    found: list[Table] = []
    for path in sorted(folder.rglob("questions.json"), key=str):
        try:
            found += tables.tables_of_questions(atomic_files.read_object(path))
        except (ConfigError, KeyError, TypeError, AttributeError):
            continue
    return found


def _read_contamination(folder: Path) -> list[Table]:
    """Return the matches with benchmarks that filters and assembled datasets found among their questions."""
    found = []
    for path in sorted(folder.rglob("report.json"), key=str):
        try:
            part = atomic_files.read_object(path).get("contamination")
        except ConfigError:
            continue
        if isinstance(part, dict) and isinstance(part.get("clean"), list):
            found.append(_table_of_contamination(str(path.parent.relative_to(folder)), part))
    return found


def _table_of_contamination(stage: str, part: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            str(one.get("benchmark")),
            f"{int(one.get('questions') or 0):,}",
            f"{int(one.get('met') or 0):,}",
            f"{100 * float(one.get('clean') or 0):.1f}",
        )
        for one in part["clean"]
        if isinstance(one, dict)
    )
    flagged = part.get("flagged") or {}
    said = ", ".join(f"{rule} {count:,}" for rule, count in flagged.items()) or "none"
    notes = [f"Rows that match a benchmark's question, by the rule that found them: {said}."]
    if part.get("left_out"):
        notes.append(
            f"Not compared, because their data are missing: {', '.join(map(str, part['left_out']))}."
        )
    columns = ("benchmark", "questions", "matched by a row", "not matched, %")
    return Table(f"contamination_{stage}", f"Benchmark questions in {stage}", columns, rows, tuple(notes))


def read_problems(evaluation: Path) -> tuple[dict[str, str], list[str]]:
    """Return the questions of an evaluation's benchmarks by `benchmark/id`, and notes on unreadable ones."""
    questions: dict[str, str] = {}
    notes: list[str] = []
    for path in _settings_of(evaluation).get("benchmarks") or []:
        try:
            loaded = load_benchmark(str(path))
        except (ConfigError, OSError) as error:
            notes.append(f"questions of {path} are not shown: {error}")
            continue
        questions |= {f"{loaded.name}/{problem.id}": problem.question for problem in loaded.problems}
    return questions, notes
