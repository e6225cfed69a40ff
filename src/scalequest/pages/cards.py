"""The README.md of a stage's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from scalequest.config import ConfigError
from scalequest.pages.markup import code, inline, table_lines
from scalequest.receipts import made_by, read_receipt
from scalequest.records import Row, expand, whole_source

_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10**7: "1M<n<10M"}


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


def dataset_metadata(stage: str, rows: int) -> dict[str, Any]:
    """Return what the header of a data set's card says of its rows, in the hub's terms.

    Args:
        stage: the stage that made the rows.
        rows: their number.
    """
    size = next((name for below, name in _SIZES.items() if rows < below), "n>10M")
    return {
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["scalequest", stage],
    }


def sources_of(receipt: Mapping[str, Any]) -> dict[str, str]:
    """Return what a stage read, and the model that it started from, each with its fingerprint."""
    return {**receipt.get("starts_from", {}), **receipt["inputs"]}


def ancestors(sources: Mapping[str, str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the folders and receipts of the stages that led to these sources, the nearest first.

    A folder that was moved, or whose stage has run again since, is left out with all that is before it.

    Args:
        sources: as in a receipt, each with its fingerprint.
    """
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    queue = list(sources.items())
    while queue:
        source, digest = queue.pop(0)
        made = digest.partition("[")[0]  # `[:600]` takes a part of it
        receipt = None
        if not source.startswith("hub:") and made not in found:
            with suppress(ConfigError, OSError, ValueError, RuntimeError):  # it may be no path at all
                receipt = read_receipt(expand(whole_source(source)))
        if receipt is not None and receipt.get("finished") and made_by(receipt) == made:
            found[made] = (whole_source(source), receipt)
            queue += sources_of(receipt).items()
    return list(found.values())


def base_model(model: str, fingerprint: str) -> str | None:
    """Return the hub id of the model that a model descends from; None if there is none, or it is not known.

    Args:
        model: its folder or hub id.
        fingerprint: of the model.
    """
    if fingerprint.startswith("hub:"):
        return model
    found = ancestors({model: fingerprint})[:1]
    before = [base_model(*pair) for _, receipt in found for pair in receipt.get("starts_from", {}).items()]
    return next(filter(None, before), None)


def lineage(receipt: Mapping[str, Any]) -> str:
    """The last section of every card: counts, drops, inputs, the stages before, code and versions.

    Args:
        receipt: receipt of a finished stage.
    """
    drops = ", ".join(f"{count:,} {inline(reason)}" for reason, count in receipt["dropped"].items()) or "none"
    made = [f"{name} {version}" for name, version in receipt["versions"].items()]
    if receipt["commit"]:
        made.insert(0, f"commit {receipt['commit'][:12]}{' with changes' if receipt['dirty'] else ''}")
    sources = sources_of(receipt)
    inputs = [{"input": name, "fingerprint": digest} for name, digest in sources.items()]
    before = [
        {"stage": one["stage"], "folder": folder, "rows": one.get("kept"), "from": ", ".join(sources_of(one))}
        for folder, one in ancestors(sources)
    ]
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
    lines += markdown_table(inputs, "input", "fingerprint") if inputs else []
    if before:
        lines += ["", "The stages before it, the nearest first:", ""]
        lines += markdown_table(before, "stage", "folder", "rows", "from")
    return "\n".join(lines).rstrip()


def markdown_table(rows: Sequence[Row], *columns: str) -> list[str]:
    """Lines of a table of rows, each cell escaped."""
    return table_lines(columns, [[row.get(column) for column in columns] for row in rows])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return pairs
