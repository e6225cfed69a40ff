"""The filter stage's report of what every step did, as an HTML page and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalequest.atomic_files import as_json, write
from scalequest.pages import elements
from scalequest.questions.steps import StepReport


def filter_report(
    folder: Path,
    receipt: Mapping[str, Any],
    steps: Mapping[str, StepReport | None],
    others: Sequence[str],
    order: Sequence[str],
) -> None:
    """Write report.html and report.json into the folder of a filter stage that is about to finish.

    Args:
        folder: the stage's folder, with its rows in place.
        receipt: the stage's receipt in its final form.
        steps: the report of each step that ran, in the order of the sections.
        others: further sections of the page.
        order: the drop reasons in the order of the bars, so that they read as a funnel; others follow.
    """
    drops = dict(receipt["dropped"])
    facts: dict[str, Any] = {"rows_in": receipt["rows_in"], "kept": receipt["kept"], "dropped": drops}
    bars = {"kept": receipt["kept"], **{name: drops[name] for name in order if name in drops}, **drops}
    note = f"{receipt['rows_in']:,} rows came in."
    sections = [elements.section("Where every row went", elements.bars(bars), note=note)]
    for name, report in steps.items():
        if report is not None:
            sections += report.sections
            facts |= {} if report.facts is None else {name: report.facts}
    elements.write_page(folder / "report.html", "Filtered questions", *sections, *others)
    write(folder / "report.json", as_json(facts))
