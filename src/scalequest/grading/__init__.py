"""Extract the answer from a model's output and compare it with the reference.

`GRADER_VERSION` and `GraderOptions` are part of every protocol fingerprint; the version is increased whenever
a verdict can change.
"""

from __future__ import annotations

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
