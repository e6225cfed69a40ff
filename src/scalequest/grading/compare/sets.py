r"""Read texts that denote sets of real numbers: intervals, inequalities, set builders, operations, words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from scalequest.grading.compare import numeric
from scalequest.grading.compare.reals import (
    ALL,
    EMPTY,
    INTEGERS,
    PRIMES,
    RATIONALS,
    Reals,
    both,
    congruent,
    image,
    point,
    same_set,
    span,
    union,
    without,
)
from scalequest.grading.compare.relations import affine, inequality
from scalequest.grading.latex.exact import rational
from scalequest.grading.latex.expressions import readings
from scalequest.grading.latex.forms import Form, builder, encloses, related, single, split
from scalequest.grading.latex.qualifiers import LETTER, LETTERS, in_words, joined, letters_of
from scalequest.grading.latex.tokens import Unreadable
from scalequest.grading.latex.trees import MINUS_ONE, Node, names, number, signs
from scalequest.grading.latex.words import says_all_reals, says_none

_LONGEST, _DEEPEST = 400, 20  # limits on characters and nested brackets of a text that is read as a set


@dataclass(frozen=True)
class Solution:
    """A set as it was stated: for which letter, and whether it can only mean a set of numbers."""

    numbers: Reals
    letter: str = ""
    definite: bool = True


_NUMBERS = re.compile(
    r"(?:\\math(?:bb|bf|rm|cal)\s*\{?\s*)?([RZQN])\s*\}?\s*"
    r"(?:[_^]\s*\{?\s*(\+|-|\*|0|>\s*0|<\s*0|\\ge\s*0|\\le\s*0|\\ne\s*0|\\ge\s*1)\s*\}?)?"
    r"(?:[_^]\s*\{?\s*(\+|\*|0)\s*\}?)?"
)
_BASES = {"R": ALL, "Z": INTEGERS, "Q": RATIONALS}
_ZERO = number(0)
POSITIVE, NEGATIVE = span(_ZERO, None), span(None, _ZERO)
_AT_LEAST_ZERO, _AT_MOST_ZERO = span(_ZERO, None, (True, False)), span(None, _ZERO, (False, True))
_MARKS = {
    **{"": ALL, "+": POSITIVE, ">0": POSITIVE, "-": NEGATIVE, "<0": NEGATIVE, "0": _AT_LEAST_ZERO},
    **{r"\ge0": _AT_LEAST_ZERO, r"\le0": _AT_MOST_ZERO, r"\ge1": POSITIVE},
    **{"*": without(ALL, point(_ZERO)), r"\ne0": without(ALL, point(_ZERO))},
}
_EXCEPT = re.compile(
    r"(?:,\s*)?\s(?:except(?:\s+for|\s+that)?|excluding|other than|besides|but not|not including)(?:\s|\b)"
)
_SIGNS_OF_SETS = re.compile(
    r"\\(?:cup|cap|backslash|emptyset|in|notin|infty|ne|le|ge|mathbb|forall)(?![a-z])|infinity|[<>\[\]|]"
    r"|!=|\\\{|^\(.*,|\\ldots|\b(?:all|any|every|each|integers?|numbers?|primes?|multiples?|odd|even|none|no)\b",
    re.I,
)
_OPERATIONS = (r"\cup", r"\vee", r"\cap", r"\backslash")
_INTERVAL = re.compile(r"([\[(])(.*)([\])])", re.S)


@lru_cache(maxsize=4096)
def solutions(text: str, least: int = 0) -> tuple[Solution, ...]:
    r"""Read a text as a set, once for each letter that it may be solved for; nothing if it is not a set.

    `least` is the smallest number of `\mathbb{N}`.
    """
    if len(text) > _LONGEST or text.count("(") > _DEEPEST or not _SIGNS_OF_SETS.search(text):
        return ()
    reader = _Reader(least)
    text = joined(text).strip()
    numbers = reader.set(text) or reader.progression(split(text, (",",)))
    found = [Solution(numbers)] if numbers is not None else []
    if not found:
        found = [
            Solution(numbers, letter)
            for letter in reader.unknowns(text)
            if (numbers := reader.statement(text, letter)) is not None
        ]
    return tuple(
        Solution(item.numbers, item.letter, definite=bool(item.letter) or not _may_be_pair(text))
        for item in found
    )


@lru_cache(maxsize=4096)
def conditioned(text: str, conditions: tuple[str, ...], least: int = 0) -> tuple[Solution, ...]:
    """Read a linear formula with the condition on its letter as a set of integers."""
    name = re.fullmatch(rf"({LETTER})\s*=(?!=)(.*)", text, re.S)
    term = name[2] if name else text
    numbers = _Reader(least).family(term, [joined(condition) for condition in conditions])
    return (Solution(numbers, name[1] if name else ""),) if numbers is not None else ()


def said_of(text: str, letter: str, least: int = 0) -> Reals | None:
    """Read a condition, already `joined`, as the set of numbers that a letter may be."""
    return _Reader(least).statement(text, letter)


def _may_be_pair(text: str) -> bool:
    """Return whether brackets around two numbers may also denote a point or a list."""
    interval = _INTERVAL.fullmatch(text)
    return (
        interval is not None
        and interval[1] + interval[3] in ("()", "[]")
        and len(split(interval[2], (",",))) == 2
        and encloses(interval[2])
        and not re.search("infty|infinity", text)
    )


class _Reader:
    r"""Reads sets and statements about a letter; `least` is the smallest number of `\mathbb{N}`."""

    def __init__(self, least: int) -> None:
        self.least = least

    # --------------------------------------------------------------------------------------------------- sets

    def set(self, text: str) -> Reals | None:
        text = text.strip()
        if says_all_reals(text):
            return ALL
        if says_none(text):
            return EMPTY
        operations = [sign for sign in _OPERATIONS if len(split(text, (sign,))) > 1]
        if len(operations) > 1:
            return None  # no rule says which comes first
        if operations:
            parts = [self.set(part) for part in split(text, (operations[0],))]
            return None if None in parts else _combined(operations[0], [part for part in parts if part])
        return self.difference(text) or self.primary(text)

    def difference(self, text: str) -> Reals | None:
        r"""Read `\mathbb{R} - \{1\}`, also with a slash or, if its backslash was lost, with nothing."""
        match = re.fullmatch(r"(.+?)\s*[-/]?\s*(\\\{.*\\\}|[-/]\s*[\[(].*[\])])", text, re.S)
        if match is None or (whole := self.set(match[1])) is None:
            return None
        holes = self.set(match[2].lstrip("-/"))
        return None if holes is None else without(whole, holes)

    def primary(self, text: str) -> Reals | None:
        if match := _NUMBERS.fullmatch(text):
            return self.numbers(match)
        if text.startswith(r"\{") and text.endswith(r"\}"):
            return self.braces(text[2:-2].strip())
        if (interval := _INTERVAL.fullmatch(text)) is not None and encloses(interval[2]):
            pieces = split(interval[2], (",",))
            if len(pieces) == 1 and interval[1] + interval[3] == "()":
                return self.set(interval[2])
            return self.interval(pieces, interval[1] + interval[3]) if len(pieces) == 2 else None
        return self.phrase(text)

    def numbers(self, match: re.Match[str]) -> Reals | None:
        marks = [_MARKS.get(re.sub(r"\s", "", mark or "")) for mark in (match[2], match[3])]
        if None in marks:
            return None
        narrowed = [mark for mark in marks if mark is not None]
        if match[1] == "N":
            first = number(0 if match[2] == "0" else 1 if match[2] else self.least)
            return both(INTEGERS, span(first, None, (True, False)))
        return both(_BASES[match[1]], *narrowed)

    def interval(self, pieces: Sequence[str], brackets: str) -> Reals | None:
        trees = [tree_of(piece) for piece in pieces]
        if trees[0] is None or trees[1] is None:
            return None
        low, high = (None if _is_infinite(tree) else tree for tree in trees)
        if (low is None and not _is_negative(trees[0])) or (high is None and _is_negative(trees[1])):
            return None
        closed = (brackets[0] == "[", brackets[1] == "]")
        if (low is None and closed[0]) or (high is None and closed[1]):
            return None
        if low is not None and high is not None and not _rises(low, high, all(closed)):
            return None
        return span(low, high, closed)

    def braces(self, body: str) -> Reals | None:
        halves = builder(body)
        if halves is not None:
            return self.builder(*halves)
        points = [tree_of(piece) for piece in split(body, (",",))]
        if any(tree is None or _is_infinite(tree) for tree in points):
            return self.progression(split(body, (",",)))
        return union(*(point(value) for tree in points if tree is not None for value in signs(tree)))

    def builder(self, head: str, condition: str) -> Reals | None:
        letter, _, domain = (part.strip() for part in head.partition(r"\in"))
        if re.fullmatch(LETTER, letter):
            numbers = self.statement(condition, letter)
            whole = self.set(domain) if domain else ALL
            if numbers is not None:
                return None if whole is None else both(whole, numbers)
            solved = re.fullmatch(rf"{re.escape(letter)}\s*=(?!=)(.*)", condition, re.S)
            pieces = split(solved[1], (",",)) if solved and not domain else []
            return self.family(pieces[0], pieces[1:]) if pieces else None
        return self.family(head, [condition])

    def progression(self, pieces: Sequence[str]) -> Reals | None:
        r"""Read `1, 3, 5, \ldots`: at least three integers in equal steps, without an end."""
        if len(pieces) < 4 or pieces[-1] != r"\ldots":
            return None
        from_below = pieces[0] == r"\ldots"
        values = [_integer(tree_of(piece)) for piece in pieces[from_below:-1]]
        if any(value is None for value in values):
            return self.to_both_sides(pieces)
        steps = {b - a for a, b in pairwise(value for value in values if value is not None)}
        if len(steps) != 1 or 0 in steps or values[0] is None:
            return None
        step, first = steps.pop(), number(values[0])
        if from_below:
            return congruent(abs(step), values[0]) if len(values) > 2 else None
        side = span(first, None, (True, False)) if step > 0 else span(None, first, (False, True))
        return both(congruent(abs(step), values[0]), side)

    def to_both_sides(self, pieces: Sequence[str]) -> Reals | None:
        r"""Read `0, \pm 1, \pm 2, \ldots`."""
        ups = [re.fullmatch(r"\\pm\s*(\d+)", piece) for piece in pieces[1:-1]]
        if pieces[0] != "0" or len(ups) < 2 or not all(ups):
            return None
        sizes = [int(up[1]) for up in ups if up]
        return congruent(sizes[0], 0) if sizes == [sizes[0] * k for k in range(1, len(sizes) + 1)] else None

    def family(self, term: str, conditions: Sequence[str]) -> Reals | None:
        r"""Read `2k + 1, k \in \mathbb{Z}`: the values of a linear formula for integers."""
        tree = tree_of(term)
        if tree is None or len(names(tree)) != 1:
            return None
        letter = names(tree)[0]
        numbers = self.statement(", ".join(conditions), letter)
        line = affine(tree, letter)
        if numbers is None or line is None:
            return None
        step, offset = map(_integer, line)
        return image(numbers, step, offset) if step and offset is not None else None

    # -------------------------------------------------------------------------------------------------- words

    def phrase(self, text: str) -> Reals | None:
        """Read `all positive integers except 5`: kinds of numbers in words, without a letter."""
        whole, *holes = _EXCEPT.split(text)
        if len(holes) > 1:
            return None
        found = in_words(whole)
        if found is None or found.rest.strip():
            return None
        numbers = self.described(found.words, found.bounds)
        return self.holed(numbers, holes[0]) if numbers is not None and holes else numbers

    def holed(self, numbers: Reals, holes: str) -> Reals | None:
        if (hole := self.set(holes)) is not None:
            return without(numbers, hole)
        pieces = re.split(r"\s*(?:,|\\wedge|\\vee)\s*(?:\\wedge|\\vee)?\s*", holes)
        trees = [tree_of(re.sub(rf"^{LETTER}\s*(?:=|\\ne)", "", piece)) for piece in pieces]
        if not trees or any(tree is None or names(tree) for tree in trees):
            return None
        return without(numbers, union(*(point(value) for tree in trees if tree for value in signs(tree))))

    def described(self, words: frozenset[str], bounds: Sequence[tuple[str, str]]) -> Reals | None:
        parts: list[Reals] = []
        for word in sorted(words):
            if word == "natural":
                parts += [INTEGERS, span(number(self.least), None, (True, False))]
            elif word == "whole":
                parts += [INTEGERS, _AT_LEAST_ZERO]
            else:
                parts.append(_KINDS[word])
        for sign, bound in bounds:
            tree = tree_of(bound)
            if tree is None or names(tree):
                return None
            if sign in ("multiple", "divisor"):
                size = _integer(tree)
                if not size or sign == "divisor":
                    return None
                parts.append(congruent(abs(size), 0))
            else:
                low, high = (tree, None) if sign[0] == ">" else (None, tree)
                parts.append(span(low, high, (sign == ">=", sign == "<=")))
        return both(*parts)

    # --------------------------------------------------------------------------------------------- statements

    def unknowns(self, text: str) -> list[str]:
        """Return letters and values of functions that a statement may be about."""
        found = re.findall(rf"[a-z]\s?\([a-z]\)|{LETTER}", text)
        return list(dict.fromkeys(item for item in found if item in letters_of(text) or "(" in item))[:4]

    def statement(self, text: str, letter: str) -> Reals | None:
        """Read a statement about a letter: atoms joined by "or", "and" and commas."""
        options = [self.conjunction(part, letter) for part in split(text, (r"\vee",))]
        return None if None in options else union(*(option for option in options if option is not None))

    def conjunction(self, text: str, letter: str) -> Reals | None:
        parts = [self.listed(part.strip(" ,"), letter) for part in split(text, (r"\wedge",))]
        return None if None in parts else both(*(part for part in parts if part is not None))

    def listed(self, text: str, letter: str) -> Reals | None:
        r"""Read atoms between commas: all must hold, or, if they cannot, any; `x \ne 0, 1` has two holes."""
        atoms: list[Reals] = []
        before = ""
        for piece in split(text, (",",)):
            signed = related(piece)[1] or r"\notin" in piece or in_words(piece) is not None
            atom = self.atom(piece if signed else before + piece, letter) if signed or before else None
            if atom is None:
                return None
            atoms.append(atom)
            unequal = re.match(r"[^,]*?(?:\\ne(?![a-z])|!=)", piece)
            before = unequal[0] if unequal else before if not signed else ""
        together = both(*atoms)
        loose = len(atoms) > 1 and all(atom.op != "kind" for atom in atoms)
        return union(*atoms) if loose and same_set(together, EMPTY) else together

    def atom(self, text: str, letter: str) -> Reals | None:
        r"""Read `1 < x`, `x \in (0, 1]`, `x \notin A`, `x = 3`, `x is even`, `integers n \ge 2`."""
        text = text.strip()
        about, *inside = re.split(r"\\(not)?in(?![a-z])", text, maxsplit=1)
        if inside and LETTERS.fullmatch(about) and letter in letters_of(about):
            numbers = self.set(inside[1])
            return None if numbers is None else without(ALL, numbers) if inside[0] else numbers
        whole, *holes = _EXCEPT.split(text)
        if len(holes) == 1:
            numbers = self.atom(whole, letter)
            return None if numbers is None else self.holed(numbers, holes[0])
        if (found := in_words(text)) is not None:
            if not found.rest.strip(" ,"):
                return None
            numbers = self.described(found.words, found.bounds)
            bare = LETTERS.fullmatch(found.rest) and letter in letters_of(found.rest)
            inner = ALL if bare else self.atom(found.rest, letter)
            return None if numbers is None or inner is None else both(numbers, inner)
        members, kinds = related(text)
        if kinds == ["="] and members[0] == letter and (value := tree_of(members[1])) is not None:
            return None if letter in names(value) else union(*map(point, signs(value)))
        return _of_relation(text, letter)


_KINDS = {
    "integer": INTEGERS,
    "prime": PRIMES,
    "rational": RATIONALS,
    "irrational": without(ALL, RATIONALS),
    "odd": congruent(2, 1),
    "even": congruent(2, 0),
    "positive": POSITIVE,
    "negative": NEGATIVE,
    "nonnegative": _AT_LEAST_ZERO,
    "nonpositive": _AT_MOST_ZERO,
    "nonzero": _MARKS["*"],
    "real": ALL,
}


def _combined(sign: str, parts: Sequence[Reals]) -> Reals:
    if sign in (r"\cup", r"\vee"):
        return union(*parts)
    return both(*parts) if sign == r"\cap" else without(parts[0], union(*parts[1:]))


def _of_relation(text: str, letter: str) -> Reals | None:
    """Read an inequality as the set of a letter, whichever side the letter is on."""
    form = single(text)
    if form.kind != "relation":
        return None
    if len(form.signs) > 1 and len({sign[0] for sign in form.signs}) == 1:
        links = [
            _of_relation(f"{low.text} {sign} {high.text}", letter)
            for (low, high), sign in zip(pairwise(form.parts), form.signs, strict=True)
        ]
        return None if None in links else both(*(link for link in links if link is not None))
    turned = Form("relation", "", form.parts[::-1], signs=tuple(_TURNED.get(s, s) for s in form.signs[::-1]))
    for relation in (form, turned):
        solved = inequality(relation)
        if solved is not None and solved.letter.replace(" ", "") == letter.replace(" ", ""):
            return _of_form(solved)
    return None


_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def _of_form(form: Form) -> Reals | None:
    """Return an interval, or a union of them, as a set."""
    if form.kind == "union":
        parts = [_of_form(part) for part in form.parts]
        return None if None in parts else union(*(part for part in parts if part is not None))
    low, high = (end.tree or tree_of(end.text) for end in form.parts)
    if low is None or high is None:
        return None
    ends = (None if _is_infinite(low) else low, None if _is_infinite(high) else high)
    return span(*ends, closed=(form.brackets[0] == "[", form.brackets[1] == "]"))


@lru_cache(maxsize=4096)
def tree_of(text: str) -> Node | None:
    """Read a formula in its strict reading; None if it is not a formula."""
    try:
        return readings(text)[0]
    except Unreadable:
        return None


def _integer(tree: Node | None) -> int | None:
    value = rational(tree) if tree is not None else None
    return int(value) if value is not None and value.denominator == 1 else None


def _is_infinite(tree: Node | None) -> bool:
    return tree is not None and (tree.op == "inf" or (tree.op == "*" and tree.args[1].op == "inf"))


def _is_negative(tree: Node | None) -> bool:
    return tree is not None and tree.op == "*" and tree.args[0] == MINUS_ONE


def _rises(low: Node, high: Node, closed: bool) -> bool:
    """Return whether an interval is meant: its ends increase, as far as known, or are one point, `[a, a]`."""
    values = [numeric.value(end) for end in (low, high)]
    if None in values:
        return low != high or closed
    if any(end.imag for end in values):
        return False
    return bool(values[0].real < values[1].real or (closed and values[0].real == values[1].real))
