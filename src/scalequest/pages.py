"""Report pages: one HTML file each, with its styles and plots inside, nothing fetched and everything escaped.

What models wrote is data: every text goes through `html.escape`, and a page holds no script.
"""

from __future__ import annotations

import difflib
import html
import math
import re
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
.pair { width: 100%; table-layout: fixed } .pair td { white-space: pre-wrap }
.pair th.label { padding-top: .75rem; font-weight: normal; opacity: .75 }
mark { background: #e9b44c55; color: inherit }
td { overflow-wrap: break-word }
p.note { opacity: .75; margin: 0 0 .75rem } svg text { font: 11px system-ui, sans-serif; fill: currentColor }
svg.plot { margin: 0 1rem 1rem 0; max-width: 100% } svg line { stroke: currentColor; opacity: .2 }
"""
_MOST_BINS = 24
# Not the breaks: \t, \n, \v, \f, \r, \x1c to \x1e, \x85 and the two separators.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


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
    """Anything as escaped text; numbers as `number` writes them."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return "" if value is None else html.escape(visible(str(value)))


def visible(text: str) -> str:
    """Text whose control characters, lone surrogates and changes of direction are marks; breaks stay."""
    return _INVISIBLE.sub("\ufffd", text)


def number(value: float) -> str:
    """An integer with its thousands marked; a float with three digits, and never with an exponent above 1."""
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else f"{value:,.0f}"


def section(title: str, *parts: str, note: str = "") -> str:
    """A headline, a note that says how to read what follows, and the parts."""
    return "\n".join(
        [f"<h2>{text(title)}</h2>", *([f'<p class="note">{text(note)}</p>'] if note else []), *parts]
    )


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """A table of rows; numbers and percentages stand to the right."""
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    numeric = {name: all(_numeric(row.get(name)) for row in rows) for name in names}
    kind = {name: ' class="n"' if numeric[name] else "" for name in names}
    head = "".join(f"<th{kind[name]}>{text(name)}</th>" for name in names)
    lines = ["".join(f"<td{kind[name]}>{text(row.get(name))}</td>" for name in names) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float | None) or (isinstance(value, str) and value.endswith(" %"))


def pairs(found: Sequence[tuple[str, str, str]], left: str, right: str, *, differences: bool = False) -> str:
    """Two texts side by side under a label, with the words marked that they share, or those that differ.

    Args:
        found: label, text to the left, text to the right.
        left: heading of the texts to the left.
        right: heading of those to the right.
        differences: mark these.
    """
    if not found:
        return ""
    rows = [f"<tr><th>{text(left)}</th><th>{text(right)}</th></tr>"]
    for label, one, other in found:
        sides = one.split(), other.split()
        blocks = difflib.SequenceMatcher(None, *sides, autojunk=False).get_matching_blocks()
        shared = (
            {n for block in blocks for n in range(block.a, block.a + block.size)},
            {n for block in blocks for n in range(block.b, block.b + block.size)},
        )
        cells = (
            " ".join(
                f"<mark>{text(word)}</mark>" if (n in same) is not differences else text(word)
                for n, word in enumerate(side)
            )
            for side, same in zip(sides, shared, strict=True)
        )
        rows.append(f'<tr><th class="label" colspan="2">{text(label)}</th></tr>')
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<table class="pair">{"".join(rows)}</table>'


def histogram(series: Mapping[str, Sequence[float]], label: str) -> str:
    """Shares of one or two samples over common bins, as a picture with its numbers in the bars' titles."""
    values = [value for sample in series.values() for value in sample]
    if not values:
        return '<p class="note">Nothing to plot.</p>'
    low, high = min(values), max(values)
    if low == high:
        return f'<p class="note">{text(label)}: {number(low)} in all {len(values):,} rows.</p>'
    whole = all(float(value).is_integer() for value in values)
    step = (high - low) / _MOST_BINS
    if whole:
        step = max(1, math.ceil(step))
    count = int((high - low) / step) + 1
    width, height, left = 520, 160, 40
    bar = (width - left) / count / len(series)
    shares = {
        name: np.bincount(((np.asarray(sample, float) - low) / step).astype(int), minlength=count)
        / max(1, len(sample))
        for name, sample in series.items()
    }
    top = max(float(sample.max()) for sample in shares.values())
    drawn = [f'<line x1="{left}" x2="{width}" y1="{height}" y2="{height}"/>']
    for place, (name, sample) in enumerate(shares.items()):
        colour = ("var(--one)", "var(--two)")[place % 2]
        for b, share in enumerate(sample):
            tall = height * float(share) / top
            x = left + (b * len(series) + place) * bar
            where = number(low + b * step) + (
                "" if whole and step == 1 else f" to {number(low + (b + 1) * step)}"
            )
            drawn.append(
                f'<rect x="{x:.1f}" y="{height - tall:.1f}" width="{max(bar - 0.5, 0.5):.1f}" '
                f'height="{tall:.1f}" fill="{colour}">'
                f"<title>{text(name)}: {where}: {100 * share:.1f} %</title></rect>"
            )
        if len(series) > 1:
            drawn.append(
                f'<text x="{left + 8 + 150 * place}" y="{height + 50}" style="fill: {colour}">■ {text(name)} '
                f"({len(series[name]):,} rows)</text>"
            )
    axis = [
        f'<text x="0" y="10">{100 * top:.0f} %</text><text x="0" y="{height}">0 %</text>',
        f'<text x="{(left + width) / 2}" y="{height + 32}" text-anchor="middle">{text(label)}</text>',
    ]
    span = count * step
    for tick in _ticks(low, high):
        # bars of whole numbers stand for one number each: their ticks belong in the middle
        x = left + (width - left) * (tick - low + (step / 2 if whole and step == 1 else 0)) / span
        axis.append(f'<text x="{x:.1f}" y="{height + 16}" text-anchor="middle">{number(tick)}</text>')
    tall = height + (56 if len(series) > 1 else 38)
    return (
        f'<svg class="plot" viewBox="0 0 {width} {tall}" width="{width}" role="img" '
        f'aria-label="{text(label)}">{"".join(drawn)}{"".join(axis)}</svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Two to seven round numbers from `low` to `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [
        round(step * n, 12) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def bars(counts: Mapping[str, int]) -> str:
    """Counts as a table with a bar each."""
    if not counts:
        return ""
    total, most = max(1, sum(counts.values())), max(1, *counts.values())
    rows = [
        f'<tr><td>{text(name)}</td><td class="n">{count:,}</td><td class="n">{100 * count / total:.1f} %</td>'
        f'<td><svg width="260" height="12"><rect width="{260 * count / most:.0f}" height="12" '
        'fill="var(--one)"/></svg></td></tr>'
        for name, count in counts.items()
    ]
    return f"<table>{''.join(rows)}</table>"
