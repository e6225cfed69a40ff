"""Whether two answers are the same: normalised text, exact numbers, structures, values, math-verify.

`quick` decides what needs no more than text and rational arithmetic, in the caller's process. `compare` is
the whole, and runs in a worker that can be killed (`grader`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from scalequest.grading import numeric
from scalequest.grading.currencies import currencies, differ
from scalequest.grading.exact import value
from scalequest.grading.expressions import is_foreign, readings
from scalequest.grading.forms import (
    INFINITY,
    MINUS_INFINITY,
    Form,
    is_name,
    named,
    read,
    same_name,
    union_of_list,
)
from scalequest.grading.normalise import LONGEST, normalise, opened
from scalequest.grading.numerals import abbreviated
from scalequest.grading.options import GraderOptions, Layer
from scalequest.grading.qualifications import paired_letters, renamed, said, same_families
from scalequest.grading.qualifiers import in_words
from scalequest.grading.reals import Solution, conditioned, same_set, solutions
from scalequest.grading.relations import same_equation, same_inequality, solution_set
from scalequest.grading.symbolic import math_verify
from scalequest.grading.tokens import Unreadable
from scalequest.grading.trees import Node, has, names, number, signs, substituted
from scalequest.grading.values import rational
from scalequest.grading.vectors import unit_vector
from scalequest.grading.words import (
    amount,
    arc,
    choice,
    clock,
    conversion,
    date,
    is_prose,
    number_of_sentence,
    plain,
    same_time,
    says_all_reals,
    says_none,
    says_undefined,
    split_unit,
)

_ORDER: tuple[Layer, ...] = ("text", "exact", "structure", "numeric", "symbolic")
_DECIMAL = re.compile(
    r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.(\d*))?(?:(?:\s?(?:\\times|\\cdot|\*)\s?10\^\{?|[eE])([-+]?\d+)\}?)?"
)
_RATIO = re.compile(r"[\d.]+(?:\s?:\s?[\d.]+)+")
_FINITE_PLACES = 10  # a rational with so many decimals or fewer has a finite spelling, and is not rounded
_MAX_PAIRS = 2_000
_FLOAT_DIGITS = 9
_LIMIT = re.compile(r"\\(?:lim|i*int|oint)(?![A-Za-z])")
_FUNCTION_OF = re.compile(r"([A-Za-z])\s?\(([a-z])\)")


def quick(prediction: str, reference: str) -> tuple[bool, Layer] | None:
    """Decide by normalised text and exact rational numbers; None where more is needed."""
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
    if a is not None and (b := value(right)) is not None and (a == b or (_finite(a) and _finite(b))):
        return a == b, "exact"
    return None


def compare(prediction: str, reference: str, options: GraderOptions) -> tuple[bool, Layer]:
    """Whether two answers are the same, and the deepest layer that was needed to say so."""
    decided = quick(prediction, reference)
    if decided is not None:
        return decided
    comparison = Comparison(options)
    priced = _in_other_money(prediction, reference)
    try:
        left, right = (read(normalise(text, priced=priced)) for text in (prediction, reference))
        verdict = comparison.same(left, right)
    except RecursionError:  # nested deeper than any answer is
        verdict = False
    return verdict, comparison.layer


def _in_other_money(prediction: str, reference: str) -> bool:
    """Whether currencies tell two amounts apart, so that they have to stay."""
    named = currencies(opened(prediction))
    return bool(named) and differ(named, currencies(opened(reference)))


@lru_cache(maxsize=4096)  # one answer is compared with many
def compact(text: str) -> str:
    """Spelling without spaces and fonts; words and single letters also without case."""
    bare = plain(text)
    if re.fullmatch(r"[a-z ]+", bare):
        return bare
    text = re.sub(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|rm)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"([_^])\{(\w|\\[a-z]+)\}", r"\1\2", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)|\\(?=%)", "", text)


class Comparison:
    """One comparison under options; `layer` is the deepest that was used."""

    def __init__(self, options: GraderOptions) -> None:
        """Start at the layer of text."""
        self.options = options
        self.layer: Layer = "text"
        self.integers = False  # letters that stand for any integer may have other names
        self.pairs = 0

    def use(self, layer: Layer) -> None:
        """Note that a layer was needed."""
        if _ORDER.index(layer) > _ORDER.index(self.layer):
            self.layer = layer

    def same(self, left: Form, right: Form) -> bool:
        """Compare two answers of any structure."""
        self.pairs += 1
        if self.pairs > _MAX_PAIRS:
            return False
        conditional = bool(left.conditions or right.conditions)
        texts = [form.whole or ("" if form.conditions else form.text) for form in (left, right)]
        if all(texts) and compact(texts[0]) == compact(texts[1]):
            return True
        if (verdict := self._as_reals(left, right)) is not None:
            return verdict
        if conditional:
            return self._qualified(left, right)
        left, right = unit_vector(left.text) or left, unit_vector(right.text) or right
        if (verdict := self._phrases(left, right)) is not None:
            return verdict
        if left.kind == right.kind == "leaf":
            return self.same_leaf(left, right)
        self.use("structure")
        if "relation" in (left.kind, right.kind):
            return self._same_relation(left, right)
        if (verdict := self._inequality_lists(left, right)) is not None:
            return verdict
        if left.kind == right.kind == "union":
            return self._same_sets(left, right)
        if "union" in (left.kind, right.kind):
            sides = [form if form.kind == "union" else union_of_list(form) for form in (left, right)]
            return sides[0] is not None and sides[1] is not None and self._same_sets(sides[0], sides[1])
        return self._same_items(left, right)

    # ------------------------------------------------------------------------------ sets of reals, conditions

    def _as_reals(self, left: Form, right: Form) -> bool | None:
        """Compare two sets of reals; None if one of them is none, may be no set, or has rounded ends."""
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
        self.use("structure")
        if True in verdicts:
            return True
        exact = verdicts and None not in verdicts and not re.search(r"\d\.\d", left.text + right.text)
        return False if exact else None

    def _qualified(self, left: Form, right: Form) -> bool:
        """Compare two answers of which at least one says something of its letters."""
        self.use("structure")
        bodies = tuple(replace(form, conditions=(), whole="") for form in (left, right))
        for least in (1, 0):
            a, b = (said(form, least) for form in (left, right))
            if len(a.others) != len(b.others) or not self._paired(a.others, b.others):
                continue
            for table in paired_letters(a, b):
                if table and self.options.constants == "named":
                    continue
                before, self.integers = self.integers, not table and a.alike and b.alike
                verdict = self.same(bodies[0], renamed(bodies[1], table))
                self.integers = before
                if verdict:
                    return True
            if not a.others and a.family and b.family and same_families(bodies, (a.family, b.family)):
                return True
        return False

    # ------------------------------------------------------------------------------------------------- words

    def _phrases(self, left: Form, right: Form) -> bool | None:
        a, b = left.text, right.text
        for says in (says_none, says_undefined):
            if says(a) or says(b):
                return says(a) and says(b)
        if says_all_reals(a) or says_all_reals(b):
            sides = [_REALS if says_all_reals(text) else form for text, form in ((a, left), (b, right))]
            return sides[0] is sides[1] or self.same(sides[0], sides[1])
        if (day := date(a)) and (that := date(b)):
            return day[1:] == that[1:] and (day[0] == that[0] or 0 in (day[0], that[0]))
        if self.options.sentences == "number" and not (_adds(left) or _adds(right)):
            for sentence, other in ((a, b), (b, a)):
                number = number_of_sentence(sentence)
                if number is not None and value(other) is not None and value(other) == value(number):
                    return True
        if (mixed := self._mixed_amounts(a, b)) is not None:
            return mixed
        if is_prose(a) and is_prose(b) and _words(a) == _words(b):
            return True
        if (mine := choice(a)) and (theirs := choice(b)):
            return mine[0] == theirs[0] and (
                not mine[1] or not theirs[1] or self.same(read(mine[1]), read(theirs[1]))
            )
        for marked, bare in ((mine, right), (choice(b), left)):
            if marked and marked[1] and bare.kind == "leaf":
                return self.same(read(marked[1]), bare)
        return None

    def _mixed_amounts(self, a: str, b: str) -> bool | None:
        """Compare `3 hours 25 minutes` with one unit, or none; None where neither side is such a sum."""
        amounts = amount(a), amount(b)
        if amounts[0] is not None and amounts[1] is not None:
            return amounts[0][:2] == amounts[1][:2]
        mixed, other = (amounts[0], b) if amounts[0] is not None else (amounts[1], a)
        if mixed is None:
            return None
        core, unit = split_unit(other)
        number = value(core)
        if number is None:
            return None
        if unit is None:
            return self.options.units == "optional" and number * mixed[2] == mixed[1]
        return unit.dimension == ((mixed[0], 1),) and number * unit.factor == mixed[1]

    # ------------------------------------------------------------------------------------------------ leaves

    def same_leaf(self, left: Form, right: Form) -> bool:
        """Compare two answers without outer structure."""
        if left.tree is not None or right.tree is not None:
            return self._same_trees(left, right, _trees(left), _trees(right))
        a, b = left.text, right.text
        if (here := clock(a)) and (there := clock(b)):
            self.use("structure")
            return same_time(here, there)
        if (angle := arc(a)) is not None and (turn := arc(b)) is not None:
            self.use("structure")
            return angle == turn
        if _RATIO.fullmatch(a) or _RATIO.fullmatch(b):
            return self._same_ratio(a, b)
        if (verdict := self._units(a, b)) is not None:
            return verdict
        x, y = _exact(a), _exact(b)
        if x is not None and y is not None and (x == y or (_finite(x) and _finite(y))):
            self.use("exact")
            return x == y
        if self.options.decimal_comma and _comma_decimal(a, b):
            return True
        if (x is None and is_prose(a)) or (y is None and is_prose(b)):
            return False
        return self._same_trees(left, right, _trees(left), _trees(right))

    def _units(self, a: str, b: str) -> bool | None:
        (core_a, unit_a), (core_b, unit_b) = split_unit(a), split_unit(b)
        if unit_a is None and unit_b is None:
            return None
        for unit, core, other, there in ((unit_a, core_a, b, unit_b), (unit_b, core_b, a, unit_a)):
            if unit is not None and there is None and len(unit.text) == 1 and core:
                letters = {name for tree in _trees_of(other) for name in names(tree)}
                if unit.text in {letter.casefold() for letter in letters}:
                    return None  # `\frac{8h}{5}` and `\frac{8}{5} h`: no hours
        left, right = read(core_a), read(core_b)
        if unit_a is not None and unit_b is not None:
            rate = conversion(unit_a, unit_b)
            if rate is None or {unit_a.text, unit_b.text} == {"degree C", "degree F"}:
                return False
            return self.same(left, right) if rate == 1 else self._scaled(left, right, rate)
        unit = unit_a or unit_b
        if unit is not None and unit.text == "%":
            hundredth = Fraction(1, 100) if unit_a else Fraction(100)
            if self._scaled(left, right, hundredth):
                return True
            return self.options.percent == "number" and self.same(left, right)
        if (
            unit is not None
            and unit.text.startswith("degree")
            and self._same_trees(left, right, _trees_of(a), _trees_of(b))
        ):
            return True
        return self.options.units == "optional" and self.same(left, right)

    def _scaled(self, left: Form, right: Form, factor: Fraction) -> bool:
        trees = tuple(Node("*", (number(factor), tree)) for tree in _trees(left))
        return self._same_trees(left, right, trees, _trees(right))

    def _same_ratio(self, a: str, b: str) -> bool:
        self.use("structure")
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

    def _same_trees(self, left: Form, right: Form, a: Sequence[Node], b: Sequence[Node]) -> bool:
        if (not a and self._begins(left, b)) or (not b and self._begins(right, a)):
            return True
        if not a or not b:
            foreign = any(not trees and is_foreign(form.text) for form, trees in ((left, a), (right, b)))
            return foreign and self._ask_symbolic(left, right)
        self.use("numeric")
        two = [any(has(tree, sign) for sign in ("pm", "mp") for tree in side) for side in (a, b)]
        if any(two):
            return all(two) and self._same_pairs(a[0], b[0])
        renamed = "n" if self.integers else "c" if self.options.constants == "renamed" else ""
        unclear = False
        for x in a:
            for y in b:
                verdict = numeric.same(x, y, renamed)
                if verdict:
                    return True
                unclear = unclear or verdict is None
        if self._rounded(left, right, a, b):
            return True
        return unclear and self._ask_symbolic(left, right)

    def _ask_symbolic(self, left: Form, right: Form) -> bool:
        """Ask math-verify where both sides are as they were written, and formulas."""
        if left.tree is not None or right.tree is not None or not _worth_asking(left.text, right.text):
            return False
        if (_ELLIPSIS in left.text) != (_ELLIPSIS in right.text):
            return False  # math-verify reads over it
        self.use("symbolic")
        return math_verify(left.text, right.text) or math_verify(right.text, left.text)

    def _same_pairs(self, a: Node, b: Node) -> bool:
        forms = [[Form("leaf", "", tree=tree) for tree in signs(side)] for side in (a, b)]
        return self._paired(*forms)

    def _begins(self, shown: Form, exact: Sequence[Node]) -> bool:
        """Whether a decimal that ends in dots shows a value with no finite decimal."""
        if not self.options.rounding_digits or len(exact) != 1 or names(exact[0]):
            return False
        fraction = rational(exact[0])
        finite = fraction is not None and _finite(fraction)
        return not finite and numeric.begins(
            shown.text, numeric.value(exact[0]), self.options.rounding_digits
        )

    def _rounded(self, left: Form, right: Form, a: Sequence[Node], b: Sequence[Node]) -> bool:
        """Whether one side is a decimal, and the other an exact value that rounds to it."""
        if not self.options.rounding_digits:
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
                tree, exact, text, len(match[1] or "") - int(match[2] or 0), self.options.rounding_digits
            ):
                return True
        return False

    # --------------------------------------------------------------------------------------------- relations

    def _same_relation(self, left: Form, right: Form) -> bool:
        if left.kind == right.kind:
            return self._both_relations(left, right)
        relation, other, swapped = (left, right, False) if left.kind == "relation" else (right, left, True)
        if set(relation.signs) <= {"=", "~"}:
            return self._equation_and_value(relation, other, swapped)
        if relation.signs == ("in",):
            return self.same(relation.parts[1], other)
        if other.kind == "items" and not other.brackets and solution_set(other) is None:
            return False  # `1 < x < 2` is `(1, 2)`, but never the two numbers
        sets = solution_set(relation), solution_set(other) or other
        if sets[0] is None:
            # `0 < x > 1` is no chain, and costs sympy seconds
            opposed = len({sign[0] for sign in relation.signs} & {"<", ">"}) == 2
            return not opposed and self._ask_symbolic(left, right)
        return self._same_sets(sets[0], sets[1])

    def _both_relations(self, left: Form, right: Form) -> bool:
        kinds = [set(form.signs) for form in (left, right)]
        if all(kind <= {"=", "~"} for kind in kinds):
            if self._same_left_sides(left, right) and self.same(left.parts[-1], right.parts[-1]):
                return True
            if self._same_function(left, right):
                return True
            self.use("numeric")
            return same_equation(left, right, "c" if self.options.constants == "renamed" else "")
        if kinds[0] == kinds[1] == {"in"}:
            return compact(left.parts[0].text) == compact(right.parts[0].text) and self.same(
                left.parts[1], right.parts[1]
            )
        if {"in"} in kinds:
            inside, other = (left, right) if kinds[0] == {"in"} else (right, left)
            solved = solution_set(other)
            return (
                solved is not None
                and compact(solved.letter) == compact(inside.parts[0].text)
                and self._same_sets(solved, inside.parts[1])
            )
        sets = solution_set(left), solution_set(right)
        if sets[0] is not None and sets[1] is not None:
            return sets[0].letter == sets[1].letter and self._same_sets(sets[0], sets[1])
        self.use("numeric")
        return same_inequality(left, right) or (sets != (None, None) and self._ask_symbolic(left, right))

    def _same_function(self, left: Form, right: Form) -> bool:
        """Compare `f(x) = 2x` with `f(t) = 2t`: the letter of the argument is a bound one."""
        heads = [_FUNCTION_OF.fullmatch(form.parts[0].text) for form in (left, right)]
        if heads[0] is None or heads[1] is None or heads[0][1] != heads[1][1]:
            return False
        mine, theirs = _trees(left.parts[-1]), _trees(right.parts[-1])
        if not mine or not theirs or heads[0][2] in names(theirs[0]) or heads[1][2] in names(mine[0]):
            return False
        return bool(
            numeric.same(mine[0], substituted(theirs[0], {heads[1][2]: Node("sym", value=heads[0][2])}))
        )

    def _same_left_sides(self, left: Form, right: Form) -> bool:
        a, b = left.parts[0].text, right.parts[0].text
        return compact(a) == compact(b) or same_name(a, b)

    def _equation_and_value(self, relation: Form, other: Form, swapped: bool) -> bool:
        def same(form: Form) -> bool:
            return self.same(other, form) if swapped else self.same(form, other)

        if self.options.equations == "whole":
            return False
        parts, last = relation.parts, relation.parts[-1]
        heads = [is_name(part.text) for part in parts[:-1]]
        if heads[0] and not _mentions(last, parts[0]):
            several = (
                len(parts) > 2 and all(heads) and other.kind == "items" and len(other.parts) == len(heads)
            )
            if several:  # x = y = 5 is (5, 5)
                return all(self.same(part, last) for part in other.parts)
            return same(last) or (relation.signs[-1] == "~" and len(parts) > 2 and same(parts[-2]))
        if relation.signs[-1] == "~" and same(parts[-2]):
            return True
        if _LIMIT.match(parts[0].text) and not any(names(tree) for tree in _trees(last)):
            return same(last)
        trees = [_trees(part) for part in parts]
        if not all(trees):
            return False
        numbers = all(not names(tree) for side in trees for tree in side)
        identity = numbers or all(numeric.same(trees[0][0], side[0]) for side in trees[1:])
        return identity and same(last)

    # ----------------------------------------------------------------------------------------- lists and sets

    def _inequality_lists(self, left: Form, right: Form) -> bool | None:
        """Compare where one side is a list of inequalities, e.g. `x < 1 or x > 3`."""
        sides = [
            solution_set(form) if form.kind == "items" and not form.brackets else None
            for form in (left, right)
        ]
        if sides == [None, None]:
            return None
        if any(
            form.kind == "items" and not form.brackets and side is None
            for form, side in zip((left, right), sides, strict=True)
        ):
            return False
        return self._same_sets(sides[0] or left, sides[1] or right)

    def _same_sets(self, left: Form, right: Form) -> bool:
        """Compare unions of intervals, in any order."""
        a, b = ((form.parts if form.kind == "union" else (form,)) for form in (left, right))
        if len(a) != len(b):
            return False
        return self.same(a[0], b[0]) if len(a) == 1 else self._paired(a, b)

    def _same_items(self, left: Form, right: Form) -> bool:
        if "leaf" in (left.kind, right.kind):
            leaf, items, swapped = (left, right, False) if left.kind == "leaf" else (right, left, True)
            return self._leaf_and_items(leaf, items, swapped)
        fixed = [form.brackets not in ("", "{}") for form in (left, right)]
        names = [_names(form) for form in (left, right)]
        if any(fixed) or self.options.list_order == "fixed" or (all(names) and names[0] != names[1]):
            if not all(fixed) and (
                self.options.list_brackets == "required"
                or "{}" in (left.brackets, right.brackets)
                or left.either
                or right.either
            ):
                return False  # `(1, 2)` is perhaps `1, 2`, but no set, and not `1 or 2`
            a, b = _unnamed(left), _unnamed(right)
            return len(a) == len(b) and _agree(left.brackets, right.brackets, len(a)) and self._in_order(a, b)
        if _ELLIPSIS in (part.text for part in (*left.parts, *right.parts)):
            return self._same_series(left.parts, right.parts)
        if not all(names):
            left, right = (Form("items", form.text, _unnamed(form), form.brackets) for form in (left, right))
        a, b = self._unfolded(left.parts), self._unfolded(right.parts)
        if "{}" in (left.brackets, right.brackets) or any(form.kind == "items" for form in (*a, *b)):
            a, b = self._distinct(a), self._distinct(b)
        return len(a) == len(b) and self._paired(a, b)

    def _same_series(self, a: Sequence[Form], b: Sequence[Form]) -> bool:
        r"""Compare `2, 4, \ldots, n` with `2, 4, 6, \ldots, n`: one may show more of the start."""
        starts = [[part.text for part in side].index(_ELLIPSIS) if _omits(side) else -1 for side in (a, b)]
        if -1 in starts:
            return False
        (shorter, i), (longer, j) = sorted(((a, starts[0]), (b, starts[1])), key=lambda pair: pair[1])
        ends = shorter[i:], longer[j:]
        if len(ends[0]) != len(ends[1]) or not self._in_order(*ends):
            return False
        seen = i + (len(ends[0]) > 1)
        return self._in_order(shorter[:i], longer[:i]) and (i == j or _goes_on(longer[:j], seen))

    def _leaf_and_items(self, leaf: Form, items: Form, swapped: bool) -> bool:
        if len(items.parts) == 1:
            return self.same(items.parts[0], leaf) if swapped else self.same(leaf, items.parts[0])
        written = self.options.decimal_comma and swapped and not items.brackets
        if written and _comma_decimal(items.text, leaf.text):
            return True
        if (point := re.fullmatch(r"[A-Z]'?\s?(\(.*\))", leaf.text)) and items.brackets == "()":
            return self.same(read(point[1]), items)  # `A(1, 2)` names the point
        if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", leaf.text):  # thousands, or a list after all
            parts = tuple(Form("leaf", part) for part in leaf.text.split(","))
            return self.same(Form("items", leaf.text + " ", parts), items)
        trees = _trees(leaf)
        if (
            trees
            and trees[0].op == "matrix"
            and self.options.list_brackets == "optional"
            and items.brackets != "{}"
        ):
            rows = trees[0].args
            cells = (
                [row.args[0] for row in rows]
                if len(rows[0].args) == 1
                else list(rows[0].args)
                if len(rows) == 1
                else []
            )
            return len(cells) == len(items.parts) and self._in_order(
                [Form("leaf", "", tree=cell) for cell in cells], items.parts
            )
        if not items.brackets and len({compact(part.text) for part in items.parts}) == len(items.parts) > 1:
            first, *others = items.parts
            if self.same(first, leaf) and all(self.same(first, other) for other in others):
                return True  # one answer written in several ways, `5/2 or 2.5`
        unfolded = self._unfolded((leaf,))
        if len(unfolded) == 1 or items.brackets not in ("", "{}"):
            return False
        parts = self._unfolded(items.parts)
        return len(parts) == len(unfolded) and self._paired(unfolded, parts)

    def _unfolded(self, parts: Sequence[Form]) -> tuple[Form, ...]:
        r"""Return a list with `a \pm b` as two elements, and names before values dropped."""
        found: list[Form] = []
        for part in parts:
            inner = part.parts[1] if named(part) else part
            trees = _trees(inner) if re.search(r"\\[pm][mp](?![A-Za-z])", inner.text) else ()
            if not trees:
                found.append(part)
            else:
                found += [Form("leaf", "", tree=tree) for tree in signs(trees[0])]
        return tuple(found)

    def _distinct(self, parts: Sequence[Form]) -> tuple[Form, ...]:
        kept: list[Form] = []
        for part in parts:
            if not any(self.same(part, other) for other in kept):
                kept.append(part)
        return tuple(kept)

    def _in_order(self, a: Sequence[Form], b: Sequence[Form]) -> bool:
        return all(self.same(x, y) for x, y in zip(a, b, strict=True))

    def _paired(self, a: Sequence[Form], b: Sequence[Form]) -> bool:
        """Whether each element of one list has its own equal in the other; both have the same length."""
        rest = list(b)
        if len(a) != len(rest):
            return False
        for item in a:
            match = next((i for i, other in enumerate(rest) if self.same(item, other)), None)
            if match is None:
                return False
            del rest[match]
        return True


_REALS = Form("items", "", (MINUS_INFINITY, INFINITY), "()")
_ELLIPSIS = r"\ldots"
_JUNCTION = re.compile(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")


def _adds(form: Form) -> bool:
    """Whether words name further elements of a list, as in `1, all primes` and `3 and its multiples`."""
    listed = any(value(part.text) is not None for part in form.parts) and _JUNCTION.search(form.whole)
    return bool(listed) or any(in_words(part.text) for part in form.parts)


def _omits(parts: Sequence[Form]) -> bool:
    return any(part.text == _ELLIPSIS for part in parts)


def _goes_on(parts: Sequence[Form], seen: int) -> bool:
    """Whether three numbers, or two and the last, are seen to have the equal steps or ratios of them all."""
    values = [value(part.text) for part in parts]
    known = [number for number in values if number]
    if seen < 3 or len(known) != len(values):
        return False
    return len({b - a for a, b in pairwise(known)}) == 1 or len({b / a for a, b in pairwise(known)}) == 1


def _solutions(form: Form, least: int) -> tuple[Solution, ...]:
    if form.conditions and (found := conditioned(form.text, form.conditions, least)):
        return found
    return solutions(form.whole or form.text, least)


def _trees(form: Form) -> tuple[Node, ...]:
    if form.tree is not None:
        return (form.tree,)
    return _trees_of(form.text) if form.kind == "leaf" else ()


def _trees_of(text: str) -> tuple[Node, ...]:
    try:
        return readings(text)
    except Unreadable:
        return ()


def _exact(text: str) -> Fraction | None:
    number = value(text)
    return number if number is not None else abbreviated(text)


def _agree(left: str, right: str, count: int) -> bool:
    """Whether two pairs of brackets mean the same: with two elements they may be an interval's."""
    if not left or not right:
        return {left, right} <= {"", "()", "[]"}  # a half-open interval is no list
    return left == right or (count != 2 and {left, right} <= {"()", "[]"})


def _mentions(form: Form, name: Form) -> bool:
    """Whether a right side holds the single letter that its left side names, as in `x = 2x - 1`."""
    letter = name.text.strip()
    return len(letter) == 1 and any(letter in names(tree) for tree in _trees(form))


def _names(form: Form) -> frozenset[str]:
    """The names of a list in which every value has one: `x = 1, y = 2`."""
    return (
        frozenset(part.parts[0].text for part in form.parts) if all(map(named, form.parts)) else frozenset()
    )


def _unnamed(form: Form) -> tuple[Form, ...]:
    """Elements without the names before them: `x = a, y = b`, `x = a, b`, `(x, y) = (a, b), (b, a)`."""
    first = named(form.parts[0]) and not any(part.kind == "relation" for part in form.parts[1:])
    if first or all(map(named, form.parts)):
        return tuple(part.parts[1] if part.kind == "relation" else part for part in form.parts)
    return form.parts


def _words(text: str) -> str:
    """What a text says, without case, fonts, colons and spaces."""
    return re.sub(r"[\s:]", "", plain(text))


def _finite(number: Fraction) -> bool:
    """Whether a few decimals hold it."""
    return bool((number * 10**_FINITE_PLACES).denominator == 1)


def _comma_decimal(prediction: str, reference: str) -> bool:
    """Whether a prediction is `1,22` where the reference is `1.22`; in a reference `1,22` are two numbers."""
    comma = re.fullmatch(r"([-+]?\d+),(\d+)", prediction)
    point = re.fullmatch(r"[-+]?\d*\.\d+", reference)
    return bool(comma and point and value(f"{comma[1]}.{comma[2]}") == value(reference))


def _worth_asking(a: str, b: str) -> bool:
    """Whether math-verify may know more: both sides are formulas, neither is a plain number beside a name."""
    if any(re.fullmatch(r"\w+_\{?\d+\}?", text) for text in (a, b)):
        return False  # a numeral of some base, or an indexed letter
    return all(re.search(r"\d|\\[A-Za-z]|[-+*/^=()]", text) and not is_prose(text) for text in (a, b))


def _is_rounded(decimal: Node, exact: Node, text: str, places: int, digits: int) -> bool:
    written = re.sub(r"[eE].*|\\.*|\*.*", "", text)
    count = len(re.sub(r"\D", "", written).lstrip("0"))
    if count < digits or "." not in written:  # 333 is no answer where 1000/3 is
        return False
    fraction = rational(exact)
    if fraction is not None and _finite(fraction):
        return False
    a, b = rational(decimal), numeric.value(exact)
    gap = Fraction(1, 2) / Fraction(10) ** places
    if a is not None and count >= _FLOAT_DIGITS:  # a float as it is printed, or cut: its last digits are off
        gap = max(gap, abs(a) / 10 ** (_FLOAT_DIGITS - 1))
    return a is not None and b is not None and numeric.within(a, b, gap)
