"""Run every comparison with other tools, and write the table of docs/peers.md: `make bench` runs this.

    python bench/run_all.py --quick               # small sizes, about ten minutes on 2 idle cores
    python bench/run_all.py                       # the sizes that the scripts recommend: about four hours
    python bench/run_all.py --only grading filters --fresh
    python bench/run_all.py --list                # what there is, and what is missing here

Each script runs as its own process with a time limit. If one fails, exceeds its limit, or lacks the other
tool, a line says why (for a tool: how to install it), and the next one runs. What is finished is skipped when
the command is given again; `--fresh` measures it again. Logs and results lie in `--output_dir`; finished
comparisons replace those of bench/peer_results.jsonl with the same key, but the figures of a quick run never
replace those of a full one. Leave the machine alone meanwhile: a figure from a busy one is worth nothing.

datatrove and lm-eval do not belong to the environment of `make setup`; each needs one of its own:

    python -m venv .venv-datatrove
    .venv-datatrove/bin/pip install datatrove httpx orjson regex tokenizers xxhash
    python -m venv .venv-lm-eval && .venv-lm-eval/bin/pip install 'lm-eval[hf]'
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "peer_results.jsonl"
TINY = "recipes/tiny/models"
SMOLLM2 = "runs/smollm2/models/smollm2-135m-instruct"
SMOL = ("--model", SMOLLM2, "--chat-format", "smollm2")
SOLVER = ("--model", f"{TINY}/tiny-solver", "--chat-format", "tinymath")
BASE = ("--model", f"{TINY}/tiny-base", "--chat-format", "tinymath")
ENVIRONMENTS = {
    "datatrove": (".venv-datatrove", "datatrove httpx orjson regex tokenizers xxhash"),
    "lm_eval": (".venv-lm-eval", "'lm-eval[hf]'"),
}


@dataclass(frozen=True)
class Job:
    """A script with its options.

    Attributes:
        name: for `--only`, and the name of its files.
        script: the stem of the Python file in bench/.
        quick: options of a quick run.
        full: options of a full run.
        minutes: the time limits of a quick and of a full run.
        needs: what has to be there: modules, `datatrove` or `lm_eval`, `data`, or `model` for a full run.
        keys: the keys of the comparisons that it makes.
    """

    name: str
    script: str
    quick: tuple[str, ...]
    full: tuple[str, ...]
    minutes: tuple[int, int]
    needs: tuple[str, ...]
    keys: tuple[str, ...]


JOBS = (
    Job(
        "reports", "grading", ("--reports",), ("--reports",), (4, 10), ("math_verify",),
        ("grading/reported answers/math-verify", "grading/reported answers, held out/math-verify",
         "grading/reported answers/dart-math", "grading/reported answers, held out/dart-math"),
    ),
    Job(
        "grading", "grading", ("--step", "20"), (), (4, 30), ("math_verify", "data"),
        ("grading/speed, all rows/math-verify", "grading/speed, MATH and OlympiadBench/math-verify",
         "grading/labelled pairs/math-verify"),
    ),
    Job(
        "outputs", "grading", ("--outputs", "--rows", "0", "--step", "5"), ("--outputs", "--rows", "0"),
        (4, 20), ("data",),
        ("grading/same outputs/dart-math", "grading/labelled outputs/dart-math"),
    ),
    Job(
        "filters", "filters", ("--rows", "20000", "--peer-rows", "5000"), (), (5, 60), ("datatrove", "data"),
        ("filters/near-duplicates/datatrove",),
    ),
    Job(
        "synthesis", "engines",
        (*SOLVER, "--rows", "500", "--pairs", "3", "--transformers-rows", "128", "--column-rows", "32",
         "--skip-as-it-comes"),
        SMOL, (6, 90), ("vllm", "model"),
        ("synthesis/question generation/bare vLLM", "synthesis/question generation/transformers"),
    ),
    Job(
        "inference", "inference_block", ("--problems", "500", "--repeats", "3"), (), (6, 15),
        ("vllm", "datatrove"),
        ("synthesis/inference block/datatrove",),
    ),
    Job(
        "training", "training",
        (*BASE, "--steps", "2", "--rounds", "3", "--rows", "500", "--kinds", "questions", "--prepare",
         "5000"),
        (*SMOL, "--bf16", "--steps", "2", "--rounds", "3"), (8, 150), ("trl", "data", "model"),
        ("training/questions, training step/bare PyTorch loop", "training/questions, padded/TRL",
         "training/questions, grouped by length/TRL", "training/questions, cut/TRL",
         "preparation/rows/TRL"),
    ),
    Job(
        "harness", "harness",
        (*SOLVER, "--benchmark", "eval/benchmarks/tinymath_test.yaml", "--problems", "200", "--max-tokens",
         "64", "--pairs", "3"),
        SMOL, (5, 40), ("vllm", "model", "data"),
        ("evaluation/harness/bare vLLM",),
    ),
    Job(
        "lm_eval", "lm_eval_chat", (*SOLVER, "--problems", "64"), (*SOLVER, "--problems", "200"), (6, 20),
        ("lm_eval",),
        ("evaluation/same model and problems/lm-eval",),
    ),
)  # fmt: skip
DART_MATH = ("--peer", "dart-math=bench/dart_math_rules.py:equal")


def words_of(job: Job, quick: bool) -> list[str]:
    """Return the command of a job, without `--comparisons`."""
    words = ["python", f"bench/{job.script}.py", *(job.quick if quick else job.full)]
    if job.name == "reports":
        words += DART_MATH
    for module, (folder, _) in ENVIRONMENTS.items():
        if module in job.needs and (ROOT / folder).exists():
            words += [f"--{module.replace('_', '-')}-python", f"{folder}/bin/python"]
    return words


def lacking(job: Job, quick: bool) -> str | None:
    """Return what a job lacks and how to get it; None if everything is there."""
    for need in job.needs:
        if need == "data":
            if not Path(os.environ.get("SCALEQUEST_DATA") or ROOT / "data").is_dir():
                return "no data: `make data`, or set SCALEQUEST_DATA"
        elif need == "model":
            if not quick and not (ROOT / SMOLLM2).is_dir():
                return f"no model in {SMOLLM2}: see recipes/smollm2_135m/README.md"
        elif need in ENVIRONMENTS:
            folder, packages = ENVIRONMENTS[need]
            if not (ROOT / folder / "bin/python").exists() and find_spec(need) is None:
                return (
                    f"{need} is not installed: python -m venv {folder} && {folder}/bin/pip install {packages}"
                )
        elif find_spec(need) is None:
            return f"{need} is not installed: `make setup`"
    return None


def run(words: Sequence[str], log: Path, minutes: float) -> str | None:
    """Run a command with a time limit; return what went wrong, or None.

    Everything that it started ends with it. An exit status of 1 with results is a missed target, no failure.
    """
    data = {"SCALEQUEST_DATA": os.environ.get("SCALEQUEST_DATA") or str(ROOT / "data")}
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *words[1:]], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, **data}, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            return f"it took longer than {minutes:g} minutes"
        finally:
            with contextlib.suppress(ProcessLookupError):  # nothing is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return None if status in (0, 1) else f"exit status {status}"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the comparisons of a file, which need not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def merged(known: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return all comparisons in the order of JOBS; those in `found` replace known ones of the same key.

    A quick run does not replace a full one.
    """
    by_key = {one["key"]: one for one in known}
    for one in found:
        if not one["quick"] or by_key.get(one["key"], one)["quick"]:
            by_key[one["key"]] = one
    order = [key for job in JOBS for key in job.keys]
    keys = list(dict.fromkeys([*(key for key in order if key in by_key), *by_key]))
    return [by_key[key] for key in keys]


def write(path: Path, comparisons: Sequence[Mapping[str, Any]]) -> None:
    """Write comparisons as JSON lines."""
    lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in comparisons)
    path.write_text("".join(lines), encoding="utf-8")


def measure(job: Job, asked: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Run one job unless it is finished; return what happened, in words, and its comparisons."""
    stem = f"{job.name}-quick" if asked.quick else job.name
    done, part = asked.output_dir / f"{stem}.jsonl", asked.output_dir / f"{stem}.part"
    words = words_of(job, asked.quick)
    found = [] if asked.fresh else read(done)
    if found and found[0]["command"] == shlex.join(words):
        return f"finished before, {len(found)} comparisons", found
    if (why := lacking(job, asked.quick)) is not None:
        return f"left out: {why}", []
    part.unlink(missing_ok=True)
    start = time.monotonic()
    log = asked.output_dir / f"{stem}.log"
    fault = run([*words, "--comparisons", str(part.resolve())], log, job.minutes[not asked.quick])
    found = [{**one, "quick": asked.quick and job.quick != job.full} for one in read(part)]
    if fault is None and not found:
        fault = "it compared nothing"
    if fault is not None:
        return f"failed: {fault}; see {log}", []
    write(part, found)
    part.replace(done)
    return f"{len(found)} comparisons in {time.monotonic() - start:.0f} s", found


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    names = [job.name for job in JOBS]
    made.add_argument("--only", nargs="+", choices=names, default=names, help="only these")
    made.add_argument("--quick", action="store_true", help="small sizes and the models of recipes/tiny")
    made.add_argument("--fresh", action="store_true", help="measure again what is finished")
    made.add_argument("--list", action="store_true", help="print the commands and what is missing; run none")
    made.add_argument("--output_dir", type=Path, default=ROOT / "runs" / "bench", help="default: runs/bench")
    made.add_argument("--results", type=Path, default=RESULTS, help="default: bench/peer_results.jsonl")
    return made


def main(asked: argparse.Namespace) -> int:
    """Run the jobs, merge their results and write the page; return 1 if a job failed."""
    jobs = [job for job in JOBS if job.name in asked.only]
    if asked.list:
        for job in jobs:
            print(f"{job.name}: {' '.join(words_of(job, asked.quick))}")
            print(f"    {lacking(job, asked.quick) or 'ready'}")
        return 0
    asked.output_dir.mkdir(parents=True, exist_ok=True)
    failed = False
    for job in jobs:
        print(f"{job.name}: {' '.join(words_of(job, asked.quick))}", flush=True)
        said, found = measure(job, asked)
        print(f"    {said}", flush=True)
        failed |= said.startswith("failed")
        write(asked.results, merged(read(asked.results), found))
    if asked.results == RESULTS:
        subprocess.run([sys.executable, str(ROOT / "scripts/peer_results.py"), "--write"], check=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
