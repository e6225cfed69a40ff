"""The filter stage's report: what every step did, as a page to read and as JSON to compute with."""

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
        folder: of the stage, its rows in place.
        receipt: of the stage, as it will be there.
        steps: what the steps that ran have to show, in the order of the sections.
        others: further sections of the page.
        order: reasons for a drop in the order of the bars, so that they read as a funnel; others follow.
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
