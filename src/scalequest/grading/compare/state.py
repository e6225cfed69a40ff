"""The state of one comparison, and how lists of parts are matched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scalequest.grading.latex.forms import Form
from scalequest.grading.options import GraderOptions, Layer

_ORDER: tuple[Layer, ...] = ("text", "exact", "structure", "numeric", "symbolic")


class Comparison:
    """One comparison under options; what compares lists, equations and leaves asks it about their parts.

    Attributes:
        options: the caller's.
        layer: the deepest layer that was needed so far.
        integers: whether letters for any integer may have other names.
        pairs: how many pairs of parts have been compared.
    """

    def __init__(self, options: GraderOptions, judge: Callable[[Comparison, Form, Form], bool]) -> None:
        """Start at the layer of text; `judge` compares two answers of any structure."""
        self.options = options
        self.layer: Layer = "text"
        self.integers = False
        self.pairs = 0
        self._judge = judge

    def use(self, layer: Layer) -> None:
        """Note that a layer was needed."""
        if _ORDER.index(layer) > _ORDER.index(self.layer):
            self.layer = layer

    def same(self, left: Form, right: Form) -> bool:
        """Compare two answers of any structure."""
        return self._judge(self, left, right)

    def in_order(self, a: Sequence[Form], b: Sequence[Form]) -> bool:
        """Whether two lists of one length agree element by element."""
        return all(self.same(x, y) for x, y in zip(a, b, strict=True))

    def paired(self, a: Sequence[Form], b: Sequence[Form]) -> bool:
        """Whether each element of one list has its own equal in the other, and both have the same length."""
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
        """Return the elements of a list without those that equal an earlier one."""
        kept: list[Form] = []
        for part in parts:
            if not any(self.same(part, other) for other in kept):
                kept.append(part)
        return tuple(kept)
