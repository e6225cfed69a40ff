"""The plots of a study: the effect of every claim with its interval, and what grows with data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import TYPE_CHECKING, Any

from scalequest.evaluation.claims import Claim, Finding, Verdict
from scalequest.evaluation.statistics import Estimate
from scalequest.pages.markup import one_line, shorten
from scalequest.run_page.plots import COLOURS, COLUMN, REASONS, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR_OF: Mapping[Verdict, str] = {"holds": COLOURS[2], "does not": REASONS[1], "undecided": COLOURS[5]}
Point = tuple[float, Estimate]  # the place of an arm on the axis of a trend, and its value over seeds


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the same numbers give the same bytes."""
    kind = path.suffix[1:]
    figure.savefig(path, dpi=200, metadata={"Date": None} if kind == "svg" else None, bbox_inches="tight")


def effects(claims: Sequence[Claim], findings: Mapping[str, Finding], titles: Mapping[str, str]) -> Figure:
    """Draw every effect with its interval, one panel per measure; the colour is the verdict.

    Args:
        claims: the claims, in the order in which they are drawn.
        findings: by the claim's name; a claim that nothing was measured for has an empty line.
        titles: what each measure is called, with its unit.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups = {name: [claim for claim in claims if claim.measure == name] for name in titles}
    groups = {name: group for name, group in groups.items() if group}
    heights = [len(group) + 1.5 for group in groups.values()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.2 * COLUMN, 0.24 * sum(heights) + 0.3), layout="constrained")
        grid = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)
        for (axes,), (name, group) in zip(grid, groups.items(), strict=True):
            axes.axvline(0, color="#999999", linewidth=0.6)
            for place, claim in enumerate(group):
                _effect(axes, place, findings[claim.name])
            axes.set_yticks(range(len(group)), [_label(claim) for claim in group])
            axes.set_ylim(len(group) - 0.5, -0.5)
            axes.set_title(f"effect on: {titles[name]}", fontsize=8, loc="left")
        grid[-1][0].set_xlabel("green: the claim holds; red: it does not; grey: undecided", fontsize=7)
    return figure


def _effect(axes: Any, place: int, finding: Finding) -> None:
    one, colour = finding.effect, COLOUR_OF[finding.verdict]
    if one.value is None:
        return
    width = None if one.low is None or one.high is None else [[one.value - one.low], [one.high - one.value]]
    face = colour if width else "none"
    axes.errorbar(one.value, place, xerr=width, fmt="o", ms=3.5, color=colour, mfc=face, elinewidth=1.2)


def _label(claim: Claim) -> str:
    compared = f"{claim.first} − {claim.second}" if claim.first else f"{claim.trend[-1]}, per doubling"
    return shorten(one_line(compared), 48)


def trend(points: Sequence[Point], across: str, up: str) -> Figure:
    """Draw a measure against a number of rows, on an axis of doublings, with the least-squares line.

    Args:
        points: place, and value with its interval over seeds.
        across: the title of the axis of places.
        up: that of values.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
        axes = figure.subplots()
        known = [(place, one.value, one) for place, one in points if one.value is not None]
        for place, value, one in known:
            width = None if one.low is None or one.high is None else [[value - one.low], [one.high - value]]
            axes.errorbar(place, value, yerr=width, fmt="o", ms=3.5, color=COLOURS[0], elinewidth=1.2)
        places = sorted({place for place, _, _ in known})
        if len(places) > 1:
            slope, start = linear_regression(
                [math.log2(place) for place, _, _ in known], [value for _, value, _ in known]
            )
            ends = [places[0], places[-1]]
            fitted = [start + slope * math.log2(end) for end in ends]
            axes.plot(ends, fitted, color=COLOURS[1])
            axes.set_title(f"fitted line: {slope:+.1f} per doubling", fontsize=8, loc="left")
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:,.0f}" for place in places])
        axes.set_xlabel(across)
        axes.set_ylabel(up)
    return figure
