"""Which difficulties stay: a cut, or a target distribution, for all generators or for some.

The measure is the solver's fail rate, the score of a trained model, both, or a judge's level. The paper
(section 2.4) cuts off "overly simple" questions of one generator by a scorer that was never published, at a
cut that it does not give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from scalequest.config import ConfigError, option
from scalequest.config.ranges import COUNT, FINITE, SHARE, SHARE_BELOW_1
from scalequest.pages import elements
from scalequest.questions.agreement import Agreement
from scalequest.questions.judges import FAULTS
from scalequest.questions.levels import LEVELS, Level, Levels
from scalequest.questions.steps import Context, ModelStep, Outcome, StepReport, TextStep
from scalequest.records import Row, quota, row_seed

_DIGITS = 9  # 1 - 0.8 is a little less than 0.2, and no bound of 0.2 means that


@dataclass(frozen=True)
class DifficultyRule:
    """Which difficulties stay."""

    judge: Literal["agreement", "model", "server"] = option(
        "agreement", "who is asked if no column is named: the solver, or a model, here or behind a server"
    )
    prompt: str | None = option(
        None, "judge model or server: YAML file of the prompt, whose reply gives a level", fingerprint=False
    )
    min_level: Level = option("very easy", "judge model or server: easier ones are dropped")
    max_level: Level = option("very hard", "judge model or server: harder ones are dropped")
    min_fail_rate: float = option(0.0, "easier ones are dropped (fail rate: 1 - agreement)", within=SHARE)
    max_fail_rate: float = option(1.0, "harder ones are dropped", within=SHARE)
    columns: list[str] = option(
        help="measures that the rows carry, e.g. [fail_rate, difficulty]; no model is asked then. Several "
        "become one by the mean of their ranks, from 0 to 1",
        default_factory=list,
    )
    drop_easiest: float = option(
        0.0, "columns: share of the questions that is too easy", within=SHARE_BELOW_1
    )
    drop_hardest: float = option(0.0, "columns: share that is too hard", within=SHARE_BELOW_1)
    keep: int | None = option(
        None,
        "columns: exactly so many stay, the hardest of those left by drop_hardest (the paper gives a number, "
        "no cut); fewer are an error",
        within=COUNT,
    )
    edges: list[float] = option(
        help="columns: inner edges of the bins that `target` speaks of, rising",
        default_factory=list,
        within=FINITE,
    )
    target: list[float] = option(
        help="columns: share of each bin, easiest first; the largest set with these shares is drawn by seed",
        default_factory=list,
        within=SHARE,
    )
    generators: list[str] = option(
        help="columns: only these generators' questions are dropped (paper: DeepSeekMath's); [] means all",
        default_factory=list,
    )

    def __post_init__(self) -> None:
        if self.target and (len(self.target) != len(self.edges) + 1 or self.edges != sorted(set(self.edges))):
            raise ConfigError(f"target: {len(self.target)} shares need {len(self.target) - 1} rising edges")
        if self.target and not math.isclose(sum(self.target), 1, abs_tol=1e-3):
            raise ConfigError(f"target: shares have to sum to 1, not {sum(self.target):g}")
        if self.min_fail_rate > self.max_fail_rate:
            raise ConfigError("min_fail_rate is above max_fail_rate, so that no question would stay")
        if LEVELS.index(self.min_level) > LEVELS.index(self.max_level):
            raise ConfigError("min_level is harder than max_level, so that no question would stay")
        if self.columns and self.judge != "agreement":
            raise ConfigError(f"columns and judge: {self.judge} exclude each other; remove one of them")
        cuts = self.drop_easiest, self.drop_hardest
        if sum(cuts) >= 1:
            raise ConfigError("drop_easiest, drop_hardest: together below 1, so that something is left")
        if not self.columns and (self.target or any(cuts) or self.generators or self.keep):
            raise ConfigError("columns: name the measure that target, drop_easiest, drop_hardest, keep use")
        if self.keep and (self.target or self.drop_easiest):
            raise ConfigError(
                "keep: it decides alone how many easy questions go; leave target, drop_easiest out"
            )


def outside_difficulty(measures: Row, rule: DifficultyRule) -> str | None:
    """Drop what the solver fails too seldom or too often."""
    rate = round(measures["fail_rate"], _DIGITS)
    if rate < rule.min_fail_rate:
        return "too_easy"
    return "too_hard" if rate > rule.max_fail_rate else None


def outside_levels(measures: Row, rule: DifficultyRule) -> str | None:
    """Drop what the judge finds too easy or too hard, and what it gave no level."""
    level = measures["difficulty_level"]
    if level is None:
        fault = str(measures["difficulty_fault"])
        return fault if fault not in ("truncated", "unparsed") else f"level_{fault}"
    place = LEVELS.index(level)
    if place < LEVELS.index(rule.min_level):
        return "too_easy"
    return "too_hard" if place > LEVELS.index(rule.max_level) else None


def measured(rows: Sequence[Row], columns: Sequence[str]) -> list[float]:
    """Each row's difficulty: the column's value, or the mean of its ranks in several (ties share a rank).

    Raises:
        ConfigError: a row has no number there.
    """
    from scipy.stats import rankdata

    for row in rows:
        for name in columns:
            if not isinstance(row.get(name), int | float):
                raise ConfigError(f"difficulty.columns: row {row['id']} has no number in '{name}'")
    values = np.array([[row[name] for name in columns] for row in rows], float)
    values = values.reshape(len(rows), len(columns)).round(_DIGITS)
    if len(columns) > 1:
        values = (rankdata(values, axis=0) - 1) / max(1, len(rows) - 1)
    return [float(value) for value in values.mean(axis=1)]


def select_difficulty(
    rows: Sequence[Row], rule: DifficultyRule, seed: int, limit: int | None = None
) -> list[str | None]:
    """A reason or None for every row: `too_easy`, `too_hard`, `off_target`.

    Shares are of the rows that may be dropped. Equal difficulties are told apart by a hash of seed and id,
    so the outcome does not depend on the order of the rows.

    Raises:
        ConfigError: a row lacks a measure, or fewer than `keep` rows are left and no `limit` is why.
    """
    reasons: list[str | None] = [None] * len(rows)
    values = measured(rows, rule.columns)
    mine = [n for n, row in enumerate(rows) if not rule.generators or row.get("generator") in rule.generators]
    order = sorted(mine, key=lambda n: (values[n], row_seed(seed, "difficulty", str(rows[n]["id"]))))
    easy, hard = round(rule.drop_easiest * len(order)), round(rule.drop_hardest * len(order))
    for n in order[:easy]:
        reasons[n] = "too_easy"
    for n in order[len(order) - hard :]:
        reasons[n] = "too_hard"
    if rule.columns == ["fail_rate"]:
        for n in mine:
            reasons[n] = reasons[n] or outside_difficulty(rows[n], rule)
    if rule.keep is not None:
        left = [n for n in order if reasons[n] is None]
        for n in left[: len(left) - quota(rule.keep, len(left), "difficulty.keep", limit=limit)]:
            reasons[n] = "too_easy"
    if not rule.target:
        return reasons
    bins: list[list[int]] = [[] for _ in rule.target]
    for n in sorted(mine, key=lambda n: row_seed(seed, "target", str(rows[n]["id"]))):
        if reasons[n] is None:
            bins[int(np.searchsorted(rule.edges, values[n], side="right"))].append(n)
    total = min(len(own) / share for own, share in zip(bins, rule.target, strict=True) if share)
    for own, share in zip(bins, rule.target, strict=True):
        for n in own[math.floor(total * share + 1e-9) :]:
            reasons[n] = "off_target"
    return reasons


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's correlation, its 95 % interval (Bonett and Wright 2000); NaN if one side never varies."""
    from scipy.stats import spearmanr

    rank = float(spearmanr(one, other).statistic)
    half = 1.96 * math.sqrt((1 + rank**2 / 2) / max(1, len(one) - 3))
    middle = math.atanh(max(min(rank, 0.999999), -0.999999))
    return rank, math.tanh(middle - half), math.tanh(middle + half)


# ------------------------------------------------------------------------------------------------- the filter


@dataclass(frozen=True)
class DifficultyStep(TextStep):
    """Selects by measures that the rows carry; without `rule.columns` it is a `FailRateStep` instead."""

    rule: DifficultyRule
    seed: int
    limit: int | None
    reasons: ClassVar[tuple[str, ...]] = (
        "level_truncated", "level_unparsed", "too_easy", "too_hard", "off_target",
    )  # fmt: skip

    @classmethod
    def of(cls, rule: DifficultyRule, context: Context) -> DifficultyStep | FailRateStep | LevelStep:
        """The step for these columns, or for whoever is asked."""
        if rule.columns:
            return cls(rule, context.seed, context.limit)
        if rule.judge == "agreement":
            return FailRateStep(rule, Agreement(context))
        return LevelStep(rule, Levels(context.prompt, context.sampling, context.seed))

    @classmethod
    def check(cls, rule: DifficultyRule) -> None:
        """A judge has to have a prompt."""
        if rule.judge != "agreement" and not rule.prompt:
            raise ConfigError(f"difficulty.prompt: judge: {rule.judge} needs a prompt file")

    @classmethod
    def asks_model(cls, rule: DifficultyRule) -> bool:
        """Only if no column is named."""
        return not rule.columns

    def find(self, rows: Sequence[Row], batches: Sequence[Any], left: NDArray[np.bool_]) -> Outcome:
        """`select_difficulty` among the rows that are left."""
        numbers = np.flatnonzero(left).tolist()
        some = [rows[number] for number in numbers]
        reasons: list[str | None] = [None] * len(rows)
        found = select_difficulty(some, self.rule, self.seed, self.limit)
        for number, reason in zip(numbers, found, strict=True):
            reasons[number] = reason
        values = measured(some, self.rule.columns)
        kept = [value for value, number in zip(values, numbers, strict=True) if reasons[number] is None]
        return Outcome(reasons, found=(values, kept))

    def report(self, rows: Sequence[Row], outcome: Outcome, receipt: Mapping[str, Any]) -> StepReport:
        """The measures before and after."""
        before, after = outcome.found
        return StepReport(_histogram(before, after, "difficulty"))


@dataclass(frozen=True)
class FailRateStep(ModelStep):
    """Drops what the solver fails too seldom or too often."""

    rule: DifficultyRule
    asks: Agreement

    def reason(self, row: Row) -> str | None:
        """`outside_difficulty` of the row."""
        return outside_difficulty(row, self.rule)


@dataclass(frozen=True)
class LevelStep(ModelStep):
    """Drops what a judge finds too easy or too hard."""

    rule: DifficultyRule
    asks: Levels

    def reason(self, row: Row) -> str | None:
        """`outside_levels` of the row."""
        return outside_levels(row, self.rule)

    def report(self, receipt: Mapping[str, Any]) -> StepReport:
        """How many got a level; the levels themselves are in the rows."""
        drops = receipt["dropped"]
        without = sum(drops.get(name, 0) for name in ("level_truncated", "level_unparsed", *FAULTS))
        outside = drops.get("too_easy", 0) + drops.get("too_hard", 0)
        facts = {"judged": without + outside + receipt["kept"], "no_level": without}
        facts |= {name: drops.get(name, 0) for name in ("too_easy", "too_hard")}
        note = f"Kept: {self.rule.min_level} to {self.rule.max_level}, as the judge says."
        return StepReport([elements.section("Difficulty", elements.table([facts]), note=note)], facts)


def fail_rates(folder: Path) -> list[str]:
    """The section on the fail rates that the rows of a stage folder carry, whichever step measured them."""
    import pyarrow.parquet as pq

    rates: dict[str, list[float]] = {"data": [], "dropped": []}
    for name, found in rates.items():
        for path in sorted((folder / name).glob("*.parquet")):
            if "fail_rate" in pq.read_schema(path).names:
                column = pq.read_table(path, columns=["fail_rate"])["fail_rate"]
                found += [value for value in column.to_pylist() if value is not None]
    return _histogram([*rates["data"], *rates["dropped"]], rates["data"], "fail rate (1 - agreement)")


def _histogram(before: Sequence[float], after: Sequence[float], measure: str) -> list[str]:
    if not before:
        return []
    note = "Before: all rows that were measured. After: those that go on."
    return [
        elements.section(
            "Difficulty", elements.histogram({"before": before, "after": after}, measure), note=note
        )
    ]
