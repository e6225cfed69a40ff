"""The plots of a run page as SVG and PDF files for a paper."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalequest.pages.markup import one_line, shorten
from scalequest.run_page.benchmarks import Interval
from scalequest.run_page.curves import Curve
from scalequest.run_page.distributions import Distribution
from scalequest.run_page.page import RunFacts
from scalequest.run_page.stages import StageFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN = 3.3  # inches: the width of a column of a two-column paper; plots are at most twice as wide
COLOURS = ("#2a6fb5", "#d9822b", "#2f8f6b", "#a9478a", "#7566cc", "#7d858f")
REASONS = ("#e0913f", "#c4574c", "#9a6cb0", "#b59f3b", "#5b98a5", "#9aa1a9")
MOST_CURVES = 8  # per training, in the order of the page
_NO_DATES: Any = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "ModDate": None}, "png": {}}
STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "scalequest",  # otherwise, the ids in a file differ each time
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names of stages and models are text
}


def save_plots(facts: RunFacts, folder: str | Path, kinds: Sequence[str] = ("svg", "pdf")) -> list[Path]:
    """Save every plot of a run as NAME.svg and NAME.pdf; the same facts give the same bytes.

    Args:
        facts: the result of `gather` or `write_run_page`.
        folder: the folder, which is created if it does not exist.
        kinds: the formats: svg, pdf or png.
    """
    import matplotlib as mpl

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    with mpl.rc_context(STYLE):
        for name, figure in _figures(facts):
            stem = re.sub(r"\W+", "_", name).strip("_")
            for kind in kinds:
                path = folder / f"{stem}.{kind}"
                figure.savefig(path, metadata=_NO_DATES[kind], bbox_inches="tight", dpi=160)
                saved.append(path)
    return saved


def _figures(facts: RunFacts) -> Iterator[tuple[str, Figure]]:
    stages = [one for one in facts.stages if one.in_funnel]
    if stages:
        yield "funnel", _funnel(stages)
    for one in facts.distributions:
        yield f"distribution_{one.measure}", _distribution(one)
    for folder, curves in facts.curves.items():
        yield f"training_{folder}", _curves(curves[:MOST_CURVES])
    if facts.benchmarks.intervals:
        yield "benchmarks", _benchmarks(facts.benchmarks.intervals)


def _new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """Return a figure that needs no window system, and its axes in rows and columns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _name(text: str) -> str:
    return shorten(one_line(text), 40)


def _funnel(stages: Sequence[StageFacts]) -> Figure:
    figure, ((axes,),) = _new(2 * COLUMN, 0.3 * len(stages) + 0.6)
    most = max(1, *(one.rows_in for one in stages))
    for place, one in enumerate(stages):
        axes.barh(place, one.kept, color=COLOURS[2] if one.trains else COLOURS[0], height=0.6)
        start = one.kept
        for number, count in enumerate(one.dropped.values()):
            axes.barh(place, count, left=start, color=REASONS[min(number, 5)], height=0.6)
            start += count
        lost = ", ".join(f"{reason} {count:,}" for reason, count in one.dropped.items())
        said = f"{one.kept:,}" + (f"  ({_name(lost)})" if lost else "")
        axes.text(start + 0.01 * most, place, said, va="center", fontsize=7)
    axes.set_yticks(range(len(stages)), [_name(one.folder) for one in stages])
    axes.set_xlim(0, 1.35 * most)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:,.0f}")
    axes.set_xlabel("rows: kept (blue), trained on (green), dropped by reason")
    return figure


def _distribution(one: Distribution) -> Figure:
    figure, ((axes,),) = _new(COLUMN, 2.2)
    for number, series in enumerate(one.series):
        label = f"{_name(series.name)} (n {series.n:,})"
        axes.stairs([100 * share for share in series.shares], one.edges, color=COLOURS[number], label=label)
    axes.set_xlabel(one.label)
    axes.set_ylabel("% of the rows")
    figure.legend(fontsize=6, loc="outside upper left", ncols=2)
    return figure


def _curves(curves: Sequence[Curve]) -> Figure:
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, grid = _new(0.5 * COLUMN * columns + 0.4, 1.5 * rows, rows, columns)
    places = list(grid.flat)
    for axes, curve in zip(places, curves, strict=False):
        axes.plot(curve.steps, curve.values, color=COLOURS[0])
        axes.set_title(_name(curve.metric), fontsize=8)
        axes.tick_params(labelsize=6)
        axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:.4g}")
    for axes in places[len(curves) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("step", fontsize=7)
    return figure


def _benchmarks(intervals: Sequence[Interval]) -> Figure:
    names = list(dict.fromkeys((one.evaluation, one.benchmark) for one in intervals))
    groups = {name: [one for one in intervals if (one.evaluation, one.benchmark) == name] for name in names}
    heights = [len(group) + 1 for group in groups.values()]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 * COLUMN, 0.22 * sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)
    for (axes,), ((evaluation, benchmark), group) in zip(grid, groups.items(), strict=True):
        for place, one in enumerate(group):
            width = [[one.value - one.low], [one.high - one.value]]
            axes.errorbar(one.value, place, xerr=width, fmt="o", ms=3.5, color=COLOURS[0], elinewidth=1.2)
            if one.published is not None:
                axes.plot(one.published, place, "D", ms=4, mfc="none", color=COLOURS[1])
        axes.set_yticks(range(len(group)), [_name(one.model) for one in group])
        axes.set_ylim(len(group) - 0.5, -0.5)
        several = len({name for name, _ in names}) > 1
        axes.set_title(_name(f"{benchmark} ({evaluation})" if several else benchmark), fontsize=8, loc="left")
    grid[-1][0].set_xlabel("accuracy, %, with its 95 % interval; open diamonds: published, not ours")
    return figure
