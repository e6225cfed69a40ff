"""Compare two answers: by normalised text, exact numbers, structures, values, math-verify.

`quick` decides cases that need only text and rational arithmetic, in the caller's process. `compare` is the
complete comparison and runs in a worker that can be killed (`grader`).
"""

from __future__ import annotations

import re
from dataclasses import replace

from scalequest.grading.compare.equations import same_relation
from scalequest.grading.compare.leaves import same_leaf
from scalequest.grading.compare.lists import same_inequality_lists, same_items, same_sets
from scalequest.grading.compare.phrases import same_phrases
from scalequest.grading.compare.qualifications import paired_letters, renamed, said, same_families
from scalequest.grading.compare.reals import same_set
from scalequest.grading.compare.sets import Solution, conditioned, solutions
from scalequest.grading.compare.state import Comparison
from scalequest.grading.compare.vectors import unit_vector
from scalequest.grading.latex.currencies import currencies, differ
from scalequest.grading.latex.exact import terminates, value
from scalequest.grading.latex.forms import Form, read, union_of_list
from scalequest.grading.latex.normalise import LONGEST, compact, normalise, opened
from scalequest.grading.options import GraderOptions, Layer

_MAX_PAIRS = 2_000


def quick(prediction: str, reference: str) -> tuple[bool, Layer] | None:
    """Decide by normalised text and exact rational numbers; return None if more is needed."""
    if prediction.strip() == reference.strip():
        return bool(reference.strip()), "text"
    if not prediction.strip() or not reference.strip() or max(len(prediction), len(reference)) > LONGEST:
        return False, "text"
    if _in_other_money(prediction, reference):
        return None
    left, right = normalise(prediction), normalise(reference)
    if compact(left) == compact(right):
        return bool(left), "text"
    if not left or not right:
        return False, "text"
    a = value(left)
    if a is not None and (b := value(right)) is not None and (a == b or (terminates(a) and terminates(b))):
        return a == b, "exact"
    return None


def compare(prediction: str, reference: str, options: GraderOptions) -> tuple[bool, Layer]:
    """Return whether two answers are equal, and the deepest layer that was needed to decide."""
    decided = quick(prediction, reference)
    if decided is not None:
        return decided
    comparison = Comparison(options, _same)
    priced = _in_other_money(prediction, reference)
    try:
        left, right = (read(normalise(text, priced=priced)) for text in (prediction, reference))
        verdict = comparison.same(left, right)
    except RecursionError:  # nested more deeply than any answer
        verdict = False
    return verdict, comparison.layer


def _in_other_money(prediction: str, reference: str) -> bool:
    """Return whether currencies distinguish two amounts, so that they must be kept."""
    named = currencies(opened(prediction))
    return bool(named) and differ(named, currencies(opened(reference)))


def _same(comparison: Comparison, left: Form, right: Form) -> bool:
    """Compare two answers of any structure."""
    comparison.pairs += 1
    if comparison.pairs > _MAX_PAIRS:
        return False
    conditional = bool(left.conditions or right.conditions)
    texts = [form.whole or ("" if form.conditions else form.text) for form in (left, right)]
    if all(texts) and compact(texts[0]) == compact(texts[1]):
        return True
    if (verdict := _same_reals(comparison, left, right)) is not None:
        return verdict
    if conditional:
        return _same_qualified(comparison, left, right)
    left, right = unit_vector(left.text) or left, unit_vector(right.text) or right
    if (verdict := same_phrases(comparison, left, right)) is not None:
        return verdict
    if left.kind == right.kind == "leaf":
        return same_leaf(comparison, left, right)
    comparison.use("structure")
    if "relation" in (left.kind, right.kind):
        return same_relation(comparison, left, right)
    if (verdict := same_inequality_lists(comparison, left, right)) is not None:
        return verdict
    if left.kind == right.kind == "union":
        return same_sets(comparison, left, right)
    if "union" in (left.kind, right.kind):
        sides = [form if form.kind == "union" else union_of_list(form) for form in (left, right)]
        return sides[0] is not None and sides[1] is not None and same_sets(comparison, sides[0], sides[1])
    return same_items(comparison, left, right)


def _same_reals(comparison: Comparison, left: Form, right: Form) -> bool | None:
    """Compare two sets of reals; None if one of them is not a set, may not be one, or has rounded ends."""
    verdicts: list[bool | None] = []
    for least in (1, 0):
        a, b = (_solutions(form, least) for form in (left, right))
        if not a or not b or not any(item.definite for item in (*a, *b)):
            return None
        verdicts += [
            same_set(x.numbers, y.numbers)
            for x in a
            for y in b
            if not x.letter or not y.letter or x.letter == y.letter
        ]
    comparison.use("structure")
    if True in verdicts:
        return True
    exact = verdicts and None not in verdicts and not re.search(r"\d\.\d", left.text + right.text)
    return False if exact else None


def _solutions(form: Form, least: int) -> tuple[Solution, ...]:
    if form.conditions and (found := conditioned(form.text, form.conditions, least)):
        return found
    return solutions(form.whole or form.text, least)


def _same_qualified(comparison: Comparison, left: Form, right: Form) -> bool:
    """Compare two answers, at least one of which states conditions on its letters."""
    comparison.use("structure")
    bodies = tuple(replace(form, conditions=(), whole="") for form in (left, right))
    for least in (1, 0):
        a, b = (said(form, least) for form in (left, right))
        if len(a.others) != len(b.others) or not comparison.paired(a.others, b.others):
            continue
        for table in paired_letters(a, b):
            if table and comparison.options.constants == "named":
                continue
            before, comparison.integers = comparison.integers, not table and a.alike and b.alike
            verdict = comparison.same(bodies[0], renamed(bodies[1], table))
            comparison.integers = before
            if verdict:
                return True
        if not a.others and a.family and b.family and same_families(bodies, (a.family, b.family)):
            return True
    return False
