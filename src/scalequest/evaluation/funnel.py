"""Follow a run's rows from stage to stage, and the time of each stage, using the run's receipts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError
from scalequest.evaluation.tables import Table
from scalequest.receipts import damage, finished_receipt, holds_rows, made_by, read_receipt

# Names of stages (`Stage.open(name=...)`) and what they do to rows, for the line that summarises the funnel.
HEADLINE = {
    "generate_questions": "generated",
    "filter_questions": "kept",
    "solve_questions": "answered",
    "select_solutions": "selected",
}
NOT_DATA = ("evaluate", "evaluate_model", "measure_questions", "judge_questions")
_SOURCE = re.compile(r"(?P<made>.+?)(?:\[:(?P<rows>\d+)\])?")  # as `records.source_fingerprint` writes it


@dataclass(frozen=True)
class StageRecord:
    """A finished stage.

    Attributes:
        folder: the stage's folder, relative to the run's folder.
        receipt: the content of its receipt.json.
        upstream: folders of the same run that the stage read from.
        trains: whether it produced a model rather than rows.
        first: number of rows by folder, if it read only the first rows of that folder (`folder[:600]`).
        damage: how its rows differ from its receipt, or None.
    """

    folder: str
    receipt: Mapping[str, Any]
    upstream: tuple[str, ...]
    trains: bool
    first: Mapping[str, int] = field(default_factory=dict)
    damage: str | None = None

    @property
    def asked(self) -> int | None:
        """The maximum number of rows that its settings allow it to read, or None."""
        fields = self.receipt.get("fingerprint_fields") or {}
        given = [fields[key] for key in ("limit", "draw") if isinstance(fields.get(key), int)]
        return min(given, default=None)

    @property
    def dropped(self) -> dict[str, int]:
        """Number of dropped rows by reason, most frequent first."""
        return dict(sorted((self.receipt.get("dropped") or {}).items(), key=lambda item: -item[1]))

    def count(self, key: str) -> int:
        """A number of the receipt."""
        return int(self.receipt.get(key) or 0)


def read_stages(run: str | Path) -> list[StageRecord]:
    """Return all finished stages below a run folder, in the order in which they were started.

    Raises:
        ConfigError: the folder does not exist, or a receipt cannot be read.
    """
    run = Path(run)
    if not run.is_dir():
        raise ConfigError(f"{run}: no such folder")
    receipts: dict[str, dict[str, Any]] = {}
    for path in sorted(run.rglob("receipt.json")):
        if (receipt := read_receipt(path.parent)) is not None and receipt.get("finished"):
            receipts[str(path.parent.relative_to(run))] = finished_receipt(path.parent)
    makers = {made_by(one): folder for folder, one in receipts.items()}
    records = []
    for folder, receipt in receipts.items():
        used = [match for one in receipt.get("inputs", {}).values() if (match := _SOURCE.fullmatch(one))]
        read = {makers[one["made"]]: one["rows"] for one in used if one["made"] in makers}
        first = {name: int(rows) for name, rows in read.items() if rows is not None}
        trains = not holds_rows(run / folder, receipt)
        lost = None if trains else damage(run / folder, receipt, "data")
        records.append(StageRecord(folder, receipt, tuple(read), trains, first, lost))
    return _sort_stages(sorted(records, key=lambda record: str(record.receipt.get("started"))))


def _sort_stages(records: Sequence[StageRecord]) -> list[StageRecord]:
    """Sort every stage after its inputs, and otherwise by start time, which a fresh run changes."""
    left, done = list(records), list[StageRecord]()
    while left:
        names = {record.folder for record in left}
        ready = next((r for r in left if not names & (set(r.upstream) - {r.folder})), left[0])
        left.remove(ready)
        done.append(ready)
    return done


def build_funnel(records: Sequence[StageRecord]) -> tuple[list[Table], list[str]]:
    """Follow the rows from stage to stage and find inconsistencies, e.g. in a folder that was altered.

    Three conditions must hold: the rows that a stage kept and dropped add up to the rows that came in; the
    rows that came in are those kept by the stages before it, or as many as a limit allows; and the rows that
    it kept still exist. Training may turn one row into several, e.g. pairs of solutions, so more rows may
    come in there.
    """
    by_folder = {record.folder: record for record in records}
    rows, gaps = [], list[str]()
    gaps += [f"{record.folder}: {record.damage}" for record in records if record.damage]
    for record in (record for record in records if record.receipt["stage"] not in NOT_DATA):
        rows_in, kept, lost = record.count("rows_in"), record.count("kept"), sum(record.dropped.values())
        if kept + lost != rows_in:
            gaps.append(f"{record.folder}: {rows_in} rows in, but {kept} kept + {lost} dropped")
        sources = [by_folder[name] for name in record.upstream if not by_folder[name].trains]
        kept_there = {source.folder: source.count("kept") for source in sources}
        offered = sum(min(n, record.first.get(name, n)) for name, n in kept_there.items())
        fewest = min(offered, record.asked or offered)
        if sources and (rows_in < fewest or (rows_in > offered and not record.trains)):
            gaps.append(f"{record.folder}: {rows_in} rows in, but the stages before it kept {offered}")
        rows.append(
            (
                record.folder,
                str(record.receipt["stage"]),
                ", ".join(_name_source(source.folder, record.first.get(source.folder)) for source in sources),
                f"{rows_in:,}" + (f" of {offered:,}" if sources and offered > rows_in else ""),
                ", ".join(f"{reason} {n:,}" for reason, n in record.dropped.items()) or "–",
                f"{kept:,}",
            )
        )
    columns = ("folder", "stage", "rows from", "in", "dropped", "kept")
    notes = [*_headlines_of(records, by_folder), *_functions_of(records)]
    notes.append("Every row is accounted for." if not gaps else "ROWS ARE LOST: " + "; ".join(gaps))
    return [Table("funnel", "Where every row went", columns, tuple(rows), tuple(notes))], gaps


def _name_source(folder: str, first: int | None) -> str:
    return folder if first is None else f"{folder}[:{first}]"


def _headlines_of(records: Sequence[StageRecord], by_folder: Mapping[str, StageRecord]) -> Iterator[str]:
    """Return one line per selected dataset: from generated questions to the pairs trained on."""
    for record in records:
        if record.receipt["stage"] != "select_solutions":
            continue
        line = [r for r in by_folder.values() if r.folder in _ancestors_of(record, by_folder)]
        words = []
        for stage, word in HEADLINE.items():
            here = [r for r in line if r.receipt["stage"] == stage]
            last = [r for r in here if not any(r.folder in other.upstream for other in here)]
            key = "rows_in" if word == "generated" else "kept"
            if last:
                words.append(f"{sum(r.count(key) for r in last):,} {word}")
        for model in (one for one in records if one.trains):
            data = [by_folder[name] for name in model.upstream]  # perhaps a set that this one went into
            if any(record.folder in _ancestors_of(source, by_folder) for source in data):
                words.append(f"{model.count('kept'):,} pairs trained on ({model.folder})")
        yield f"{record.folder}: " + " → ".join(words) + "."


def _functions_of(records: Sequence[StageRecord]) -> Iterator[str]:
    """Return one line per stage that called functions of the user's, with the hashes of their files."""
    for record in records:
        if functions := record.receipt.get("functions"):
            named = ", ".join(f"{name} (sha256 {digest})" for name, digest in functions.items())
            yield f"{record.folder}: with {named}."


def _ancestors_of(record: StageRecord, by_folder: Mapping[str, StageRecord]) -> set[str]:
    """Return a stage and all stages whose rows reached it; models in between are not followed."""
    seen, queue = set[str](), [record.folder]
    while queue:
        name = queue.pop()
        if name not in seen and not by_folder[name].trains:
            seen.add(name)
            queue += by_folder[name].upstream
    return seen


def table_of_seconds(records: Sequence[StageRecord], wall: Mapping[str, float] | None = None) -> Table:
    """Return the cost of every stage: seconds of work, and wall-clock seconds if a pipeline measured them."""
    wall = wall or {}
    rows = []
    for record in records:
        seconds, tokens = float(record.receipt.get("seconds") or 0), record.count("tokens")
        rate = f"{tokens / seconds:,.0f}" if tokens and seconds else "–"
        whole = wall.get(record.folder)
        shown = "–" if whole is None else f"{whole:.1f}"
        cells = (
            record.folder,
            record.receipt["stage"],
            f"{record.count('rows_in'):,}",
            f"{record.count('kept'):,}",
        )
        rows.append((*cells, f"{tokens:,}" if tokens else "–", f"{seconds:.1f}", shown, rate))
    total = sum(float(r.receipt.get("seconds") or 0) for r in records if r.receipt["stage"] != "evaluate")
    notes = [f"{total:.0f} seconds of work in total."]
    if wall:
        notes[0] = (
            f"{total:.0f} seconds of work in total, {sum(wall.values()):.0f} including the "
            "start-up of every process."
        )
    columns = ("folder", "stage", "in", "kept", "tokens", "seconds", "wall", "tokens/s")
    return Table("seconds", "What every stage cost", columns, tuple(rows), tuple(notes))
