r"""Normalise characters: `½`, `x²`, `−5`, `４２` as LaTeX and ASCII write them."""

from __future__ import annotations

import re
import unicodedata

from scalequest.characters import is_invisible
from scalequest.grading.latex.tokens import SYMBOLS

_COMMANDS = {
    **{
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "∙": r"\cdot ",
        "•": r"\cdot ",
        "÷": r"\div ",
        "±": r"\pm ",
    },
    **{"∓": r"\mp ", "∞": " infinity ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx "},
    **{"⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
    **{"°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "∅": r"\emptyset ", "∖": r"\setminus ", "∣": "|"},
    **{"∧": r"\wedge ", "∨": r"\vee ", "⟨": "(", "⟩": ")", "⟦": "[", "⟧": "]", "′": "'", "…": r"\ldots "},
    **{"∶": ":", "∗": "*", "✕": r"\times ", "✖": r"\times ", "⨯": r"\times ", "➕": "+", "➗": r"\div "},
    **{"¢": " cents ", "。": ".", "、": ",", "،": ",", "٫": ".", "٬": ","},
}
_UNSEEN = {"INVISIBLE TIMES": r"\cdot ", "INVISIBLE PLUS": "+", "INVISIBLE SEPARATOR": ","}
# These enclose powers and indices until adjacent ones have been joined.
_UP, _DOWN, _END = "\ue000", "\ue001", "\ue002"
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?)?")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_COUNTED = re.compile(r"(\d+(?:\.\d+)?)\s?((?:[^\x00-\x7f\W\d_])+)")
_RUN = r"(?:[A-Za-z]|[^\x00-\x7f\s])+"
_FOREIGN_UNIT = re.compile(rf"(?<=[\d}}])\s*({_RUN}(?:\s{_RUN}){{0,3}})(?=\s*(?:$|[,;.)\]]))")


def in_ascii(text: str) -> str:
    """Rewrite the characters of a text in ASCII and LaTeX, as far as Unicode defines their meaning."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"(\d)\u0307", r"\\dot{\1}", text)  # a dot or a line over digits that repeat
    text = re.sub(r"(?:\d[\u0304\u0305])+", lambda m: rf"\overline{{{m[0][::2]}}}", text)
    text = text.translate(_SPELLINGS)
    for sign in (_UP, _DOWN):
        text = text.replace(_END + sign, "")
    text = text.replace(_UP, "^{").replace(_DOWN, "_{").replace(_END, "}")
    text = re.sub(r"[—―](?=\S)", "-", text)
    text = re.sub(r"(?<=\d)∘", r"^\\circ ", text).replace("∘", r"\circ ")
    text = _ROOT.sub(lambda m: _ROOTS[m[1]] + (f"{{{m[2]}}}" if m[2] else ""), text)
    return text if text.isascii() else _FOREIGN_UNIT.sub(_unit, _COUNTED.sub(_counted, text))


class _Spellings(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = _spelling(chr(code))
        return self[code]


def _spelling(char: str) -> str:
    """Rewrite one character by its Unicode properties: name, category, decomposition."""
    if char.isascii():
        return char
    if char in _COMMANDS:
        return _COMMANDS[char]
    name, category = unicodedata.name(char, ""), unicodedata.category(char)
    if is_invisible(char):
        return _UNSEEN.get(name, "")
    if category == "Nd":
        return str(unicodedata.digit(char))
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if name.endswith(("QUOTATION MARK", "CORNER BRACKET")):
        return "'" if "SINGLE" in name else '"'
    if category == "Pd":
        return char if name in ("EM DASH", "HORIZONTAL BAR") else "-"
    if name.endswith("MINUS SIGN") and not re.search("PLUS|SUPERSCRIPT|SUBSCRIPT", name):
        return "-"
    if name.endswith(("DIVISION SLASH", "FRACTION SLASH", "BIG SOLIDUS")):
        return "/"
    if name.endswith("PERCENT SIGN"):
        return "%"
    return _letter(name) or _decomposed(char)


def _letter(name: str) -> str:
    if re.fullmatch("(?:MATHEMATICAL )?DOUBLE-STRUCK CAPITAL [A-Z]", name):
        return rf"\mathbb{{{name[-1]}}}"
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)", name)
    if not greek:
        return ""
    letter = greek[2].replace("LAMDA", "LAMBDA").lower()
    letter = letter if greek[1] == "SMALL" else letter.capitalize()
    return f"\\{letter} " if letter in SYMBOLS or letter == "pi" else ""


def _decomposed(char: str) -> str:
    """Rewrite a character by its decomposition if it is a font, width, circled or squared variant."""
    kind, _, rest = unicodedata.decomposition(char).partition(" ")
    if not kind.startswith("<"):
        return char  # no decomposition, or accents
    parts = [chr(int(code, 16)) for code in rest.split()]
    if kind == "<fraction>" and "".join(parts[-1:]) != "\u2044":
        above, _, below = "".join(parts).partition("\u2044")
        return rf"\frac{{{above}}}{{{below}}}"
    inner = "".join(map(_spelling, parts))
    if kind in ("<super>", "<sub>"):
        return f"{_UP if kind == '<super>' else _DOWN}{inner}{_END}"
    return inner


_SPELLINGS = _Spellings()  # each character is looked up once


def _counted(match: re.Match[str]) -> str:
    r"""Read signs for powers of ten after a numeral, e.g. ten thousand in Chinese and Japanese."""
    sizes = [unicodedata.numeric(char, 0) for char in match[2]]
    first = next((i for i, size in enumerate(sizes) if size < 10), len(sizes))
    power = 1
    for size in sizes[:first]:
        power *= int(size)
    if power == 1 or any(sizes[first:]):
        return match[0]
    return rf"{match[1]} \cdot {power}{match[2][first:]}"


def _unit(match: re.Match[str]) -> str:
    """Write a unit in letters of another script as text."""
    letters = [char for char in match[1] if char.isalpha() and not char.isascii()]
    foreign = any("GREEK" not in unicodedata.name(char, "") for char in letters)
    return rf"\text{{ {match[1]}}}" if foreign else match[0]
