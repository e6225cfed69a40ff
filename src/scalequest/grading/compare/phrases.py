"""Compare answers by words: none, undefined, all reals, dates, sentences, amounts, multiple choice."""

from __future__ import annotations

import re

from scalequest.grading.compare.state import Comparison
from scalequest.grading.latex.exact import value
from scalequest.grading.latex.forms import INFINITY, MINUS_INFINITY, Form, read
from scalequest.grading.latex.qualifiers import in_words
from scalequest.grading.latex.words import (
    amount,
    choice,
    date,
    is_prose,
    number_of_sentence,
    plain,
    says_all_reals,
    says_none,
    says_undefined,
    split_unit,
)

_REALS = Form("items", "", (MINUS_INFINITY, INFINITY), "()")
_JUNCTION = re.compile(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")


def same_phrases(comparison: Comparison, left: Form, right: Form) -> bool | None:
    """Compare two answers by their words; None if the words do not decide."""
    a, b = left.text, right.text
    for says in (says_none, says_undefined):
        if says(a) or says(b):
            return says(a) and says(b)
    if says_all_reals(a) or says_all_reals(b):
        sides = [_REALS if says_all_reals(text) else form for text, form in ((a, left), (b, right))]
        return sides[0] is sides[1] or comparison.same(sides[0], sides[1])
    if (day := date(a)) and (that := date(b)):
        return day[1:] == that[1:] and (day[0] == that[0] or 0 in (day[0], that[0]))
    if comparison.options.sentences == "number" and not (_adds(left) or _adds(right)):
        for sentence, other in ((a, b), (b, a)):
            number = number_of_sentence(sentence)
            if number is not None and value(other) is not None and value(other) == value(number):
                return True
    if (mixed := _mixed_amounts(comparison, a, b)) is not None:
        return mixed
    if is_prose(a) and is_prose(b) and _said(a) == _said(b):
        return True
    if (mine := choice(a)) and (theirs := choice(b)):
        return mine[0] == theirs[0] and (
            not mine[1] or not theirs[1] or comparison.same(read(mine[1]), read(theirs[1]))
        )
    for marked, bare in ((mine, right), (choice(b), left)):
        if marked and marked[1] and bare.kind == "leaf":
            return comparison.same(read(marked[1]), bare)
    return None


def _mixed_amounts(comparison: Comparison, a: str, b: str) -> bool | None:
    """Compare `3 hours 25 minutes` with an amount in one unit or none; None if neither side is such a sum."""
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
        return comparison.options.units == "optional" and number * mixed[2] == mixed[1]
    return unit.dimension == ((mixed[0], 1),) and number * unit.factor == mixed[1]


def _adds(form: Form) -> bool:
    """Return whether words name further elements of a list, as in `1, all primes`, `3 and its multiples`."""
    listed = any(value(part.text) is not None for part in form.parts) and _JUNCTION.search(form.whole)
    return bool(listed) or any(in_words(part.text) for part in form.parts)


def _said(text: str) -> str:
    """Return the words of a text without case, fonts, colons and spaces."""
    return re.sub(r"[\s:]", "", plain(text))
