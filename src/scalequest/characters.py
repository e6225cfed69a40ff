"""Characters that nobody sees: by their properties in Unicode, so that no list has to name them all."""

from __future__ import annotations

import unicodedata

_MARKS = ("VARIATION SELECTOR", "COMBINING GRAPHEME JOINER", "FILLER")  # no format characters, yet unseen


def is_invisible(char: str) -> bool:
    """Whether a character has no width and no sign of its own: joiners, marks of direction, soft hyphens."""
    if char.isascii():
        return False
    category = unicodedata.category(char)
    if category == "Cf":
        return True
    return category in ("Mn", "Lo") and any(mark in unicodedata.name(char, "") for mark in _MARKS)


class _Visible(dict[int, int | None]):
    def __missing__(self, code: int) -> int | None:
        self[code] = None if is_invisible(chr(code)) else code
        return self[code]


_VISIBLE = _Visible()  # each character is looked up once


def visible(text: str) -> str:
    """Return a text without its invisible characters."""
    return text if text.isascii() else text.translate(_VISIBLE)
