"""Write a page of the rows on which this grader and math-verify differ, for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalequest.grading.grader import Grader
from scalequest.pages.elements import section, table, write_page

_TAIL = 600  # number of characters shown from the end of an output


def audit(
    rows: Iterable[Mapping[str, Any]],
    output_html: str | Path,
    *,
    grader: Grader | None = None,
) -> list[dict[str, Any]]:
    """Grade outputs with math-verify, too, and write a page of those with a different verdict.

    math-verify extracts the answer itself, called as its authors do, in a worker that can be killed.

    Args:
        rows: rows with `completion` (the part of the output that counts), `references` (each of them is
            correct), and our verdict: `correct`, `extracted`, `rule`, `layer`. `benchmark` and `id` are shown
            if they exist.
        output_html: the path of the page, a static file in which all model output is escaped.
        grader: the grader whose workers are used; by default a new one.

    Returns:
        The differing rows: number, our answer and rule, both verdicts, the layer that decided.
    """
    # A new grader, unless one is given
    owned = Grader() if grader is None else None
    asked = owned or grader
    assert asked is not None
    # The rows on which the verdicts differ
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
    """Return whether math-verify accepts the output for any reference; None if it was killed before."""
    late = False
    for reference in references:
        verdict = grader.math_verify(output, reference)
        if verdict:
            return True
        late = late or verdict is None
    return None if late else False


def _word(verdict: bool | None) -> str:
    return "killed" if verdict is None else "right" if verdict else "wrong"
