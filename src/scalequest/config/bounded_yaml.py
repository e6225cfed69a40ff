"""YAML of bounded size: what a few hundred bytes of aliases stand for is counted before it is made."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError

MOST_BYTES = 1 << 20  # of a file
MOST_NODES = 50_000  # keys, values, maps and lists, each alias counted as what it stands for
MOST_CHARACTERS = 4 << 20  # of all texts, likewise
MOST_LEVELS = 50
_MOST_DIGITS = 400  # no float needs more, and integers beyond are no setting


class TooMuch(MarkedYAMLError):
    """The text is YAML, but too large or too deep for a config."""


def load(text: str) -> Any:
    """Read YAML 1.2 without building more than the limits above allow.

    Raises:
        TooMuch: it is too deep, too large when its aliases are written out, or holds itself.
        Exception: whatever ruamel raises for what is no YAML, not all of it `YAMLError`.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Bounded
    return yaml.load(text)


class _Bounded(Composer):
    """Composes nodes, and knows how large each is when it is written out in full."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self._nodes = self._characters = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # of whole nodes, which the tree keeps alive

    def compose_node(self, parent: Any, index: Any) -> Any:
        nodes, characters = self._nodes, self._characters
        mark = self.parser.peek_event().start_mark
        if self.depth >= MOST_LEVELS:
            raise TooMuch(None, None, f"more than {MOST_LEVELS} levels deep", mark)
        node = super().compose_node(parent, index)
        if id(node) in self._sizes:  # an alias
            more = self._sizes[id(node)]
        elif node.end_mark is None:  # an alias of what is still being read
            raise TooMuch(None, None, "an alias refers to a node that contains it", mark)
        else:
            more = 1, len(node.value) if isinstance(node.value, str) else 0
        self._nodes += more[0]
        self._characters += more[1]
        if self._nodes > MOST_NODES or self._characters > MOST_CHARACTERS:
            limit = f"more than {MOST_NODES:,} keys and values, or {MOST_CHARACTERS:,} characters"
            raise TooMuch(None, None, f"{limit} after expanding aliases", mark)
        self._sizes[id(node)] = self._nodes - nodes, self._characters - characters
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if len(node.value) > _MOST_DIGITS and str(node.tag).endswith((":int", ":float")):
            raise TooMuch(None, None, f"a number of more than {_MOST_DIGITS} digits", node.start_mark)
        return node
