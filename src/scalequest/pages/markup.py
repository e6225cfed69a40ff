"""Text that others wrote, in Markdown, LaTeX, CSV and YAML: shown as it is, and never read as markup.

Markdown is escaped by CommonMark 0.31 and GitHub's tables and links; `<`, `>` and `&` become entities, since
not every renderer lets a backslash escape them.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

# ------------------------------------------------------------------------------------------------- any text

# Not the breaks: \t, \n, \v, \f, \r, \x1c to \x1e, \x85 and the two separators.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def visible(text: str) -> str:
    """Text whose control characters, lone surrogates and changes of direction are marks; breaks stay."""
    return _INVISIBLE.sub("\ufffd", text)


def number(value: float) -> str:
    """An integer with its thousands marked; a float with three digits, and never with an exponent above 1."""
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else f"{value:,.0f}"


def one_line(value: Any) -> str:
    """Anything as text without line breaks, of which Unicode has ten, and without invisible characters."""
    text = "" if value is None else number(value) if isinstance(value, float) else str(value)
    return " ".join(visible(text).splitlines())


def shorten(text: str, length: int) -> str:
    """Text of at most `length` characters; the last of a longer one is an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


# ------------------------------------------------------------------------------------------------- Markdown

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Brackets are markup only before what they would refer to, and an address only with its beginning.
_MARKS = re.compile(r"([\\|`*_$~]|\](?=[(\[:])|\[(?=\^)|:(?=//)|(?<=\bwww)\.)", re.IGNORECASE)
_STARTS = re.compile(r"(?:[#+=-]|\d{1,9}(?=[.)](?:\s|$)))")  # what makes a line a heading, a list or a rule


def inline(value: Any) -> str:
    """Text inside a line of Markdown."""
    text = re.sub("[&<>]", lambda match: _ENTITIES[match[0]], one_line(value))
    return _MARKS.sub(r"\\\1", text)


def paragraph(value: Any) -> str:
    """Text that begins a line of Markdown."""
    text = inline(value).strip()
    found = _STARTS.match(text)
    if found is None:
        return text
    return f"\\{text}" if not found[0].isdigit() else f"{found[0]}\\{text[found.end() :]}"


def code(value: Any) -> str:
    """Text between backticks: more of them than it contains in a row."""
    text = one_line(value)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}" if text else ""


def cell(value: Any) -> str:
    """Text of one cell; its lines stay lines."""
    if value is None or isinstance(value, float):
        return inline(value)
    return "<br>".join(inline(line) for line in str(value).splitlines())


def table_lines(
    columns: Sequence[Any], rows: Sequence[Sequence[Any]], right: Collection[int] = ()
) -> list[str]:
    """The lines of a table.

    Args:
        columns: headings.
        rows: as many cells each.
        right: indices of the columns that are aligned to the right.
    """
    aligned = ["---:" if place in right else "---" for place in range(len(columns))]
    lines = [list(map(cell, columns)), aligned, *(list(map(cell, row)) for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def front_matter(fields: Mapping[str, Any]) -> str:
    """Lines of a card's YAML header: plain words as they are, everything else quoted as in JSON."""

    def shown(value: Any) -> str:
        if isinstance(value, str) and _PLAIN.fullmatch(value):
            return value
        text = json.dumps(value, ensure_ascii=False)
        return _BREAKS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)

    return "".join(f"{key}: {shown(value)}\n" for key, value in fields.items())


_PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z][a-z0-9.-]*")
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")

# ------------------------------------------------------------------------------------------------ CSV, LaTeX

# A number as tables show it: with its interval, n and mark.
_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?( [\[(][-+\d.,n ]*[\])])*( \[[a-z]\])?", re.IGNORECASE)
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones count in some languages


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV in which a spreadsheet finds no formula; numbers stay numbers."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([list(map(_csv_cell, row)) for row in rows])
    return buffer.getvalue()


def _csv_cell(value: Any) -> str:
    text = one_line(value)
    seen = "".join(char for char in text if unicodedata.category(char) != "Cf").lstrip()
    formula = seen.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


_TEX = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "→": r"$\to$"},
        "`": r"\textasciigrave{}",  # after ? or ! it would turn it upside down
        **{"[": "{[}", "*": "{*}"},  # at the start of a row they would belong to the line break before them
    }
)


def tex(value: Any) -> str:
    """Text in LaTeX."""
    return one_line(value).translate(_TEX)
