"""TinyMath's oracle as the judge of `judge_questions.py`: a reference, and no language model.

    python recipes/judge_questions.py --config recipes/tiny/judge_questions.yaml

No filter, rewriter or selection may use it: it measures from outside.
"""

from __future__ import annotations

from scalequest.questions.levels import LEVELS
from tinymath.oracle import judge


def verdicts(question: str) -> dict[str, bool | str | None]:
    """Solvable if it is well posed; one step of the solution more is one level harder, from "very easy" on.

    A question that is not well posed has no number of steps, and so no level.
    """
    found = judge(question)
    level = None
    if found.well_posed and found.steps is not None:
        level = LEVELS[min(max(found.steps, 1), len(LEVELS)) - 1]
    return {"solvable": found.well_posed, "difficulty": level}
