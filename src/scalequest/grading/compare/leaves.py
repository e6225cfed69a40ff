"""Compare two answers without outer structure: times, angles, ratios, units, numbers, and formulas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from scalequest.grading.compare import numeric
from scalequest.grading.compare.state import Comparison
from scalequest.grading.compare.symbolic import math_verify
from scalequest.grading.latex.exact import rational, terminates, value
from scalequest.grading.latex.expressions import is_foreign, readings
from scalequest.grading.latex.forms import ELLIPSIS, Form, read
from scalequest.grading.latex.numerals import abbreviated
from scalequest.grading.latex.tokens import Unreadable
from scalequest.grading.latex.trees import Node, has, names, number, signs
from scalequest.grading.latex.words import arc, clock, conversion, is_prose, same_time, split_unit

_DECIMAL = re.compile(
    r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.(\d*))?(?:(?:\s?(?:\\times|\\cdot|\*)\s?10\^\{?|[eE])([-+]?\d+)\}?)?"
)
_RATIO = re.compile(r"[\d.]+(?:\s?:\s?[\d.]+)+")
_FLOAT_DIGITS = 9


def same_leaf(comparison: Comparison, left: Form, right: Form) -> bool:
    """Compare two answers without outer structure."""
    if left.tree is not None or right.tree is not None:
        return same_trees(comparison, left, right, trees_in(left), trees_in(right))
    a, b = left.text, right.text
    if (here := clock(a)) and (there := clock(b)):
        comparison.use("structure")
        return same_time(here, there)
    if (angle := arc(a)) is not None and (turn := arc(b)) is not None:
        comparison.use("structure")
        return angle == turn
    if _RATIO.fullmatch(a) or _RATIO.fullmatch(b):
        return _same_ratio(comparison, a, b)
    if (verdict := _units(comparison, a, b)) is not None:
        return verdict
    x, y = _exact(a), _exact(b)
    if x is not None and y is not None and (x == y or (terminates(x) and terminates(y))):
        comparison.use("exact")
        return x == y
    if comparison.options.decimal_comma and is_decimal_comma(a, b):
        return True
    if (x is None and is_prose(a)) or (y is None and is_prose(b)):
        return False
    return same_trees(comparison, left, right, trees_in(left), trees_in(right))


def _units(comparison: Comparison, a: str, b: str) -> bool | None:
    (core_a, unit_a), (core_b, unit_b) = split_unit(a), split_unit(b)
    if unit_a is None and unit_b is None:
        return None
    for unit, core, other, there in ((unit_a, core_a, b, unit_b), (unit_b, core_b, a, unit_a)):
        if unit is not None and there is None and len(unit.text) == 1 and core:
            letters = {name for tree in trees_of(other) for name in names(tree)}
            if unit.text in {letter.casefold() for letter in letters}:
                return None  # in `\frac{8h}{5}` and `\frac{8}{5} h`, h does not mean hours
    left, right = read(core_a), read(core_b)
    if unit_a is not None and unit_b is not None:
        rate = conversion(unit_a, unit_b)
        if rate is None or {unit_a.text, unit_b.text} == {"degree C", "degree F"}:
            return False
        return comparison.same(left, right) if rate == 1 else _scaled(comparison, left, right, rate)
    unit = unit_a or unit_b
    if unit is not None and unit.text == "%":
        hundredth = Fraction(1, 100) if unit_a else Fraction(100)
        if _scaled(comparison, left, right, hundredth):
            return True
        return comparison.options.percent == "number" and comparison.same(left, right)
    if (
        unit is not None
        and unit.text.startswith("degree")
        and same_trees(comparison, left, right, trees_of(a), trees_of(b))
    ):
        return True
    return comparison.options.units == "optional" and comparison.same(left, right)


def _scaled(comparison: Comparison, left: Form, right: Form, factor: Fraction) -> bool:
    trees = tuple(Node("*", (number(factor), tree)) for tree in trees_in(left))
    return same_trees(comparison, left, right, trees, trees_in(right))


def _same_ratio(comparison: Comparison, a: str, b: str) -> bool:
    comparison.use("structure")
    parts = [[value(part) for part in re.split(r"\s?:\s?", text)] for text in (a, b)]
    if any(None in side for side in parts):
        return False
    left, right = ([part for part in side if part is not None] for side in parts)
    if len(left) != len(right):
        pair, single = (left, right) if len(left) == 2 else (right, left)
        return len(pair) == 2 and len(single) == 1 and pair[1] != 0 and pair[0] / pair[1] == single[0]
    return (
        any(left)
        and all(
            x * y2 == x2 * y
            for x, y in zip(left, right, strict=True)
            for x2, y2 in zip(left, right, strict=True)
        )
        and [bool(x) for x in left] == [bool(y) for y in right]
    )


def same_trees(comparison: Comparison, left: Form, right: Form, a: Sequence[Node], b: Sequence[Node]) -> bool:
    """Compare two leaves, given their readings `a` and `b` as formulas."""
    if (not a and _begins(comparison, left, b)) or (not b and _begins(comparison, right, a)):
        return True
    if not a or not b:
        foreign = any(not trees and is_foreign(form.text) for form, trees in ((left, a), (right, b)))
        return foreign and ask_symbolic(comparison, left, right)
    comparison.use("numeric")
    two = [any(has(tree, sign) for sign in ("pm", "mp") for tree in side) for side in (a, b)]
    if any(two):
        return all(two) and _same_pairs(comparison, a[0], b[0])
    renamed = "n" if comparison.integers else "c" if comparison.options.constants == "renamed" else ""
    unclear = False
    for x in a:
        for y in b:
            verdict = numeric.same(x, y, renamed)
            if verdict:
                return True
            unclear = unclear or verdict is None
    if _rounded(comparison, left, right, a, b):
        return True
    return unclear and ask_symbolic(comparison, left, right)


def ask_symbolic(comparison: Comparison, left: Form, right: Form) -> bool:
    """Ask math-verify if both sides are formulas in their original form."""
    if left.tree is not None or right.tree is not None or not _worth_asking(left.text, right.text):
        return False
    if (ELLIPSIS in left.text) != (ELLIPSIS in right.text):
        return False  # math-verify ignores it
    comparison.use("symbolic")
    return math_verify(left.text, right.text) or math_verify(right.text, left.text)


def _same_pairs(comparison: Comparison, a: Node, b: Node) -> bool:
    forms = [[Form("leaf", "", tree=tree) for tree in signs(side)] for side in (a, b)]
    return comparison.paired(*forms)


def _begins(comparison: Comparison, shown: Form, exact: Sequence[Node]) -> bool:
    """Return whether a decimal that ends in dots shows a value without a finite decimal expansion."""
    if not comparison.options.rounding_digits or len(exact) != 1 or names(exact[0]):
        return False
    fraction = rational(exact[0])
    finite = fraction is not None and terminates(fraction)
    return not finite and numeric.begins(
        shown.text, numeric.value(exact[0]), comparison.options.rounding_digits
    )


def _rounded(comparison: Comparison, left: Form, right: Form, a: Sequence[Node], b: Sequence[Node]) -> bool:
    """Return whether one side is a decimal and the other an exact value that rounds to it."""
    if not comparison.options.rounding_digits:
        return False
    for text, tree, exact, other in (
        (left.text, a[0], b[0], right.text),
        (right.text, b[0], a[0], left.text),
    ):
        match = _DECIMAL.fullmatch(text)
        if match is None or names(exact):
            continue
        if rational(exact) == 0 and numeric.vanishes(text, rational(tree) or Fraction(1)):
            return True
        if _DECIMAL.fullmatch(other):
            continue
        if _is_rounded(
            tree, exact, text, len(match[1] or "") - int(match[2] or 0), comparison.options.rounding_digits
        ):
            return True
    return False


def _is_rounded(decimal: Node, exact: Node, text: str, places: int, digits: int) -> bool:
    written = re.sub(r"[eE].*|\\.*|\*.*", "", text)
    count = len(re.sub(r"\D", "", written).lstrip("0"))
    if count < digits or "." not in written:  # 333 is not 1000/3
        return False
    fraction = rational(exact)
    if fraction is not None and terminates(fraction):
        return False
    a, b = rational(decimal), numeric.value(exact)
    gap = Fraction(1, 2) / Fraction(10) ** places
    if a is not None and count >= _FLOAT_DIGITS:  # a printed or truncated float: its last digits are wrong
        gap = max(gap, abs(a) / 10 ** (_FLOAT_DIGITS - 1))
    return a is not None and b is not None and numeric.within(a, b, gap)


def _exact(text: str) -> Fraction | None:
    number = value(text)
    return number if number is not None else abbreviated(text)


def trees_in(form: Form) -> tuple[Node, ...]:
    """Return the readings of a leaf as a formula; none if there are none, or if it is not a leaf."""
    if form.tree is not None:
        return (form.tree,)
    return trees_of(form.text) if form.kind == "leaf" else ()


def trees_of(text: str) -> tuple[Node, ...]:
    """Return the readings of a text as a formula; none if there are none."""
    try:
        return readings(text)
    except Unreadable:
        return ()


def is_decimal_comma(prediction: str, reference: str) -> bool:
    """Return whether a prediction is `1,22` and the reference `1.22`; a reference `1,22` is two numbers."""
    comma = re.fullmatch(r"([-+]?\d+),(\d+)", prediction)
    point = re.fullmatch(r"[-+]?\d*\.\d+", reference)
    return bool(comma and point and value(f"{comma[1]}.{comma[2]}") == value(reference))


def _worth_asking(a: str, b: str) -> bool:
    """Return whether to ask math-verify: both sides are formulas, and not a plain number and a name."""
    if any(re.fullmatch(r"\w+_\{?\d+\}?", text) for text in (a, b)):
        return False  # a numeral in some base, or an indexed letter
    return all(re.search(r"\d|\\[A-Za-z]|[-+*/^=()]", text) and not is_prose(text) for text in (a, b))
