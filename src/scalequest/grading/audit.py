"""A page of the rows on which this grader and math-verify differ, to be read by a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scalequest.grading.extraction import extract
from scalequest.grading.grader import Grader
from scalequest.pages import section, table, write_page

_TAIL = 600  # characters of an output that a page shows, its end


def audit(
    rows: Iterable[Mapping[str, Any]],
    output_html: str | Path,
    *,
    completion: str = "completion",
    reference: str = "reference",
    grader: Grader | None = None,
) -> list[dict[str, Any]]:
    """Grade whole outputs by this grader and by math-verify, and write a page of those that differ.

    Both find the answer themselves; math-verify runs as its authors call it, in a worker that can be killed.

    Args:
        rows: each with an output and a reference; `benchmark` and `id` are shown where they are there.
        output_html: the page: one static file, everything that a model wrote escaped.
        completion: column of the outputs.
        reference: column of the reference answers.
        grader: whose options and workers are used; by default one of its own.

    Returns:
        The differing rows: number, our answer and rule, both verdicts, the layer that decided.
    """
    owned = Grader() if grader is None else None
    asked = owned or grader
    assert asked is not None
    differing: list[dict[str, Any]] = []
    total = 0
    try:
        for total, row in enumerate(rows, 1):
            found = extract(str(row[completion]))
            ours = asked.grade(found.answer or "", str(row[reference]))
            theirs = asked.math_verify(str(row[completion]), str(row[reference]))
            if ours.correct == theirs:
                continue
            differing.append(
                {
                    "row": total,
                    **{key: row[key] for key in ("benchmark", "id") if key in row},
                    "ours": _word(ours.correct),
                    "math-verify": _word(theirs),
                    "reference": str(row[reference]),
                    "our answer": found.answer,
                    "rule": found.rule,
                    "layer": ours.layer,
                    "end of the output": str(row[completion])[-_TAIL:],
                }
            )
    finally:
        if owned is not None:
            owned.close()
    note = f"{len(differing):,} of {total:,} rows differ. Neither verdict is the truth: read the row."
    write_page(Path(output_html), "Audit", section("Our grader and math-verify", table(differing), note=note))
    return differing


def _word(verdict: bool | None) -> str:
    return "killed" if verdict is None else "right" if verdict else "wrong"
