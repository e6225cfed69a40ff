"""Published tables next to our results, each with its source and marked as not ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from scalequest import atomic_files
from scalequest.config import ConfigError, build, option, read_yaml, required
from scalequest.config.ranges import Range
from scalequest.evaluation.leakage import CleanRatios
from scalequest.evaluation.results import Result
from scalequest.evaluation.tables import Table, format_percent, mark_protocols

TITLES = {
    "gsm8k": "GSM8K",
    "math": "MATH",
    "college_math": "College Math",
    "olympiadbench": "OlympiadBench",
    "math500": "MATH-500",
    "aime24": "AIME 2024",
    "amc23": "AMC 2023",
}

Measure = Literal["accuracy", "clean_ratio"]
_OURS = (
    "Columns marked ours were measured here, in % with the 95 % interval, on all "
    "problems unless the cell gives their number; an empty cell was not run. Their "
    "protocol may differ from that of the published numbers."
)


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table."""

    model: str = required("name as printed")
    scores: dict[str, float] = required(
        "accuracy in % per benchmark; left out if it was not printed", within=Range(least=0, most=100)
    )
    average: float | None = option(None, "as printed", within=Range(least=0, most=100))
    detail: dict[str, str] = option(None, "further columns, e.g. the synthesis model", default_factory=dict)
    note: str | None = option(None, "known errors and special conditions")
    tag: str | None = option(None, "tag of the row's source, if it differs from the table's")


@dataclass(frozen=True)
class PublishedTable:
    """A table published by others, from a YAML file."""

    name: str = required("name, and the stem of the table's files")
    title: str = required("title")
    source: str = required("publication, version and number of the table")
    tag: str = required("tag of the source in the project's notes: P2, P1, C, D, Q, HF or X")
    protocol: str = required("how the numbers were measured, as far as is known")
    benchmarks: list[str] = required("benchmarks of the columns, in order")
    measures: Measure = option(
        "accuracy",
        "what a column is of: a model's accuracy, or the share of problems that a set does not contain",
    )
    rows: list[PublishedRow] = required("rows")
    notes: list[str] = option(None, "contradictions and gaps", default_factory=list)

    def __post_init__(self) -> None:
        """Check the name."""
        if fault := atomic_files.name_fault(self.name):
            raise ConfigError(f"name: {self.name[:80]!r} cannot be used as a file name: {fault}")


def load_published(path: str | Path) -> PublishedTable:
    """Read a published table.

    Raises:
        ConfigError: names the file and what is wrong.
    """
    (table,) = build((PublishedTable,), read_yaml(path), str(path))
    for row in table.rows:
        if unknown := [name for name in row.scores if name not in table.benchmarks]:
            raise ConfigError(f"{path}: {row.model}: benchmark '{unknown[0]}' is not in benchmarks")
    loaded: PublishedTable = table
    return loaded


def published_scores_of(
    published: Sequence[PublishedTable], models: Sequence[str], published_as: Mapping[str, str]
) -> tuple[dict[tuple[str, str], str], str]:
    """Return published accuracies by our label and benchmark, and their sources; the first table wins."""
    found: dict[tuple[str, str], str] = {}
    for model in models:
        wanted = published_as.get(model, model).casefold()
        for row in (row for table in published for row in table.rows if row.model.casefold() == wanted):
            for benchmark, score in row.scores.items():
                found.setdefault((model, benchmark), f"{score:.1f}")
    return found, "; ".join(sorted({f"{table.tag}: {table.source}" for table in published}))


@dataclass(frozen=True)
class _OwnRow:
    """A row of ours: its label, the cells of the table's benchmarks, and their average."""

    label: str
    cells: list[str]


def fits(table: PublishedTable, results: Sequence[Result], clean: Sequence[CleanRatios] = ()) -> bool:
    """Return whether any of our numbers belongs in the table: the same measure of the same benchmark."""
    if table.measures == "accuracy":
        return any(result.benchmark in table.benchmarks for result in results)
    return any(benchmark in table.benchmarks for one in clean for benchmark in one.shares)


def build_published_table(
    table: PublishedTable,
    results: Sequence[Result] | None = None,
    published_as: Mapping[str, str] | None = None,
    clean: Sequence[CleanRatios] = (),
) -> Table:
    """Show a published table as it was printed, marked as not ours.

    Args:
        table: the table, from `load_published`.
        results: our results, for a column next to each published one, with empty cells if there is no result;
            models that the table does not contain are added below. None leaves these columns out.
        published_as: maps our label to the published model's name, if they differ.
        clean: our clean ratios, for the same columns if the table is of clean ratios.
    """
    if table.measures == "clean_ratio":
        beside, (ours, described) = bool(clean), _clean_rows(clean, table, published_as or {})
    else:
        beside, (ours, described) = (
            results is not None,
            _result_rows(results or (), table, published_as or {}),
        )
    details = list(dict.fromkeys(key for row in table.rows for key in row.detail))
    # 1. Columns: the published ones, with ours next to them
    columns = ["model", *details]
    for name in [*table.benchmarks, "average"]:
        title = TITLES.get(name, name)
        columns += [f"{title} (published)", f"{title} (ours)"] if beside else [title]
    columns.append("source")
    # 2. Rows: the published models, then our models that the table does not contain
    rows = []
    for row in table.rows:
        theirs = [*(row.scores.get(name) for name in table.benchmarks), row.average]
        mine = ours[row.model.casefold()].cells if row.model.casefold() in ours else [""] * len(theirs)
        cells = [row.model, *(row.detail.get(key, "–") for key in details)]
        for score, own in zip(theirs, mine, strict=True):
            cells += ["–" if score is None else f"{score:.1f}", *([own] if beside else [])]
        rows.append((*cells, row.tag or table.tag))
    named = {row.model.casefold() for row in table.rows}
    for added in (one for model, one in ours.items() if model not in named):
        cells = [cell for own in added.cells for cell in ("", own)]
        rows.append((added.label, *("" for _ in details), *cells, "ours"))
    # 3. Notes
    notes = [f"Published, not ours. Source: {table.source} [{table.tag}]. {table.protocol}"]
    notes += [f"{row.model}: {row.note}" for row in table.rows if row.note]
    notes += [*table.notes, *([_OURS, *described] if beside else [])]
    title = f"Published: {table.title}"
    return Table(f"published_{table.name}", title, tuple(columns), tuple(rows), tuple(notes))


def _result_rows(
    results: Sequence[Result], table: PublishedTable, published_as: Mapping[str, str]
) -> tuple[dict[str, _OwnRow], list[str]]:
    """Return our rows of accuracies by published model or by our label, and the notes on their protocols."""
    ours = _group_by_model(results, table, published_as)
    marks, differing = mark_protocols([result for found in ours.values() for result in found.values()])
    rows = {
        name: _OwnRow(next(iter(found.values())).model, _format_ours(found, table.benchmarks, marks))
        for name, found in ours.items()
    }
    return rows, [*differing, *_describe_protocols(ours)]


def _clean_rows(
    clean: Sequence[CleanRatios], table: PublishedTable, published_as: Mapping[str, str]
) -> tuple[dict[str, _OwnRow], list[str]]:
    """Return our rows of clean ratios by published set or by our label, and a note on what was compared."""
    rows = {}
    for one in clean:
        found = [one.shares.get(name) for name in table.benchmarks]
        values = [share.value for share in found if share is not None and share.value is not None]
        average = f"{100 * fmean(values):.1f}" if len(values) == len(found) else ""
        cells = [format_percent(share) if share is not None else "" for share in found]
        rows[published_as.get(one.label, one.label).casefold()] = _OwnRow(one.label, [*cells, average])
    return rows, [f"{one.label}: {one.source}." for one in clean]


def _group_by_model(
    results: Sequence[Result], table: PublishedTable, published_as: Mapping[str, str]
) -> dict[str, dict[str, Result]]:
    """Return our results on the table's benchmarks, by the published model's lower-case name or by our label.

    Raises:
        ConfigError: two of our models would be in the same cell.
    """
    named = {row.model.casefold() for row in table.rows}
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.benchmark in table.benchmarks:
            name = published_as.get(result.model, result.model).casefold()
            mine = found.setdefault(name if name in named else result.model, {})
            other = mine.setdefault(result.benchmark, result)
            if other is not result:
                raise ConfigError(
                    f"{table.name}: {result.title}: both '{other.model}' and '{result.model}' are "
                    f"{name}; report only one of them, or set published_as to one of them"
                )
    return found


def _format_ours(
    found: Mapping[str, Result], benchmarks: Sequence[str], marks: Mapping[tuple[str, str], str]
) -> list[str]:
    """Return our cells, with the average last, which requires complete results for all benchmarks."""
    cells, values = [], []
    for name in benchmarks:
        result = found.get(name)
        if result is None:
            cells.append("")
            continue
        limit = result.protocol.get("limit")
        part = f" of the first {limit}" if limit else ""
        cells.append(format_percent(result.accuracy) + part + marks.get((result.model, name), ""))
        if result.accuracy.value is not None and not limit:
            values.append(result.accuracy.value)
    average = f"{100 * fmean(values):.1f}" if len(values) == len(benchmarks) else ""
    return [*cells, average]


def _describe_protocols(ours: Mapping[str, Mapping[str, Result]]) -> list[str]:
    by_print: dict[str, list[str]] = {}
    for found in ours.values():
        for result in found.values():
            by_print.setdefault(result.fingerprint, []).append(f"{result.model} on {result.title}")
    said = "; ".join(f"{', '.join(names)}: {fingerprint}" for fingerprint, names in by_print.items())
    return [f"Our protocols (given in full in results.json): {said}."] if said else []
