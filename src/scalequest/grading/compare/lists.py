"""Compare lists, tuples, sets, and unions of intervals: in order or not, with or without brackets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from scalequest.grading.compare.leaves import is_decimal_comma, trees_in
from scalequest.grading.compare.relations import solution_set
from scalequest.grading.compare.state import Comparison
from scalequest.grading.latex.exact import value
from scalequest.grading.latex.forms import ELLIPSIS, Form, named, read
from scalequest.grading.latex.normalise import compact
from scalequest.grading.latex.trees import Node, signs


def same_inequality_lists(comparison: Comparison, left: Form, right: Form) -> bool | None:
    """Compare two answers if one is a list of inequalities, e.g. `x < 1 or x > 3`; None if neither is."""
    sides = [
        solution_set(form) if form.kind == "items" and not form.brackets else None for form in (left, right)
    ]
    if sides == [None, None]:
        return None
    if any(
        form.kind == "items" and not form.brackets and side is None
        for form, side in zip((left, right), sides, strict=True)
    ):
        return False
    return same_sets(comparison, sides[0] or left, sides[1] or right)


def same_sets(comparison: Comparison, left: Form, right: Form) -> bool:
    """Compare unions of intervals, in any order."""
    a, b = ((form.parts if form.kind == "union" else (form,)) for form in (left, right))
    if len(a) != len(b):
        return False
    return comparison.same(a[0], b[0]) if len(a) == 1 else comparison.paired(a, b)


def same_items(comparison: Comparison, left: Form, right: Form) -> bool:
    """Compare two answers, at least one of which has elements, while the other has, too, or is a leaf."""
    if "leaf" in (left.kind, right.kind):
        leaf, items, swapped = (left, right, False) if left.kind == "leaf" else (right, left, True)
        return _leaf_and_items(comparison, leaf, items, swapped)
    fixed = [form.brackets not in ("", "{}") for form in (left, right)]
    names = [_names(form) for form in (left, right)]
    if any(fixed) or comparison.options.list_order == "fixed" or (all(names) and names[0] != names[1]):
        if not all(fixed) and (
            comparison.options.list_brackets == "required"
            or "{}" in (left.brackets, right.brackets)
            or left.either
            or right.either
        ):
            return False  # `(1, 2)` may be `1, 2`, but not a set, and not `1 or 2`
        a, b = _unnamed(left), _unnamed(right)
        return (
            len(a) == len(b) and _agree(left.brackets, right.brackets, len(a)) and comparison.in_order(a, b)
        )
    if ELLIPSIS in (part.text for part in (*left.parts, *right.parts)):
        return _same_series(comparison, left.parts, right.parts)
    if not all(names):
        left, right = (Form("items", form.text, _unnamed(form), form.brackets) for form in (left, right))
    a, b = _unfolded(left.parts), _unfolded(right.parts)
    if "{}" in (left.brackets, right.brackets) or any(form.kind == "items" for form in (*a, *b)):
        a, b = comparison.distinct(a), comparison.distinct(b)
    return len(a) == len(b) and comparison.paired(a, b)


def _same_series(comparison: Comparison, a: Sequence[Form], b: Sequence[Form]) -> bool:
    r"""Compare `2, 4, \ldots, n` with `2, 4, 6, \ldots, n`: one may show more of the beginning."""
    starts = [[part.text for part in side].index(ELLIPSIS) if _omits(side) else -1 for side in (a, b)]
    if -1 in starts:
        return False
    (shorter, i), (longer, j) = sorted(((a, starts[0]), (b, starts[1])), key=lambda pair: pair[1])
    ends = shorter[i:], longer[j:]
    if len(ends[0]) != len(ends[1]) or not comparison.in_order(*ends):
        return False
    seen = i + (len(ends[0]) > 1)
    return comparison.in_order(shorter[:i], longer[:i]) and (i == j or _goes_on(longer[:j], seen))


def _leaf_and_items(comparison: Comparison, leaf: Form, items: Form, swapped: bool) -> bool:
    if len(items.parts) == 1:
        return comparison.same(items.parts[0], leaf) if swapped else comparison.same(leaf, items.parts[0])
    written = comparison.options.decimal_comma and swapped and not items.brackets
    if written and is_decimal_comma(items.text, leaf.text):
        return True
    if (point := re.fullmatch(r"[A-Z]'?\s?(\(.*\))", leaf.text)) and items.brackets == "()":
        return comparison.same(read(point[1]), items)  # in `A(1, 2)`, A names the point
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", leaf.text):  # thousands separators, or a list after all
        parts = tuple(Form("leaf", part) for part in leaf.text.split(","))
        return comparison.same(Form("items", leaf.text + " ", parts), items)
    trees = trees_in(leaf)
    column = bool(trees) and trees[0].op == "matrix" and comparison.options.list_brackets == "optional"
    if column and items.brackets != "{}":
        cells = [Form("leaf", "", tree=cell) for cell in _cells(trees[0])]
        return len(cells) == len(items.parts) and comparison.in_order(cells, items.parts)
    if not items.brackets and len({compact(part.text) for part in items.parts}) == len(items.parts) > 1:
        first, *others = items.parts
        if comparison.same(first, leaf) and all(comparison.same(first, other) for other in others):
            return True  # one answer written in several ways, e.g. `5/2 or 2.5`
    unfolded = _unfolded((leaf,))
    if len(unfolded) == 1 or items.brackets not in ("", "{}"):
        return False
    parts = _unfolded(items.parts)
    return len(parts) == len(unfolded) and comparison.paired(unfolded, parts)


def _cells(matrix: Node) -> tuple[Node, ...]:
    """Return the cells of a matrix with one row or one column; none for a larger one."""
    rows = matrix.args
    if len(rows[0].args) == 1:
        return tuple(row.args[0] for row in rows)
    return rows[0].args if len(rows) == 1 else ()


def _unfolded(parts: Sequence[Form]) -> tuple[Form, ...]:
    r"""Return a list with `a \pm b` as two elements, and without names before values."""
    found: list[Form] = []
    for part in parts:
        inner = part.parts[1] if named(part) else part
        trees = trees_in(inner) if re.search(r"\\[pm][mp](?![A-Za-z])", inner.text) else ()
        if not trees:
            found.append(part)
        else:
            found += [Form("leaf", "", tree=tree) for tree in signs(trees[0])]
    return tuple(found)


def _omits(parts: Sequence[Form]) -> bool:
    return any(part.text == ELLIPSIS for part in parts)


def _goes_on(parts: Sequence[Form], seen: int) -> bool:
    """Return whether three numbers, or two and the last, show the equal steps or ratios of the whole list."""
    values = [value(part.text) for part in parts]
    known = [number for number in values if number]
    if seen < 3 or len(known) != len(values):
        return False
    return len({b - a for a, b in pairwise(known)}) == 1 or len({b / a for a, b in pairwise(known)}) == 1


def _agree(left: str, right: str, count: int) -> bool:
    """Return whether two pairs of brackets mean the same; with two elements they may be an interval's."""
    if not left or not right:
        return {left, right} <= {"", "()", "[]"}  # a half-open interval is not a list
    return left == right or (count != 2 and {left, right} <= {"()", "[]"})


def _names(form: Form) -> frozenset[str]:
    """Return the names in a list in which every value has one: `x = 1, y = 2`."""
    return (
        frozenset(part.parts[0].text for part in form.parts) if all(map(named, form.parts)) else frozenset()
    )


def _unnamed(form: Form) -> tuple[Form, ...]:
    """Return elements without their names: `x = a, y = b`, `x = a, b`, `(x, y) = (a, b), (b, a)`."""
    first = named(form.parts[0]) and not any(part.kind == "relation" for part in form.parts[1:])
    if first or all(map(named, form.parts)):
        return tuple(part.parts[1] if part.kind == "relation" else part for part in form.parts)
    return form.parts
