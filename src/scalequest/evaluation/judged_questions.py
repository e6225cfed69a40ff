"""Statistics of judged questions: solvable share, levels, topics, differences, and agreement with others.

The rows come from `questions.judging`. Other verdicts on the same questions, with which the judge is
compared, come from another judge's folder or from people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scalequest.config import ConfigError
from scalequest.evaluation.raters import rater_agreement
from scalequest.evaluation.statistics import (
    Estimate,
    independent_difference,
    mean_of,
    paired_difference,
    share_of,
)
from scalequest.questions.judging import VERDICTS, Aspect, JudgeConfig, read_verdict
from scalequest.questions.levels import LEVELS, SCORES
from scalequest.records import Row, expand, read_rows

STEP = 20.0  # between the difficulty scores of two neighbouring levels

Key = tuple[str, str]  # generator and id
Labels = Mapping[Key, Row]


# ------------------------------------------------------------------------------------------- other verdicts


def read_labels(label: str, source: str, rows: Sequence[Row], topics: Sequence[str]) -> dict[Key, Row]:
    """Return other verdicts (solvable, difficulty, topic) on our questions, by generator and id.

    A file names each question by `id`, and also by `generator` if several generators have that id; each of
    these questions must be among ours. From a stage's folder, the questions that both judged are taken.

    Args:
        label: who gave the verdicts, for error messages.
        source: a source that `read_rows` accepts.
        rows: our rows.
        topics: the possible topics.

    Raises:
        ConfigError: a row names none of our questions, or the same one as another row, or has no verdict or
            an unknown one; or there is no common question.
    """
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(row["id"], []).append(row["generator"])
    found: dict[Key, Row] = {}
    lax = expand(source).is_dir()
    for index, row in enumerate(read_rows(source), 1):
        where = f"against.{label}: {source}: row {index}"
        key = _key(row, places, where, lax=lax)
        if key is None:
            continue
        if key in found:
            raise ConfigError(f"{where}: question '{key[1]}' of {key[0]} is a duplicate; remove one")
        given = {column: row.get(column) for column in VERDICTS.values()}
        if not lax and all(value is None for value in given.values()):
            raise ConfigError(f"{where}: contains none of {', '.join(given)}")
        found[key] = {name: read_verdict(name, value, topics, where) for name, value in given.items()}
    if not found:
        raise ConfigError(f"against.{label}: {source}: contains none of the judged questions")
    return found


def _key(row: Row, places: Mapping[str, Sequence[str]], where: str, *, lax: bool) -> Key | None:
    if row.get("id") is None:
        raise ConfigError(f"{where}: no 'id'; name the question by its id in this stage's rows")
    name, generator = str(row["id"]), row.get("generator")
    known = places.get(name, ())
    if generator in known:
        return str(generator), name
    if lax:
        return None
    if generator is not None or not known:
        of = "" if generator is None else f" of generator '{generator}'"
        raise ConfigError(f"{where}: no question{of} has the id '{name}'; fix or remove that row")
    if len(known) > 1:
        raise ConfigError(f"{where}: {', '.join(known)} all have the id '{name}'; give `generator` as well")
    return known[0], name


# ------------------------------------------------------------------------------------------------- measures


def measure(
    rows: Sequence[Row],
    config: JudgeConfig,
    others: Mapping[str, Labels],
    counts: Mapping[str, Any],
    seed: int = 0,
) -> dict[str, Any]:
    """Return all statistics in the form of report.json; an estimate is a map of value, low, high and n.

    Args:
        rows: all judged rows; dropped ones have a `reason`.
        config: the stage's settings.
        others: the results of `read_labels`, by label.
        counts: the counts of the stage's receipt.
        seed: the seed of the bootstrap.
    """
    labels = list(config.generators)
    own = {label: [row for row in rows if row["generator"] == label] for label in labels}
    aspects = [aspect for aspect in VERDICTS if any(_asked(row, aspect) for row in rows)]
    first, *rest = labels
    return {
        "judge": config.label,
        "judged_by": config.judge,
        "generators": {label: _of_generator(own[label], aspects, config.topics) for label in labels},
        "differences": [
            {"generator": label, "from": first, **found}
            for label in rest
            for found in _differences(own[label], own[first], aspects, seed)
        ],
        "agreement": [
            {"with": label, **found}
            for label, verdicts in others.items()
            for found in _agreements(rows, verdicts, aspects, config.topics)
        ],
        "spent": {
            name: counts[name] for name in ("requests", "cost", "prompt_tokens", "tokens") if name in counts
        },
    }


def _asked(row: Row, aspect: Aspect) -> bool:
    return row.get(VERDICTS[aspect]) is not None or row.get(f"{aspect}_fault") is not None


def _of_generator(rows: Sequence[Row], aspects: Sequence[Aspect], topics: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"questions": len(rows)}
    for aspect in aspects:
        given = [row[VERDICTS[aspect]] for row in rows if row.get(VERDICTS[aspect]) is not None]
        faults = Counter(
            row.get(f"{aspect}_fault") or row.get("reason") or "not_asked"
            for row in rows
            if row.get(VERDICTS[aspect]) is None
        )
        one: dict[str, Any] = {"judged": len(given), "no_verdict": dict(faults.most_common())}
        if aspect == "solvability":
            one["solvable"] = asdict(share_of(sum(given), len(given)))
        else:
            names = LEVELS if aspect == "difficulty" else topics
            counted = Counter(given)
            one["shares"] = {name: asdict(share_of(counted[name], len(given))) for name in names}
        if aspect == "difficulty":
            one["mean"] = asdict(mean_of([SCORES[level] for level in given]))
        found[aspect] = one
    return found


def _differences(
    rows: Sequence[Row], base: Sequence[Row], aspects: Sequence[Aspect], seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the differences from `base` in solvable share and mean score.

    They are paired if all ids of the smaller set are in the larger one, as for questions and their rewrites.
    """
    ids = {row["id"] for row in rows}, {row["id"] for row in base}
    paired = ids[0] <= ids[1] or ids[1] <= ids[0]
    values: dict[Aspect, Callable[[Any], float]] = {"solvability": float, "difficulty": SCORES.__getitem__}
    for aspect in [aspect for aspect in values if aspect in aspects]:
        column, value = VERDICTS[aspect], values[aspect]
        mine, theirs = (
            {row["id"]: value(row[column]) for row in side if row.get(column) is not None}
            for side in (rows, base)
        )
        if paired:
            gaps = [mine[key] - theirs[key] for key in mine if key in theirs]
            if len(gaps) < 2:
                continue
            unit = STEP if aspect == "difficulty" else 1.0
            found = _scaled(paired_difference([gap / unit for gap in gaps], seed), unit)
        elif aspect == "difficulty":
            found = independent_difference(mean_of([*mine.values()]), mean_of([*theirs.values()]))
        else:
            sides = (share_of(int(sum(side.values())), len(side)) for side in (mine, theirs))
            found = independent_difference(*sides)
        yield {"aspect": aspect, "paired": paired, **asdict(found)}


def _scaled(estimate: Estimate, unit: float) -> Estimate:
    value, low, high = (
        None if x is None else x * unit for x in (estimate.value, estimate.low, estimate.high)
    )
    return Estimate(value, low, high, estimate.n)


def _agreements(
    rows: Sequence[Row], others: Labels, aspects: Sequence[Aspect], topics: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the agreement on each aspect, over the questions on which both sides have a verdict."""
    for aspect in aspects:
        column = VERDICTS[aspect]
        names: Sequence[Any] = {"solvability": (True, False), "difficulty": LEVELS}.get(aspect, tuple(topics))
        pairs = [
            (row[column], theirs[column])
            for row in rows
            if (theirs := others.get((row["generator"], row["id"]))) is not None
            and row.get(column) is not None
            and theirs[column] is not None
        ]
        if pairs:
            quadratic = aspect == "difficulty"
            first, second = ([names.index(pair[side]) for pair in pairs] for side in (0, 1))
            found = rater_agreement(first, second, len(names), quadratic=quadratic)
            weights = "quadratic" if quadratic else "none"
            said = [str(name) if aspect != "solvability" else ("no", "yes")[name] for name in names]
            about = {"aspect": aspect, "n": len(pairs), "weights": weights, "classes": said}
            yield {**about, **asdict(found)}
