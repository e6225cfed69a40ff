r"""Measure judges, difficulty measures and selection rules on TinyMath against its oracle.

    python recipes/tiny/measure_filters.py --solved runs/tiny/filter_difficulty \
        --output_dir runs/tiny/measure_filters

`solved` are questions with several sampled solutions each: the folder of a filter stage with keep_responses
(including what it dropped), of solve_questions or of score.py, or a file. `judged` are the folders of filters
that gave verdicts on the same questions; then only questions with a verdict count. `filtered` are the folders
of the filters that came after them. There are three tables; each number has its 95 % interval and its cost:

- solvability: precision and recall of keeping a question, by the agreement of its samples, by a judge's
verdict, and by all filters together, compared with the oracle's "well posed";
- difficulty: Spearman's correlation of each measure with the oracle's number of steps;
- selection: how often each rule picks a correct solution if the samples include one, compared with a random
choice.

This takes seconds on one core, prints the tables, and writes OUTPUT/filters.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, option, required
from scalequest.config.ranges import COUNT
from scalequest.evaluation.statistics import accuracy_of, share_of
from scalequest.evaluation.tables import Table, format_percent, print_tables
from scalequest.grading import equivalent
from scalequest.questions.difficulty import rank_correlation
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import Row, read_dropped, read_rows
from scalequest.solutions.selection import NEED_REWARDS, SelectConfig, select
from scalequest.stage.block_loop import Drop
from tinymath.oracle import judge

THRESHOLDS = (0.4, 0.6, 0.8, 1.0)
RULES = ("majority", "reward", "majority_reward", "reward_vote")
MEASURES = ("fail_rate", "difficulty")


@dataclass(frozen=True)
class MeasureConfig:
    """What to measure."""

    solved: list[str] = required("sources of questions with sampled solutions")
    output_dir: str = required("output folder for filters.json")
    judged: list[str] = option(
        default_factory=list, help="folders of filter stages whose verdicts on these questions are measured"
    )
    filtered: list[str] = option(
        default_factory=list, help="folders of the filters that read what the judge kept, the last one's last"
    )
    limit: int | None = option(None, "use only the first N questions", within=COUNT)


def main(args: MeasureConfig) -> None:
    """Ask the oracle about every question, then print and write three tables."""
    rows = [row for source in args.solved for row in read_solved(source)][: args.limit]
    if not rows:
        raise ConfigError(f"solved: no row of {', '.join(args.solved)} has responses")
    verdicts = {row["id"]: row for source in args.judged for row in read_judged(source)}
    if args.judged:
        rows = [row | verdicts[row["id"]] for row in rows if row["id"] in verdicts]
    filters = Filters.of(args.filtered) if args.filtered else None
    for row in rows:
        verdict = judge(row["question"])
        row |= {"well_posed": verdict.well_posed, "truth": verdict.answer, "steps": verdict.steps}
        row["fail_rate"] = row.get("fail_rate", 1 - row["agreement"])
    tables = [measure_solvability(rows, filters), measure_difficulty(rows), measure_selection(rows)]
    print_tables(tables)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {one.name: [dict(zip(one.columns, row, strict=True)) for row in one.rows] for one in tables}
    (folder / "filters.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_solved(source: str) -> list[Row]:
    """Return the rows with samples, including those that a stage dropped after sampling."""
    rows = read_rows(source) + ([] if source.startswith("hub:") else read_dropped(source))
    return [dict(row) for row in rows if row.get("responses")]


def read_judged(source: str) -> list[Row]:
    """Return id and verdict of each row that a filter stage judged, including those that it dropped.

    A row that an earlier filter dropped was not judged. A verdict that cannot be read is None.
    """
    keys = ("id", "verdict", "verdict_by_substring", "verdict_tokens")
    rows = (*read_rows(source), *read_dropped(source))
    return [{key: row.get(key) for key in keys} for row in rows if row.get("verdict_tokens") is not None]


@dataclass(frozen=True)
class Filters:
    """What filters after the judge kept, by id, and how many tokens they sampled."""

    kept: frozenset[str]
    tokens: int

    @classmethod
    def of(cls, folders: Sequence[str]) -> Filters:
        """Read the folders, of which the last holds what is kept in the end."""
        sampled = [row for source in folders for row in read_solved(source)]
        kept = frozenset(row["id"] for row in read_rows(folders[-1]))
        return cls(kept, tokens_of(sampled))


def measure_solvability(rows: Sequence[Row], filters: Filters | None = None) -> Table:
    """Compare each judge, and all filters together, with the oracle's verdict."""
    judges: dict[str, Callable[[Row], bool]] = {"keep all": lambda row: True}
    for least in THRESHOLDS:
        judges[f"agreement >= {least}"] = lambda row, least=least: row["agreement"] >= least - 1e-9
    if any(row.get("verdict") is not None for row in rows):
        judges["verdict Yes"] = lambda row: row.get("verdict") is True
        judges["'yes' anywhere (paper)"] = lambda row: row.get("verdict_by_substring") is True
    told = [row["verdict_tokens"] for row in rows if row.get("verdict_tokens") is not None]
    costs = {"agreement": mean_tokens_of(rows), "verdict": sum(told) / len(told) if told else None}
    if filters is not None:
        judges["all filters"] = lambda row: row["id"] in filters.kept
        costs["all filters"] = (sum(told) + filters.tokens) / len(rows)
    lines = []
    for name, keeps in judges.items():
        kept = [row for row in rows if keeps(row)]
        right = sum(row["well_posed"] for row in kept)
        posed = sum(row["well_posed"] for row in rows)
        of = name if name in costs else "agreement" if name.startswith("agree") else "verdict"
        tokens = 0.0 if name == "keep all" else costs[of]
        cost = "–" if tokens is None else f"{tokens:.0f}"
        cells = (
            format_percent(share_of(right, len(kept))),
            format_percent(share_of(right, posed)),
            f"{len(kept):,}",
            cost,
        )
        lines.append((name, *cells))
    note = f"{len(rows):,} questions. Cost: sampled tokens per question."
    columns = ("judge", "precision", "recall", "kept", "cost")
    return Table("solvability", "Solvability judges compared with the oracle", columns, tuple(lines), (note,))


def measure_difficulty(rows: Sequence[Row]) -> Table:
    """Return each measure's rank correlation with the number of steps, over well-posed questions."""
    lines = []
    for name in MEASURES:
        both = [(row[name], row["steps"]) for row in rows if row["well_posed"] and row.get(name) is not None]
        if len({value for value, _ in both}) < 2:
            continue
        rho, low, high = rank_correlation(*zip(*both, strict=True))
        cost = f"{mean_tokens_of(rows):.0f}" if name == "fail_rate" else "0"
        lines.append((name, f"{rho:.3f} [{low:.3f}, {high:.3f}]", f"{len(both):,}", cost))
    note = (
        "Spearman correlation with the oracle's number of steps, over well-posed "
        "questions. Cost: sampled tokens per question; a scorer reads each question once."
    )
    columns = ("measure", "spearman", "n", "cost")
    return Table("difficulty", "Measures of difficulty", columns, tuple(lines), (note,))


def measure_selection(rows: Sequence[Row]) -> Table:
    """Return how often each rule picks a correct solution, over questions with correct and wrong ones."""
    open_ones, blind = [], list[float]()
    for row in rows:
        if row["well_posed"]:
            right = [answer is not None and is_same(answer, row["truth"]) for answer in row["answers"]]
            if any(right) and not all(right):
                open_ones.append(row)
                blind.append(sum(right) / len(right))
    lines: list[tuple[str, ...]] = []
    for rule in RULES:
        if rule in NEED_REWARDS and not all("rewards" in row for row in open_ones):
            continue
        picks = [select(row, SelectConfig(input=["x"], rule=rule, answer_phrase=False)) for row in open_ones]
        hits = sum(
            not isinstance(pick, Drop) and is_same(pick["answer"], row["truth"])
            for pick, row in zip(picks, open_ones, strict=True)
        )
        lines.append((rule, format_percent(share_of(hits, len(open_ones))), f"{len(open_ones):,}"))
    lines.append(("any sample (mean)", format_percent(accuracy_of(blind)), f"{len(open_ones):,}"))
    note = (
        "Questions with at least one correct and one wrong sample; an oracle would be "
        f"correct on all of them. Every rule reads the same {mean_tokens_of(rows):.0f} "
        "tokens per question; the rules by reward also score them."
    )
    return Table("selection", "Pick accuracy in %", ("rule", "right", "n"), tuple(lines), (note,))


def is_same(answer: str, truth: Any) -> bool:
    """Return whether an answer equals the oracle's."""
    return answer == str(truth) or equivalent(answer, str(truth))


def mean_tokens_of(rows: Sequence[Row]) -> float:
    """Return the mean number of tokens in all samples of a question."""
    return tokens_of(rows) / len(rows)


def tokens_of(rows: Sequence[Row]) -> int:
    """Return the number of tokens in all samples of all questions."""
    return sum(sum(row["tokens"]) for row in rows if row.get("tokens"))


RECIPE = Recipe("measure_filters", 1, "tool", lambda: (MeasureConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
