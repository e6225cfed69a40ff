r"""Measure how well a tiny model solves, judges and rewrites; only tiny-judge was taught the last two.

    python recipes/tiny/measure_solver.py --model_name_or_path recipes/tiny/models/tiny-judge \
        --output_dir runs/tiny/measure_solver

- solving: TinyMath's splits, greedy; the last boxed number must be the answer.
- judging: stories of which the world knows whether they are broken and how, with wordings as in training and
with wordings and combinations that are in no training text.
- rewriting: how often the oracle finds the new question well posed, and how often harder, for sound and for
broken questions.

This takes minutes on two cores, prints the tables, and writes OUTPUT/solver.json.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scalequest import heartbeat
from scalequest.chat import bind, load_format, load_tokenizer
from scalequest.config import option, required
from scalequest.config.ranges import COUNT, SEED
from scalequest.engines.base import Block, EngineConfig, Request, Sampling
from scalequest.engines.loading import open_generator
from scalequest.evaluation.statistics import share_of
from scalequest.evaluation.tables import Table, format_percent, print_tables
from scalequest.questions.prompts import load_prompt
from scalequest.questions.solvability import verdict
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import read_rows
from tinymath import lessons
from tinymath.oracle import judge

HERE = Path(__file__).resolve().parent
SPLITS = ("test", "combinations", "longer", "five_steps")
STEPS = (1, 2, 3)

Ask = Callable[[Sequence[list[int]]], list[str]]


@dataclass(frozen=True)
class MeasureConfig:
    """What to measure."""

    model_name_or_path: str = required("the solver")
    output_dir: str = required("output folder for solver.json")
    chat_format: str = option("tinymath", "the solver's chat format")
    questions: int = option(1000, "questions per row of the tables", within=COUNT)
    seed: int = option(2410, "seed of the stories", within=SEED)
    engine: EngineConfig = field(default_factory=EngineConfig)


def main(config: MeasureConfig) -> None:
    """Measure, print the tables, and write them."""
    tokenizer = load_tokenizer(config.model_name_or_path)
    chat = bind(load_format(config.chat_format), tokenizer)
    sampling = Sampling(temperature=0.0, max_tokens=256)
    with open_generator(config.model_name_or_path, config.engine) as generator:

        def ask(prompts: Sequence[list[int]]) -> list[str]:
            requests = [Request(str(i), prompt, None) for i, prompt in enumerate(prompts)]
            ((_, completions),) = generator.generate([Block(0, requests)], sampling, chat.solve_stop_ids)
            return [chat.decode(completion.ids) for completion in completions]

        def ask_about(kind: str, questions: Sequence[str]) -> list[str]:
            heartbeat.now(f"asking with prompts/{kind}.yaml")
            prompt = load_prompt(HERE / "prompts" / f"{kind}.yaml")
            return ask([chat.user_prompt_ids(prompt.fill(question)) for question in questions])

        heartbeat.now("solving the splits")
        tables = [
            measure_solving(lambda questions: ask([chat.solve_prompt_ids(q) for q in questions]), config),
            measure_judging(partial(ask_about, "judge"), config),
            measure_rewriting(ask_about, config),
        ]
    print_tables(tables)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {one.name: [dict(zip(one.columns, row, strict=True)) for row in one.rows] for one in tables}
    (folder / "solver.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def measure_solving(solve: Callable[[Sequence[str]], list[str]], config: MeasureConfig) -> Table:
    """Accuracy on each split."""
    lines = []
    for split in SPLITS:
        rows = read_rows(HERE.parents[1] / f"eval/benchmarks/data/tinymath_{split}.jsonl.gz")[
            : config.questions
        ]
        said = [re.findall(r"\\boxed\{(\d+)\}", text) for text in solve([row["question"] for row in rows])]
        right = sum(boxed[-1:] == [row["answer"]] for boxed, row in zip(said, rows, strict=True))
        lines.append((split, format_percent(share_of(right, len(rows)))))
    return Table("solving", "Solving: right answers in %", ("split", "right"), tuple(lines))


def measure_judging(ask: Callable[[Sequence[str]], list[str]], config: MeasureConfig) -> Table:
    """Right verdicts by kind of fault, for wordings as in training and held-out ones."""
    columns = [_judged(ask, config, held_out) for held_out in (False, True)]
    kinds = ["sound", *sorted({kind for column in columns for kind in column} - {"sound"})]
    lines = [
        (kind.replace("_", " "), *(format_percent(share_of(*column.get(kind, (0, 0)))) for column in columns))
        for kind in kinds
    ]
    balanced = []
    for column in columns:
        broken = [count for kind, count in column.items() if kind != "sound"]
        caught = sum(right for right, _ in broken) / max(sum(n for _, n in broken), 1)
        balanced.append(f"{50 * (caught + column['sound'][0] / max(column['sound'][1], 1)):.1f}")
    lines.append(("balanced accuracy", *balanced))
    columns_shown = ("question", "wordings as in training", "held-out wordings")
    return Table("judging", "Judging: right verdicts in %", columns_shown, tuple(lines))


def _judged(
    ask: Callable[[Sequence[str]], list[str]], config: MeasureConfig, held_out: bool
) -> dict[str, tuple[int, int]]:
    """Right verdicts and questions by kind of fault."""
    rng = random.Random(f"{config.seed} verdicts {held_out}")
    drawn = [lessons.judging(rng, STEPS, held_out=held_out) for _ in range(config.questions)]
    found: dict[str, tuple[int, int]] = {"sound": (0, 0)}
    for lesson, reply in zip(drawn, ask([lesson.question for lesson in drawn]), strict=True):
        kind = lesson.fault or "sound"
        right, n = found.get(kind, (0, 0))
        found[kind] = (right + (verdict(reply) is (lesson.fault is None)), n + 1)
    return found


def measure_rewriting(ask: Callable[[str, Sequence[str]], list[str]], config: MeasureConfig) -> Table:
    """How the oracle finds the rewritten questions."""
    lines = []
    directions: tuple[tuple[lessons.Direction, tuple[int, ...]], ...] = (
        ("solvability", STEPS),
        ("difficulty", STEPS[:-1]),
    )
    for direction, steps in directions:
        rng = random.Random(f"{config.seed} {direction}")
        drawn = [lessons.rewriting(rng, direction, steps) for _ in range(config.questions)]
        prompt = load_prompt(HERE / "prompts" / f"{direction}.yaml")
        replies = ask(direction, [lesson.question for lesson in drawn])
        new = [judge(prompt.parse(reply) or "") for reply in replies]
        for broken in (False, True):
            rows = [
                (lesson, after)
                for lesson, after in zip(drawn, new, strict=True)
                if bool(lesson.fault) == broken
            ]
            sound = [(judge(lesson.question), after) for lesson, after in rows if after.well_posed]
            harder = sum((after.steps or 0) > (before.steps or 0) for before, after in sound)
            shown = "–" if broken else format_percent(share_of(harder, len(sound)))
            posed = format_percent(share_of(len(sound), len(rows)))
            lines.append((direction, "broken" if broken else "sound", posed, shown))
    columns = ("asked for", "question", "well posed after", "more steps, of those")
    return Table("rewriting", "Rewriting, in %, by the oracle", columns, tuple(lines))


RECIPE = Recipe("measure_solver", 1, "tool", lambda: (MeasureConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
