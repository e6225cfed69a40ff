"""Trees that represent formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Node:
    r"""A formula: `op` applied to `args`, or a leaf with its `value`.

    Leaves: `num` (Fraction), `sym` (name), `pi`, `e`, `i`, `inf`. `sum` and `prod` have the arguments symbol,
    from, to, term; `index` is an indexed symbol whose index contains a bound one; a `matrix` has rows of
    nodes; `pm` is +1 or -1, `mp` the opposite.
    """

    op: str
    args: tuple[Node, ...] = ()
    value: Fraction | str | None = None


def number(value: int | Fraction) -> Node:
    """Return a leaf that holds a number."""
    return Node("num", value=Fraction(value))


MINUS_ONE = number(-1)


def names(node: Node) -> list[str]:
    """Return the free symbols of a tree."""
    found: set[str] = set()
    _names(node, found)
    return sorted(found)


def _names(node: Node, found: set[str]) -> None:
    if node.op == "sym":
        found.add(str(node.value))
    elif node.op in ("sum", "prod"):
        for bound in node.args[1:3]:  # their symbols are not the bound one
            _names(bound, found)
        inner: set[str] = set()
        _names(node.args[3], inner)
        found |= inner - {str(node.args[0].value)}
    else:
        for part in node.args:
            _names(part, found)


def has(node: Node, op: str) -> bool:
    """Return whether a tree contains a node of this kind."""
    return node.op == op or any(has(part, op) for part in node.args)


def substituted(node: Node, table: Mapping[str, Node]) -> Node:
    """Return the tree with symbols replaced."""
    if node.op == "sym":
        return table.get(str(node.value), node)
    if not node.args:
        return node
    if node.op in ("sum", "prod"):
        symbol, first, last, term = node.args
        inner = {name: tree for name, tree in table.items() if name != symbol.value}
        parts = (symbol, substituted(first, table), substituted(last, table), substituted(term, inner))
        return Node(node.op, parts, node.value)
    return Node(node.op, tuple(substituted(part, table) for part in node.args), node.value)


def signs(node: Node) -> tuple[Node, Node]:
    r"""Return both values of a tree with `\pm`."""
    return _choose(node, 1), _choose(node, -1)


def _choose(node: Node, sign: int) -> Node:
    if node.op in ("pm", "mp"):
        return Node("num", value=Fraction(sign if node.op == "pm" else -sign))
    return Node(node.op, tuple(_choose(part, sign) for part in node.args), node.value) if node.args else node
