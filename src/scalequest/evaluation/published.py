"""Published tables with our numbers beside theirs: each has its source and is marked as not ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from scalequest import atomic_files
from scalequest.config import ConfigError, build, option, read_yaml, required
from scalequest.config.ranges import Range
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


_OURS = (
    "Columns marked ours: measured here, in % with the 95 % interval, on all problems unless the "
    "cell says how many; empty: not run. Their protocol and that of the published numbers may differ."
)


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table."""

    model: str = required("as printed")
    scores: dict[str, float] = required(
        "benchmark: accuracy in %; left out if it was not printed", within=Range(least=0, most=100)
    )
    average: float | None = option(None, "as printed", within=Range(least=0, most=100))
    detail: dict[str, str] = option(None, "further columns, e.g. the synthesis model", default_factory=dict)
    note: str | None = option(None, "what is wrong or special about it")
    tag: str | None = option(None, "tag of its source, if it is not the table's")


@dataclass(frozen=True)
class PublishedTable:
    """A table that somebody else published, from a YAML file."""

    name: str = required("its name, and the stem of its files")
    title: str = required("what it shows")
    source: str = required("work, version, table")
    tag: str = required("tag of the source in the project's notes: P2, P1, C, D, Q, HF or X")
    protocol: str = required("how it was measured, as far as is known")
    benchmarks: list[str] = required("columns, in order")
    rows: list[PublishedRow] = required("its rows")
    notes: list[str] = option(None, "contradictions and gaps", default_factory=list)

    def __post_init__(self) -> None:
        """Check the name."""
        if fault := atomic_files.name_fault(self.name):
            raise ConfigError(f"name: {self.name[:80]!r} cannot name a file: {fault}")


def load_published(path: str | Path) -> PublishedTable:
    """Read a published table.

    Raises:
        ConfigError: naming the file and what is wrong.
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
    """Published accuracies by our label and benchmark, and the tables' sources; the first table wins."""
    found: dict[tuple[str, str], str] = {}
    for model in models:
        wanted = published_as.get(model, model).casefold()
        for row in (row for table in published for row in table.rows if row.model.casefold() == wanted):
            for benchmark, score in row.scores.items():
                found.setdefault((model, benchmark), f"{score:.1f}")
    return found, "; ".join(sorted({f"{table.tag}: {table.source}" for table in published}))


def build_published_table(
    table: PublishedTable,
    results: Sequence[Result] | None = None,
    published_as: Mapping[str, str] | None = None,
) -> Table:
    """Show a published table as it was printed, marked as not ours.

    Args:
        table: from `load_published`.
        results: our results, for a column beside each of theirs, empty if there is none; models that the
            table does not have are added below. None leaves those columns out.
        published_as: our label to their model's name, if the two differ.
    """
    ours = _group_by_model(results or (), table, published_as or {})
    marks, differing = mark_protocols([result for found in ours.values() for result in found.values()])
    details = list(dict.fromkeys(key for row in table.rows for key in row.detail))
    # 1. Columns: theirs, and ours beside them
    columns = ["model", *details]
    for name in [*table.benchmarks, "average"]:
        title = TITLES.get(name, name)
        columns += [title] if results is None else [f"{title} (published)", f"{title} (ours)"]
    columns.append("source")
    # 2. Rows: their models, then those of ours that they do not have
    rows = []
    for row in table.rows:
        theirs = [*(row.scores.get(name) for name in table.benchmarks), row.average]
        mine = _format_ours(ours.get(row.model.casefold(), {}), table.benchmarks, marks)
        cells = [row.model, *(row.detail.get(key, "–") for key in details)]
        for score, own in zip(theirs, mine, strict=True):
            cells += ["–" if score is None else f"{score:.1f}", *([] if results is None else [own])]
        rows.append((*cells, row.tag or table.tag))
    named = {row.model.casefold() for row in table.rows}
    for found in (found for model, found in ours.items() if model not in named):
        mine = _format_ours(found, table.benchmarks, marks)
        cells = [cell for own in mine for cell in ("", own)]
        rows.append((next(iter(found.values())).model, *("" for _ in details), *cells, "ours"))
    # 3. Notes
    notes = [f"Published, not ours. Source: {table.source} [{table.tag}]. {table.protocol}"]
    notes += [f"{row.model}: {row.note}" for row in table.rows if row.note]
    notes += [*table.notes, *([] if results is None else [_OURS, *differing, *_describe_protocols(ours)])]
    title = f"Published: {table.title}"
    return Table(f"published_{table.name}", title, tuple(columns), tuple(rows), tuple(notes))


def _group_by_model(
    results: Sequence[Result], table: PublishedTable, published_as: Mapping[str, str]
) -> dict[str, dict[str, Result]]:
    """Our results on the table's benchmarks, by the published model's name in lower case, else by our label.

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
                    f"{table.name}: {result.title}: both '{other.model}' and '{result.model}' are {name}; "
                    "report one of them, or name one in published_as"
                )
    return found


def _format_ours(
    found: Mapping[str, Result], benchmarks: Sequence[str], marks: Mapping[tuple[str, str], str]
) -> list[str]:
    """Our cells, the average last: only if all benchmarks are there, and each is complete."""
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
    return [f"Protocols of ours, in full in results.json: {said}."] if said else []
