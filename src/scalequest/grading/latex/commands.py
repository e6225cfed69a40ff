r"""Read what follows a command or a function name in a formula: arguments, powers, bounds, rows.

The functions below continue a parser (`expressions`) after the token that called them, and return the tree of
what they consumed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scalequest.grading.latex.tokens import FUNCTIONS, Foreign, Unreadable
from scalequest.grading.latex.trees import MINUS_ONE, Node, number

if TYPE_CHECKING:
    from scalequest.grading.latex.expressions import Parser

OPENING = {"(": ")", "{": "}", "[": "]", r"\{": r"\}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_FONT_NAMES = """
mathrm mathbf mathit mathsf mathcal mathbb boldsymbol bm text textbf textit textrm mbox rm operatorname vec
mathop mathfrak underline
"""
FONTS = frozenset(f"\\{name}" for name in _FONT_NAMES.split())
_ACCENTS = frozenset(
    (r"\bar", r"\hat", r"\tilde", r"\overline", r"\widehat", r"\widetilde", r"\dot", r"\overrightarrow")
)
_INVERSE = {name: f"arc{name}" for name in ("sin", "cos", "tan", "cot", "sinh", "cosh", "tanh")}
_BIG = {r"\sum": "sum", r"\prod": "prod"}
_MATRICES = ("pmatrix", "bmatrix", "matrix", "vmatrix", "Bmatrix", "Vmatrix", "smallmatrix", "array")
# Commands between or around formulas, which are never foreign inside one.
_OUTER = frozenset(
    (r"\cup", r"\cap", r"\le", r"\ge", r"\ne", r"\in", r"\end", r"\circ", r"\approx", r"\prime")
)


def command(parser: Parser) -> Node:
    r"""Read a command other than a letter or a function, with its arguments: `\frac`, `\sum`, `\begin`.

    Raises:
        Foreign: this grammar does not know it.
        Unreadable: it cannot occur here in a formula.
    """
    token = parser.take()
    if token == r"\frac":
        _refuse_derivative(parser)
        return Node("/", (parser.argument(), parser.argument()))
    if token == r"\binom":
        return Node("binom", (parser.argument(), parser.argument()))
    if token in _BIG:
        return _big(parser, _BIG[token])
    if token == r"\begin":
        return _matrix(parser)
    if token in (r"\imath", r"\jmath"):
        return Node("i")
    if token in _ACCENTS:
        return Node("sym", value=f"{token[1:]}({parser.plain_text()})")
    if token in FONTS:
        parser.at -= 1
        return _in_font(parser)
    if not re.fullmatch(r"\\[A-Za-z]+", token) or token in _OUTER:
        raise Unreadable(f"sign {token}")
    raise Foreign(f"command {token}")


def function(parser: Parser, name: str) -> Node:
    r"""Read what follows a function name: `_2`, `^2`, the `[3]` of a root, and the argument."""
    power: Node | None = None
    base: Node | None = None
    root: Node | None = None
    while (sign := parser.peek()) in ("^", "_") or (name == "sqrt" and sign == "["):
        if sign == "[":
            root = parser.group()
            continue
        parser.take()
        if sign == "^":
            power = parser.argument() if parser.peek() != "-" else parser.exponent()
        else:
            base = parser.argument()
    if power is not None and power in (MINUS_ONE, Node("*", (MINUS_ONE, number(1)))) and name in _INVERSE:
        name, power = _INVERSE[name], None
    if name in ("max", "min", "gcd", "lcm"):
        return Node(name, _listed(parser))
    argument, bracketed = _argument_of(parser, name)
    if name == "log" and base is None:
        parser.ambiguous = True
        base = number(10) if parser.loose else None
    if bracketed and power is None and parser.peek() in ("^", "**") and name not in ("sqrt", "exp"):
        parser.ambiguous = True
        if parser.loose:
            parser.take()
            argument = Node("^", (argument, parser.exponent()))
    result = _applied(name, argument, base, root)
    return result if power is None else Node("^", (result, power))


def _argument_of(parser: Parser, name: str) -> tuple[Node, bool]:
    if parser.peek() in ("(", "{", "["):
        return parser.group(), True
    if parser.peek() in ("|", r"\lvert", r"\lfloor", r"\lceil"):
        return parser.atom(), True
    if name in ("sqrt", "cbrt"):
        return parser.argument(), True
    if parser.peek() in ("+", "-"):
        return parser.signed(), False
    argument = parser.power()
    while parser.begins_factor() and parser.peek() not in ("(", "[", "{", "|", r"\lvert"):
        if parser.peek().lstrip("\\") in FUNCTIONS and parser.peek() not in (r"\sqrt", "sqrt"):
            break
        argument = parser.beside(argument)
    if parser.peek() == "/":
        parser.ambiguous = True
        if parser.loose:
            parser.take()
            argument = Node("/", (argument, parser.power()))
    return argument, False


def _listed(parser: Parser) -> tuple[Node, ...]:
    closing = OPENING[parser.take("(", "{", "[", r"\{")]
    members = [parser.sum()]
    while parser.peek() == ",":
        parser.take()
        members.append(parser.sum())
    parser.take(closing)
    return tuple(members)


def _refuse_derivative(parser: Parser) -> None:
    r"""Refuse `\frac{dy}{dx}` and the like, which is not a quotient of products."""
    if parser.tokens[parser.at : parser.at + 2] in (["{", "d"], ["{", r"\partial"]):
        below = parser.tokens[parser.closing(parser.at) + 1 :][:4]
        if below[1:2] in (["d"], [r"\partial"]) and below[3:] in (["}"], ["^"]):
            raise Foreign("derivative")


def _in_font(parser: Parser) -> Node:
    r"""Read `\mathrm{e}`, `\mathbf{y}`: its content, whatever the font."""
    parser.take()
    if parser.peek() != "{":
        return parser.atom()
    end = parser.closing(parser.at)
    inside = parser.tokens[parser.at + 1 : end]
    if len(inside) == 1 and inside[0].lstrip("\\") in FUNCTIONS:
        parser.at = end + 1
        return function(parser, inside[0].lstrip("\\"))
    if (
        len(inside) == 1
        and inside[0] not in ("e", "i")
        and inside[0].isalpha()
        and parser.tokens[end + 1 :][:1] == ["_"]
    ):
        parser.at = end + 1
        return parser.subscripted(inside[0])
    return parser.group()


def _big(parser: Parser, op: str) -> Node:
    r"""Read `\sum_{k=a}^{b} term`, where `term` is the product that follows."""
    parser.take("_")
    parser.take("{")
    index = parser.take()
    if not index.isalpha():
        raise Unreadable("index of a sum")
    parser.take("=")
    first = parser.sum()
    parser.take("}")
    parser.take("^")
    last = parser.argument()
    parser.bound.append(index)
    term = parser.product()
    parser.bound.pop()
    return Node(op, (Node("sym", value=index), first, last, term))


def _matrix(parser: Parser) -> Node:
    parser.take("{")
    kind = ""
    while parser.peek() != "}":
        kind += parser.take()
    parser.take("}")
    if kind not in _MATRICES:
        raise Foreign(f"environment {kind}")
    if kind == "array" and parser.peek() == "{":
        parser.at = parser.closing(parser.at) + 1
    rows, row = [], [parser.sum()]
    while True:
        token = parser.take("&", r"\\", r"\end")
        if token == "&":
            row.append(parser.sum())
            continue
        rows.append(Node("row", tuple(row)))
        if token == r"\\" and parser.peek() == r"\end":
            token = parser.take()
        if token == r"\end":
            break
        row = [parser.sum()]
    parser.at = parser.closing(parser.at) + 1
    if len({len(row.args) for row in rows}) != 1:
        raise Unreadable("rows of different lengths")
    tree = Node("matrix", tuple(rows))
    return Node("det", (tree,)) if kind == "vmatrix" else tree


def _applied(name: str, argument: Node, base: Node | None, root: Node | None) -> Node:
    if name in ("log", "lg"):
        base = number(10) if name == "lg" else base
        return Node("log", (argument, base)) if base is not None else Node("ln", (argument,))
    if name == "ln":
        return Node("ln", (argument,))
    if name == "exp":
        return Node("^", (Node("e"), argument))
    if name == "cbrt":
        return Node("root", (argument, number(3)))
    if name == "sqrt":
        return Node("root", (argument, root if root is not None else number(2)))
    return Node(name, (argument,))
