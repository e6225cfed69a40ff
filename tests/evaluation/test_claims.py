"""Claims: effects paired by seed, the rule of verdicts, and the tables."""

from __future__ import annotations

import math
from typing import Any

import pytest

from scalequest.config import ConfigError, build
from scalequest.evaluation.claims import Claim, Finding, claim_lines, decide, shown, verdict_of
from scalequest.evaluation.statistics import Estimate, mean_over_runs

WORDS = {"says": "It helps", "paper": "1 → 2", "place": "Table 1", "control": "luck", "caution": "Much."}


def claim(**keys: Any) -> Claim:
    made = build((Claim,), {"name": "one", "measure": "accuracy", **WORDS, **keys})[0]
    assert isinstance(made, Claim)
    return made


class Look:
    """Values by arm, measure and seed."""

    def __init__(self, **arms: dict[int, float]) -> None:
        self.arms = arms

    def __call__(self, arm: str, measure: str, other: str | None) -> dict[int, float]:
        return self.arms[arm] if measure == "accuracy" else {seed: 100 * len(arm) for seed in self.arms[arm]}


def test_the_interval_over_runs_is_students() -> None:
    found = mean_over_runs([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3))  # t of 2 degrees of freedom
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3))
    assert mean_over_runs([4.0]) == Estimate(4.0, None, None, 1)
    assert mean_over_runs([4.0, 4.0]) == Estimate(4.0, None, None, 2)
    assert mean_over_runs([]) == Estimate(None, None, None, 0)


def test_the_interval_over_runs_covers_what_it_should() -> None:
    import numpy as np

    draw = np.random.default_rng(0)
    found = [mean_over_runs(draw.normal(5, 2, 3).tolist()) for _ in range(2_000)]
    covered = sum(one.low is not None and one.high is not None and one.low <= 5 <= one.high for one in found)
    assert 0.935 < covered / 2_000 < 0.965


@pytest.mark.parametrize(
    ("low", "high", "expect", "verdict"),
    [
        (0.5, 3.0, "higher", "holds"),
        (-0.5, 3.0, "higher", "undecided"),
        (-3.0, 0.9, "higher", "does not"),
        (0.1, 0.9, "higher", "does not"),  # surely there, and too small to count
        (-3.0, -0.5, "lower", "holds"),
        (-3.0, 0.5, "lower", "undecided"),
        (-0.9, 3.0, "lower", "does not"),
        (-0.9, 3.0, "not lower", "holds"),
        (-1.1, 3.0, "not lower", "undecided"),
        (-3.0, -0.1, "not lower", "does not"),
        (None, None, "higher", "undecided"),
    ],
)
def test_the_rule_of_verdicts(low: float | None, high: float | None, expect: str, verdict: str) -> None:
    assert verdict_of(Estimate(0.0, low, high, 5), 1.0, expect) == verdict


def test_an_effect_is_paired_by_seed() -> None:
    """The seeds differ much more than the arms, and one seed has only one of them."""
    look = Look(new={1: 13.0, 2: 34.1, 3: 52.9, 4: 9.0}, old={1: 10.0, 2: 31.0, 3: 50.0})
    found = decide(claim(first="new", second="old"), look, 1.0)
    assert found.effect.value == pytest.approx(3.0)
    assert found.effect.n == 3
    assert found.effect.low is not None
    assert found.effect.low > 2.5
    assert (found.verdict, found.over_control) == ("holds", None)


@pytest.mark.parametrize(
    ("control", "verdict"),
    [({1: 9.0, 2: 31.5, 3: 50.0}, "holds"), ({1: 13.1, 2: 34.0, 3: 53.0}, "does not"), ({}, "undecided")],
)
def test_a_control_that_does_as_well_refutes_a_claim(control: dict[int, float], verdict: str) -> None:
    look = Look(new={1: 13.0, 2: 34.1, 3: 52.9}, old={1: 10.0, 2: 31.0, 3: 50.0}, sham=control)
    found = decide(claim(first="new", second="old", control_arm="sham"), look, 1.0)
    assert found.over_control is not None
    assert found.verdict == verdict


def test_a_trend_is_the_slope_per_doubling() -> None:
    look = Look(a={1: 1.0, 2: 2.0}, bb={1: 3.0, 2: 4.1}, cccc={1: 5.0, 2: 6.0}, dddd={1: 9.0})
    found = decide(claim(trend=["a", "bb", "cccc"]), look, 1.0)
    assert found.effect.value == pytest.approx(2.0)
    assert decide(claim(trend=["cccc", "dddd"]), look, 1.0).effect.n == 0  # as many pairs in both arms
    assert decide(claim(trend=["a", "bb", "cccc"]), look, 99.0).verdict == "undecided"  # two equal slopes


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"first": "a"}, "give either first and second, or trend"),
        ({"first": "a", "second": "b", "trend": ["a", "b"]}, "give either first and second, or trend"),
        ({"trend": ["a"]}, "two arms or more"),
        ({"trend": ["a", "b"], "control_arm": "c"}, "takes no control_arm"),
    ],
)
def test_a_claim_compares_one_way(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        claim(**keys)
    assert "'one'" in str(error.value)


def test_the_tables_say_what_was_not_run() -> None:
    one = claim(first="new", second="old", control_arm="sham")
    before = "\n".join(claim_lines([one], {}, {"accuracy": 1}))
    assert "not run" in before
    found = Finding(Estimate(4.0, 1.04, 6.96, 3), Estimate(-1.0, None, None, 2), "holds")
    after = "\n".join(claim_lines([one], {"one": found}, {"accuracy": 1}))
    assert (
        "| It helps | 1 → 2 (Table 1) | accuracy: new − old, higher | +4.0 [+1.0, +7.0] | −1.0 | 3 | holds |"
        in after
    )
    assert "| It helps | luck (arm sham) | Much. |" in after
    assert shown(Estimate(0.126, -0.004, 0.256, 3), 2, sign=True) == "+0.13 [−0.00, +0.26]"
    assert shown(Estimate(1234.5, 1.0, 2.0, 3)) == "1,234.5 [1.0, 2.0]"
