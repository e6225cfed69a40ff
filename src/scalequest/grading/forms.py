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
_FOR_ALL = re.compile(
    r"(?<=\S)\s*(?:\\text\s*\{\s*,?\s*for (?:all|any|every|each)\b[^{}]*\}|\\forall(?![A-Za-z])"
    r"|(?<![A-Za-z])for (?:all|any|every|each)(?![A-Za-z]))(?:(?!,|&|\\\\|\\end).)*$"
)

# `x | x > 3`, what stands in the braces of a set, and `2k | k \in \mathbb{Z}`
_BUILDER = re.compile(
    r"[A-Za-z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?[|:](.*(?:[<>]|\\[lgn]e(?![a-z])|\b[A-Za-z] ?=).*)", re.S
)
_FAMILY = re.compile(r"([^|:]+)[|:]\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\\in\s*\\mathbb\s*\{?\s*[ZN]\b.*", re.S)
_CASES = re.compile(
    r"(?:\\\{\s*)?\\begin\s*\{(array|[dr]?cases)\}\s*(?:\{[lcr| ]*\})?(.*)\\end\s*\{\1\}\s*", re.S
)
_IF = re.compile(
    r"\\(?:text|mbox|textrm|mathrm)\s*\{\s*(?:if|for|when|where)?\s*\}|(?<![A-Za-z\\])(?:if|for|when)(?![A-Za-z])"
)
_IF_INSIDE = re.compile(r"(\\(?:text|mbox|textrm|mathrm)\s*\{)\s*(?:if|for|when|where)\s")

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
    whole = text
    text = _FOR_ALL.sub("", text.strip())
    either = bool(re.search(r"(?<![A-Za-z\\])or(?![A-Za-z])|\\vee", text))
    joined = _WORD_SEPARATOR.sub(", ", text)
    if "," in joined and not _is_number(joined) and (", " in joined or not re.search(r"[(\[{]", joined)):
        joined = _GROUPED.sub(lambda match: match[0].replace(",", ""), joined)
    pieces = [piece for piece in split(joined, (",",)) if piece]
    kept = [piece for piece in pieces if not _QUALIFIER.search(piece)]
    integer = bool(re.search(r"\\mathbb ?\{? ?Z|\binteger", whole))
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
    if (cases := _CASES.fullmatch(text)) and (text.startswith("\\{") or cases[1] != "array"):
        return _cases(text, cases[2])
    united = split(text, (r"\cup",))
    if len(united) > 1 and all(_related(part)[1] and all(_related(part)[0]) for part in united):
        return Form("union", text, tuple(_single(part) for part in united))
    members, signs = _related(text)
    if signs and all(members):
        return Form("relation", text, tuple(_single(member) for member in members), signs=tuple(signs))
    if "\\backslash" in text and (holes := _reals_without(text)):
        return holes
    if len(united) > 1 and all(united):
        return Form("union", text, tuple(_single(part) for part in united))
    for start, end in (("\\{", "\\}"), ("(", ")"), ("(", "]"), ("[", "]"), ("[", ")"), ("{", "}")):
        body = text[len(start) : -len(end)]
        if not (text.startswith(start) and text.endswith(end) and len(text) > 2 and encloses(body)):
            continue
        if start == "\\{" and (builder := _BUILDER.fullmatch(body.strip())):
            return read(builder[1])
        if start == "\\{" and (family := _FAMILY.fullmatch(body.strip())):
            return _marked(_single(family[1]), integer=True)
        pieces = split(_WORD_SEPARATOR.sub(", ", body), (",",))
        if not any(pieces):
            return Form("leaf", text)
        if len(pieces) == 1 and start != "\\{":
            return _single(body) if body.strip() and start + end in ("()", "{}", "[]") else Form("leaf", text)
        brackets = {"\\{": "{}", "{": ""}.get(start, start + end)
        parts = tuple(_single(piece) for piece in pieces if piece)
        if brackets != "{}" and all(map(named, parts)):
            brackets = ""  # `[x = 1, y = 2]` is no interval
        return Form("items", text, parts, brackets)
    return Form("leaf", text)


def _cases(text: str, body: str) -> Form:
    r"""Read `\begin{cases}`: a set of pairs of value and condition, or a list of equations."""
    rows: list[Form] = []
    for line in split(body, ("\\\\",)):
        cells = [cell.rstrip(" ,.;") for cell in split(line, ("&",))]
        if not any(cells):
            continue
        if len(cells) == 1:
            rows.append(_single(cells[0]))
        else:
            condition = _IF.sub("", _IF_INSIDE.sub(r"\1", " ".join(cells[1:]))).strip()
            rows.append(Form("items", "", (_single(cells[0]), read(condition)), "()"))
    return Form("items", text, tuple(rows), "{}" if rows and rows[0].brackets == "()" else "")


def _reals_without(text: str) -> Form | None:
    r"""Read `\mathbb{R} \setminus \{1, 2\}` as a union of open intervals."""
    whole, _, holes = text.partition("\\backslash")
    inner = _single(holes)
    if not says_all_reals(whole) or inner.brackets != "{}":
        return None
    ends = (MINUS_INFINITY, *inner.parts, INFINITY)
    return Form("union", text, tuple(Form("items", "", pair, "()") for pair in pairwise(ends)))


def union_of_list(form: Form) -> Form | None:
    r"""Read a list of intervals, e.g. `(0, 1) or (2, 3)`, as their union; None for any other list."""
    if form.kind != "items" or form.brackets or not form.parts:
        return None
    parts = [part.parts[1] if part.signs == ("in",) else part for part in form.parts]
    if all(part.kind == "items" and len(part.parts) == 2 and part.brackets != "{}" for part in parts):
        return Form("union", form.text, tuple(parts))
    return None


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


def is_related(text: str) -> bool:
    """Whether signs of relations stand in a text outside all brackets."""
    return bool(_related(text)[1])


_LETTER = (
    r"(?:\\?[A-Za-z]+|\\(?:bar|hat|vec|overline|tilde|mathbf|mathrm|text|mathcal|boldsymbol)\s*\{[^{}=]*\})"
)
_INDEX = r"(?:_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\?\w+))?(?:'+|\^\{?\\prime\}?|\^\{-1\})?"
_NAME = re.compile(
    rf"(?:{_LETTER}\s?){{1,3}}{_INDEX}(?:\s?(?:\([^()=]{{1,12}}\)|\[[^\[\]=]{{1,12}}\]))?|\|\s?(?:\w{{1,3}}|{_LETTER})\s?\||\w\s?:\s?\w|\[\w{{3,6}}\]"
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
