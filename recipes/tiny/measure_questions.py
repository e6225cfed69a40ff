"""Measure generated TinyMath questions with the oracle, which no stage may use.

    python recipes/tiny/measure_questions.py --config recipes/tiny/measure_questions.yaml
    python recipes/tiny/measure_questions.py \
        --generators '{untuned: runs/tiny/raw, QFT: runs/tiny/qft_questions}' \
        --training recipes/tiny/data/seed_questions.jsonl.gz --output_dir runs/tiny/measured

For every generator, this reports the share that parses, the share of these that is well posed, their mean
number of steps, the share that occurs verbatim in the training set, and the share of distinct questions, each
with n and a 95 % interval. Longer questions have more that can be wrong, so the share of well-posed questions
is also shown for questions of equal length (in sentences between the first and the question), and as it would
be if each generator wrote the lengths that the first one writes. It also reports the kinds of fault, and how
many questions equal a test question, verbatim or except for names and numbers. It takes seconds on one core.
The results are printed and written to OUTPUT/questions.json, with every question's verdict in OUTPUT/data/.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalequest.config import RunOptions, option, required, to_dict
from scalequest.evaluation import tables
from scalequest.evaluation.benchmarks import load_benchmark
from scalequest.evaluation.statistics import Z95, mean_of, share_of
from scalequest.pages.cards import dataset_card
from scalequest.questions.text import masked, normalised
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import Row, read_dropped, read_rows, source_fingerprint
from scalequest.stage.script import open_stage
from tinymath.oracle import judge
from tinymath.world import count_sentences

VERSION = 1  # increase by hand when the same settings give other rows
QUESTIONS = "questions.json"
LONGEST = 4  # steps: longer questions count as this long
MANY = 100  # questions, to compare other generators at their lengths


@dataclass(frozen=True)
class MeasureConfig:
    """What to measure, and what to compare it with."""

    generators: dict[str, str] = required(
        "folders of generated questions, or files, by label", fingerprint=False
    )
    training: list[str] = required(
        "sources of the questions that the generators were trained on", fingerprint=False
    )
    benchmarks: list[str] = option(
        None,
        "YAML files of benchmarks whose questions must not be generated",
        fingerprint=False,
        default_factory=list,
    )


def main(run: RunOptions, args: MeasureConfig) -> None:
    """Judge every question, then print and write the measures."""
    used = {source: source_fingerprint(source) for source in inputs_of(args)}
    labels = list(args.generators)
    stage = open_stage(
        "measure_questions", VERSION, run, args, inputs=used, writes=(QUESTIONS,), labels=labels
    )
    if not stage.finished:
        rows = [
            row
            for label, source in args.generators.items()
            for row in read_generated(label, source, run.limit)
        ]
        training = {normalised(row["question"]) for source in args.training for row in read_rows(source)}
        tests = [p.question for path in args.benchmarks for p in load_benchmark(path).problems]
        verbatim, alike = set(map(normalised, tests)), set(map(masked, tests))
        for index, block in stage.blocks.pending(len(rows), run.block_size):
            stage.blocks.write(
                index, [measure_question(rows[number], training, verbatim, alike) for number in block]
            )
        text = "The oracle's verdict on every generated question; no stage of the pipeline reads this."
        shown = ("generator", "question", "parses", "well_posed", "fault", "steps")
        card = dataset_card("Measured questions", text, to_dict(args), stage.blocks.samples(8), *shown)
        stage.finish(rows_in=len(rows), card=card)
    rows = read_rows(run.output_dir)
    measures = {
        "instrument": "the TinyMath oracle",
        "generators": {
            label: summarise([r for r in rows if r["generator"] == label]) for label in args.generators
        },
    }
    add_standardised(measures["generators"])
    content = json.dumps(measures, indent=2, ensure_ascii=False) + "\n"
    (Path(run.output_dir) / QUESTIONS).write_text(content, encoding="utf-8")
    tables.print_tables(tables.tables_of_questions(measures))


def inputs_of(args: MeasureConfig) -> list[str]:
    """Return all input files and folders."""
    return list(dict.fromkeys([*args.generators.values(), *args.training, *args.benchmarks]))


def read_generated(label: str, source: str, limit: int | None) -> list[Row]:
    """Return a generator's questions, including those that its stage dropped (column `dropped` says why)."""
    rows = [{**row, "reason": None} for row in read_rows(source)] + read_dropped(source)
    rows.sort(key=lambda row: str(row.get("id", "")))  # ids are numbered in the order of generation
    return [
        {"generator": label, "question": row["question"] or "", "dropped": row["reason"]}
        for row in rows[:limit]
    ]


def measure_question(row: Row, training: set[str], tests: set[str], tests_masked: set[str]) -> Row:
    """Return a question with the oracle's verdict, and whether it is in the training or test set."""
    if row["dropped"] is not None:
        nothing = dict.fromkeys(("parses", "well_posed", "in_training", "in_test", "in_test_masked"), False)
        nothing |= {"fault": f"dropped: {row['dropped']}", "steps": None, "length": None, "key": None}
        return {**row, **nothing}
    verdict, key = judge(row["question"]), normalised(row["question"])
    return {
        **row,
        "parses": verdict.parses,
        "well_posed": verdict.well_posed,
        "fault": verdict.fault,
        "steps": verdict.steps if verdict.well_posed else None,
        "length": max(count_sentences(row["question"]) - 2, 0),
        "in_training": key in training,
        "in_test": key in tests,
        "in_test_masked": masked(row["question"]) in tests_masked,
        "key": key,
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the measures of one generator; estimates are mappings of value, low, high, n.

    The interval of the distinct share treats each question as new or not independently, which is an
    approximation.
    """
    complete = [row for row in rows if row["dropped"] is None]
    parsed = [row for row in rows if row["parses"]]
    posed = [row for row in parsed if row["well_posed"]]
    estimates: Mapping[str, Any] = {
        "parses": share_of(len(parsed), len(rows)),
        "well_posed": share_of(len(posed), len(parsed)),
        "steps": mean_of([float(row["steps"]) for row in posed]),
        "verbatim": share_of(sum(row["in_training"] for row in complete), len(complete)),
        "distinct": share_of(len({row["key"] for row in complete}), len(complete)),
    }
    return {
        "questions": len(rows),
        **{key: asdict(estimate) for key, estimate in estimates.items()},
        "by_length": {
            str(length): asdict(share_of(sum(row["well_posed"] for row in some), len(some)))
            for length in range(1, LONGEST + 1)
            if (some := [row for row in parsed if min(max(row["length"], 1), LONGEST) == length])
        },
        "faults": dict(Counter(row["fault"] for row in rows if row["fault"]).most_common()),
        "equal_to_test": {
            "verbatim": sum(row["in_test"] for row in complete),
            "masked": sum(row["in_test_masked"] for row in complete),
        },
    }


def add_standardised(generators: dict[str, dict[str, Any]]) -> None:
    """Add each generator's share of well-posed questions at the lengths of the first one's.

    The first one is the first of which `MANY` questions parse: a few would be too rough a yardstick. This is
    direct standardisation: the shares by length are averaged with that generator's numbers of questions as
    weights. A length that a generator never writes has no weight. The interval is the normal one of a
    weighted sum of independent shares.
    """
    by_length = [one["by_length"] for one in generators.values()]
    first = next((one for one in by_length if sum(share["n"] for share in one.values()) >= MANY), {})
    for measures in generators.values():
        shares = {length: share for length, share in measures["by_length"].items() if length in first}
        total = sum(first[length]["n"] for length in shares)
        weighted = [(first[length]["n"] / total, share) for length, share in shares.items()]
        value = sum(weight * share["value"] for weight, share in weighted) if weighted else None
        half = Z95 * math.sqrt(
            sum(weight**2 * share["value"] * (1 - share["value"]) / share["n"] for weight, share in weighted)
        )
        measures["well_posed_standardised"] = {
            "value": value,
            "low": None if value is None else max(value - half, 0.0),
            "high": None if value is None else min(value + half, 1.0),
            "n": sum(share["n"] for share in shares.values()),
        }


RECIPE = Recipe("measure_questions", VERSION, "evaluation", lambda: (RunOptions, MeasureConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
