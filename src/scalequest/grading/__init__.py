"""Answers: found in a model's output, then compared with the reference.

`GRADER_VERSION` is part of every protocol fingerprint: raise it when a verdict can change.
"""

from __future__ import annotations

from scalequest.grading.equivalence import equivalent, majority
from scalequest.grading.extraction import Extracted, extract

GRADER_VERSION = 1

__all__ = ["GRADER_VERSION", "Extracted", "equivalent", "extract", "majority"]
