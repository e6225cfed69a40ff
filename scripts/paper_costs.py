"""The paper's experiments: file, stages, CPU seconds at the tiny size, published rows, GPU-hours and disk.

    python scripts/paper_costs.py                          # the table
    python scripts/paper_costs.py --write                  # into recipes/paper/README.md, between its markers
    python scripts/paper_costs.py --tiny runs/paper_tiny   # note the CPU seconds of runs at the tiny size

Stages: those that a dry run shows at the paper's size. CPU seconds: of all stages of an experiment, including
those that it shares with others, from run.json of the runs' common folder; `--tiny` writes them to
recipes/paper/tiny_results.jsonl. Published rows: those of the tables that the experiment's reports name.
Training: by scripts/table.py, on A100-40G. Generating, filtering, solving, scoring: rows by the rates of the
paper's table 4. What the other filters leave of a million questions is derived from its App. B. Needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import table

from scalequest import atomic_files
from scalequest.config import read_configs, read_yaml
from scalequest.evaluation.published import load_published
from scalequest.pipeline.runner import Step, load, plan, read_state

PAPER = Path("recipes/paper")
README = PAPER / "README.md"
MARKS = ("<!-- costs: python scripts/paper_costs.py --write -->", "<!-- end of costs -->")
RESULTS = PAPER / "tiny_results.jsonl"
PUBLISHED = Path("eval/published")
OUTPUT = "runs/paper"
# Rows per A100-40G hour (paper, table 4); a rate of 2M questions and of 5M responses.
RATES = {
    "generate_questions": 2e6 / 38.4,
    "filter_questions": 2e6 / 110.6,
    "solve_questions": 5e6 / 251.0,
    "score": 5e6 / 112.0,
}
PASSED = 1 - 0.201 - 0.194  # language and solvability, shares of all (paper App. B)
SETS = {"MetaMathQA": 395_000, "MMIQC": 2_294_000, "dart-math-hard": 585_000, "NuminaMath-CoT": 860_000,
        "orca-math-word-problems-200k": 200_000, "ScaleQuest-Math": 1_003_467}  # fmt: skip
PROBLEMS = 1_319 + 5_000 + 2_818 + 675  # of the four benchmarks
SEEDS = {"gsm8k_train": 7_473, "math_train": 7_500}
# Bytes of a row: twice its characters (JSON lines and parquet), and 200 of ids (docs/method.md 8).
QUESTION, RESPONSE = 2 * 195 + 200, 2 * 1214 + 200
MODEL = 7.2e9 * 2  # bytes of a saved 7B in bfloat16
ORDER = ("table1", "table1_released", "table1_from_pairs", "table1_from_generators", "table1_baselines",
         "table2", "table12", "table3", "table6", "table8", "table11",
         "fig1", "fig3", "fig4", "fig5", "fig9", "all")  # fmt: skip
NOT_BUILT = {
    "table 9 (code)": "no file: no code benchmark is here, and the paper's code prompts are unpublished",
    "table 10 (conversations)": "no file: in two of its three benchmarks, a model's answers return in its "
    "next prompt, but evaluate.py asks one question, and the paper gives no prompts and no grading",
}


@dataclass(frozen=True)
class Cost:
    """Of a stage: rows that it leaves, A100-40G hours, bytes."""

    rows: float
    hours: float = 0.0
    size: float = 0.0


def costs(steps: Sequence[Step]) -> dict[str, Cost]:
    """The cost of each stage by its name; its rows are those of its inputs, or what its settings say."""
    found: dict[str, Cost] = {}
    for step in steps:
        found[step.spec.name] = _cost(step, found)
    return found


def _cost(step: Step, known: dict[str, Cost]) -> Cost:
    settings = {**read_configs(*step.spec.configs), **step.settings}
    kind = Path(step.spec.script).stem
    texts = [str(one) for one in settings.get("input") or settings.get("parts") or ()]
    rows = sum(_rows(text, known) for text in texts)
    for key in ("draw", "limit", "difficulty.keep"):
        if str(settings.get(key, "")).isdigit():
            rows = min(rows, int(settings[key]))
    if kind in ("sft", "qft", "qpo", "difficulty"):
        if kind == "difficulty":
            rows /= _SOLUTIONS
        return Cost(rows, _training(step, rows), MODEL)
    if kind == "evaluate":  # every problem is one response
        return Cost(0, len(settings["models"]) * PROBLEMS / RATES["solve_questions"])
    if kind == "generate_questions":
        rows = int(settings["num_questions"])
        return Cost(rows, rows / RATES[kind], rows * QUESTION)
    if kind == "filter_questions":
        asked = "harder_" not in step.spec.name or "num_questions" in settings
        kept = rows * (PASSED if "harder_" not in step.spec.name else 1)
        return Cost(kept, rows / RATES[kind] if asked else 0.0, rows * QUESTION)
    if kind == "solve_questions":
        made = rows * int(settings["samples"])
        return Cost(
            rows if "difficulty" not in step.spec.name else made,
            made / RATES[kind],
            rows * QUESTION + made * RESPONSE,
        )
    if kind == "score":
        answers = rows * (5 if "difficulty" not in step.spec.name else 1)
        hours = answers / RATES[kind] if "difficulty" not in step.spec.name else 0.0
        return Cost(rows, hours, rows * QUESTION + (answers * RESPONSE if hours else 0))
    return Cost(
        rows, 0.0, rows * (QUESTION + RESPONSE) if kind in ("select_solutions", "assemble_dataset") else 0.0
    )


_SOLUTIONS = 16  # a question, of recipes/deepseek_math_7b/solve_questions_for_difficulty.yaml


def _rows(text: str, known: dict[str, Cost]) -> float:
    quota = re.search(r"rows: (\d+)", text)
    if quota:
        return int(quota[1])
    name = re.sub(r"[\[{(].*", "", text).rstrip("/").rpartition("/")[2].partition(".")[0]
    if text.startswith(OUTPUT):
        return known[name].rows if name in known else 0.0
    if text.startswith("hub:"):
        return SETS[text.rpartition("/")[2]]
    return SEEDS.get(name, 0)


def _training(step: Step, rows: float) -> float:
    preset, model, sizes = _preset(step.spec.configs)
    row = table.row(replace(preset, facts=replace(preset.facts, rows=round(rows))), model, sizes)
    return float(str(row["A100-40G GPU-hours"]).split()[0].replace(",", ""))


@cache
def _preset(configs: tuple[str, ...]) -> tuple[table.Preset, str, dict[str, dict[str, Any]]]:
    """A training preset, the model that it goes back to, and the sizes of all models."""
    preset = table.read_preset([Path(path) for path in configs])
    bases = [read_configs(path) for path in sorted(table.RECIPES.glob("*_*b/qft.yaml"))]
    outputs = {str(one["output_dir"]): str(one["model_name_or_path"]) for one in bases}
    return preset, table.base_model(preset, outputs), read_yaml(table.RECIPES / "architectures.yaml")


def lines() -> list[str]:
    """The table of all experiments."""
    first: dict[str, Cost] = {}
    results = read_results()
    rows = []
    for name in ORDER:
        path = PAPER / f"{name}.yaml"
        steps = plan(load(path, {"profile": "7b"}), Path(OUTPUT))
        own = costs(steps)
        first = first or own
        after = own if own is first else {key: cost for key, cost in own.items() if key not in first}
        rows.append(
            {
                "experiment": f"[{name}]({name}.yaml)",
                "command": f"`python recipes/run.py {path} --output {OUTPUT}`",
                "stages": str(len(steps)),
                "tiny, CPU seconds": _tiny(results.get(name), name),
                "published rows beside ours": published_beside(name, steps),
                "GPU-hours": _hours(own),
                "after table 1": _hours(after),
                "disk, GB": f"{sum(cost.size for cost in own.values()) / 1e9:,.0f}",
            }
        )
    rows += [
        {**dict.fromkeys(rows[0], "–"), "experiment": name, "published rows beside ours": why}
        for name, why in NOT_BUILT.items()
    ]
    return table.aligned(rows)


def published_beside(name: str, steps: Sequence[Step]) -> str:
    """How many rows of which published tables the experiment's reports show, or why none."""
    named = dict.fromkeys(Path(one) for step in steps for one in step.settings.get("published") or ())
    shown = (f"{len(load_published(path).rows)} of {path.stem}" for path in named)
    return ", ".join(shown) or "none: the paper prints no values of this figure"


def read_results() -> dict[str, dict[str, Any]]:
    """The noted runs at the tiny size, by experiment; the last one counts."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {noted["experiment"]: noted for noted in map(json.loads, lines)}


def _tiny(noted: Mapping[str, Any] | None, name: str) -> str:
    """The CPU seconds of a run, if it was of the stages that the experiment has now."""
    if noted is None:
        return "not run"
    changed = "" if noted["stages"] == len(tiny_steps(name, OUTPUT)) else " (before a change)"
    return f"{noted['cpu_seconds']:,.0f}{changed}"


def tiny_steps(name: str, output: str) -> list[Step]:
    """The stages of an experiment at the tiny size."""
    return plan(load(PAPER / f"{name}.yaml", {"profile": "tiny"}), Path(output))


def note_tiny(output: str) -> list[dict[str, Any]]:
    """Note the CPU seconds of every experiment whose stages have all finished in a folder of runs."""
    state = read_state(Path(output))["stages"]
    noted = read_results()
    for name in ORDER:
        steps = tiny_steps(name, output)
        done = [state.get(step.spec.name, {}) for step in steps]
        if all("command" in one for one in done):  # only a finished stage has it
            noted[name] = {
                "experiment": name,
                "cpu_seconds": round(sum(one["cpu_seconds"] for one in done)),
                "stages": len(steps),
                "cpu": cpu_model(),
                "date": time.strftime("%Y-%m-%d"),
            }
    made = [noted[name] for name in ORDER if name in noted]
    atomic_files.write(RESULTS, "".join(json.dumps(one) + "\n" for one in made).encode())
    return made


def cpu_model() -> str:
    """The name of this machine's processor."""
    facts = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", facts.read_text()) if facts.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _hours(costs_of: dict[str, Cost]) -> str:
    return f"{sum(cost.hours for cost in costs_of.values()):,.0f}"


def main() -> int:
    """Print, or write. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="into recipes/paper/README.md")
    parser.add_argument("--tiny", metavar="FOLDER", help="note the CPU seconds of the runs in this folder")
    options = parser.parse_args()
    if options.tiny:
        print("\n".join(json.dumps(one) for one in note_tiny(options.tiny)))
        return 0
    made = "\n".join(lines())
    if not options.write:
        print(made)
        return 0
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    README.write_text(f"{before}{MARKS[0]}\n{made}\n{MARKS[1]}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
