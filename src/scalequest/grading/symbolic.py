"""The last layer: math-verify, asked about what this package's own grammar cannot read."""

from __future__ import annotations

import logging
import re
import sys

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns at every call that its alarm is off

_BARE_NAME = re.compile(r"(?<![\\A-Za-z])(pi|exp|ln|log|(?:arc)?(?:sin|cos|tan))(?![A-Za-z])")
_BARE_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)")
_POWERS = re.compile(
    r"(?:\^|\*\*)[^\^*]{0,40}(?:\^|\*\*|!)|\d{4,}\s*\)*\s*!|(?:\^|\*\*)\s*[({]*\s*-?\d{4,}|!\s*!"
)
_MAX_LENGTH = 600


load_here = True  # False in a worker, whose parent loads sympy once for all that follow


class NotLoadedError(RuntimeError):
    """The comparison needs math-verify, which is not to be loaded in this process."""


def math_verify(prediction: str, reference: str) -> bool:
    """Ask math-verify, the reference first and both boxed; False where it cannot be asked safely.

    To be called in a process that can be killed: its own time limit is off, because it is an alarm.

    Raises:
        NotLoadedError: see there.
    """
    if any(len(text) > _MAX_LENGTH or _POWERS.search(text) for text in (prediction, reference)):
        return False
    if not load_here and "math_verify" not in sys.modules:
        raise NotLoadedError
    from math_verify import parse, verify

    try:
        gold, target = (
            parse(f"\\boxed{{{_latex(text)}}}", parsing_timeout=None, raise_on_error=False)
            for text in (reference, prediction)
        )
        return bool(verify(gold, target, timeout_seconds=None, raise_on_error=False))
    except Exception:  # whatever sympy or antlr throws on a malformed answer, the answer is not the reference
        return False


def as_published(output: str, reference: str) -> bool:
    """Judge a whole output as math-verify's authors do: it finds the answer itself."""
    if not load_here and "math_verify" not in sys.modules:
        raise NotLoadedError
    from math_verify import parse, verify

    gold = parse(f"\\boxed{{{reference}}}", parsing_timeout=None, raise_on_error=False)
    answer = parse(output, parsing_timeout=None, raise_on_error=False)
    return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=False))


def _latex(text: str) -> str:
    """Write `2*pi` and `sqrt(x)` as commands, which is how math-verify reads them inside a box."""
    return _BARE_NAME.sub(r"\\\1 ", _BARE_ROOT.sub(r"\\sqrt{\1}", text))
