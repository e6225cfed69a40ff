"""Report pages: one HTML file each, with its styles and plots inside, nothing fetched and everything escaped.

What models wrote is data: every text goes through `html.escape`, and a page holds no script.
"""

from __future__ import annotations

import difflib
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalequest.durable import write

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --one: #3b6ea8; --two: #d08a2e }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.pair td { width: 50%; white-space: pre-wrap; overflow-wrap: anywhere }
mark { background: #e9b44c55; color: inherit }
p.note { opacity: .75 } svg text { font: 11px system-ui, sans-serif; fill: currentColor }
"""
_MOST_BINS = 24


def write_page(path: Path, title: str, *sections: str) -> None:
    """Write a page of sections, which the functions below make."""
    body = "\n".join(sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{text(title)}</h1>\n{body}\n</body></html>\n"
    )
    write(path, page.encode())


def text(value: Any) -> str:
    """Anything as escaped text; shares and other floats with three digits."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else html.escape(str(value))


def section(title: str, *parts: str, note: str = "") -> str:
    """A headline, parts below it, and a note."""
    below = f'<p class="note">{text(note)}</p>' if note else ""
    return f"<h2>{text(title)}</h2>\n" + "\n".join(parts) + below


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """A table of rows; numbers stand to the right."""
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    numeric = {name: all(isinstance(row.get(name), int | float | None) for row in rows) for name in names}
    kind = {name: ' class="n"' if numeric[name] else "" for name in names}
    head = "".join(f"<th{kind[name]}>{text(name)}</th>" for name in names)
    lines = ["".join(f"<td{kind[name]}>{text(row.get(name))}</td>" for name in names) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def pairs(found: Sequence[tuple[str, str, str]]) -> str:
    """Two texts side by side under a label, with the words that they share marked."""
    rows = []
    for label, one, other in found:
        left, right = one.split(), other.split()
        blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
        sides = (
            _marked(left, {n for block in blocks for n in range(block.a, block.a + block.size)}),
            _marked(right, {n for block in blocks for n in range(block.b, block.b + block.size)}),
        )
        rows.append(
            f'<tr><th colspan="2">{text(label)}</th></tr><tr><td>{sides[0]}</td><td>{sides[1]}</td></tr>'
        )
    return f'<table class="pair">{"".join(rows)}</table>'


def _marked(words: Sequence[str], shared: set[int]) -> str:
    return " ".join(f"<mark>{text(w)}</mark>" if n in shared else text(w) for n, w in enumerate(words))


def histogram(series: Mapping[str, Sequence[float]], label: str) -> str:
    """Shares of one or two samples over common bins, as a picture with its numbers in the bars' titles."""
    values = [value for sample in series.values() for value in sample]
    if not values:
        return '<p class="note">Nothing to plot.</p>'
    low, high = min(values), max(values)
    whole = all(float(value).is_integer() for value in values)
    step = (high - low) / _MOST_BINS or 1.0
    if whole:
        step = max(1, math.ceil(step))
    count = int((high - low) / step) + 1
    width, height, left = 640, 180, 40
    bar = (width - left) / count / len(series)
    shares = {
        name: np.bincount(((np.asarray(sample, float) - low) / step).astype(int), minlength=count)
        / max(1, len(sample))
        for name, sample in series.items()
    }
    top = max(float(sample.max()) for sample in shares.values())
    drawn = []
    for place, (name, sample) in enumerate(shares.items()):
        colour = ("var(--one)", "var(--two)")[place % 2]
        for b, share in enumerate(sample):
            tall = height * float(share) / top
            x = left + (b * len(series) + place) * bar
            where = f"{low + b * step:.3g}" + (
                "" if whole and step == 1 else f" to {low + (b + 1) * step:.3g}"
            )
            drawn.append(
                f'<rect x="{x:.1f}" y="{height - tall:.1f}" width="{max(bar - 0.5, 0.5):.1f}" '
                f'height="{tall:.1f}" fill="{colour}">'
                f"<title>{text(name)}: {where}: {100 * share:.1f} %</title></rect>"
            )
        drawn.append(
            f'<text x="{left + 8 + 150 * place}" y="{height + 34}" fill="{colour}">■ {text(name)} '
            f"({len(series[name]):,})</text>"
        )
    axis = [
        f'<text x="0" y="10">{100 * top:.0f} %</text><text x="0" y="{height}">0 %</text>',
        f'<text x="{left}" y="{height + 16}">{low:.3g}</text>',
        f'<text x="{width}" y="{height + 16}" text-anchor="end">{text(label)}: {high:.3g}</text>',
    ]
    return (
        f'<svg viewBox="0 0 {width} {height + 40}" width="{width}" role="img" aria-label="{text(label)}">'
        f"{''.join(drawn)}{''.join(axis)}</svg>"
    )


def bars(counts: Mapping[str, int]) -> str:
    """Counts as a table with a bar each."""
    total, most = max(1, sum(counts.values())), max([1, *counts.values()])
    rows = [
        f'<tr><td>{text(name)}</td><td class="n">{count:,}</td><td class="n">{100 * count / total:.1f} %</td>'
        f'<td><svg width="260" height="12"><rect width="{260 * count / most:.0f}" height="12" '
        'fill="var(--one)"/></svg></td></tr>'
        for name, count in counts.items()
    ]
    return f"<table>{''.join(rows)}</table>"
