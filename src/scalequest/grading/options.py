"""Decisions on which reasonable graders differ, each as a named option with a default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalequest.config import option
from scalequest.config.ranges import COUNT, NOT_NEGATIVE, POSITIVE
from scalequest.functions import FunctionKey, function_option

GRADER_VERSION = 5  # increased whenever a verdict can change; part of every protocol fingerprint

Layer = Literal["text", "exact", "structure", "numeric", "symbolic"]


@dataclass(frozen=True)
class GraderOptions:
    """What counts as the same answer if mathematics alone does not decide. Symmetric except for `choice`."""

    units: Literal["optional", "required"] = option(
        "optional",
        "optional: `10 cm` equals `10`, but never `10 m`; required: answers differ if "
        "only one side has a unit",
    )
    percent: Literal["number", "hundredth"] = option(
        "number", "number: `25%` equals `25` and `0.25`; hundredth: it equals only `0.25`"
    )
    rounding_digits: int = option(
        3,
        "number of significant digits from which a decimal may be the rounded value of "
        "an exact number without a finite decimal expansion (`33.3` equals `100/3`); two "
        "decimals never count as rounded; 0: never",
        within=NOT_NEGATIVE,
    )
    list_order: Literal["free", "fixed"] = option("free", "whether `1, 2` without brackets equals `2, 1`")
    list_brackets: Literal["optional", "required"] = option(
        "optional", "optional: `(1, 2)` equals `1, 2`, and a column vector equals `[1, 2]`"
    )
    equations: Literal["value", "whole"] = option(
        "value",
        "value: `x = 5`, `x ≈ 5` and `2 + 3 = 5` equal `5`; whole: an equation only equals an equation",
    )
    sentences: Literal["number", "text"] = option(
        "number",
        "number: a sentence with a single number equals that number; text: it only equals its own words",
    )
    decimal_comma: bool = option(True, "a prediction `1,22` equals `1.22` if the reference is that decimal")
    constants: Literal["renamed", "named"] = option(
        "renamed",
        "renamed: `C` equals `k` as an arbitrary constant, and `n` equals `k` in 'any "
        "integer'; named: they differ",
    )
    function: str | None = function_option(
        "your own verdict",
        "called with response and reference; returns whether it is right, and replaces all of the above",
    )
    extraction: str | None = function_option(
        "your own extraction", "called with a complete response; returns the answer in it, or None"
    )
    cpu_seconds: float = option(
        1.5,
        "limit per comparison in its worker, in seconds of CPU time, so that a busy "
        "machine does not change verdicts",
        within=POSITIVE,
    )
    wall_seconds: float = option(
        6.0,
        "limit per comparison in its worker, in seconds of wall-clock time; beyond it, "
        "the comparison times out",
        within=POSITIVE,
    )
    memory_mib: int = option(
        2048, "memory limit of a worker in MiB; beyond it, the comparison times out", within=COUNT
    )

    @property
    def functions(self) -> list[FunctionKey]:
        """The functions of the user's."""
        verdict = FunctionKey("function", self.function or "", ("response", "reference"))
        extraction = FunctionKey("extraction", self.extraction or "", ("response",))
        return [key for key in (verdict, extraction) if key.name]

    @property
    def identity(self) -> dict[str, dict[str, str]]:
        """What these functions do, by their key, for fingerprints.

        Raises:
            ConfigError: a function cannot be loaded.
        """
        return {key.key: key.load().identity for key in self.functions}
