"""Report pages: one HTML file each, with its styles and plots inside, nothing fetched and everything escaped.

What models wrote is data: every text goes through `html.escape`, and a page contains no script.
"""

from __future__ import annotations

import difflib
import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalequest.atomic_files import write
from scalequest.pages.markup import number as number
from scalequest.pages.markup import visible

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
# Of a histogram, in pixels
_WIDTH, _HEIGHT, _LEFT = 520, 160, 40
_COLOURS = ("var(--one)", "var(--two)")
_MOST_BINS = 24


def write_page(path: Path, title: str, *sections: str) -> None:
    """Write a page of sections, which the functions below build."""
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


def section(title: str, *parts: str, note: str = "") -> str:
    """A headline, a note on how to read what follows, and the parts."""
    return "\n".join(
        [f"<h2>{text(title)}</h2>", *([f'<p class="note">{text(note)}</p>'] if note else []), *parts]
    )


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """A table of rows; numbers and percentages are aligned to the right."""
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    numeric = {name: all(_numeric(row.get(name)) for row in rows) for name in names}
    kind = {name: ' class="n"' if numeric[name] else "" for name in names}
    head = "".join(f"<th{kind[name]}>{text(name)}</th>" for name in names)
    lines = ["".join(f"<td{kind[name]}>{text(row.get(name))}</td>" for name in names) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float | None) or (isinstance(value, str) and value.endswith(" %"))


def pairs(found: Sequence[tuple[str, str, str]], left: str, right: str, *, differences: bool = False) -> str:
    """Two texts side by side under a label, with the words marked that they share, or in which they differ.

    Args:
        found: label, text to the left, text to the right.
        left: heading of the texts to the left.
        right: heading of the texts to the right.
        differences: mark the words in which they differ, not those that they share.
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
    """A picture of the shares of one or two samples in common bins; the titles of the bars are numbers."""
    values = [value for sample in series.values() for value in sample]
    if not values:
        return '<p class="note">Nothing to plot.</p>'
    bins = _Bins.over(values)
    if bins.low == bins.high:
        return f'<p class="note">{text(label)}: {number(bins.low)} in all {len(values):,} rows.</p>'
    shares = {name: bins.shares(sample) for name, sample in series.items()}
    top = max(max(sample) for sample in shares.values())
    drawn = [f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>']
    for place, (name, sample) in enumerate(shares.items()):
        drawn += _bars_of(name, sample, place, len(series), top, bins)
        if len(series) > 1:
            drawn.append(
                f'<text x="{_LEFT + 8 + 150 * place}" y="{_HEIGHT + 50}" style="fill: {_COLOURS[place % 2]}">'
                f"■ {text(name)} ({len(series[name]):,} rows)</text>"
            )
    tall = _HEIGHT + (56 if len(series) > 1 else 38)
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {tall}" width="{_WIDTH}" role="img" '
        f'aria-label="{text(label)}">{"".join(drawn)}{"".join(_axes_of(label, top, bins))}</svg>'
    )


@dataclass(frozen=True)
class _Bins:
    """Bins of equal width from `low` to `high`; bins of whole numbers begin at a whole number each."""

    low: float
    high: float
    step: float
    whole: bool

    @classmethod
    def over(cls, values: Sequence[float]) -> _Bins:
        """The bins of some values."""
        low, high, whole = min(values), max(values), all(float(value).is_integer() for value in values)
        step = (high - low) / _MOST_BINS
        return cls(low, high, max(1, math.ceil(step)) if whole else step, whole)

    @property
    def count(self) -> int:
        """Number of bins."""
        return int((self.high - self.low) / self.step) + 1

    @property
    def single(self) -> bool:
        """Whether each bin is one whole number."""
        return self.whole and self.step == 1

    def shares(self, sample: Sequence[float]) -> list[float]:
        """The share of the sample in each bin."""
        places = ((np.asarray(sample, float) - self.low) / self.step).astype(int)
        counts = np.bincount(places, minlength=self.count)
        return [float(share) for share in counts / max(1, len(sample))]

    def title(self, place: int) -> str:
        """The numbers that a bin covers."""
        begin = number(self.low + place * self.step)
        return begin if self.single else f"{begin} to {number(self.low + (place + 1) * self.step)}"


def _bars_of(
    name: str, shares: Sequence[float], place: int, of: int, top: float, bins: _Bins
) -> Iterator[str]:
    """The bars of one sample, the `place`-th of `of` samples, which stand beside each other in a bin."""
    width = (_WIDTH - _LEFT) / bins.count / of
    for b, share in enumerate(shares):
        tall = _HEIGHT * share / top
        yield (
            f'<rect x="{_LEFT + (b * of + place) * width:.1f}" y="{_HEIGHT - tall:.1f}" '
            f'width="{max(width - 0.5, 0.5):.1f}" height="{tall:.1f}" fill="{_COLOURS[place % 2]}">'
            f"<title>{text(name)}: {bins.title(b)}: {100 * share:.1f} %</title></rect>"
        )


def _axes_of(label: str, top: float, bins: _Bins) -> Iterator[str]:
    yield f'<text x="0" y="10">{100 * top:.0f} %</text><text x="0" y="{_HEIGHT}">0 %</text>'
    yield f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT + 32}" text-anchor="middle">{text(label)}</text>'
    for tick in _ticks(bins.low, bins.high):
        # The bar of a single number is labelled in its middle
        offset = tick - bins.low + (bins.step / 2 if bins.single else 0)
        x = _LEFT + (_WIDTH - _LEFT) * offset / (bins.count * bins.step)
        yield f'<text x="{x:.1f}" y="{_HEIGHT + 16}" text-anchor="middle">{number(tick)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Two to seven round numbers from `low` to `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [
        round(step * n, 12) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def bars(counts: Mapping[str, int]) -> str:
    """A table of counts, with a bar for each."""
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
