"""The README.md of a stage's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scalequest.pages.markup import code, inline, table_lines
from scalequest.records import Row


def dataset_card(
    title: str, text: str, settings: Mapping[str, Any], samples: Sequence[Row], *columns: str
) -> str:
    """A card in Markdown: what the rows are, how they were made, and the first of them.

    Args:
        title: headline.
        text: one paragraph on what the rows are, in Markdown; names in it are escaped by `markup.inline`.
        settings: shown as they are, nested ones with dots.
        samples: rows to show; their texts are escaped.
        columns: columns of the samples that are shown.
    """
    table = markdown_table(
        [{"setting": key, "value": value} for key, value in _flat(settings)], "setting", "value"
    )
    lines = [f"# {inline(title)}", "", text, "", *table, ""]
    if samples:
        lines += ["## The first rows", "", *markdown_table(samples, *columns), ""]
    return "\n".join(lines)


def lineage(receipt: Mapping[str, Any]) -> str:
    """The last section of every card: counts, drops, inputs with fingerprints, code and versions.

    Args:
        receipt: receipt of a finished stage.
    """
    drops = ", ".join(f"{count:,} {inline(reason)}" for reason, count in receipt["dropped"].items()) or "none"
    made = [f"{name} {version}" for name, version in receipt["versions"].items()]
    if receipt["commit"]:
        made.insert(0, f"commit {receipt['commit'][:12]}{' with changes' if receipt['dirty'] else ''}")
    inputs = [{"input": name, "fingerprint": digest} for name, digest in receipt["inputs"].items()]
    lines = [
        "## Where it comes from",
        "",
        f"Stage {code(receipt['stage'])}, version {receipt['version']}, "
        f"fingerprint {code(receipt['fingerprint'])}.",
        f"Rows in: {receipt['rows_in']:,}; kept: {receipt['kept']:,}; dropped: {drops}.",
        f"{receipt['tokens']:,} tokens, {receipt['seconds']:,.0f} seconds.",
        f"Made with {', '.join(map(inline, made))}.",
        "All of this is in `receipt.json`, every setting in `config.yaml`.",
        "",
    ]
    return "\n".join([*lines, *(markdown_table(inputs, "input", "fingerprint") if inputs else [])]).rstrip()


def markdown_table(rows: Sequence[Row], *columns: str) -> list[str]:
    """Lines of a table of rows, each cell escaped."""
    return table_lines(columns, [[row.get(column) for column in columns] for row in rows])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return pairs
