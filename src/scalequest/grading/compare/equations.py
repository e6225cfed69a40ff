"""Compare equations and inequalities with each other, and with values and sets."""

from __future__ import annotations

import re

from scalequest.grading.compare import numeric
from scalequest.grading.compare.leaves import ask_symbolic, trees_in
from scalequest.grading.compare.lists import same_sets
from scalequest.grading.compare.relations import same_equation, same_inequality, solution_set
from scalequest.grading.compare.state import Comparison
from scalequest.grading.latex.forms import Form, is_name, same_name
from scalequest.grading.latex.normalise import compact
from scalequest.grading.latex.trees import Node, names, substituted

_LIMIT = re.compile(r"\\(?:lim|i*int|oint)(?![A-Za-z])")
_FUNCTION_OF = re.compile(r"([A-Za-z])\s?\(([a-z])\)")


def same_relation(comparison: Comparison, left: Form, right: Form) -> bool:
    """Compare two answers, at least one of which is an equation, an inequality or a membership."""
    if left.kind == right.kind:
        return _both_relations(comparison, left, right)
    relation, other, swapped = (left, right, False) if left.kind == "relation" else (right, left, True)
    if set(relation.signs) <= {"=", "~"}:
        return _equation_and_value(comparison, relation, other, swapped)
    if relation.signs == ("in",):
        return comparison.same(relation.parts[1], other)
    if other.kind == "items" and not other.brackets and solution_set(other) is None:
        return False  # `1 < x < 2` is `(1, 2)`, but never the two numbers
    sets = solution_set(relation), solution_set(other) or other
    if sets[0] is None:
        # `0 < x > 1` is not a chain, and would cost sympy seconds
        opposed = len({sign[0] for sign in relation.signs} & {"<", ">"}) == 2
        return not opposed and ask_symbolic(comparison, left, right)
    return same_sets(comparison, sets[0], sets[1])


def _both_relations(comparison: Comparison, left: Form, right: Form) -> bool:
    kinds = [set(form.signs) for form in (left, right)]
    if all(kind <= {"=", "~"} for kind in kinds):
        if _same_left_sides(left, right) and comparison.same(left.parts[-1], right.parts[-1]):
            return True
        if _same_function(left, right):
            return True
        comparison.use("numeric")
        return same_equation(left, right, "c" if comparison.options.constants == "renamed" else "")
    if kinds[0] == kinds[1] == {"in"}:
        return compact(left.parts[0].text) == compact(right.parts[0].text) and comparison.same(
            left.parts[1], right.parts[1]
        )
    if {"in"} in kinds:
        inside, other = (left, right) if kinds[0] == {"in"} else (right, left)
        solved = solution_set(other)
        return (
            solved is not None
            and compact(solved.letter) == compact(inside.parts[0].text)
            and same_sets(comparison, solved, inside.parts[1])
        )
    sets = solution_set(left), solution_set(right)
    if sets[0] is not None and sets[1] is not None:
        return sets[0].letter == sets[1].letter and same_sets(comparison, sets[0], sets[1])
    comparison.use("numeric")
    return same_inequality(left, right) or (sets != (None, None) and ask_symbolic(comparison, left, right))


def _same_function(left: Form, right: Form) -> bool:
    """Compare `f(x) = 2x` with `f(t) = 2t`: the letter of the argument is a bound variable."""
    heads = [_FUNCTION_OF.fullmatch(form.parts[0].text) for form in (left, right)]
    if heads[0] is None or heads[1] is None or heads[0][1] != heads[1][1]:
        return False
    mine, theirs = trees_in(left.parts[-1]), trees_in(right.parts[-1])
    if not mine or not theirs or heads[0][2] in names(theirs[0]) or heads[1][2] in names(mine[0]):
        return False
    return bool(numeric.same(mine[0], substituted(theirs[0], {heads[1][2]: Node("sym", value=heads[0][2])})))


def _same_left_sides(left: Form, right: Form) -> bool:
    a, b = left.parts[0].text, right.parts[0].text
    return compact(a) == compact(b) or same_name(a, b)


def _equation_and_value(comparison: Comparison, relation: Form, other: Form, swapped: bool) -> bool:
    def same(form: Form) -> bool:
        return comparison.same(other, form) if swapped else comparison.same(form, other)

    if comparison.options.equations == "whole":
        return False
    parts, last = relation.parts, relation.parts[-1]
    heads = [is_name(part.text) for part in parts[:-1]]
    if heads[0] and not _mentions(last, parts[0]):
        several = len(parts) > 2 and all(heads) and other.kind == "items" and len(other.parts) == len(heads)
        if several:  # x = y = 5 is (5, 5)
            return all(comparison.same(part, last) for part in other.parts)
        return same(last) or (relation.signs[-1] == "~" and len(parts) > 2 and same(parts[-2]))
    if relation.signs[-1] == "~" and same(parts[-2]):
        return True
    if _LIMIT.match(parts[0].text) and not any(names(tree) for tree in trees_in(last)):
        return same(last)
    trees = [trees_in(part) for part in parts]
    if not all(trees):
        return False
    numbers = all(not names(tree) for side in trees for tree in side)
    identity = numbers or all(numeric.same(trees[0][0], side[0]) for side in trees[1:])
    return identity and same(last)


def _mentions(form: Form, name: Form) -> bool:
    """Return whether a right side contains the single letter on its left side, as in `x = 2x - 1`."""
    letter = name.text.strip()
    return len(letter) == 1 and any(letter in names(tree) for tree in trees_in(form))
