"""Collect the results in a run's folders, and write them as one self-contained page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError
from scalequest.evaluation.published import PublishedTable
from scalequest.evaluation.tables import Table
from scalequest.pages.app import write_app
from scalequest.run_page.benchmarks import Benchmarks, read_benchmarks, read_problems
from scalequest.run_page.browser import CHUNK, Browser
from scalequest.run_page.curves import Curve, read_curves
from scalequest.run_page.distributions import Distribution, Measures
from scalequest.run_page.rows import Sample, count_of, read_stage_rows
from scalequest.run_page.stages import StageFacts, read_run

MOST_QUESTIONS = 50_000
_TRAINERS = ("loss", "eval_loss")  # whose metrics are curves of a training


@dataclass(frozen=True)
class RunFacts:
    """The contents of a run's folders.

    Attributes:
        title: the title of the page.
        stages: the stages, in the order of their rows.
        distributions: the distributions of the rows' measures.
        curves: the training curves, by the folder of the training stage.
        benchmarks: the results of the evaluations.
        notes: what could not be read, and what is not shown.
    """

    title: str
    stages: tuple[StageFacts, ...]
    distributions: tuple[Distribution, ...]
    curves: Mapping[str, Sequence[Curve]]
    benchmarks: Benchmarks
    notes: tuple[str, ...]


def gather(
    folder: str | Path,
    *,
    published: Sequence[PublishedTable] = (),
    published_as: Mapping[str, str] | None = None,
    title: str | None = None,
    price_per_hour: float | None = None,
    most: int = MOST_QUESTIONS,
) -> tuple[RunFacts, Browser]:
    """Read a run, an evaluation, or several runs in one folder.

    The notes name the stages that are unfinished, damaged or unreadable; everything else is shown.

    Args:
        folder: the run's folder.
        published: tables of other people's numbers to show beside ours.
        published_as: the published model's name by our model's label, if they differ.
        title: the title of the page; None for the folder's name.
        price_per_hour: the price of the machine per hour.
        most: the approximate number of questions that are shown and measured; if there are more, a sample
            drawn by their ids.

    Raises:
        ConfigError: the folder does not exist or contains no stage, or a receipt cannot be read.
    """
    root = Path(folder)
    stages = read_run(root, price_per_hour)
    if not stages:
        raise ConfigError(f"{folder}: no stage has a receipt.json here or below; give the folder of a run")
    notes = [f"{one.folder}: {one.note}." for one in stages if one.note]
    problems, lacking = _problems_of(root, stages)
    sample, measures, browser = Sample.of(stages, most), Measures(), Browser(problems)
    for number, stage in enumerate(stages):
        with _noting(notes, stage):
            if stage.makes_rows and stage.stage != "evaluate":
                for one in read_stage_rows(root, stage, sample):
                    if stage.stage != "evaluate_model":
                        measures.add(stage, one)
                    if stage.stage != "measure_questions":
                        browser.add(stage, number, one)
    if sample.share < 1:
        notes.append(
            f"Distributions and rows show {len(browser):,} of {count_of(stages):,} questions, drawn by their "
            "ids; the counts of stages include all."
        )
    curves = {one.folder: read_curves(root / one.folder) for one in stages}
    trained = {
        name: found for name, found in curves.items() if any(curve.metric in _TRAINERS for curve in found)
    }
    benchmarks = read_benchmarks(root, published, published_as or {})
    notes += [*lacking, *benchmarks.notes]
    facts = RunFacts(
        title or root.resolve().name, tuple(stages), tuple(measures.distributions()), trained, benchmarks,
        tuple(notes),
    )  # fmt: skip
    return facts, browser


@contextlib.contextmanager
def _noting(notes: list[str], stage: StageFacts) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        if not stage.note:  # else it was said
            notes.append(str(error))


def _problems_of(root: Path, stages: Sequence[StageFacts]) -> tuple[dict[str, str], list[str]]:
    """Return the questions of all benchmarks by the key of their rows, and notes on unreadable ones."""
    problems: dict[str, str] = {}
    notes: list[str] = []
    evaluations = {one.folder.rpartition("/")[0]: one.run for one in stages if one.stage == "evaluate_model"}
    for folder, run in evaluations.items():
        questions, lacking = read_problems(root / folder)
        problems |= {f"{run}/{key}": text for key, text in questions.items()}
        notes += lacking
    return problems, list(dict.fromkeys(notes))


def write_run_page(folder: str | Path, output_file: str | Path, **options: Any) -> RunFacts:
    """Read a run and write its page; the options are those of `gather`.

    The same folder and options give the same bytes. The page contains all of its scripts, fonts and data,
    loads nothing, and shows the output of models only as text.

    Raises:
        ConfigError: see `gather`.
    """
    facts, browser = gather(folder, **options)
    chunks, lengths = browser.chunks()
    blocks = {"rows-index": browser.packed_index()}
    blocks |= {f"rows-{number}": chunk for number, chunk in enumerate(chunks)}
    shown = {
        **_as_json(facts),
        "rows": {"count": len(browser), "chunk": CHUNK, "lengths": lengths},
    }
    path = Path(output_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_app(path, facts.title, "run_page", shown, blocks)
    return facts


def _as_json(facts: RunFacts) -> dict[str, Any]:
    found = asdict(facts)
    found["stages"] = [
        {**asdict(one), "in_funnel": one.in_funnel, "data": one.makes_rows} for one in facts.stages
    ]
    found["distributions"] = [asdict(one) for one in facts.distributions]
    found["tiles"] = [{"label": label, "value": value} for label, value in tiles(facts)]
    found["benchmarks"] |= {
        name: [_table_as_json(table) for table in getattr(facts.benchmarks, name)]
        for name in ("tables", "differences", "measured", "contamination")
    }
    return found


def _table_as_json(table: Table) -> dict[str, Any]:
    return {"title": table.title, "columns": table.columns, "rows": table.rows, "notes": table.notes}


def tiles(facts: RunFacts) -> list[tuple[str, str]]:
    """Return the most important numbers of a run: name and value."""
    shown = [("stages finished", f"{sum(one.finished for one in facts.stages)} of {len(facts.stages)}")]
    generated = sum(one.rows_in for one in facts.stages if one.stage == "generate_questions")
    selected = sum(one.kept for one in facts.stages if one.stage == "select_solutions")
    for label, count in (("questions generated", generated), ("solutions selected", selected)):
        if count:
            shown.append((label, f"{count:,}"))
    if tokens := sum(one.tokens for one in facts.stages if one.stage != "evaluate"):
        shown.append(("tokens", _compact(tokens)))
    wall = sum(one.wall or 0 for one in facts.stages)
    work = sum(one.seconds or 0 for one in facts.stages if one.stage != "evaluate")
    if wall or work:
        shown.append(("time", duration(wall or work)))
    if money := sum(one.cost or 0 for one in facts.stages):
        shown.append(("cost", f"{money:,.2f}"))
    best: dict[str, tuple[float, str]] = {}
    for one in facts.benchmarks.intervals:
        best[one.benchmark] = max(best.get(one.benchmark, (-1.0, "")), (one.value, one.model))
    shown += [(f"{name}, best: {model}", f"{value:.1f} %") for name, (value, model) in list(best.items())[:2]]
    return shown


def _compact(count: int) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,}"


def duration(seconds: float) -> str:
    """Return a duration in words: 48 s, 12 min 5 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
