r"""Find boxes in a text: the contents of `\boxed{...}` and `\fbox{...}`, including nested braces."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BOX = re.compile(r"(?<!\\)\\+(?:boxed|fbox)(?![a-zA-Z])[^\S\n]*(?:\n\s*(?=\{))?")
# What TeX would put into a box without braces: one atom of a formula, and here everything attached to it. A
# word does not count, so a remark about `\boxed` has no content.
_TAKES_MORE = re.compile(r"\\(?:[dtc]?frac|[dt]?binom|sqrt|left|bigl?|Bigl?)[^\S\n]*")
_ATOM = re.compile(
    r"\\[A-Za-z]{2,}|\\%|[-+±](?:[^\S\n](?=[\d\\.(]))?|\d+(?:,\d{3})*(?:\.\d+)?|\.\d+"
    r"|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|[*/=<>^_!'|%°√π∞≤≥·×÷]"
)
_CLOSED = re.compile(r"[^\S\n]*(?:\$|\\[)\]]|[.,;:!?)\]}]|\n|$)")
# Boxes that only mark the place for an answer.
_PLACEHOLDER = re.compile(
    r"(?:\\(?:[lcd]?dots|q?quad|square|underline|[,;:! _]|[hv]?phantom\{[^{}]*\}|(?:text|mathrm)(?=\{))"
    r"|[\s{}._…?~])*"
    r"(?:[<\[]?(?:(?:your|the|my)[\s_])?(?:final[\s_])?(?:answer|result)(?:[\s_](?:goes\s)?here)?[\s{}._…?>\]]*)?",
    re.I,
)
_APART = 200  # maximum distance in characters between two boxes of one answer
# What may separate the boxes of one answer: "and", commas, math delimiters, the next one's name.
_BETWEEN = re.compile(
    r"(?:\s|[$,;&~]|\\[\[\]()\\,;]|\\q?quad(?![a-z])|\\(?:text|mbox)\s*\{\s*(?:,?\s*and|or|,)\s*\}"
    r"|\b(?:and|or)\b|\b[a-zA-Z](?:_\w)?\s*=)*"
)
_BRACE = re.compile(r"\\.|[{}]", re.S)  # an escaped brace does not count
_TRIES = 50  # maximum number of boxes examined, from the last one back, to keep long texts cheap
_WIDEST = 2_000  # maximum length of a box without braces, in characters


def last_box(text: str) -> str | None:
    r"""Return the content of the last complete, non-empty `\boxed{...}` or `\fbox{...}`."""
    return next((content for _, content, _ in _boxes(text)), None)


def joined_boxes(text: str) -> str | None:
    """Return the contents of the last box and of those next to it, each once, separated by commas."""
    contents: list[str] = []
    begin = -1
    for start, content, end in _boxes(text):
        if contents and not (end <= begin <= end + _APART and _BETWEEN.fullmatch(text, end, begin)):
            break
        if content not in contents:
            contents.insert(0, content)
        begin = start
    return ", ".join(contents) or None


def _boxes(text: str) -> Iterator[tuple[int, str, int]]:
    """Yield start, content and end of complete boxes, the last one first."""
    found = list(_BOX.finditer(text)) if "box" in text else []
    for match in found[: -_TRIES - 1 : -1]:
        inside, end = _argument(text, match.end())
        if not _PLACEHOLDER.fullmatch(inside):
            yield match.start(), inside.strip(), end


def _argument(text: str, begin: int) -> tuple[str, int]:
    r"""Return the content of the box whose command ends at `begin`, and its end; `""` if it has none."""
    if text.startswith("{", begin):
        inside = braced(text[begin:]) or ""
        return inside, begin + len(inside) + 2
    end = begin
    while end < min(len(text), begin + _WIDEST):
        if more := _TAKES_MORE.match(text, end) or _ATOM.match(text, end):
            end = more.end()
        elif closing := _closing(text, end + text.startswith("\\{", end)):
            end = closing
        else:
            break
    inside = text[begin:end]
    if re.fullmatch(r"[A-Za-z]", inside) and not _CLOSED.match(text, end):
        return "", end  # "the \boxed a reader expects"
    return (inside, end) if re.search(r"[^\W_]", inside) else ("", end)


def _closing(text: str, begin: int) -> int | None:
    """Return where the bracket that opens at `begin` closes; None if it does not, or not on its line."""
    depth, line = 0, text[begin : begin + _WIDEST].partition("\n")[0]
    if line[:1] not in ("(", "[", "{"):
        return None
    for place, char in enumerate(line, begin + 1):
        depth += (char in "({[") - (char in ")}]")
        if depth == 0:
            return place
    return None


def braced(text: str) -> str | None:
    """Return the text between the opening brace of `text` and its closing one; None if there is none."""
    depth = 0
    for match in _BRACE.finditer(text):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth == 0:
            return text[1 : match.start()] if match[0] == "}" else None
    return None
