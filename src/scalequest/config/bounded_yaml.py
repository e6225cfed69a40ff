"""Read YAML of bounded size; aliases are counted as if expanded before anything is built from them."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError

MOST_BYTES = 1 << 20  # of the file
MOST_NODES = 50_000  # keys, values, mappings and lists, with aliases expanded
MOST_CHARACTERS = 4 << 20  # of all strings, with aliases expanded
MOST_LEVELS = 50
_REMEMBERED = 1 << 16  # characters of a text that is kept after parsing
_MOST_DIGITS = 400  # no float needs more, and no setting is an integer beyond that


class TooMuch(MarkedYAMLError):
    """The text is YAML, but too large or too deeply nested for a config."""


def load(text: str) -> Any:
    """Parse YAML 1.2 without exceeding the limits above.

    A text that was parsed before is not parsed again: a pipeline names the same files many times, and ruamel
    takes about a millisecond for each of their lines. Every call returns an object of its own.

    Raises:
        TooMuch: it is nested too deeply, too large with its aliases expanded, or contains itself.
        Exception: whatever ruamel raises for invalid YAML, which is not always a `YAMLError`.
    """
    return deepcopy(_parsed(text) if len(text) <= _REMEMBERED else _parsed.__wrapped__(text))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Bounded
    return yaml.load(text)


class _Bounded(Composer):
    """Composes nodes and tracks their size with all aliases expanded."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self._nodes = self._characters = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # of complete nodes, which the tree keeps alive

    def compose_node(self, parent: Any, index: Any) -> Any:
        nodes, characters = self._nodes, self._characters
        mark = self.parser.peek_event().start_mark
        if self.depth >= MOST_LEVELS:
            raise TooMuch(None, None, f"more than {MOST_LEVELS} levels deep", mark)
        node = super().compose_node(parent, index)
        if id(node) in self._sizes:  # an alias
            more = self._sizes[id(node)]
        elif node.end_mark is None:  # an alias of a node that is still being parsed
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
