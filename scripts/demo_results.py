"""Write the numbers of our own small runs into README.md and docs/, between markers.

    python scripts/demo_results.py --run runs/tiny    # read a finished demo, write its numbers everywhere
    python scripts/demo_results.py --run runs/tiny --beside    # the same on a processor of the other kind
    python scripts/demo_results.py --controls runs/controls/1 runs/controls/2    # the same for controls
    python scripts/demo_results.py --judges runs/judges    # the same for judges, scorers and rules
    python scripts/demo_results.py --write            # from the files in docs/results, which --run writes
    python scripts/demo_results.py                    # which pages are not current? Exit status 1 if any

`<!-- demo: NAME -->` starts a part and `<!-- end of demo -->` ends it; what stands between them is replaced.
The numbers come from `docs/results`: demo.json holds the tables of a demo's report, demo_beside.json those of
the same demo on another kind of processor, controls.json and judges.json those of recipes/tiny/controls.yaml
and recipes/tiny/judges.yaml, judge.json what recipes/tiny/measure_solver.py writes of tiny-judge. How the
oracle fares is measured anew. Seconds, on any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, read_yaml
from tinymath.oracle import judge as judge_text
from tinymath.report import confusion, read_cases

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
CASES = ROOT / "tests" / "tinymath"
BESIDE = ("README.md", "recipes/README.md", "recipes/tiny/models/README.md")
PAGES = [*(ROOT / name for name in BESIDE), *sorted((ROOT / "docs").glob("*.md"))]
PART = re.compile(r"(<!-- demo: (\w+) -->\n)(.*?)(<!-- end of demo -->)", re.DOTALL)
TABLES = ("funnel", "questions", "well_posed_by_length", "faults", "benchmarks", "differences")
TRAINED = {  # stages of recipes/tiny/controls.yaml, and what they are trained on
    "sft": "the demo's pairs",
    "sft_shuffled": "the same, every question with another's solution",
    "sft_all": "the demo's questions without the filters",
    "sft_all_equal": "as many of them as the filters left",
    "sft_all_matched": "as many of each length as the filters left",
}
WRITTEN = ("well_posed", "well_posed_standardised")
KEEP = {  # judges of recipes/tiny/measure_filters.py
    "keep all": "always",
    "verdict Yes": "tiny-judge says Yes",
    "'yes' anywhere (paper)": "'yes' is anywhere in its reply (the paper's rule)",
    "all filters": "it passes the demo's filters",
}
MEASURES = {"fail_rate": "fail rate of the solver", "difficulty": "trained scorer"}
Result = Mapping[str, Any]


def read_run(run: Path, machine: str | None) -> dict[str, Any]:
    """Return what demo.json holds, from the folder of a finished demo.

    Raises:
        SystemExit: the run has no report.
    """
    try:
        report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
        stages = json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"error: {run}: not the folder of a finished demo: {error}") from None
    by_name = {table["name"]: table for table in report["tables"]}
    sft = next(stage for stage in report["stages"] if stage["stage"] == "sft")
    precision = "bfloat16" if sft["fingerprint_fields"].get("bf16") else "float32"
    seconds = {name: round(stage["seconds"]) for name, stage in stages.items() if stage["seconds"] >= 1}
    return {
        "date": max(stage["ended"] for stage in report["stages"])[:10],
        "commit": sft["commit"][:12],
        "machine": machine or f"{os.cpu_count()} cores ({processor()}), in {precision}",
        "versions": {key: sft["versions"][key] for key in ("torch", "transformers", "trl")},
        "seconds": round(sum(stage["seconds"] for stage in stages.values())),
        "seconds_of_stages": seconds,
        "tables": {name: without_name(by_name[name]) for name in TABLES},
    }


def read_controls(runs: Sequence[Path]) -> dict[str, Any]:
    """Return what controls.json holds, from the folders of finished runs of controls.yaml.

    Raises:
        SystemExit: one of them is not finished.
    """
    try:
        measured = [_json(run / "measure_questions/questions.json")["generators"] for run in runs]
        marks = [_marks(run) for run in runs]
        left = [_json(run / "filter_difficulty_raw/receipt.json")["kept"] for run in runs]
        pairs = {key: [_json(run / key / "receipt.json")["kept"] for run in runs] for key in TRAINED}
        untuned = _json(runs[0] / "generate_raw/receipt.json")["rows_in"]
        base = float(_json(RESULTS / "demo.json")["tables"]["benchmarks"]["rows"][0][1].split()[0])
    except (OSError, ValueError, KeyError, ConfigError) as error:
        raise SystemExit(f"error: not the folders of finished controls: {error}") from None
    dev, test = ([mark[benchmark] for mark in marks] for benchmark in ("tinymath_dev", "tinymath_test"))
    return {
        "base": base,
        "untuned": untuned,
        "untuned_left": left,
        "trained": [
            {"key": key, "pairs": pairs[key], "accuracy": [mark[key] for mark in test]} for key in TRAINED
        ],
        "dev_differences": [round(mark["sft"] - mark["sft_all_equal"], 1) for mark in dev],
        "written": [
            {
                "generator": generator,
                **{
                    key: [round(100 * one[generator][key]["value"], 1) for one in measured] for key in WRITTEN
                },
                "steps": [round(one[generator]["steps"]["value"], 2) for one in measured],
            }
            for generator in measured[0]
        ],
    }


def read_judges(run: Path) -> dict[str, Any]:
    """Return what judges.json holds, from the folder of a finished run of judges.yaml.

    Raises:
        SystemExit: it is not finished.
    """
    try:
        return {
            **_json(run / "measure_filters/filters.json"),
            "samples": read_yaml(run / "solve_all/config.yaml")["samples"],
            "solved_to_learn": _json(run / "solve_seed/receipt.json")["kept"],
            "samples_to_learn": read_yaml(run / "solve_seed/config.yaml")["samples"],
        }
    except (OSError, ValueError, KeyError, ConfigError) as error:
        raise SystemExit(f"error: {run}: not the folder of a finished run of judges.yaml: {error}") from None


def _marks(run: Path) -> dict[str, dict[str, float]]:
    """Return the accuracies in % of one run's students, by benchmark and stage."""
    labels = read_yaml(run / "evaluate/config.yaml")["models"]
    found: dict[str, dict[str, float]] = {}
    for label, folder in labels.items():
        for one in _json(run / "evaluate" / label / "results.json")["results"]:
            marks = found.setdefault(one["benchmark"], {})
            marks[Path(folder).name] = percent(one["accuracy"])
    return found


def percent(share: Mapping[str, Any]) -> float:
    """Return a share as a percentage, to one decimal."""
    return round(100 * share["value"], 1)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def processor() -> str:
    """Return the processor's name, or the word processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else "processor"


def without_name(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report's table without the name under which demo.json files it."""
    return {key: table[key] for key in ("title", "columns", "rows", "notes")}


# ------------------------------------------------------------------------------------------------------ parts


def output(demo: Result) -> str:
    """Return the tables that `make demo` prints at its end, shortened, as plain text."""
    funnel, benchmarks = demo["tables"]["funnel"], demo["tables"]["benchmarks"]
    columns = [funnel["columns"].index(name) for name in ("folder", "in", "kept", "dropped")]
    rows = [[row[index] for index in columns] for row in (funnel["columns"], *funnel["rows"])]
    lines = [f"{row[0]:<20}{row[1]:>8}{row[2]:>8}   {row[3]}".rstrip() for row in rows]
    lines += [funnel["notes"][-1], ""]
    lines += [f"{row[0]:<20}{row[1]:>17}" for row in (benchmarks["columns"], *benchmarks["rows"])]
    return "```\n" + "\n".join([*lines, benchmarks["notes"][0]]) + "\n```"


def run(demo: Result) -> str:
    """Return when and where the demo ran, and how long each stage took."""
    stages, beside = listed(demo["seconds_of_stages"]), other_demo()
    versions = ", ".join(f"{name} {version}" for name, version in demo["versions"].items())
    return (
        f"The run of {day(demo['date'])} (commit {demo['commit']}, {versions}) took {demo['seconds']} "
        f"seconds on {demo['machine']}, after the environment was set up. Seconds per stage, including "
        f"start-up (that of qft also imports the libraries, once for all stages): {stages}.\n\n"
        f"The same demo on {beside['machine']} took {beside['seconds']} seconds: "
        f"{listed(beside['seconds_of_stages'])}. Its student gained {gain(beside)[1]} points, for in another "
        "precision other tokens are sampled."
    )


def summary(demo: Result) -> str:
    """Return the demo in one sentence."""
    base, tuned = (row[1] for row in demo["tables"]["benchmarks"]["rows"][:2])
    (problems, points), beside = gain(demo), other_demo()
    return (
        f"On {day(demo['date'])}, the demo took {demo['seconds']} seconds on {demo['machine']}. Accuracy "
        f"on {problems} held-out problems rose from {base} to {tuned} %: a gain of {points} points. On "
        f"{beside['machine']}, it took {beside['seconds']} seconds and gained {gain(beside)[1]} points."
    )


def other_demo() -> Result:
    """Return the results of the demo on the other kind of processor."""
    return dict(json.loads((RESULTS / "demo_beside.json").read_text(encoding="utf-8")))


def gain(demo: Result) -> tuple[str, str]:
    """Return the number of problems, and how many points the student gained over its base model."""
    row = demo["tables"]["differences"]["rows"][0]
    return row[3], row[4]


def listed(seconds: Mapping[str, int]) -> str:
    """Return the seconds of each stage in a line."""
    return ", ".join(f"{name} {each}" for name, each in seconds.items())


def markdown(table: Mapping[str, Any]) -> str:
    """Return a table with its notes."""
    numbers = [
        all(re.match(r"[\d+–-]", row[index]) for row in table["rows"])
        for index in range(len(table["columns"]))
    ]
    lines = [
        "| " + " | ".join(table["columns"]) + " |",
        "|" + "|".join("---:" if number and index else "---" for index, number in enumerate(numbers)) + "|",
        *("| " + " | ".join(row) + " |" for row in table["rows"]),
    ]
    return "\n".join([*lines, *(f"\n{note}" for note in table.get("notes", ()))]).replace("_", "\\_")


def report_table(name: str, demo: Result) -> str:
    """Return one of the report's tables."""
    return markdown(demo["tables"][name])


def controls(found: Result) -> str:
    """Return the two tables of the controls."""
    trained = {
        "columns": ["tiny-base after SFT on", "pairs", "TinyMath, %"],
        "rows": [[TRAINED[row["key"]], pairs_of(row), joined(row["accuracy"])] for row in found["trained"]],
    }
    written = {
        "columns": ["questions after", "well posed, of those that parse, %", "at QFT's lengths, %", "steps"],
        "rows": [
            [row["generator"], *(joined(row[key]) for key in WRITTEN), joined(row["steps"], "{:.2f}")]
            for row in found["written"]
        ],
    }
    few = joined(found["untuned_left"], "{:,}")
    untuned = f"{found['untuned']:,} questions of the untuned solver"
    left = f"Of {untuned}, the filters leave too few to train on: {few}."
    return "\n\n".join([found["about"], markdown(trained), markdown(written), left])


def pairs_of(row: Mapping[str, Any]) -> str:
    """Return the number of pairs of each seed, once if it is the same."""
    return joined(sorted(set(row["pairs"]), reverse=True), "{:,}")


def earlier(found: Result) -> str:
    """Return what earlier versions of the demo gave."""
    *first, last = (str(gain) for gain in found["earlier_gains"])
    gains = f"{', '.join(first)} and {last}"
    return (
        "The random numbers depend on the ids of questions and on what was kept before, so every change of "
        f"either is another run: earlier ones gained {gains} points, the latest first. After that one, the "
        f"number of questions was raised from {found['earlier_questions']:,}: the only setting that was "
        "changed in view of this split."
    )


def findings(found: Result) -> str:
    """Return what the controls say, computed from their numbers."""
    by_key = {row["key"]: row for row in found["trained"]}
    filtered, equal, matched, every = (
        by_key[key]["accuracy"] for key in ("sft", "sft_all_equal", "sft_all_matched", "sft_all")
    )
    gains = [value - found["base"] for value in filtered]
    better = [mine - theirs for mine, theirs in zip(filtered, equal, strict=True)]
    at_equal_lengths = [mine - theirs for mine, theirs in zip(filtered, matched, strict=True)]
    more = [theirs - mine for mine, theirs in zip(filtered, every, strict=True)]
    return (
        f"The gain over tiny-base ({found['base']} %) is {min(gains):.1f} to {max(gains):.1f} points "
        "across these seeds. Shuffled answers and swapped preference pairs teach nothing. At equal numbers "
        f"of questions, the filters changed the accuracy by {signed(better)} points (on `tinymath_dev`, by "
        f"{signed(found['dev_differences'])}), and at equal numbers of each length by "
        f"{signed(at_equal_lengths)}. All {by_key['sft_all']['pairs'][0]:,} questions, including "
        f"broken ones and those that resemble a test question, gave a model that was {min(more):.1f} to "
        f"{max(more):.1f} points better than the {by_key['sft']['pairs'][0]:,} questions that pass the "
        "filters."
    )


def judges(found: Result) -> str:
    """Return the tables of judges, measures of difficulty and rules of selection."""
    kept, ranks, picks = (found[name] for name in ("solvability", "difficulty", "selection"))
    cells = ("precision", "recall", "kept", "cost")
    keep = {
        "columns": ["keep a question if", "precision, %", "recall, %", "kept", "cost"],
        "rows": [[KEEP.get(row["judge"], row["judge"]), *(row[cell] for cell in cells)] for row in kept],
    }
    learnt = f"{found['samples_to_learn']} samples of each of {found['solved_to_learn']:,} seed questions"
    measure = {
        "columns": ["measure of difficulty", "Spearman with the oracle's steps", "cost"],
        "rows": [[MEASURES[row["measure"]], row["spearman"], row["cost"]] for row in ranks],
        "notes": [f"Of {ranks[0]['n']} well-posed questions. The scorer learnt from {learnt}."],
    }
    rule = {
        "columns": ["rule of selection", "picks a right solution, %"],
        "rows": [[row["rule"], row["right"]] for row in picks],
        "notes": [f"Of {picks[0]['n']} well-posed questions with right and wrong solutions."],
    }
    about = (
        f"From `recipes/tiny/judges.yaml` on the {kept[0]['kept']} questions of the demo that its judge saw, "
        f"{found['samples']} samples each, measured by the oracle; 95 % intervals. Cost is the number of "
        "tokens sampled per question. The demo filters by the verdict, and then by the agreement of the "
        "samples that become its solutions."
    )
    return "\n\n".join([about, *map(markdown, (keep, measure, rule))])


def judge(found: Result) -> str:
    """Return how well tiny-judge solves, judges and rewrites."""
    tables = [
        {"columns": list(rows[0]), "rows": [list(row.values()) for row in rows]} for rows in found.values()
    ]
    return "\n\n".join(map(markdown, tables))


def oracle(_: Result) -> str:
    """Return how the oracle fares on texts with a reader's verdicts, measured now on the tests' cases."""
    sampled = read_cases(CASES / "sampled_questions.yaml")
    answers = [(case["answer"], judge_text(case["text"]).answer) for case in sampled]
    agreed, posed = sum(a == b for a, b in answers), sum(a == b is not None for a, b in answers)
    later = [case for case in read_cases(CASES / "oracle_cases.yaml") if case["half"] == "later"]
    table = confusion(later)
    right = sum(n for (meant, said), n in table.items() if meant == said)
    broken = sum(n for (meant, _), n in table.items() if meant != "sound")
    fooled = sum(n for (meant, said), n in table.items() if said == "sound" and meant != said)
    return (
        f"A reader answered {len(sampled)} questions of the tiny generators, drawn at random, without seeing "
        f"the oracle's answers, and the two agree on {agreed}: on {posed} answers, and on {agreed - posed} "
        f"questions that have none. Of {len(later)} texts written by hand when the oracle was finished, it "
        f"reads {right} as they are meant; {fooled or 'none'} of the {broken} unsound ones passes as sound."
    )


def joined(values: Sequence[float], form: str = "{:.1f}") -> str:
    """Return one number per seed."""
    return ", ".join(form.format(value) for value in values)


def signed(values: Sequence[float]) -> str:
    """Return differences with their signs."""
    *most, last = (f"{value:+.1f}".replace("-", "−") for value in values)
    return f"{', '.join(most)} and {last}"


def day(date: str) -> str:
    """Return an ISO date as it is written in prose."""
    read = datetime.strptime(date, "%Y-%m-%d")
    return f"{read.day} {read:%B %Y}"


PARTS: Mapping[str, tuple[str, Callable[[Result], str]]] = {
    "output": ("demo", output),
    "run": ("demo", run),
    "summary": ("demo", summary),
    **{name: ("demo", partial(report_table, name)) for name in TABLES},
    "controls": ("controls", controls),
    "earlier": ("controls", earlier),
    "findings": ("controls", findings),
    "judges": ("judges", judges),
    "judge": ("judge", judge),
    "oracle": ("", oracle),
}


def filled(text: str) -> str:
    """Return a page's text with every part written anew.

    Raises:
        SystemExit: a part has no such name.
    """

    def part(found: re.Match[str]) -> str:
        if found[2] not in PARTS:
            raise SystemExit(f"error: no part '{found[2]}'; there are {', '.join(PARTS)}")
        file, make = PARTS[found[2]]
        result = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8")) if file else {}
        return f"{found[1]}{make(result)}\n{found[4]}"

    return PART.sub(part, text)


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--run", type=Path, help="folder of a finished demo; implies --write")
    made.add_argument("--beside", action="store_true", help="the run is of the other kind of processor")
    made.add_argument("--controls", type=Path, nargs="+", default=[], help="finished runs of controls.yaml")
    made.add_argument("--judges", type=Path, help="folder of a finished run of judges.yaml")
    made.add_argument("--about", help="what the page says of the controls' runs, if it is not as before")
    made.add_argument("--machine", help="what the demo ran on, if not this machine")
    made.add_argument("--write", action="store_true", help="write the pages")
    return made


def save(name: str, found: Result) -> None:
    """Write one result file."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main(asked: argparse.Namespace) -> int:
    """Write the pages, or name those that are not current; return the exit status."""
    if asked.controls:
        before = _json(RESULTS / "controls.json")
        kept = {key: before[key] for key in ("about", "earlier_gains", "earlier_questions")}
        kept |= {"about": asked.about} if asked.about else {}
        save("controls", kept | read_controls(asked.controls))
    if asked.judges:
        save("judges", read_judges(asked.judges))
    if asked.run:
        save("demo_beside" if asked.beside else "demo", read_run(asked.run, asked.machine))
    write = asked.write or any((asked.controls, asked.judges, asked.run))
    changed = [
        path for path in PAGES if filled(path.read_text(encoding="utf-8")) != path.read_text(encoding="utf-8")
    ]
    for path in changed:
        if write:
            path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
        name = path.relative_to(ROOT).as_posix()
        print(f"{name}: {'written' if write else 'not current: python scripts/demo_results.py --write'}")
    return 0 if write or not changed else 1


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
