"""Claims about a method, each decided by what the arms of a study measured over several seeds.

An arm is one way to run a pipeline, and a measure is one number per arm and seed. A claim compares two arms
(the difference of each seed), or says that a measure grows along several arms (the slope of each seed).
Differences are paired by seed, because arms of one seed share the stages that they have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression
from typing import Literal

from scalequest.config import ConfigError, option, required
from scalequest.evaluation.statistics import Estimate, mean_over_runs
from scalequest.pages.markup import table_lines

Verdict = Literal["holds", "does not", "undecided"]
Values = Mapping[int, float]  # by seed
# The values of an arm's measure by seed, as compared with the arm that is named last, if any.
Look = Callable[[str, str, str | None], Values]

RULE = (
    "A claim **holds** if the whole 95 % interval of its effect lies on the claimed side of zero. It "
    "**does not** if the whole interval lies below the least effect that counts. Otherwise it is "
    "**undecided**. If an arm is the control, the difference to it is judged by the same rule, and the claim "
    "holds only if both do. What is claimed to be *not lower* is judged after adding the least effect that "
    "counts."
)


@dataclass(frozen=True)
class Claim:
    """One claim, with what the paper says about it and how it is decided."""

    name: str = required("its name")
    says: str = required("the claim in one sentence")
    paper: str = required("the paper's number, or what it says without one")
    place: str = required("where the paper says it")
    measure: str = required("what is compared")
    first: str | None = option(None, "the arm of which something is claimed")
    second: str | None = option(None, "the arm that it is compared with")
    trend: list[str] = option(help="instead: arms along which the measure changes", default_factory=list)
    along: str = option("pairs", "trend: the measure that gives each arm its place; a step is a doubling")
    expect: Literal["higher", "lower", "not lower"] = option("higher", "what is claimed of the first arm")
    control: str = required("what could give the same effect without the claim being true")
    control_arm: str | None = option(None, "the arm that has this cause alone")
    caution: str = required("one sentence: what a small world cannot say about it")

    def __post_init__(self) -> None:
        pair = self.first is not None and self.second is not None
        if pair == bool(self.trend) or (not pair and (self.first or self.second)):
            raise ConfigError(f"claim {self.name!r}: give either first and second, or trend")
        if self.trend and (len(self.trend) < 2 or self.control_arm):
            raise ConfigError(f"claim {self.name!r}: trend: needs two arms or more, and takes no control_arm")

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms that it names."""
        return tuple(arm for arm in (self.first, self.second, self.control_arm, *self.trend) if arm)


@dataclass(frozen=True)
class Finding:
    """What a study found: the effect (of a trend: per doubling), and the difference to the control."""

    effect: Estimate
    over_control: Estimate | None
    verdict: Verdict


def decide(claim: Claim, look: Look, least: float) -> Finding:
    """Return what the measured values say about a claim.

    Args:
        claim: the claim.
        look: gives the values of an arm by seed; seeds that have none are absent.
        least: the least effect that counts, in the measure's unit.
    """
    if claim.trend:
        effect, gap = mean_over_runs(slopes(claim, look)), None
    else:
        assert claim.first is not None
        assert claim.second is not None
        effect = mean_over_runs(differences(claim.measure, claim.first, claim.second, look))
        control = claim.control_arm
        gap = mean_over_runs(differences(claim.measure, claim.first, control, look)) if control else None
    found = {verdict_of(one, least, claim.expect) for one in (effect, gap) if one is not None}
    verdict: Verdict = "does not" if "does not" in found else "holds" if found == {"holds"} else "undecided"
    return Finding(effect, gap, verdict)


def verdict_of(effect: Estimate, least: float, expect: str = "higher") -> Verdict:
    """Judge one effect by `RULE`."""
    if effect.low is None or effect.high is None:
        return "undecided"
    low, high = (-effect.high, -effect.low) if expect == "lower" else (effect.low, effect.high)
    shift = least if expect == "not lower" else 0.0
    if high + shift < least:
        return "does not"
    return "holds" if low + shift > 0 else "undecided"


def differences(measure: str, first: str, second: str, look: Look) -> list[float]:
    """Return the first arm's value minus the second's, for every seed that has both."""
    one, other = look(first, measure, second), look(second, measure, second)
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def slopes(claim: Claim, look: Look) -> list[float]:
    """Return the least-squares slope per doubling, for every seed in which all arms of a trend are measured.

    A seed in which all arms have the same place has no slope.
    """
    places = [look(arm, claim.along, None) for arm in claim.trend]
    values = [look(arm, claim.measure, None) for arm in claim.trend]
    seeds = set.intersection(*(set(one) for one in (*places, *values)))
    return [
        linear_regression([math.log2(place[seed]) for place in places], [value[seed] for value in values])[0]
        for seed in sorted(seeds)
        if len({place[seed] for place in places}) > 1
    ]


# ---------------------------------------------------------------------------------------------------- telling


def claim_lines(
    claims: Sequence[Claim], findings: Mapping[str, Finding], digits: Mapping[str, int]
) -> list[str]:
    """Return the lines of the table of claims, and of the table of what each of them may not mean.

    Args:
        claims: in the order of the rows.
        findings: by name; empty before the study was run.
        digits: decimals of each measure.
    """
    rows, doubts = [], []
    for claim in claims:
        found = findings.get(claim.name)
        places = digits[claim.measure]
        effect = shown(found.effect, places, sign=True) if found else "–"
        gap = shown(found.over_control, places, sign=True) if found and found.over_control else "–"
        seeds = found.effect.n if found else "–"
        verdict = found.verdict if found else "not run"
        rows.append(
            (claim.says, f"{claim.paper} ({claim.place})", _compared(claim), effect, gap, seeds, verdict)
        )
        control = f"{claim.control} (arm {claim.control_arm})" if claim.control_arm else claim.control
        doubts.append((claim.says, control, claim.caution))
    columns = ("claim", "the paper", "compared", "effect", "over the control", "seeds", "verdict")
    return [
        *table_lines(columns, rows, right=(5,)),
        "",
        *table_lines(("claim", "what could have fooled us", "what a small world cannot say"), doubts),
    ]


def _compared(claim: Claim) -> str:
    if claim.trend:
        return f"{claim.measure} per doubling of {claim.along}: {', '.join(claim.trend)}"
    return f"{claim.measure}: {claim.first} − {claim.second}, {claim.expect}"


def shown(one: Estimate, digits: int = 1, *, sign: bool = False) -> str:
    """Return an estimate over seeds with its interval, e.g. "+4.1 [+1.0, +7.2]"; "–" without a value."""
    if one.value is None:
        return "–"

    def number(value: float) -> str:
        return format(value, f"{'+' if sign else ''},.{digits}f").replace("-", "−")

    if one.low is None or one.high is None:
        return number(one.value)
    return f"{number(one.value)} [{number(one.low)}, {number(one.high)}]"
