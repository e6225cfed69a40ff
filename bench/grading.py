r"""How fast and how right the grader is beside math-verify, on the labelled files.

    SCALEQUEST_DATA=... python bench/grading.py
    python bench/grading.py --reports [--peer NAME=PATH:FUNCTION ...]

Whole outputs (`model_outputs_dev`): extraction and comparison, our one isolated worker against math-verify in
this process as its authors call it, both after their imports, in turn over the same blocks of rows, so that a
busy machine slows both. All rows, and those of MATH and OlympiadBench alone, whose answers need algebra.
Pairs (`grader_cases_dev`): agreement, false positives and negatives, seconds, hostile rows. About three
minutes on 2 cores.

`--reports` counts the cases of `tests/grading/reports` instead, each file whole and its held-out cases alone:
ours, math-verify in our killable worker, and peers, each a function of prediction and reference in a Python
file. A peer is asked in a process of its own for each case, with 8 seconds of processor time and 4 GiB; what
overruns them counts as False. It gets the answer that our extraction finds in a whole output; math-verify
finds its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scalequest.grading import Grader, extract
from scalequest.records import read_rows

REPORTS = Path(__file__).parents[1] / "tests/grading/reports"
PEER_SECONDS, PEER_BYTES = 8, 4 << 30
BAR = 5.0
BLOCK = 200
HARD = ("math", "olympiadbench")


def main(options: argparse.Namespace) -> int:
    """Measure, print two tables, and return 1 where the ratio misses its bar."""
    if options.reports:
        return reports(options)
    data = Path(os.environ["SCALEQUEST_DATA"])
    outputs = read_rows(data / "model_outputs_dev.jsonl.gz")[:: options.step]
    pairs = read_rows(data / "grader_cases_dev.jsonl")
    from scalequest.grading.compare.symbolic import as_published

    as_published("\\boxed{x+1}", "1+x")
    hard = [row for row in outputs if row["dataset"] in HARD]
    speed = {"all rows": timed(outputs), "MATH and OlympiadBench": timed(hard)}
    with Grader() as grader:
        grader.start()
        judged = [pair_table(grader, pairs, name) for name in ("ours", "math-verify")]
    print_table("Complete outputs per second", [{"rows": name, **row} for name, row in speed.items()])
    print_table("Answer pairs", judged)
    if options.output:
        Path(options.output).write_text(json.dumps({"outputs": speed, "pairs": judged}, indent=1) + "\n")
    ratio = speed["all rows"]["ratio"]
    print(f"ratio {ratio:.1f}, bar {BAR:g}: {'met' if ratio >= BAR else 'missed'}")
    return 0 if ratio >= BAR else 1


def timed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Both graders over the same rows, block by block in turn; ours is fresh and remembers nothing."""
    from scalequest.grading.compare.symbolic import as_published

    grader = Grader()
    grader.start()
    seconds, right = {"ours": 0.0, "math-verify": 0.0}, {"ours": 0, "math-verify": 0}
    for begin in range(0, len(rows), BLOCK):
        block = rows[begin : begin + BLOCK]
        start = time.perf_counter()
        ours = [grader.grade(extract(row["output"]).answer or "", row["reference"]).correct for row in block]
        between = time.perf_counter()
        theirs = [as_published(row["output"], row["reference"]) for row in block]
        seconds["math-verify"] += time.perf_counter() - between
        seconds["ours"] += between - start
        for name, verdicts in (("ours", ours), ("math-verify", theirs)):
            right[name] += sum(v == row["verdict"] for v, row in zip(verdicts, block, strict=True))
    grader.close()
    rates = {name: len(rows) / spent for name, spent in seconds.items()}
    return {
        "n": len(rows),
        "ours/s": round(rates["ours"]),
        "math-verify/s": round(rates["math-verify"]),
        "ratio": rates["ours"] / rates["math-verify"],
        "ours agrees %": 100 * right["ours"] / len(rows),
        "math-verify agrees %": 100 * right["math-verify"] / len(rows),
    }


def pair_table(grader: Grader, rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """One line of the table of graders; math-verify in our killable worker, its prediction in a box."""
    verdicts: list[bool] = []
    longest = 0.0
    start = time.perf_counter()
    for row in rows:
        began = time.perf_counter()
        if name == "ours":
            verdicts.append(grader.grade(row["prediction"], row["reference"]).correct)
        else:
            verdicts.append(bool(grader.math_verify(f"\\boxed{{{row['prediction']}}}", row["reference"])))
        longest = max(longest, time.perf_counter() - began)
    seconds = time.perf_counter() - start
    judged = list(zip(verdicts, rows, strict=True))
    plain = [(v, row["label"]) for v, row in judged if "policy:" not in row["note"]]
    folds = [[v == label for v, label in plain[fold::5]] for fold in range(5)]
    policy = [v == row["label"] for v, row in judged if "policy:" in row["note"]]
    hostile = [v == row["label"] for v, row in judged if "hostile:" in row["note"]]
    return {
        "grader": name,
        "agreement %": 100 * sum(v == label for v, label in plain) / len(plain),
        "worst of 5 folds %": min(100 * sum(fold) / len(fold) for fold in folds),
        "false pos.": sum(v and not label for v, label in plain),
        "false neg.": sum(label and not v for v, label in plain),
        "policy %": 100 * sum(policy) / len(policy),
        "hostile right": f"{sum(hostile)} of {len(hostile)}",
        "wall s": seconds,
        "longest s": longest,
    }


def reports(options: argparse.Namespace) -> int:
    """Print the table of reported kinds of answers."""
    import yaml

    peers = {name: peer(place) for name, _, place in (one.partition("=") for one in options.peer)}
    cases: dict[str, list[dict[str, Any]]] = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["cases"]
        for path in sorted(REPORTS.glob("*.yaml"))
    }
    cases["all files"] = [case for rows in cases.values() for case in rows]
    with Grader() as grader:
        judges: dict[str, Callable[[dict[str, Any]], bool]] = {
            "ours": lambda case: grader.grade(answer_of(case), case["reference"]).correct,
            "math-verify": lambda case: bool(
                grader.math_verify(case.get("output") or f"\\boxed{{{case['answer']}}}", case["reference"])
            ),
        }
        for name, ask in peers.items():
            judges[name] = lambda case, ask=ask: ask(answer_of(case), case["reference"])  # type: ignore[misc]
        known = {
            name: {id(case): judge(case) for case in cases["all files"]} for name, judge in judges.items()
        }
    table = []
    for file, rows in cases.items():
        for half in ("all", "held out"):
            mine = [case for case in rows if half == "all" or case.get("held_out")]
            line: dict[str, Any] = {"file": file, "cases": half, "n": len(mine)}
            for name, verdicts in known.items():
                wrong = [case for case in mine if verdicts[id(case)] != case["same"]]
                line[f"{name} %"] = 100 * (1 - len(wrong) / max(1, len(mine)))
                line[f"{name} f.p."] = sum(not case["same"] for case in wrong)
            table.append(line)
    print_table("Reported kinds of answers: agreement with the labels", table)
    if options.output:
        Path(options.output).write_text(json.dumps(table, indent=1) + "\n")
    return 0


def answer_of(case: dict[str, Any]) -> str:
    """The answer of a case, found in its output if it has one."""
    return (extract(case["output"]).answer or "") if "output" in case else str(case["answer"])


def peer(place: str) -> Callable[[str, str], bool]:
    """Load `PATH:FUNCTION`; what is returned asks it in a process that ends when it overruns its limits."""
    path, _, function = place.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--peer: {place}: expected NAME=PATH:FUNCTION, where PATH is a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).parent))
    spec.loader.exec_module(module)
    judge = getattr(module, function)
    judge("\\frac{x+1}{2}", "\\frac{1+x}{2}")  # loads here what its processes would load each

    def child(prediction: str, reference: str) -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (PEER_SECONDS, PEER_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (PEER_BYTES, PEER_BYTES))
        os._exit(0 if judge(prediction, reference) else 1)

    def ask(prediction: str, reference: str) -> bool:
        process = multiprocessing.get_context("fork").Process(target=child, args=(prediction, reference))
        process.start()
        process.join(10 * PEER_SECONDS)
        process.kill()
        process.join()
        return process.exitcode == 0

    return ask


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows under a title."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", type=int, default=1, help="use only every Nth output, as a quick test")
    parser.add_argument("--reports", action="store_true", help="count the reported kinds of answers instead")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PATH:FUNCTION",
        help="another grader, with --reports",
    )
    parser.add_argument("--output", help="also write the results to this JSON file")
    arguments = parser.parse_args()
    if "SCALEQUEST_DATA" not in os.environ and not arguments.reports:
        parser.error("set SCALEQUEST_DATA to the folder of the labelled files")
    sys.exit(main(arguments))
