"""Decisions on which reasonable graders differ, each a named option with its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalequest.config import option
from scalequest.config.ranges import COUNT, NOT_NEGATIVE, POSITIVE

GRADER_VERSION = 5  # raised when a verdict can change; part of every protocol fingerprint

Layer = Literal["text", "exact", "structure", "numeric", "symbolic"]


@dataclass(frozen=True)
class GraderOptions:
    """What counts as the same answer if mathematics alone does not say. Symmetric but for `choice`."""

    units: Literal["optional", "required"] = option(
        "optional", "optional: `10 cm` is `10`, but never `10 m`; required: a unit on one side only differs"
    )
    percent: Literal["number", "hundredth"] = option(
        "number", "number: `25%` is `25` and `0.25`; hundredth: only `0.25`"
    )
    rounding_digits: int = option(
        3,
        "significant digits from which a decimal is the rounded value of an exact number that has no finite "
        "decimal (`33.3` is `100/3`); two decimals are never rounded; 0: never",
        within=NOT_NEGATIVE,
    )
    list_order: Literal["free", "fixed"] = option("free", "whether `1, 2` without brackets is `2, 1`")
    list_brackets: Literal["optional", "required"] = option(
        "optional", "optional: `(1, 2)` is `1, 2`, and a column vector is `[1, 2]`"
    )
    equations: Literal["value", "whole"] = option(
        "value", "value: `x = 5`, `x ≈ 5` and `2 + 3 = 5` are `5`; whole: an equation is only an equation"
    )
    sentences: Literal["number", "text"] = option(
        "number", "number: a sentence with a single number is that number; text: only its own words"
    )
    decimal_comma: bool = option(True, "a prediction `1,22` is `1.22` if the reference is that decimal")
    constants: Literal["renamed", "named"] = option(
        "renamed",
        "renamed: `C` is `k` as an arbitrary constant, `n` is `k` in 'any integer'; named: they differ",
    )
    cpu_seconds: float = option(
        1.5,
        "limit of one comparison in its worker; processor time, so that a busy machine changes no verdict",
        within=POSITIVE,
    )
    wall_seconds: float = option(
        6.0, "limit of one comparison in its worker, wall clock; a timeout beyond it", within=POSITIVE
    )
    memory_mib: int = option(2048, "address space of a worker, MiB; a timeout beyond it", within=COUNT)
