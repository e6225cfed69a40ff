"""The last layer: ask math-verify about answers that this package's own grammar cannot read."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns in every call that its alarm is off

_BARE_NAME = re.compile(r"(?<![\\A-Za-z])(pi|exp|ln|log|(?:arc)?(?:sin|cos|tan))(?![A-Za-z])")
_BARE_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)")
_PIECE = re.compile(r"\\[A-Za-z]+|\\.|\*\*|\d+|\S", re.S)
_POWER = ("^", "**")
_LARGEST = 1_000  # limit on exponents, products of nested exponents, and arguments of factorials
_MAX_LENGTH = 600


load_here = True  # False in a worker, whose parent loads sympy once for all later workers


class NotLoadedError(RuntimeError):
    """The comparison needs math-verify, which must not be loaded in this process."""


def math_verify(prediction: str, reference: str) -> bool:
    """Ask math-verify, with the reference first and both boxed; return False if it cannot be asked safely.

    Call this in a process that can be killed: math-verify's own time limit is off, because it uses an alarm.

    Raises:
        NotLoadedError: math-verify is needed, but this process must not load it.
    """
    if any(len(text) > _MAX_LENGTH or explosive(text) for text in (prediction, reference)):
        return False
    if not load_here and "math_verify" not in sys.modules:
        raise NotLoadedError
    from math_verify import parse, verify

    try:
        gold, target = (
            parse(f"\\boxed{{{_latex(text)}}}", parsing_timeout=None, raise_on_error=False)
            for text in (reference, prediction)
        )
        if any(map(_is_series, (*gold, *target))):
            return bool(gold[:1] == target[:1])
        evaluated = [_evaluated(side) for side in (gold, target)]
        if evaluated != [gold, target] and (verdict := _same_constants(*evaluated)) is not None:
            return verdict
        return bool(verify(*evaluated, timeout_seconds=None, raise_on_error=False))
    except Exception:  # whatever sympy or antlr raises on a malformed answer, it is not the reference
        return False


def _is_series(one: Any) -> bool:
    """Return whether it contains an infinite sum or product with letters, slow to compare by value."""
    from sympy import Basic, Product, Sum, oo

    return isinstance(one, Basic) and bool(one.free_symbols) and one.has(Sum, Product) and one.has(oo)


def _evaluated(parsed: list[Any]) -> list[Any]:
    """Return the parsed answer with integrals, sums and limits evaluated, which `verify` would do in seconds.

    Those with letters are kept, because a series of functions can exceed any limit.
    """
    from sympy import Derivative, Expr, Integral, Limit, Product, Sum

    kinds = (Integral, Sum, Product, Limit, Derivative)
    return [
        one.doit() if isinstance(one, Expr) and not one.free_symbols and one.has(*kinds) else one
        for one in parsed
    ]


def _same_constants(gold: list[Any], target: list[Any]) -> bool | None:
    """Return whether two finite exact constants agree to 20 digits; None if one side is something else."""
    from sympy import Expr, Float

    a, b = (side[0] if side else None for side in (gold, target))
    if not all(isinstance(x, Expr) and x.is_number and x.is_finite and not x.has(Float) for x in (a, b)):
        return None
    assert a is not None
    assert b is not None
    return bool(a == b or abs((a - b).evalf(30)) <= 1e-20 * max(abs(a.evalf(15)), abs(b.evalf(15))))


def explosive(text: str) -> bool:
    """Return whether a formula's value may not fit into memory: sympy computes it before it sees its size.

    This is the case for a power or a factorial of numbers in an exponent (`2^{3^4}`, but not `e^{-x^2}`), the
    factorial of either, and a number of at least `_LARGEST` as an exponent or before a factorial. A mere
    sequence of powers is safe.
    """
    pieces = _PIECE.findall(text)
    partner = _partners(pieces)
    for at, piece in enumerate(pieces):
        base = pieces[partner.get(at - 1, at - 1) : at] if at else []
        if piece == "!" and (_largest(base) >= _LARGEST or {"^", "**", "!"} & set(base)):
            return True
        if piece in _POWER:
            exponent = _exponent(pieces, partner, at)
            after = pieces[at + 1 + len(exponent) :][:1]
            inner = max((_largest(_exponent(base, _partners(base), k)) for k in _powers(base)), default=1)
            if after in (["^"], ["**"], ["!"]) or _largest(exponent) * inner >= _LARGEST or _tower(exponent):
                return True
    return False


def _partners(pieces: list[str]) -> dict[int, int]:
    """Return the position of the matching bracket for each bracket."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    for at, piece in enumerate(pieces):
        if piece in "({[":
            opened.append(at)
        elif piece in ")}]" and opened:
            partner[at] = opened.pop()
            partner[partner[at]] = at
    return partner


def _exponent(pieces: list[str], partner: dict[int, int], at: int) -> list[str]:
    """Return what follows a power sign: its own sign, and a piece or group; a command with its groups."""
    end = at + 1
    while pieces[end : end + 1] in (["-"], ["+"]):
        end += 1
    command = pieces[end : end + 1] != [] and pieces[end].startswith("\\")
    end = partner.get(end, end) + 1
    while command and pieces[end : end + 1] == ["{"] and end in partner:
        end = partner[end] + 1
    return pieces[at + 1 : end]


def _powers(pieces: list[str]) -> list[int]:
    return [at for at, piece in enumerate(pieces) if piece in _POWER]


def _largest(pieces: list[str]) -> int:
    return max((int(piece[:9]) for piece in pieces if piece.isdecimal()), default=1)


def _tower(exponent: list[str]) -> bool:
    """Return whether an exponent contains a power or factorial of a number rather than of a letter."""
    letters = any(piece.isalpha() for piece in exponent)
    return any(
        piece in (*_POWER, "!")
        and (exponent[at - 1].isdecimal() or (exponent[at - 1] in ")}]" and not letters))
        for at, piece in enumerate(exponent)
        if at
    )


def as_published(output: str, reference: str) -> bool:
    """Grade a complete output as math-verify's authors do: it extracts the answer itself."""
    if not load_here and "math_verify" not in sys.modules:
        raise NotLoadedError
    from math_verify import parse, verify

    gold = parse(f"\\boxed{{{reference}}}", parsing_timeout=None, raise_on_error=False)
    answer = parse(output, parsing_timeout=None, raise_on_error=False)
    return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=False))


def _latex(text: str) -> str:
    """Write `2*pi` and `sqrt(x)` as commands, which is how math-verify reads them inside a box."""
    return _BARE_NAME.sub(r"\\\1 ", _BARE_ROOT.sub(r"\\sqrt{\1}", text))
