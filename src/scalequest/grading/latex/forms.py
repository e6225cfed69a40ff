"""Parse the outer structure of an answer: lists, tuples, sets, intervals, unions, equations, inequalities."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from scalequest.grading.latex.exact import value
from scalequest.grading.latex.qualifiers import CONNECTIVES, LETTER, LETTERS, in_words, letters_of, spoken
from scalequest.grading.latex.trees import MINUS_ONE, Node
from scalequest.grading.latex.words import is_prose, plain

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
# French brackets, `]1, 2[`: one that opens where nothing can close, and vice versa
_FRENCH_OPEN = re.compile(
    r"(^|\\(?:cup|cap|backslash|in)(?![a-z])|[=,]|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))(\s*)\](?=[^\[\]]*[\[\]])"
)
_FRENCH_CLOSE = re.compile(
    r"(?<=[\w})])\s*\[(?=\s*(?:$|[,)|]|\\(?:cup|cap|backslash)(?![a-z])|\\\}|(?:and|or)(?![A-Za-z])))"
)
_LETTERS_OF_SETS = str.maketrans(
    {"ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "∉": r"\notin "}
)
_MAYBE_QUALIFIED = re.compile(
    r"[<>]|!=|,\s*[A-Za-z]\s*=|\\(?:in|ne|notin|[lg]e|forall)(?![a-z])|\b(?:"
    + "|".join(sorted(CONNECTIVES))
    + r"|integers?|prime|odd|even|real|rational|natural|(?:non-?)?(?:positive|negative|zero)|constants?|any"
    r"|all|arbitrary|parameter)\b|\\ldots",
    re.I,
)

# `x | x > 3`, the content of the braces of a set
_BUILDER = re.compile(
    r"[A-Za-z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?[|:](.*(?:[<>]|\\[lgn]e(?![a-z])|\b[A-Za-z] ?=).*)", re.S
)
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

    `brackets` are those around the items: `""` if a list has none, otherwise both of them, `{}` for a set.
    `signs` are those between the parts of a relation. `tree` is set if a leaf was derived rather than
    written.
    """

    kind: Kind
    text: str
    parts: tuple[Form, ...] = ()
    brackets: str = ""
    signs: tuple[str, ...] = ()
    tree: Node | None = None
    letter: str = ""  # the letter of a solution set
    either: bool = False  # a list joined by "or"
    conditions: tuple[str, ...] = ()  # stated conditions on its letters, e.g. `k \in \mathbb{Z}`
    whole: str = ""  # the text with conditions, "and" and "or"


INFINITY = Form("leaf", "", tree=Node("inf"))
MINUS_INFINITY = Form("leaf", "", tree=Node("*", (MINUS_ONE, Node("inf"))))
ELLIPSIS = r"\ldots"  # in the spelling of `normalise`


@lru_cache(maxsize=4096)
def read(text: str) -> Form:
    """Parse the structure of a normalised text."""
    text = _upright(spoken(text.strip()))
    elements = _elements(text) if _MAYBE_QUALIFIED.search(text) else []
    if not any(conditions for _, conditions in elements[:-1]):
        body, said = ", ".join(body for body, _ in elements), elements[-1][1] if elements else ()
        form = _list(body if said else text)
        return replace(form, conditions=(*form.conditions, *said), whole=text)
    forms = [(_list(body), conditions) for body, conditions in elements]
    parts = tuple(replace(form, conditions=(*form.conditions, *said)) for form, said in forms)
    return Form("items", text, parts) if len(parts) > 1 else replace(parts[0], whole=text)


def _upright(text: str) -> str:
    """Rewrite `]1;2[` as `(1, 2)`, and the letters of sets as commands."""
    text = text.translate(_LETTERS_OF_SETS).replace(";", ", ")
    if "[" in text or "]" in text:
        text = _FRENCH_CLOSE.sub(")", _FRENCH_OPEN.sub(r"\1\2(", text))
    return text


def _list(text: str) -> Form:
    either = bool(re.search(r"(?<![A-Za-z\\])or(?![A-Za-z])|\\vee", text))
    joined = _WORD_SEPARATOR.sub(", ", text)
    if "," in joined and not _is_number(joined) and (", " in joined or not re.search(r"[(\[{]", joined)):
        joined = _GROUPED.sub(lambda match: match[0].replace(",", ""), joined)
    pieces = [piece for piece in split(joined, (",",)) if piece]
    if len(pieces) == 1 or _is_number(joined):
        return single(pieces[0] if len(pieces) == 1 else joined)
    return Form("items", joined, tuple(single(piece) for piece in pieces), either=either)


# ------------------------------------------------------------------------------------------------ conditions


def _elements(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Split a list into its elements, each with its conditions; nothing if it is prose."""
    segments = _indexed(_with_letters([segment for segment in _segments(text) if segment[1]]))
    free = [set() if lead in CONNECTIVES else letters_of(piece) - _bounded(piece) for lead, piece in segments]
    found: list[tuple[str, tuple[str, ...]]] = [("", ())]
    for at, (lead, piece) in enumerate(segments):
        body, said = found[-1]
        others = set().union(*free[:at], *free[at + 1 :])
        if lead in CONNECTIVES and not _is_mathematical(piece):
            return []
        if lead in CONNECTIVES or _qualifies(piece, others):
            found[-1] = (body, (*said, piece))
        elif not body:
            found[-1] = (piece, said)
        else:
            found.append((piece, ()))
    body, said = found[-1]
    bracketed = re.fullmatch(r"(.*\S)\s*\(([^()]*)\)", body, re.S)
    if bracketed and _qualifies(bracketed[2], letters_of(bracketed[1])):
        found[-1] = (bracketed[1], (*said, bracketed[2]))
    wordy = any(not body or (said and is_prose(body) and not in_words(body)) for body, said in found)
    return [] if wordy else found


def _segments(text: str) -> list[tuple[str, str]]:
    """Split at commas and at words like "for" outside brackets; return each segment with what precedes it."""
    found: list[tuple[str, str]] = []
    lead, begin, depth = "", 0, 0
    for match in re.finditer(rf"[A-Za-z]+|{_PIECE.pattern}", text, re.S):
        depth += (match[0] in _OPEN) - (match[0] in _CLOSE)
        sign = "for" if match[0] == r"\forall" else match[0].casefold()
        if depth == 0 and (sign == "," or sign in CONNECTIVES):
            found.append((lead, text[begin : match.start()].strip()))
            lead, begin = sign, match.end()
    return [*found, (lead, text[begin:].strip())]


def _with_letters(segments: list[tuple[str, str]]) -> list[tuple[str, str]]:
    r"""Read `m`, `n \in A` as `m, n \in A`."""
    found: list[tuple[str, str]] = []
    for lead, piece in reversed(segments):
        if found and found[-1][0] == "," and LETTERS.fullmatch(piece) and _is_of_letters(found[-1][1]):
            found[-1] = (lead, f"{piece}, {found[-1][1]}")
        else:
            found.append((lead, piece))
    return found[::-1]


def _is_of_letters(piece: str) -> bool:
    members, signs = related(piece)
    words = in_words(piece)
    return bool(LETTERS.fullmatch(members[0] if signs == ["in"] else words.rest if words else ""))


def _indexed(segments: list[tuple[str, str]]) -> list[tuple[str, str]]:
    r"""Read `z^k`, `k = 0`, `1`, `\ldots` as `z^k`, `k \in \{0, 1, \ldots\}`."""
    for at in range(1, len(segments)):
        lead, piece = segments[at]
        start = re.fullmatch(rf"({LETTER})\s*=(?!=)(.*)", piece, re.S)
        if start is None or start[1] not in letters_of(segments[0][1]) or segments[0][1].startswith(start[1]):
            continue
        rest = [other for _, other in segments[at + 1 :]]
        values = [start[2].strip(), *rest]
        if any(lead != "," or _bounds(other) or "=" in other for lead, other in segments[at + 1 :]):
            continue
        if rest and (lead in CONNECTIVES or r"\ldots" in rest or start[1] in "ijklmn"):
            return [*segments[:at], (lead, rf"{start[1]} \in \{{{', '.join(values)}\}}")]
    return segments


def _is_mathematical(text: str) -> bool:
    """Return whether the text after "for" is about letters or numbers, and not e.g. `each child`."""
    text = re.sub(r"\b[aAI]\b", "", text)
    return bool(re.search(rf"\d|{LETTER}", text) or related(text)[1] or in_words(text))


def _bounded(piece: str) -> set[str]:
    """Return letters that are one side of an inequality, which is about them."""
    return set(related(piece)[0]) if _bounds(piece) else set()


def _bounds(piece: str) -> bool:
    return bool(set(related(piece)[1]) & {"<", ">", "<=", ">=", "!="}) or bool(re.search(r"\\notin", piece))


def _qualifies(piece: str, letters: set[str]) -> bool:
    r"""Return whether a piece is only a condition on others' letters, e.g. `k \in \mathbb{Z}`, `n even`."""
    if (found := in_words(piece)) is not None:
        about, piece = found.rest, found.rest
        if LETTERS.fullmatch(about):
            return bool(letters_of(about) & letters)
    members, signs = related(piece.replace(r"\notin", r"\in"))
    if signs == ["in"]:
        return bool(LETTERS.fullmatch(members[0]) and letters_of(members[0]) & letters)
    return _bounds(piece) and any(re.fullmatch(LETTER, member) and member in letters for member in members)


def _is_number(text: str) -> bool:
    return _THOUSANDS.fullmatch(text) is not None or (", " not in text and value(text) is not None)


def single(text: str) -> Form:
    """Parse a text without commas outside brackets."""
    text = text.strip()
    if (cases := _CASES.fullmatch(text)) and (text.startswith("\\{") or cases[1] != "array"):
        return _cases(text, cases[2])
    united = split(text, (r"\cup",))
    if len(united) > 1 and all(related(part)[1] and all(related(part)[0]) for part in united):
        return Form("union", text, tuple(single(part) for part in united))
    members, signs = related(text)
    if signs and all(members):
        return Form("relation", text, tuple(single(member) for member in members), signs=tuple(signs))
    if len(united) > 1 and all(united):
        return Form("union", text, tuple(single(part) for part in united))
    for start, end in (("\\{", "\\}"), ("(", ")"), ("(", "]"), ("[", "]"), ("[", ")"), ("{", "}")):
        body = text[len(start) : -len(end)]
        if not (text.startswith(start) and text.endswith(end) and len(text) > 2 and encloses(body)):
            continue
        if start == "\\{" and (solved := _BUILDER.fullmatch(body.strip())):
            return read(solved[1])
        if start == "\\{" and (halves := builder(body.strip())) and not LETTERS.fullmatch(halves[0]):
            return replace(single(halves[0]), conditions=(halves[1],))
        pieces = split(_WORD_SEPARATOR.sub(", ", body), (",",))
        if not any(pieces):
            return Form("leaf", text)
        if len(pieces) == 1 and start != "\\{":
            return single(body) if body.strip() and start + end in ("()", "{}", "[]") else Form("leaf", text)
        brackets = {"\\{": "{}", "{": ""}.get(start, start + end)
        parts = tuple(single(piece) for piece in pieces if piece)
        if brackets != "{}" and all(map(named, parts)):
            brackets = ""  # `[x = 1, y = 2]` is not an interval
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
            rows.append(single(cells[0]))
        else:
            condition = _IF.sub("", _IF_INSIDE.sub(r"\1", " ".join(cells[1:]))).strip()
            rows.append(Form("items", "", (single(cells[0]), read(condition)), "()"))
    return Form("items", text, tuple(rows), "{}" if rows and rows[0].brackets == "()" else "")


def builder(body: str) -> tuple[str, str] | None:
    """Return head and condition of the content of a set builder's braces."""
    head, *rest = split(body, ("|", ":"))
    condition = body.strip()[len(head) :].lstrip()[1:].strip()
    return (head, condition) if rest and head and condition else None


def union_of_list(form: Form) -> Form | None:
    r"""Read a list of intervals, e.g. `(0, 1) or (2, 3)`, as their union; None for any other list."""
    if form.kind != "items" or form.brackets or not form.parts:
        return None
    parts = [part.parts[1] if part.signs == ("in",) else part for part in form.parts]
    if all(part.kind == "items" and len(part.parts) == 2 and part.brackets != "{}" for part in parts):
        return Form("union", form.text, tuple(parts))
    return None


def encloses(body: str) -> bool:
    """Return whether the brackets around `body` match: those inside never close more than they open."""
    depth = 0
    for match in _PIECE.finditer(body):
        depth += (match[0] in _OPEN) - (match[0] in _CLOSE)
        if depth < 0:
            return False
    return depth == 0


def split(text: str, separators: tuple[str, ...]) -> list[str]:
    """Split at places outside all brackets."""
    parts: list[str] = []
    depth = begin = 0
    for match in _PIECE.finditer(text):
        depth += (match[0] in _OPEN) - (match[0] in _CLOSE)
        if depth == 0 and match[0] in separators:
            parts.append(text[begin : match.start()].strip())
            begin = match.end()
    parts.append(text[begin:].strip())
    return parts


def related(text: str) -> tuple[list[str], list[str]]:
    """Split a text at signs of equality, order and membership outside brackets; return members and signs."""
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
    """Return whether a text has relation signs outside all brackets."""
    return bool(related(text)[1])


_LETTER = (
    r"(?:\\?[A-Za-z]+|\\(?:bar|hat|vec|overline|tilde|mathbf|mathrm|text|mathcal|boldsymbol)\s*\{[^{}=]*\})"
)
_INDEX = r"(?:_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\?\w+))?(?:'+|\^\{?\\prime\}?|\^\{-1\})?"
_NAME = re.compile(
    rf"(?:{_LETTER}\s?){{1,3}}{_INDEX}(?:\s?(?:\([^()=]{{1,12}}\)|\[[^\[\]=]{{1,12}}\]))?|\|\s?(?:\w{{1,3}}|{_LETTER})\s?\||\w\s?:\s?\w|\[\w{{3,6}}\]"
    r"|\\(?:angle|triangle|operatorname\{\w+\})\s?\{?\w+\}?|\((?:\s*[A-Za-z]\w?\s*,)+\s*[A-Za-z]\w?\s*\)"
)


def is_name(text: str) -> bool:
    """Return whether a left side names what is asked: `x`, `f(x)`, `I_{max}`, `(p, q)`, `|AB|`, words."""
    return _NAME.fullmatch(text) is not None or bool(re.fullmatch(r"[A-Za-z ]{3,60}", plain(text)))


def same_name(left: str, right: str) -> bool:
    """Return whether two left sides ask for the same: equal names, with argument or not; `y` is any f(x)."""
    names = [re.sub(r"\\math\w+\s?\{(\w)\}|\s", r"\1", text) for text in (left, right)]
    bare = [re.sub(r"\(\w\)$", "", name) for name in names]
    return bare[0] == bare[1] or (bare != names and "y" in bare)


def named(form: Form) -> bool:
    """Return whether it is `name = value`."""
    return form.kind == "relation" and form.signs == ("=",) and is_name(form.parts[0].text)
