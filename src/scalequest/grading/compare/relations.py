"""Compare the solutions of equations and inequalities, and read inequalities in one letter as sets."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from scalequest.grading.compare import numeric
from scalequest.grading.latex.expressions import readings
from scalequest.grading.latex.forms import INFINITY, MINUS_INFINITY, Form
from scalequest.grading.latex.tokens import Unreadable
from scalequest.grading.latex.trees import MINUS_ONE, Node, has, names, number, signs, substituted

_VALUE_OF = re.compile(r"[a-z]\s?\([a-z]\)")  # a function's value can be asked for like a letter
_OPPOSITE = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def same_equation(left: Form, right: Form, renamed: str) -> bool:
    """Return whether one equation is a multiple of the other, or solves it for a letter."""
    if len(left.parts) != len(right.parts) or len(left.parts) != 2:
        return _same_chain(left, right)
    a, b = _gap(left), _gap(right)
    if a is None or b is None:
        return False
    if _proportional(a, b, positive=False) or (renamed and bool(numeric.same(a, b, renamed))):
        return True
    return _solved_by(left, b) or _solved_by(right, a)


def same_inequality(left: Form, right: Form) -> bool:
    """Return whether two inequalities in any letters are multiples of each other, with the same direction."""
    gaps = []
    for form in (left, right):
        gap = _gap(form)
        if gap is None or len(form.signs) != 1 or form.signs[0] not in _OPPOSITE:
            return False
        swap = form.signs[0] in (">", ">=")
        gaps.append(
            (Node("*", (MINUS_ONE, gap)) if swap else gap, form.signs[0].rstrip("=") != form.signs[0])
        )
    (a, closed), (b, other) = gaps
    return closed == other and _proportional(a, b, positive=True)


def solution_set(form: Form) -> Form | None:
    r"""Return an inequality in one letter as an interval or a union of them, with its `letter`.

    Reads `x < 3`, `1 \le x < 3`, `x \ne \pm 5`, and lists of such: joined by "or" a union, else the interval
    between them if a lower bound meets an upper one.
    """
    if form.kind == "relation":
        return inequality(form)
    if form.kind == "items" and not form.brackets and form.parts[0].signs == ("!=",):
        form = _all_unequal(form)
    if form.kind != "items" or not all(part.kind == "relation" for part in form.parts):
        return None
    sets = [inequality(part) for part in form.parts]
    letters = {item.letter for item in sets if item is not None}
    if None in sets or len(letters) != 1:
        return None
    found = [item for item in sets if item is not None]
    if len(found) == 2 and not form.either and all(item.kind == "items" for item in found):
        low = [item for item in found if item.parts[1] == INFINITY]
        high = [item for item in found if item.parts[0] == MINUS_INFINITY]
        if len(low) == len(high) == 1 and _below(low[0].parts[0], high[0].parts[1]):
            return _interval(
                letters.pop(), low[0].parts[0], high[0].parts[1], low[0].brackets[0] + high[0].brackets[1]
            )
    intervals = [part for item in found for part in (item.parts if item.kind == "union" else (item,))]
    return Form("union", "", tuple(intervals), letter=letters.pop())


def _all_unequal(form: Form) -> Form:
    r"""Read `x \ne 0, 1` as `x \ne 0, x \ne 1`."""
    letter = form.parts[0].parts[0]
    parts = tuple(
        Form("relation", "", (letter, part), signs=("!=",)) if part.kind == "leaf" else part
        for part in form.parts
    )
    return Form("items", form.text, parts)


def inequality(form: Form) -> Form | None:
    """Return one inequality in a letter as an interval, or as a union of two, with its `letter`."""
    parts, signs = form.parts, form.signs
    if len(signs) == 1 and (solved := _of_modulus(form)):
        return solved
    if len(signs) == 2 and _is_letter(parts[1]) and (set(signs) <= {"<", "<="} or set(signs) <= {">", ">="}):
        low, high, first, second = parts[0], parts[2], signs[0], signs[1]
        if signs[0].startswith(">"):
            low, high, first, second = high, low, second, first
        brackets = ("[" if first.endswith("=") else "(") + ("]" if second.endswith("=") else ")")
        return _interval(parts[1].text, low, high, brackets)
    if len(signs) != 1 or signs[0] not in (*_OPPOSITE, "!="):
        return None
    letter, bound, sign = parts[0], parts[1], signs[0]
    if not _is_letter(letter):
        letter, bound, sign = bound, letter, _OPPOSITE.get(sign, sign)
    if not _is_letter(letter) or letter.text in _letters(bound):
        return _of_first_degree(form)
    if sign == "!=":
        return _without(letter.text, bound)
    if sign.startswith("<"):
        return _interval(letter.text, MINUS_INFINITY, bound, "(]" if sign == "<=" else "()")
    return _interval(letter.text, bound, INFINITY, "[)" if sign == ">=" else "()")


def _of_modulus(form: Form) -> Form | None:
    """Solve `|ax + b| < c` and the like: an interval, or the two rays outside it."""
    (left, right), sign = form.parts, form.signs[0]
    if (tree := _tree(left)) is None or tree.op != "abs":
        (left, right), sign = (right, left), _OPPOSITE.get(sign, sign)
        tree = _tree(left)
    bound = _tree(right)
    if tree is None or bound is None or tree.op != "abs" or names(bound) or sign not in _OPPOSITE:
        return None
    inner, size = tree.args[0], numeric.value(bound)
    if len(names(inner)) != 1 or size is None or size.imag != 0 or size.real < 0:
        return None
    letter = names(inner)[0]
    if (line := affine(inner, letter)) is None or not (steep := _slope(line[0])):
        return None
    ends = [_reached(line, side) for side in (Node("*", (MINUS_ONE, bound)), bound)]
    low, high = ends if steep > 0 else ends[::-1]
    closed = sign.endswith("=")
    if sign.startswith("<"):
        return _interval(letter, low, high, "[]" if closed else "()")
    outside = (
        _interval(letter, MINUS_INFINITY, low, "(]" if closed else "()"),
        _interval(letter, high, INFINITY, "[)" if closed else "()"),
    )
    return Form("union", "", outside, letter=letter)


def _of_first_degree(form: Form) -> Form | None:
    """Solve `2x - 1 < 5` and the like."""
    gap, sign = _gap(form), form.signs[0]
    if gap is None or len(names(gap)) != 1 or sign not in _OPPOSITE:
        return None
    letter = names(gap)[0]
    if (line := affine(gap, letter)) is None or not (steep := _slope(line[0])):
        return None
    if steep < 0:
        sign = _OPPOSITE[sign]
    end, closed = _reached(line, number(0)), sign.endswith("=")
    if sign.startswith("<"):
        return _interval(letter, MINUS_INFINITY, end, "(]" if closed else "()")
    return _interval(letter, end, INFINITY, "[)" if closed else "()")


def affine(tree: Node, letter: str) -> tuple[Node, Node] | None:
    """Return step and offset of a linear formula in a letter; None for any other formula."""
    if letter not in names(tree):
        return None
    at = [substituted(tree, {letter: number(k)}) for k in range(3)]
    step = Node("+", (at[1], Node("*", (MINUS_ONE, at[0]))))
    bend = Node("+", (at[2], at[0], Node("*", (number(-2), at[1]))))
    return (step, at[0]) if numeric.same(bend, number(0)) else None


def _slope(step: Node) -> Any:
    """Return the value of a step; 0 if it is not real."""
    found = numeric.value(step)
    return 0 if found is None or found.imag != 0 else found.real


def _reached(line: tuple[Node, Node], height: Node) -> Form:
    """Return where a line with this step and offset has a given height."""
    step, offset = line
    return Form("leaf", "", tree=Node("/", (Node("+", (height, Node("*", (MINUS_ONE, offset)))), step)))


def _without(letter: str, bound: Form) -> Form | None:
    tree = _tree(bound)
    if tree is None:
        return None
    holes = [tree]
    if has(tree, "pm") or has(tree, "mp"):
        holes = sorted(signs(tree), key=lambda hole: float(getattr(numeric.value(hole), "real", 0)))
    ends = [MINUS_INFINITY, *(Form("leaf", "", tree=hole) for hole in holes), INFINITY]
    parts = tuple(_interval(letter, a, b, "()") for a, b in pairwise(ends))
    return Form("union", "", parts, letter=letter)


def _interval(letter: str, low: Form, high: Form, brackets: str) -> Form:
    return Form("items", "", (low, high), brackets, letter=letter)


def _is_letter(form: Form) -> bool:
    tree = _tree(form)
    return (tree is not None and tree.op == "sym") or _VALUE_OF.fullmatch(form.text) is not None


def _letters(form: Form) -> list[str]:
    tree = _tree(form)
    return names(tree) if tree is not None else []


def _tree(form: Form) -> Node | None:
    if form.tree is not None:
        return form.tree
    if form.kind != "leaf":
        return None
    try:
        return readings(form.text)[0]
    except Unreadable:
        return None


def _below(low: Form, high: Form) -> bool:
    a, b = (_tree(form) for form in (low, high))
    values = [numeric.value(tree) if tree is not None else None for tree in (a, b)]
    try:
        return bool(values[0] is not None and values[1] is not None and values[0] < values[1])
    except TypeError:
        return False


def _gap(form: Form) -> Node | None:
    """Return the left side minus the right side."""
    sides = [_tree(part) for part in form.parts]
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return None
    return Node("+", (sides[0], Node("*", (MINUS_ONE, sides[1]))))


def _proportional(a: Node, b: Node, *, positive: bool) -> bool:
    """Return whether `a` is a nonzero constant times `b`."""
    letters = sorted(set(names(a)) & set(names(b)))
    if not letters or names(a) != names(b):
        return False
    factor = numeric.ratio(a, b)
    if factor is None or (positive and (factor.imag != 0 or factor.real < 0)):
        return False
    # a(x) b(p) = b(x) a(p) at every x, for one fixed point p
    fixed = numeric.fixed_point(letters)
    return bool(numeric.same(Node("*", (a, substituted(b, fixed))), Node("*", (b, substituted(a, fixed)))))


def _solved_by(solved: Form, gap: Node) -> bool:
    """Return whether `solved` is `letter = f(...)` and substituting f for it satisfies the other equation.

    The other equation must be linear in the letter, and f must have no value where the letter's factor
    vanishes (as in `y = 1/x` and `xy = 1`), so that there is no further solution.
    """
    letter, value = (_tree(part) for part in solved.parts)
    if letter is None or value is None or letter.op != "sym" or str(letter.value) in names(value):
        return False
    name = str(letter.value)
    if name not in names(gap) or not _has_pole(value):
        return False
    zero = number(0)
    at = [substituted(gap, {name: Node("+", (letter, number(k)))}) for k in range(3)]
    bend = Node("+", (at[0], at[2], Node("*", (number(-2), at[1]))))
    if not numeric.same(bend, zero):
        return False
    return bool(numeric.same(substituted(gap, {name: value}), zero))


def _has_pole(node: Node) -> bool:
    return (node.op == "/" and bool(names(node.args[1]))) or any(_has_pole(part) for part in node.args)


def _same_chain(left: Form, right: Form) -> bool:
    if len(left.parts) != len(right.parts):
        return False
    for mine, theirs in zip(left.parts, right.parts, strict=True):
        a, b = _tree(mine), _tree(theirs)
        if a is None or b is None or not numeric.same(a, b):
            return False
    return True
