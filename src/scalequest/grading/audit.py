"""A page of the rows on which this grader and math-verify differ, to be read by a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalequest.grading.grader import Grader
from scalequest.pages.elements import section, table, write_page

_TAIL = 600  # characters of an output that a page shows, its end


def audit(
    rows: Iterable[Mapping[str, Any]],
    output_html: str | Path,
    *,
    grader: Grader | None = None,
) -> list[dict[str, Any]]:
    """Give graded outputs to math-verify too, and write a page of those on which it differs.

    It finds the answer itself and runs as its authors call it, in a worker that can be killed.

    Args:
        rows: each with `completion` (what of the output counts), `references` (each of them is right), and
            our verdict: `correct`, `extracted`, `rule`, `layer`. `benchmark` and `id` are shown if they
            are there.
        output_html: the page: one static file, everything that a model wrote escaped.
        grader: whose workers are used; by default one of its own.

    Returns:
        The differing rows: number, our answer and rule, both verdicts, the layer that decided.
    """
    # A grader of its own, unless one is given
    owned = Grader() if grader is None else None
    asked = owned or grader
    assert asked is not None
    # The rows on which the two differ
    differing: list[dict[str, Any]] = []
    total = 0
    try:
        for total, row in enumerate(rows, 1):
            theirs = _math_verify(row["completion"], row["references"], asked)
            if row["correct"] == theirs:
                continue
            differing.append(
                {
                    "row": total,
                    **{key: row[key] for key in ("benchmark", "id") if key in row},
                    "ours": _word(row["correct"]),
                    "math-verify": _word(theirs),
                    "reference": " or ".join(row["references"]),
                    "our answer": row["extracted"],
                    "rule": row["rule"],
                    "layer": row["layer"],
                    "end of the output": row["completion"][-_TAIL:],
                }
            )
    finally:
        if owned is not None:
            owned.close()
    # The page
    killed = sum(one["math-verify"] == _word(None) for one in differing)
    note = f"{len(differing) - killed:,} of {total:,} rows differ"
    note += f"; math-verify was killed on {killed:,} more" if killed else ""
    note += ". Neither verdict is the truth: read the row."
    write_page(Path(output_html), "Audit", section("Our grader and math-verify", table(differing), note=note))
    return differing


def _math_verify(output: str, references: Sequence[str], grader: Grader) -> bool | None:
    """Whether it takes the output for any of the references; None if it was killed before it did."""
    late = False
    for reference in references:
        verdict = grader.math_verify(output, reference)
        if verdict:
            return True
        late = late or verdict is None
    return None if late else False


def _word(verdict: bool | None) -> str:
    return "killed" if verdict is None else "right" if verdict else "wrong"
