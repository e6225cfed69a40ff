"""Write a page of sampled preference pairs, for people to read before a model is trained on them."""

from __future__ import annotations

import random
from pathlib import Path

from scalequest.pages import elements
from scalequest.records import written_rows

NAME = "pairs.html"
PAIRS, DROPS = 20, 3  # pairs shown, and dropped rows shown per reason
_END = 600  # number of characters shown from the end of a reply


def write_page(folder: Path, seed: int) -> Path:
    """Write `pairs.html` into a folder whose rows are in place; the pairs shown depend only on `seed`.

    All text written by models or users is escaped; the page loads nothing.
    """
    rows = list(written_rows(folder / "data"))
    shown = sorted(random.Random(seed).sample(range(len(rows)), min(PAIRS, len(rows))))
    found = [
        (f"{row['id']}, {row['direction']}", row["rejected"], row["chosen"])
        for row in map(rows.__getitem__, shown)
    ]
    note = f"{len(shown)} of {len(rows):,}, drawn at random; the words that differ are marked."
    sections = [
        elements.section("Pairs", elements.pairs(found, "rejected", "chosen", differences=True), note=note)
    ]
    dropped = list(written_rows(folder / "dropped"))
    for reason in sorted({row["reason"] for row in dropped}):
        of_it = [row for row in dropped if row["reason"] == reason]
        told = [
            {
                "id": row["id"],
                "direction": row["direction"],
                "question": row["rejected"],
                "end of the reply": (row.get("reply") or "")[-_END:],
            }
            for row in of_it[:DROPS]
        ]
        sections.append(elements.section(f"Dropped: {reason} ({len(of_it):,})", elements.table(told)))
    path = folder / NAME
    elements.write_page(path, "Preference pairs", *sections)
    return path
