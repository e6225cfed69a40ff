"""The README.md of a stage's folder."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from scalequest.records import Row


def dataset_card(
    title: str, text: str, settings: Mapping[str, Any], samples: Sequence[Row], *columns: str
) -> str:
    """Markdown that says what the rows are, how they were made, and shows the first few.

    Args:
        title: headline.
        text: one paragraph on what the rows are.
        settings: shown as they are, nested ones with dots.
        samples: rows to show; what models wrote in them is escaped.
        columns: of the samples.
    """
    where = (
        "Counts, inputs and versions stand in `receipt.json`, dropped rows and their reasons in `dropped/`."
    )
    table = markdown_table(
        [{"setting": key, "value": value} for key, value in _flat(settings)], "setting", "value"
    )
    lines = [f"# {title}", "", text, "", where, "", *table, ""]
    if samples:
        lines += ["## The first rows", "", *markdown_table(samples, *columns), ""]
    return "\n".join(lines)


def markdown_table(rows: Sequence[Row], *columns: str) -> list[str]:
    """Lines of a table, cells escaped and on one line."""
    head = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return [*head, *(f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in rows)]


def _cell(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
    return re.sub(r"([\\|`*_\[\]$])", r"\\\1", html.escape(text, quote=False)).replace("\n", "<br>")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return pairs
