r"""Read vectors written with unit vectors, e.g. `2\mathbf{i} - \mathbf{k}`, as their components."""

from __future__ import annotations

import re

from scalequest.grading.compare import numeric
from scalequest.grading.latex.expressions import readings
from scalequest.grading.latex.forms import Form
from scalequest.grading.latex.tokens import Unreadable
from scalequest.grading.latex.trees import Node, names, number, substituted

_UNIT = re.compile(
    r"\\(?:mathbf|mathrm|vec|hat|boldsymbol|bm|overrightarrow|overline)\s*\{?\s*(?:\\hat\s*\{?\s*)?"
    r"(?:\\mathbf\s*\{?\s*)?(?:\\([ij])math|([ijk]))(?![A-Za-z])\s*\}{0,3}"
)
_NAMES = ("e_1", "e_2", "e_3")  # the parser's names for them


def unit_vector(text: str) -> Form | None:
    """Read a sum of multiples of i, j, k in the font of vectors as a tuple; None for anything else."""
    letters = {match[1] or match[2] for match in _UNIT.finditer(text)}
    if not letters & {"j", "k"}:
        return None
    named = _UNIT.sub(lambda match: f" e_{'ijk'.index(match[1] or match[2]) + 1} ", text)
    try:
        tree = readings(named)[0]
    except Unreadable:
        return None
    count = 3 if "k" in letters else 2
    units = _NAMES[:count]
    zero = number(0)

    def at(*values: int) -> Node:
        return substituted(tree, dict(zip(units, map(number, values), strict=True)))

    rows = [[int(i == j) for j in range(count)] for i in range(count)]
    parts = [at(*row) for row in rows]
    doubled = [at(*(2 * cell for cell in row)) for row in rows]
    linear = numeric.same(at(*[0] * count), zero) and all(
        numeric.same(twice, Node("*", (number(2), once))) for once, twice in zip(parts, doubled, strict=True)
    )
    if not linear or set(names(tree)) & (set(_NAMES) - set(units)):
        return None
    return Form("items", "", tuple(Form("leaf", "", tree=part) for part in parts), "()")
