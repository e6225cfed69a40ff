"""The vocabulary of formulas: function names and letters, and how a text is split into them."""

from __future__ import annotations

import re

MAX_CHARACTERS = 2_000
_FUNCTIONS = """
sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot arcsinh arccosh arctanh
ln log exp lg sqrt cbrt abs floor ceil max min gcd lcm det
"""
FUNCTIONS = frozenset(_FUNCTIONS.split())
SYNONYMS = {
    **{"asin": "arcsin", "acos": "arccos", "atan": "arctan", "arsinh": "arcsinh", "arcosh": "arccosh"},
    **{"tg": "tan", "ctg": "cot", "cosec": "csc", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"},
}
_GREEK = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau
upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega hbar ell
"""
_WORDS = (
    "infinity",
    "infty",
    "theta",
    "alpha",
    "beta",
    "gamma",
    "lambda",
    "omega",
    "sigma",
    "phi",
    "pi",
    "inf",
)
# Names that a run of letters may start with, the longest first; any other letter is a separate symbol.
_NAMES = sorted((*FUNCTIONS, *SYNONYMS, *_WORDS), key=len, reverse=True)
_RUN = re.compile("|".join(map(re.escape, _NAMES)) + "|[A-Za-z]")
SYMBOLS = frozenset(_GREEK.split())
_TOKEN = re.compile(
    r"(?P<number>(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?(?:[eE][-+]?\d+(?![\d.]))?|\.\d+(?:[eE][-+]?\d+)?)"
    r"|(?P<command>\\[A-Za-z]+|\\[{}%|\\])|(?P<letters>[A-Za-z]+)|(?P<operator>\*\*|[-+*/^_!()\[\]{}|&,'%=])"
)


class Unreadable(ValueError):
    """The text is not a formula of the kinds that this grammar supports."""


class Foreign(Unreadable):
    """The text uses a command that this grammar does not know, but another one may."""


def tokens(text: str) -> list[str]:
    """Split a formula into numbers, commands, letters (with function names kept together), and signs.

    Raises:
        Unreadable: there is a character that cannot occur in a formula, or there are too many of them.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable("too long")
    found: list[str] = []
    end = 0
    while end < len(text):
        if text[end].isspace():
            end += 1
            continue
        match = _TOKEN.match(text, end)
        if match is None:
            raise Unreadable(f"character {text[end]!r}")
        if match["letters"]:
            found += _RUN.findall(match["letters"])
        else:
            found.append(match[0])
        end = match.end()
    return found
