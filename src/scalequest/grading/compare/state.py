"""The state of one comparison, and how lists of parts are matched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scalequest.grading.latex.forms import Form
from scalequest.grading.options import GraderOptions, Layer

_ORDER: tuple[Layer, ...] = ("text", "exact", "structure", "numeric", "symbolic")


class Comparison:
    """One comparison under given options; comparing lists, equations and leaves uses it for their parts.

    Attributes:
        options: the caller's options.
        layer: the deepest layer needed so far.
        integers: whether letters for any integer may have different names.
        pairs: the number of pairs of parts compared so far.
    """

    def __init__(self, options: GraderOptions, judge: Callable[[Comparison, Form, Form], bool]) -> None:
        """Start at the text layer; `judge` compares two answers of any structure."""
        self.options = options
        self.layer: Layer = "text"
        self.integers = False
        self.pairs = 0
        self._judge = judge

    def use(self, layer: Layer) -> None:
        """Record that a layer was needed."""
        if _ORDER.index(layer) > _ORDER.index(self.layer):
            self.layer = layer

    def same(self, left: Form, right: Form) -> bool:
        """Compare two answers of any structure."""
        return self._judge(self, left, right)

    def in_order(self, a: Sequence[Form], b: Sequence[Form]) -> bool:
        """Return whether two lists of equal length agree element by element."""
        return all(self.same(x, y) for x, y in zip(a, b, strict=True))

    def paired(self, a: Sequence[Form], b: Sequence[Form]) -> bool:
        """Return whether the elements of two lists of equal length can be paired as equals."""
        rest = list(b)
        if len(a) != len(rest):
            return False
        for item in a:
            match = next((i for i, other in enumerate(rest) if self.same(item, other)), None)
            if match is None:
                return False
            del rest[match]
        return True

    def distinct(self, parts: Sequence[Form]) -> tuple[Form, ...]:
        """Return the elements of a list without duplicates of earlier ones."""
        kept: list[Form] = []
        for part in parts:
            if not any(self.same(part, other) for other in kept):
                kept.append(part)
        return tuple(kept)
