"""Extract the answer from a model's output and compare it with the reference.

`GRADER_VERSION` and `GraderOptions` are part of every protocol fingerprint; the version is increased whenever
a verdict can change.

Each name is imported at its first use, because the grader takes half a second to import: what only reads
settings, or prints its help, does without it. Modules that a script imports at its start use
`from scalequest import grading` and `grading.majority(...)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalequest.grading.extraction import Extracted, extract
    from scalequest.grading.grader import Grader, Verdict, equivalent, grade, groups, majority
    from scalequest.grading.options import GRADER_VERSION, GraderOptions, Layer

__all__ = [
    "GRADER_VERSION",
    "Extracted",
    "Grader",
    "GraderOptions",
    "Layer",
    "Verdict",
    "equivalent",
    "extract",
    "grade",
    "groups",
    "majority",
]

_HOME = {
    **dict.fromkeys(("Extracted", "extract"), "extraction"),
    **dict.fromkeys(("GRADER_VERSION", "GraderOptions", "Layer"), "options"),
    **dict.fromkeys(("Grader", "Verdict", "equivalent", "grade", "groups", "majority"), "grader"),
}


def __getattr__(name: str) -> Any:
    """Import a name at its first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
