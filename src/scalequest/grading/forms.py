"""The outer structure of an answer: lists, tuples, sets, intervals, unions, equations, inequalities."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from scalequest.grading.exact import value
from scalequest.grading.trees import MINUS_ONE, Node
from scalequest.grading.words import plain, says_all_reals

_PIECE = re.compile(r"\\begin|\\end|\\[A-Za-z]+|\\.|<=|>=|!=|:=|==|.", re.S)
_OPEN = frozenset(("(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\langle", r"\begin"))
_CLOSE = frozenset((")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\rangle", r"\end"))
_RELATIONS = {
    **{"=": "=", ":=": "=", "==": "=", r"\equiv": "=", r"\approx": "~", r"\sim": "~", r"\in": "in"},
    **{"<": "<", ">": ">", "<=": "<=", ">=": ">=", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", "!=": "!="},
}
_WORD_SEPARATOR = re.compile(
    r"\s*(?:[,;]\s*)?(?:\\(?:text|mbox|textrm|mathrm)\s*\{\s*(?:,?\s*(?:and|or)|,)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
    r"|\\(?:wedge|vee)(?![A-Za-z]))\s*|\s*;\s*"
)
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_GROUPED = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_QUALIFIER = re.compile(
    r"\\mathbb ?\{? ?[ZN]|\binteger|\barbitrary constant|\b(?:for|where|with|any|all|as|constant)\b|\\ldots",
    re.I,
)

# `x | x > 3`, what stands in the braces of a set
_BUILDER = re.compile(
    r"[A-Za-z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?[|:](.*(?:[<>]|\\[lgn]e(?![a-z])).*)", re.S
)

Kind = Literal["leaf", "items", "union", "relation"]


@dataclass(frozen=True)
class Form:
    """An answer and its parts.

    `brackets` of items: `""` where a list has none, else the two around it, `{}` for a set. `signs` stand
    between the parts of a relation. `tree` is set where a leaf was derived rather than written.
    """

    kind: Kind
    text: str
    parts: tuple[Form, ...] = ()
    brackets: str = ""
    signs: tuple[str, ...] = ()
    tree: Node | None = None
    letter: str = ""  # of a solution set
    either: bool = False  # a list joined by "or"
    integer: bool = False  # it was said that a letter stands for any integer


INFINITY = Form("leaf", "", tree=Node("inf"))
MINUS_INFINITY = Form("leaf", "", tree=Node("*", (MINUS_ONE, Node("inf"))))


@lru_cache(maxsize=4096)
def read(text: str) -> Form:
    """Read the structure of a normalised text."""
    text = text.strip()
    either = bool(re.search(r"(?<![A-Za-z\\])or(?![A-Za-z])|\\vee", text))
    joined = _WORD_SEPARATOR.sub(", ", text)
    if "," in joined and not _is_number(joined) and (", " in joined or not re.search(r"[(\[{]", joined)):
        joined = _GROUPED.sub(lambda match: match[0].replace(",", ""), joined)
    pieces = [piece for piece in split(joined, (",",)) if piece]
    kept = [piece for piece in pieces if not _QUALIFIER.search(piece)]
    integer = bool(re.search(r"\\mathbb ?\{? ?Z|\binteger", text))
    if kept and len(kept) < len(pieces):
        pieces = kept
        joined = ", ".join(kept)
    if len(pieces) == 1 or _is_number(joined):
        return _marked(_single(pieces[0] if len(pieces) == 1 else joined), integer)
    return Form("items", joined, tuple(_single(piece) for piece in pieces), either=either, integer=integer)


def _marked(form: Form, integer: bool) -> Form:
    return (
        Form(form.kind, form.text, form.parts, form.brackets, form.signs, integer=True) if integer else form
    )


def _is_number(text: str) -> bool:
    return _THOUSANDS.fullmatch(text) is not None or (", " not in text and value(text) is not None)


def _single(text: str) -> Form:
    """Read a text without commas outside brackets."""
    text = text.strip()
    members, signs = _related(text)
    if signs and all(members):
        return Form("relation", text, tuple(_single(member) for member in members), signs=tuple(signs))
    if "\\backslash" in text and (holes := _reals_without(text)):
        return holes
    parts = split(text, (r"\cup",))
    if len(parts) > 1 and all(parts):
        return Form("union", text, tuple(_single(part) for part in parts))
    for start, end in (("\\{", "\\}"), ("(", ")"), ("(", "]"), ("[", "]"), ("[", ")"), ("{", "}")):
        body = text[len(start) : -len(end)]
        if not (text.startswith(start) and text.endswith(end) and len(text) > 2 and encloses(body)):
            continue
        if start == "\\{" and (builder := _BUILDER.fullmatch(body.strip())):
            return read(builder[1])
        pieces = split(_WORD_SEPARATOR.sub(", ", body), (",",))
        if not any(pieces):
            return Form("leaf", text)
        if len(pieces) == 1 and start != "\\{":
            return _single(body) if body.strip() and start + end in ("()", "{}", "[]") else Form("leaf", text)
        brackets = {"\\{": "{}", "{": ""}.get(start, start + end)
        return Form("items", text, tuple(_single(piece) for piece in pieces if piece), brackets)
    return Form("leaf", text)


def _reals_without(text: str) -> Form | None:
    r"""Read `\mathbb{R} \setminus \{1, 2\}` as a union of open intervals."""
    whole, _, holes = text.partition("\\backslash")
    inner = _single(holes)
    if not says_all_reals(whole) or inner.brackets != "{}":
        return None
    ends = (MINUS_INFINITY, *inner.parts, INFINITY)
    return Form("union", text, tuple(Form("items", "", pair, "()") for pair in pairwise(ends)))


def encloses(body: str) -> bool:
    """Whether the brackets around `body` belong together: its own never close more than they open."""
    depth = 0
    for match in _PIECE.finditer(body):
        depth += (match[0] in _OPEN) - (match[0] in _CLOSE)
        if depth < 0:
            return False
    return depth == 0


def split(text: str, separators: tuple[str, ...]) -> list[str]:
    """Split where no bracket is open."""
    parts: list[str] = []
    depth = begin = 0
    for match in _PIECE.finditer(text):
        depth += (match[0] in _OPEN) - (match[0] in _CLOSE)
        if depth == 0 and match[0] in separators:
            parts.append(text[begin : match.start()].strip())
            begin = match.end()
    parts.append(text[begin:].strip())
    return parts


def _related(text: str) -> tuple[list[str], list[str]]:
    members: list[str] = []
    signs: list[str] = []
    depth = begin = 0
    for match in _PIECE.finditer(text):
        depth += (match[0] in _OPEN) - (match[0] in _CLOSE)
        if depth == 0 and match[0] in _RELATIONS:
            members.append(text[begin : match.start()].strip())
            signs.append(_RELATIONS[match[0]])
            begin = match.end()
    members.append(text[begin:].strip())
    return members, signs


_LETTER = (
    r"(?:\\?[A-Za-z]+|\\(?:bar|hat|vec|overline|tilde|mathbf|mathrm|text|mathcal|boldsymbol)\s*\{[^{}=]*\})"
)
_INDEX = r"(?:_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\?\w+))?(?:'+|\^\{?\\prime\}?|\^\{-1\})?"
_NAME = re.compile(
    rf"(?:{_LETTER}\s?){{1,3}}{_INDEX}(?:\s?\([^()=]{{1,12}}\))?|\|\s?\w{{1,3}}\s?\||\w\s?:\s?\w|\[\w{{3,6}}\]"
    r"|\\(?:angle|triangle|operatorname\{\w+\})\s?\{?\w+\}?|\((?:\s*[A-Za-z]\w?\s*,)+\s*[A-Za-z]\w?\s*\)"
)


def is_name(text: str) -> bool:
    """Whether a left side only names what is asked: `x`, `f(x)`, `I_{max}`, `(p, q)`, `|AB|`, words."""
    return _NAME.fullmatch(text) is not None or bool(re.fullmatch(r"[A-Za-z ]{3,60}", plain(text)))


def same_name(left: str, right: str) -> bool:
    """Whether two left sides ask for the same: the same name, with an argument or not; `y` is any f(x)."""
    names = [re.sub(r"\\math\w+\s?\{(\w)\}|\s", r"\1", text) for text in (left, right)]
    bare = [re.sub(r"\(\w\)$", "", name) for name in names]
    return bare[0] == bare[1] or (bare != names and "y" in bare)


def named(form: Form) -> bool:
    """Whether it is `name = value`."""
    return form.kind == "relation" and form.signs == ("=",) and is_name(form.parts[0].text)
