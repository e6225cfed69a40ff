"""Distributions of length, difficulty, agreement and rewards over the rows of each stage."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from scalequest.run_page.rows import StageRow
from scalequest.run_page.stages import StageFacts

MOST_BINS = 30
MOST_SERIES = 6
# The measures with the labels of their axes, in the order of the page
MEASURES = {
    "question_words": "question length, words",
    "solution_words": "solution length, words",
    "solution_lines": "solution steps, lines",
    "solution_tokens": "solution length, tokens",
    "steps": "steps needed",
    "agreement": "agreement of the solutions",
    "fail_rate": "difficulty: share of solutions that disagree",
    "difficulty": "difficulty, by the scorer",
    "rewards": "reward of a solution",
    "reward": "reward of the selected solution",
    "margin": "margin of the selected solution",
}
_AS_THEY_ARE = ("steps", "agreement", "fail_rate", "difficulty", "reward", "margin", "rewards")


@dataclass(frozen=True)
class Series:
    """One sample in the bins of its distribution; `shares` has the share of each bin, from 0 to 1."""

    name: str
    n: int
    mean: float
    median: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Distribution:
    """A measure in several samples with common bins; `edges` has one more number than there are bins."""

    measure: str
    label: str
    edges: tuple[float, ...]
    series: tuple[Series, ...]
    left_out: tuple[str, ...] = ()


class _Source(NamedTuple):
    """The origin of numbers: a stage (or a generator), a column, and whether the rows were kept."""

    name: str
    column: str
    kept: bool


class Measures:
    """Collects the measures of rows, stage by stage."""

    def __init__(self) -> None:
        """Start without rows."""
        self._values: dict[str, dict[_Source, array[float]]] = {}

    def add(self, stage: StageFacts, one: StageRow) -> None:
        """Add a row, under its generator if the stage only measured questions of several generators."""
        name = str(one.row.get("generator")) if not stage.in_funnel else stage.folder
        for measure, column, value in _measured(one.row):
            source = _Source(name, column, one.reason is None)
            self._values.setdefault(measure, {}).setdefault(source, array("d")).append(value)

    def distributions(self) -> list[Distribution]:
        """Return one distribution per measure that varies, without samples that equal an earlier one."""
        made = (_distribution(name, self._values[name]) for name in MEASURES if name in self._values)
        return [one for one in made if one is not None]


def _measured(row: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield the measures of a row: measure, column and number."""
    for column in ("question", "query"):
        if isinstance(row.get(column), str):
            yield "question_words", "question", float(len(row[column].split()))
    for column in ("responses", "response"):
        for text in (one for one in _listed(row.get(column)) if isinstance(one, str)):
            yield "solution_words", column, float(len(text.split()))
            yield "solution_lines", column, float(sum(bool(line.strip()) for line in text.splitlines()))
    if isinstance(row.get("tokens"), list):
        yield from (("solution_tokens", "tokens", float(n)) for n in row["tokens"] if _is_number(n))
    for name in _AS_THEY_ARE:
        yield from ((name, name, float(value)) for value in _listed(row.get(name)) if _is_number(value))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _distribution(measure: str, values: Mapping[_Source, array[float]]) -> Distribution | None:
    samples = _samples(values)
    if not samples:
        return None
    edges = bin_edges(np.concatenate(list(samples.values())))
    if len(edges) < 3:
        return None
    series = [_series(name, sample, edges) for name, sample in samples.items()]
    shown: list[Series] = []
    for one in series:
        if not any((one.n, one.shares) == (other.n, other.shares) for other in shown):
            shown.append(one)
    left_out = tuple(one.name for one in shown[MOST_SERIES:])
    return Distribution(measure, MEASURES[measure], tuple(edges), tuple(shown[:MOST_SERIES]), left_out)


def _samples(values: Mapping[_Source, array[float]]) -> dict[str, Any]:
    """Return samples by name; a stage that dropped rows with this measure has one before and one after.

    Measures that only dropped rows have are left out, because a stage may keep one solution of a row but drop
    a row with all of its solutions.
    """
    samples: dict[str, Any] = {}
    for name, column in dict.fromkeys(source[:2] for source in values):
        kept, lost = (
            np.asarray(values.get(_Source(name, column, is_kept), ()), float) for is_kept in (True, False)
        )
        if len(kept) and len(lost):
            samples[f"{name}: before"] = np.concatenate([kept, lost])
        if len(kept):
            samples[f"{name}: after" if len(lost) else name] = kept
    return samples


def _series(name: str, sample: Any, edges: Sequence[float]) -> Series:
    counts, _ = np.histogram(np.clip(sample, edges[0], edges[-1]), edges)
    shares = tuple(round(float(count) / len(sample), 5) for count in counts)
    return Series(name, len(sample), float(np.mean(sample)), float(np.median(sample)), shares)


def bin_edges(values: Any) -> list[float]:
    """Return the edges of at most `MOST_BINS` bins of a round width; the last one holds the top half percent.

    If all values are whole numbers, a bin is centred on its number if each number has a bin of its own;
    otherwise, bins start at whole numbers.
    """
    low, high = float(np.min(values)), float(np.quantile(values, 0.995, method="higher"))
    if low == high:
        high = float(np.max(values))
    if low == high:
        return [low]
    whole = bool(np.all(values == np.round(values)))
    width = _round_width((high - low) / MOST_BINS, whole)
    start = low - 0.5 if whole and width == 1 else math.floor(low / width + 1e-9) * width
    count = math.floor((high - start) / width + 1e-9) + (1 if whole or start + width > high else 0)
    count = max(2, count + (start + count * width < high))
    return [round(start + width * n, 10) for n in range(count + 1)]


def _round_width(least: float, whole: bool) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    width = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least - 1e-12)
    return max(1.0, width) if whole else width
