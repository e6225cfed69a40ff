"""Invisible characters, recognised by their Unicode properties instead of a list."""

from __future__ import annotations

import unicodedata

_MARKS = ("VARIATION SELECTOR", "COMBINING GRAPHEME JOINER", "FILLER")  # not format characters, but invisible


def is_invisible(char: str) -> bool:
    """Return whether a character is invisible: joiners, direction marks, soft hyphens and the like."""
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
