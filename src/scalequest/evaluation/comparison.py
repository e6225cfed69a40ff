"""Compare two models on the same problems: the difference, its significance, and the flipped problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from scalequest.config import ConfigError
from scalequest.evaluation.results import Result
from scalequest.evaluation.statistics import FEW, Estimate, mcnemar, paired_difference
from scalequest.evaluation.tables import Table, describe_differences, format_percent, letters_of
from scalequest.pages.markup import shorten
from scalequest.records import Row, read_dropped, read_rows

LISTED = 200  # maximum number of flipped problems in the table


@dataclass(frozen=True)
class Comparison:
    """The second model compared with the first, on the problems of one benchmark that both were given.

    Attributes:
        benchmark: the benchmark's name.
        first: the first model's label; `second`: the second model's.
        difference: the second model's accuracy minus the first's, with `paired_difference`'s interval.
        p_value: the p-value of McNemar's exact test; None if a problem has several outputs.
        gained: ids of the problems that only the second model solves; `lost`: those that only the first
            solves. With several outputs: that one solves more often.
        answers: both models' answers to each of these, from their first outputs.
        differs: how their protocols differ; empty if the two are comparable.
    """

    benchmark: str
    first: str
    second: str
    difference: Estimate
    p_value: float | None
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    answers: dict[str, tuple[str | None, str | None]]
    differs: str = ""


def read_outputs(folder: str | Path) -> list[Row]:
    """Read all outputs of one model; dropped requests count as wrong, as they do in its accuracy."""
    lost = [{**row, "correct": False, "extracted": None} for row in read_dropped(folder)]
    return [*read_rows(folder), *lost]


def compare_protocols(first: Sequence[Result], second: Sequence[Result]) -> dict[str, str]:
    """Return how the second model's protocol differs from the first's, by benchmark; equal ones are left out.

    Raises:
        ConfigError: a benchmark has different problems under the same name, so equal ids are not equal
            problems.
    """
    usual = {result.benchmark: result for result in first}
    for new in second:
        old = usual.get(new.benchmark, new)
        if new.protocol.get("benchmark_sha256") != old.protocol.get("benchmark_sha256"):
            raise ConfigError(
                f"compare: {new.benchmark}: {old.model} and {new.model} were evaluated on "
                "different problems under this name (benchmark_sha256 differs) and cannot be "
                "compared; use evaluations of the same data"
            )
    return {
        result.benchmark: describe_differences(result.protocol, usual[result.benchmark].protocol)
        for result in second
        if result.benchmark in usual and result.fingerprint != usual[result.benchmark].fingerprint
    }


def compare(
    first: Sequence[Row],
    second: Sequence[Row],
    labels: tuple[str, str],
    seed: int = 0,
    *,
    differs: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Compare two models on each benchmark.

    Args:
        first: the first model's rows, from `read_outputs`.
        second: the second model's rows.
        labels: the labels of the two models.
        seed: the seed of the bootstrap.
        differs: the result of `compare_protocols`.
    """
    a, b = scores_of_problems(first), scores_of_problems(second)
    several = any(len(group) > 1 for rows in (first, second) for group in _group_outputs(rows).values())
    found = []
    for benchmark in dict.fromkeys(name for name, _ in a):
        ids = [i for name, i in a if name == benchmark and (benchmark, i) in b]
        if len(ids) < 2:
            continue
        gaps = {i: b[benchmark, i] - a[benchmark, i] for i in ids}
        gained = tuple(i for i, gap in gaps.items() if gap > 0)
        lost = tuple(i for i, gap in gaps.items() if gap < 0)
        p_value = None if several else mcnemar(len(gained), len(lost))
        difference = paired_difference(list(gaps.values()), seed)
        answers = [_answers_of(rows, benchmark) for rows in (first, second)]
        said = {i: (answers[0][i], answers[1][i]) for i in gained + lost}
        other = (differs or {}).get(benchmark, "")
        found.append(Comparison(benchmark, *labels, difference, p_value, gained, lost, said, other))
    return found


def _answers_of(rows: Sequence[Row], benchmark: str) -> dict[str, str | None]:
    return {row["id"]: row["extracted"] for row in reversed(rows) if row["benchmark"] == benchmark}


def scores_of_problems(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Return the share of correct outputs, by benchmark and problem."""
    return {key: fmean(group) for key, group in _group_outputs(rows).items()}


def _group_outputs(rows: Sequence[Row]) -> dict[tuple[str, str], list[bool]]:
    groups: dict[tuple[str, str], list[bool]] = {}
    for row in rows:
        groups.setdefault((row["benchmark"], row["id"]), []).append(bool(row["correct"]))
    return groups


def tables_of_comparisons(
    found: Sequence[Comparison], titles: Mapping[str, str], *, flips: bool = False
) -> list[Table]:
    """Return one row per pair of models and benchmark; with `flips`, also a table of the flipped problems."""
    if not found:
        return []
    tables = [_table_of_differences(found, titles)]
    flipped = [
        (one.second, one.first, titles.get(one.benchmark, one.benchmark), kind, i, *map(_format_answer, said))
        for one in found
        for kind, ids in (("gained", one.gained), ("lost", one.lost))
        for i in ids
        for said in [one.answers[i][::-1]]
    ]
    if flips and flipped:
        more = f"{len(flipped) - LISTED:,} more problems flipped." if len(flipped) > LISTED else ""
        head = ("model", "against", "benchmark", "flip", "problem", "answered", "against answered")
        shown = tuple(flipped[:LISTED])
        tables.append(Table("flips", "Problems that flipped", head, shown, (more,) if more else ()))
    return tables


def _table_of_differences(found: Sequence[Comparison], titles: Mapping[str, str]) -> Table:
    marks = letters_of(one.differs for one in found if one.differs)
    rows = [
        (
            one.second,
            one.first,
            titles.get(one.benchmark, one.benchmark),
            f"{one.difference.n:,}",
            format_points(one.difference) + marks.get(one.differs, ""),
            f"{len(one.gained):,}",
            f"{len(one.lost):,}",
            "–" if one.p_value is None else f"{one.p_value:.2g}{marks.get(one.differs, '')}",
        )
        for one in found
    ]
    columns = ("model", "against", "benchmark", "n", "difference", "gained", "lost", "p")
    several = any(one.p_value is None for one in found)  # only one output per problem has a test
    note = (
        "Difference in points with the 95 % interval of the paired bootstrap over "
        f"problems, or Tango's interval if fewer than {FEW} problems flip. Gained and "
        "lost: problems that only one of the two "
        f"solves{' (with several outputs: solves more often)' if several else ''}. p: "
        "McNemar's exact test, two-sided, not corrected for the number of comparisons."
    )
    notes = [
        f"{mark.strip()} the two results have different protocols: {what}." for what, mark in marks.items()
    ]
    return Table("differences", "Differences between models", columns, tuple(rows), (note, *notes))


def _format_answer(answer: str | None) -> str:
    """Format an answer as one short line; anything unprintable becomes a replacement character."""
    if answer is None:
        return "–"
    line = "".join(char if char.isprintable() else "\ufffd" for char in " ".join(answer.split()))
    return shorten(line, 60)


def format_points(estimate: Estimate) -> str:
    """Format a difference in points, as `+1.3 [-0.2, +2.8]`."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return format_percent(estimate)
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
