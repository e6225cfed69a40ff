"""Compare the conditions that answers state for their letters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import permutations

from scalequest.grading.compare import numeric
from scalequest.grading.compare.reals import ALL, INTEGERS, Reals, both, image, same_set, union
from scalequest.grading.compare.relations import affine
from scalequest.grading.compare.sets import said_of, tree_of
from scalequest.grading.latex.forms import Form, named, related, split
from scalequest.grading.latex.qualifiers import LETTERS, in_words, joined, letters_of
from scalequest.grading.latex.trees import MINUS_ONE, Node, names, number, signs, substituted

_MAX_LETTERS = 4
_MAX_VALUES = 12
_FARTHEST, _FINEST = 10**6, 60  # limits for the values of a family, in its steps
_INTEGER_LETTERS = frozenset("ijklmn")  # by convention
_BOUND = re.compile(r"[<>]|\\(?:[lg]e|ne)(?![a-z])|!=")


Family = tuple[str, Reals]  # a letter, and the integers that it stands for


@dataclass(frozen=True)
class Said:
    """The numbers that the letters of an answer stand for, and other conditions.

    `free` are the letters that make no difference if the other answer does not mention them.
    """

    letters: Mapping[str, Reals]
    free: frozenset[str]
    others: tuple[Form, ...]
    alike: bool = False  # every letter stands for any integer
    family: Family | None = None


def said(form: Form, least: int) -> Said:
    r"""Parse the conditions of an answer; `least` is the smallest number of `\mathbb{N}`."""
    letters: dict[str, Reals] = {}
    bounded: set[str] = set()
    others: list[Form] = []
    for atom in _atoms(form):
        about = {letter: said_of(atom, letter, least) for letter in _letters(atom)}
        known = {letter: numbers for letter, numbers in about.items() if numbers is not None}
        if not known:
            others.append(Form("leaf", atom))
        for letter, numbers in known.items():
            letters[letter] = both(letters.get(letter, ALL), numbers)
            bounded |= {letter} if _BOUND.search(atom) else set()
    letters = {letter: _of_custom(letter, numbers, letter in bounded) for letter, numbers in letters.items()}
    free = frozenset(name for name in letters if _narrows_nothing(name, letters, form, name in bounded))
    whole = all(same_set(n, INTEGERS) for n in letters.values())
    return Said(letters, free, tuple(others), whole, _family(letters, form))


def _atoms(form: Form) -> list[str]:
    """Return the individual conditions, without those that only name a letter, e.g. `for all x`."""
    pieces = [piece for text in form.conditions for piece in split(joined(text), (r"\wedge",))]
    atoms = [piece.strip(" ,") for text in pieces for piece in _at_commas(text)]
    return [atom for atom in atoms if atom and not _names_only(atom)]


def _at_commas(text: str) -> list[str]:
    r"""Split at commas, but keep `x \ne 0, 1` and the like together."""
    found: list[str] = []
    for piece in split(text, (",",)):
        if found and not related(piece)[1] and in_words(piece) is None and r"\notin" not in piece:
            found[-1] += f", {piece}"
        else:
            found.append(piece)
    return found


def _names_only(atom: str) -> bool:
    words = in_words(atom)
    rest = atom if words is None else words.rest
    return not (words and (words.words or words.bounds)) and bool(LETTERS.fullmatch(rest) or not rest)


def _letters(atom: str) -> list[str]:
    words = in_words(atom)
    text = words.rest if words is not None else atom
    head = re.split(r"\\(?:not)?in(?![a-z])", text)[0]
    return sorted(letters_of(head))[:_MAX_LETTERS]


def _of_custom(letter: str, numbers: Reals, bounded: bool) -> Reals:
    r"""Read `n \ge 1` as a bound on integers."""
    return both(numbers, INTEGERS) if bounded and letter[0] in _INTEGER_LETTERS else numbers


def _narrows_nothing(letter: str, letters: Mapping[str, Reals], form: Form, bounded: bool) -> bool:
    """Return whether an answer means the same without its condition on a letter.

    The argument of a function runs over the numbers that the question is about, an index runs over the
    integers from 0 or 1, and a letter among others that all stand for any integer, or any real number, would
    do so without being mentioned.
    """
    numbers = letters[letter]
    head = form.parts[0].text if form.signs == ("=",) else ""
    if re.fullmatch(rf"[A-Za-z]\s?\(\s?{re.escape(letter)}\s?\)", head) and not bounded:
        return any(same_set(numbers, domain) for domain in _DOMAINS)
    if re.fullmatch(rf"[A-Za-z]_(?:{re.escape(letter)}|\{{\s?{re.escape(letter)}\s?\}})", head):
        return any(same_set(numbers, domain) for domain in _DOMAINS)
    inside = letters_of(form.parts[-1].text if head else form.text)
    if letter not in inside:
        return False
    return bool(same_set(numbers, ALL)) or (bool(same_set(numbers, INTEGERS)) and inside <= set(letters))


_DOMAINS = tuple(
    domain
    for domain in (
        said_of(text, "x", least)
        for least in (0, 1)
        for text in (rf"x \in \mathbb{{{name}}}{mark}" for name in "RQZN" for mark in ("", "^+"))
    )
    if domain is not None
)


def _family(letters: Mapping[str, Reals], form: Form) -> Family | None:
    """Return the letter of values that run over a set of integers; none for a function or a sequence."""
    if len(letters) != 1 or form.brackets not in ("", "{}"):
        return None
    ((letter, numbers),) = letters.items()
    head = form.parts[0].text if form.kind == "relation" else ""
    return None if letter in letters_of(head) or image(numbers, 1, 0) is None else (letter, numbers)


def same_families(sides: Sequence[Form], families: Sequence[Family]) -> bool:
    r"""Return whether linear formulas give the same values, e.g. `k\pi` for odd `k` and `(2k + 1)\pi`."""
    trees = [_values(side) for side in sides]
    if not all(trees) or max(map(len, trees)) > _MAX_VALUES:
        return False
    unit = affine(trees[0][0], families[0][0])
    if unit is None:
        return False
    lines = [
        [_scaled(affine(tree, family[0]) or (number(0), tree), unit) for tree in side]
        for side, family in zip(trees, families, strict=True)
    ]
    known = [pair for side in lines for pair in side if pair is not None]
    if len(known) < sum(map(len, lines)):
        return False
    common = math.lcm(*(size.denominator for pair in known for size in pair))
    images = [
        [image(family[1], int(step * common), int(start * common)) for step, start in filter(None, side)]
        for side, family in zip(lines, families, strict=True)
    ]
    if any(part is None for side in images for part in side):
        return False
    return bool(same_set(*(union(*filter(None, side)) for side in images)))


def _values(form: Form) -> list[Node]:
    """Return the formulas of a list without brackets, or of a set, without a name before them."""
    parts = form.parts if form.kind == "items" else (form,)
    leaves = [part.parts[1] if named(part) else part for part in parts]
    trees = [leaf.tree or tree_of(leaf.text) for leaf in leaves if leaf.kind == "leaf"]
    known = [tree for tree in trees if tree is not None]
    return [tree for one in known for tree in signs(one)] if len(known) == len(parts) else []


def _scaled(line: tuple[Node, Node], unit: tuple[Node, Node]) -> tuple[Fraction, Fraction] | None:
    """Return step and offset of a line in units of another line's steps, from its offset."""
    step = _quotient(line[0], unit[0])
    start = _quotient(Node("+", (line[1], Node("*", (MINUS_ONE, unit[1])))), unit[0])
    return None if step is None or start is None else (step, start)


def _quotient(size: Node, of: Node) -> Fraction | None:
    found = numeric.value(Node("/", (size, of)))
    if found is None or found.imag or not abs(found.real) < _FARTHEST:
        return None
    guess = Fraction(float(found.real)).limit_denominator(_FINEST)
    return guess if numeric.same(size, Node("*", (number(guess), of))) else None


def paired_letters(left: Said, right: Said) -> Iterator[dict[str, str]]:
    """Yield the renamings of the right side's letters under which both sides state the same conditions."""
    mine, theirs = dict(left.letters), dict(right.letters)
    for letter in set(mine) & set(theirs):
        if same_set(mine[letter], theirs[letter]):
            del mine[letter], theirs[letter]
    if set(mine) <= left.free and set(theirs) <= right.free and not (mine and theirs):
        yield {}
    elif len(mine) == len(theirs) <= _MAX_LETTERS:
        for order in permutations(mine):
            pairs = dict(zip(theirs, order, strict=True))
            if all(same_set(theirs[old], mine[new]) for old, new in pairs.items()):
                yield pairs


def renamed(form: Form, table: Mapping[str, str]) -> Form:
    """Return an answer with its letters renamed."""
    if not table:
        return form
    if form.kind != "leaf":
        parts = tuple(renamed(part, table) for part in form.parts)
        return form if parts == form.parts else replace(form, text="", parts=parts)
    tree = form.tree or tree_of(form.text)
    if tree is None or not set(names(tree)) & set(table):
        return form
    symbols = {old.lstrip("\\"): Node("sym", value=new.lstrip("\\")) for old, new in table.items()}
    return replace(form, text="", tree=substituted(tree, symbols))
