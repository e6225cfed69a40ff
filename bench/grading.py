r"""Compare the speed and accuracy of the grader with those of math-verify, on the labelled files.

    SCALEQUEST_DATA=... python bench/grading.py
    python bench/grading.py --reports [--peer NAME=PATH:FUNCTION ...]
    SCALEQUEST_DATA=... python bench/grading.py --outputs [FOLDER ...] [--peer NAME=PATH:FUNCTION ...]

Complete outputs (`model_outputs_dev`): extraction and comparison, by our single isolated worker and by
math-verify in this process, called as its authors do, both after their imports, alternating over the same
blocks of rows, so that a busy machine slows both. This is done three times (`--repeats`) for all rows, and
for those of MATH and OlympiadBench alone, whose answers need algebra. Pairs (`grader_cases_dev`): agreement,
false positives and negatives, seconds, hostile rows. It takes about five minutes on 2 cores.

With `--reports`, it counts the cases in `tests/grading/reports` instead, for each complete file and for its
held-out cases: by our grader, by math-verify in our killable worker, and by other graders, each a function of
prediction and reference in a Python file. Such a grader runs in a separate process for each case, with limits
of 8 seconds of CPU time and 4 GiB; exceeding them counts as False. It gets the answer that our extraction
finds in a complete output; math-verify extracts its own.

With `--outputs`, it prints the accuracy that each grader gives the same outputs per benchmark, the difference
with its 95 % interval, and rows on which they differ. The outputs are those of models in an evaluation (a
folder OUTPUT/LABEL), or, without a folder, `model_outputs_dev` by benchmark and source, with the number of
verdicts that its labels contradict. A peer is a function of a row (`output`, `reference`, `problem`,
`benchmark`, `truncated`, `tolerance`) that returns the answer it extracted and its verdict; without `--peer`,
the rules of DART-Math (dart_math_rules.py), by which the paper's columns were graded. An output gets 5
seconds and 4 GiB, as in DART-Math; exceeding them counts as wrong. It takes about three minutes on one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from comparisons import Comparison, accuracy, add_option, append, timing, version_of

from scalequest.config import ConfigError
from scalequest.evaluation.benchmarks import load_benchmark
from scalequest.evaluation.comparison import format_points
from scalequest.evaluation.statistics import paired_difference
from scalequest.grading import Grader, extract
from scalequest.records import read_rows

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "tests/grading/reports"
DART_MATH = f"dart-math={Path(__file__).parent / 'dart_math_rules.py'}:grade"
PEER_SECONDS, PEER_BYTES = 8, 4 << 30
OUTPUT_SECONDS = 5
BAR = 5.0
BLOCK = 200
VERSIONS = {"dart-math": "rules of commit 219b324"}
HARD = ("math", "olympiadbench")


def main(options: argparse.Namespace) -> int:
    """Measure, print two tables, and return 1 if the ratio misses its target."""
    if options.reports:
        return reports(options)
    if options.outputs is not None:
        return same_outputs(options)
    data = Path(os.environ["SCALEQUEST_DATA"])
    outputs = read_rows(data / "model_outputs_dev.jsonl.gz")[:: options.step]
    pairs = read_rows(data / "grader_cases_dev.jsonl")
    from scalequest.grading.compare.symbolic import as_published

    as_published("\\boxed{x+1}", "1+x")
    hard = [row for row in outputs if row["dataset"] in HARD]
    speed = {
        name: [timed(rows) for _ in range(options.repeats)]
        for name, rows in (("all rows", outputs), ("MATH and OlympiadBench", hard))
    }
    with Grader() as grader:
        grader.start()
        verdicts = {name: judge_pairs(grader, pairs, name) for name in ("ours", "math-verify")}
    judged = [pair_table(pairs, name, verdicts[name]) for name in verdicts]
    print_table(
        "Complete outputs per second", [{"rows": name, **row} for name, rows in speed.items() for row in rows]
    )
    print_table("Answer pairs", judged)
    if options.output:
        Path(options.output).write_text(json.dumps({"outputs": speed, "pairs": judged}, indent=1) + "\n")
    append(options.comparisons, [*speeds(speed), agreement(pairs, verdicts)])
    ratio = median(row["ratio"] for row in speed["all rows"])
    print(f"ratio {ratio:.1f}, bar {BAR:g}: {'met' if ratio >= BAR else 'missed'}")
    return 0 if ratio >= BAR else 1


def speeds(speed: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Comparison]:
    """Return how fast both graders are, per group of rows."""
    return [
        timing(
            f"grading/speed, {name}/math-verify",
            f"extraction and comparison of {repeats[0]['n']:,} complete outputs, {name}; one process each",
            "math-verify", version_of("math-verify"), "outputs/s",
            *([one[f"{side}/s"] for one in repeats] for side in ("ours", "math-verify")),
        )
        for name, repeats in speed.items()
    ]  # fmt: skip


def agreement(rows: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Judged]) -> Comparison:
    """Return how often both graders agree with the labels of the pairs that no policy decides."""
    plain = [number for number, row in enumerate(rows) if "policy:" not in row["note"]]
    right = [
        [float(verdicts[name].verdicts[n] == rows[n]["label"]) for n in plain]
        for name in ("ours", "math-verify")
    ]
    return accuracy_of_both(
        "grading/labelled pairs/math-verify", f"right verdicts on {len(plain):,} labelled pairs of answers",
        "math-verify", version_of("math-verify"), *right,
    )  # fmt: skip


def accuracy_of_both(
    key: str,
    what: str,
    peer: str,
    version: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    kind: str = "difference",
) -> Comparison:
    """Return the comparison of two graders from one number per case: whether its verdict is right."""
    difference = paired_difference([a - b for a, b in zip(ours, theirs, strict=True)])
    return accuracy(key, what, peer, version, fmean(ours), fmean(theirs), difference, len(ours), kind)


def timed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Run both graders over the same rows, alternating by block; ours starts with an empty cache."""
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


class Judged(NamedTuple):
    """A grader's verdicts on pairs, and its seconds for all of them and for the slowest one."""

    verdicts: list[bool]
    seconds: float
    longest: float


def judge_pairs(grader: Grader, rows: Sequence[dict[str, Any]], name: str) -> Judged:
    """Judge pairs; math-verify runs in our worker, with boxed predictions."""
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
    return Judged(verdicts, time.perf_counter() - start, longest)


def pair_table(rows: Sequence[dict[str, Any]], name: str, found: Judged) -> dict[str, Any]:
    """Return one line of the table of graders."""
    judged = list(zip(found.verdicts, rows, strict=True))
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
        "wall s": found.seconds,
        "longest s": found.longest,
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
    append(options.comparisons, list(reported(cases["all files"], known)))
    if options.output:
        Path(options.output).write_text(json.dumps(table, indent=1) + "\n")
    return 0


def reported(
    cases: Sequence[dict[str, Any]], known: Mapping[str, Mapping[int, bool]]
) -> Iterator[Comparison]:
    """Yield our verdicts beside those of each peer, on all cases and on those held out."""
    for half in ("reported answers", "reported answers, held out"):
        mine = [case for case in cases if half == "reported answers" or case.get("held_out")]
        right = {
            name: [float(verdicts[id(case)] == case["same"]) for case in mine]
            for name, verdicts in known.items()
        }
        title = half.replace("reported answers", "answers from bug reports")
        what = f"right verdicts on {len(mine):,} {title}"
        for name in list(right)[1:]:
            key = f"grading/{half}/{name}"
            yield accuracy_of_both(key, what, name, known_version(name), right["ours"], right[name])


def known_version(peer_name: str) -> str:
    """Return the version of a package, or the commit of rules that are implemented here."""
    return VERSIONS.get(peer_name) or version_of(peer_name)


def answer_of(case: dict[str, Any]) -> str:
    """Return the answer of a case, extracted from its output if it has one."""
    return (extract(case["output"]).answer or "") if "output" in case else str(case["answer"])


def peer(place: str) -> Callable[[str, str], bool]:
    """Load `PATH:FUNCTION`; the result calls it in a process that is killed when it exceeds its limits."""
    judge = function_of(place)
    judge("\\frac{x+1}{2}", "\\frac{1+x}{2}")  # loaded here once, and inherited by all its processes

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


def function_of(place: str) -> Callable[..., Any]:
    """Load `PATH:FUNCTION`."""
    path, _, function = place.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--peer: {place}: expected NAME=PATH:FUNCTION, where PATH is a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).parent))
    spec.loader.exec_module(module)
    return getattr(module, function)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------- the same outputs


def same_outputs(options: argparse.Namespace) -> int:
    """Print the accuracies that graders give the same outputs, and rows on which they differ."""
    rows = [row for folder in options.outputs for row in outputs_of_evaluation(folder)]
    rows = (rows or labelled_outputs())[:: options.step]
    table: list[dict[str, Any]] = []
    found: list[Comparison] = []
    for name, _, place in (one.partition("=") for one in options.peer or [DART_MATH]):
        judged = judge_all(function_of(place), rows)
        for group in (["all"] if "known" in rows[0] else []) + list(dict.fromkeys(r["group"] for r in rows)):
            pairs = [
                (row, *one) for row, one in zip(rows, judged, strict=True) if group in ("all", row["group"])
            ]
            scores = scores_of(pairs)
            table.append(line_of(group, name, pairs, *scores))
            if group == "all":
                what = f"accuracy of the same {len(pairs):,} outputs of models"
                found.append(
                    accuracy_of_both(
                        f"grading/same outputs/{name}", what, name, known_version(name), *scores, "accuracy"
                    )
                )
                found.append(labels_of(name, pairs))
            print_differing(group, name, pairs, options.rows)
    print_table("Accuracy of the same outputs in %, and ours minus theirs in points", table)
    append(options.comparisons, found)
    if options.output:
        Path(options.output).write_text(json.dumps(table, indent=1) + "\n")
    return 0


def labelled_outputs() -> list[dict[str, Any]]:
    """Return the outputs of `model_outputs_dev`, graded by us."""
    rows = read_rows(Path(os.environ["SCALEQUEST_DATA"]) / "model_outputs_dev.jsonl.gz")
    with Grader() as grader:
        return [
            {
                **row,
                "benchmark": row["dataset"],
                "group": f"{row['dataset']}, {row['source'].partition('@')[0].strip()}",
                "found": (found := extract(row["output"]).answer or ""),
                "ours": grader.grade(found, row["reference"]).correct,
                "known": row["verdict"],
            }
            for row in rows
        ]


def outputs_of_evaluation(folder: str) -> list[dict[str, Any]]:
    """Return the outputs of a model's folder as they were graded then, with their problems."""
    rows = read_rows(folder)
    problems = {
        (name, problem.id): problem
        for name in dict.fromkeys(row["benchmark"] for row in rows)
        for problem in load_benchmark(ROOT / f"eval/benchmarks/{name}.yaml").problems
    }
    made = []
    for row in rows:
        problem = problems.get((row["benchmark"], row["id"]))
        if problem is None:
            raise ConfigError(
                f"{folder}: {row['benchmark']} has no problem {row['id']!r}; is it another version?"
            )
        made.append(
            {
                **row,
                "group": row["benchmark"],
                "output": row["completion"],
                "problem": problem.question,
                "tolerance": problem.answer_rule.tolerance,
                "found": row["extracted"] or "",
                "ours": row["correct"],
            }
        )
    return made


def judge_all(
    judge: Callable[[Mapping[str, Any]], tuple[str, bool]], rows: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """Return what a peer read and its verdict for each row, from a process that is replaced if killed."""
    judged: list[tuple[str, bool]] = []
    while len(judged) < len(rows):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=judge_and_send, args=(judge, rows[len(judged) :], sender)
        )
        process.start()
        sender.close()
        try:
            while len(judged) < len(rows):
                if not receiver.poll(4 * OUTPUT_SECONDS):
                    raise EOFError
                judged.append(receiver.recv())
        except EOFError:
            judged.append(("(killed)", False))
        process.kill()
        process.join()
    return judged


def judge_and_send(judge: Callable[..., Any], rows: Sequence[Mapping[str, Any]], sender: Connection) -> None:
    """Judge rows one by one within the limits."""

    def expire(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)
    resource.setrlimit(resource.RLIMIT_AS, (PEER_BYTES, PEER_BYTES))
    for row in rows:
        signal.alarm(OUTPUT_SECONDS)
        try:
            verdict = judge(row)
        except (MemoryError, TimeoutError):
            verdict = ("(stopped)", False)
        except Exception as error:  # a parser may raise anything
            verdict = (f"({type(error).__name__})", False)
        signal.alarm(0)
        sender.send(verdict)


def scores_of(pairs: Sequence[tuple[dict[str, Any], str, bool]]) -> tuple[list[float], list[float]]:
    """Return the accuracy of each problem by us and by a peer: the mean over its outputs."""
    by_problem: dict[Any, list[tuple[bool, bool]]] = {}
    for row, _, theirs in pairs:
        by_problem.setdefault((row["benchmark"], row["problem"]), []).append(
            (bool(row["ours"]), bool(theirs))
        )
    ours, theirs = ([fmean(pair[n] for pair in several) for several in by_problem.values()] for n in (0, 1))
    return ours, theirs


def labels_of(name: str, pairs: Sequence[tuple[dict[str, Any], str, bool]]) -> Comparison:
    """Return how often both graders agree with the verdicts that the outputs are labelled with."""
    ours = [float(row["ours"] == row["known"]) for row, _, _ in pairs]
    theirs = [float(verdict == row["known"]) for row, _, verdict in pairs]
    what = f"right verdicts on the same {len(pairs):,} outputs of models, by their labels"
    return accuracy_of_both(f"grading/labelled outputs/{name}", what, name, known_version(name), ours, theirs)


def line_of(
    group: str,
    peer_name: str,
    pairs: Sequence[tuple[dict[str, Any], str, bool]],
    ours: Sequence[float],
    other: Sequence[float],
) -> dict[str, Any]:
    """Return one line of the table; outputs of one problem are one observation, their mean."""
    several = len(ours) > 1
    difference = paired_difference([a - b for a, b in zip(ours, other, strict=True)]) if several else None
    line = {
        "benchmark": group,
        "outputs": len(pairs),
        "problems": len(ours),
        "ours": 100 * fmean(ours),
        peer_name: 100 * fmean(other),
        "difference": format_points(difference) if difference else "–",
        "verdicts that differ": sum(row["ours"] != theirs for row, _, theirs in pairs),
    }
    if "known" in pairs[0][0]:
        line["ours wrong"] = sum(row["ours"] != row["known"] for row, _, _ in pairs)
        line[f"{peer_name} wrong"] = sum(theirs != row["known"] for row, _, theirs in pairs)
    return line


def print_differing(
    group: str, name: str, pairs: Sequence[tuple[dict[str, Any], str, bool]], most: int
) -> None:
    """Print the first rows on which the verdicts differ."""
    differing = [(row, answer) for row, answer, theirs in pairs if row["ours"] != theirs]
    for row, answer in differing[:most] if group != "all" else ():
        print(
            f"{group}: right only by {'us' if row['ours'] else name}; reference {row['reference'][:80]!r}; "
            f"we read {row['found'][:80]!r}, {name} {answer[-80:]!r}; the end: {row['output'][-100:]!r}"
        )


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows below a title."""
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
    parser.add_argument("--repeats", type=int, default=3, help="timed runs over the complete outputs (3)")
    parser.add_argument("--reports", action="store_true", help="count the reported kinds of answers instead")
    parser.add_argument(
        "--outputs", nargs="*", metavar="FOLDER", help="grade the same outputs by us and by peers instead"
    )
    parser.add_argument("--rows", type=int, default=3, help="differing rows printed per benchmark (3)")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PATH:FUNCTION",
        help="another grader, with --reports or --outputs",
    )
    parser.add_argument("--output", help="also write the results to this JSON file")
    add_option(parser)
    arguments = parser.parse_args()
    if "SCALEQUEST_DATA" not in os.environ and not arguments.reports:
        parser.error("set SCALEQUEST_DATA to the folder of the labelled files")
    sys.exit(main(arguments))
