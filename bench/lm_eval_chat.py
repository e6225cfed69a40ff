r"""Let lm-eval ask a model by its chat template, and compare its outputs and verdicts with ours, row by row.

    python -m venv lm_eval_env && lm_eval_env/bin/pip install 'lm-eval[hf]'
    python bench/lm_eval_chat.py --model recipes/tiny/models/tiny-solver --chat-format tinymath \
        --benchmark eval/benchmarks/tinymath_test.yaml --lm-eval-python lm_eval_env/bin/python

200 problems, greedy, at most 128 tokens each; the tiny model takes a few minutes on 2 cores. lm-eval runs in
its own environment, with `--apply_chat_template` and a task that is generated here: the question is the
user's message, the answer is the content of the last box, and two answers are equal if their texts are. Both
use transformers in float32, so that equal prompts should give equal outputs.

A model without a chat template of its own (the tiny ones that the repository carries) is copied and given the
one that training would save with it. Printed: how many prompts, outputs and verdicts are equal, both
accuracies with our interval, and every row on which the two differ. The exit status is 1 if lm-eval's
accuracy is outside our interval.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparisons import accuracy, add_option, append

from scalequest.chat import bind, load_format, load_tokenizer
from scalequest.chat.jinja import solver_template
from scalequest.evaluation.benchmarks import LoadedBenchmark, load_benchmark
from scalequest.evaluation.results import RESULTS, Result, read_results
from scalequest.evaluation.statistics import paired_difference
from scalequest.records import Row, read_rows

TASK = "scalequest_rows"
_BOX = r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"  # braces nested twice inside a box


def write_task(folder: Path, benchmark: LoadedBenchmark, max_tokens: int) -> None:
    """Write a task's YAML file and its problems."""
    problems = [{"id": p.id, "question": p.question, "answer": p.answer} for p in benchmark.problems]
    (folder / "problems.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in problems))
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "problems.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"do_sample": False, "max_gen_toks": max_tokens, "until": []},
        "filter_list": [
            {
                "name": "boxed",
                "filter": [
                    {"function": "regex", "regex_pattern": _BOX, "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{TASK}.yaml").write_text(json.dumps(task, indent=1))  # JSON is YAML


def with_template(model: str, chat_format: str, folder: Path) -> Path:
    """Return the model's folder, or a copy with a chat template if it has none."""
    tokenizer = load_tokenizer(model)
    if tokenizer.chat_template is not None:
        return Path(model)
    shutil.copytree(model, folder)
    tokenizer.chat_template = solver_template(bind(load_format(chat_format), tokenizer))
    tokenizer.save_pretrained(folder)
    return folder


def ask_lm_eval(python: str, model: Path, folder: Path, batch_size: int) -> list[Row]:
    """Run lm-eval on the task; return its samples in the order of the problems."""
    command = [
        python, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
        "--tasks", TASK, "--include_path", str(folder), "--apply_chat_template", "--log_samples",
        "--output_path", str(folder / "out"), "--device", "cpu", "--batch_size", str(batch_size),
    ]  # fmt: skip
    run(command, {"HF_DATASETS_CACHE": str(folder / "cache")})
    (path,) = (folder / "out").rglob(f"samples_{TASK}_*.jsonl")
    samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def ask_ours(
    options: argparse.Namespace, model: Path, folder: Path, engine: str = "transformers"
) -> tuple[list[Row], Result]:
    """Run our evaluation in float32; return its rows and its result."""
    run([
        sys.executable, "eval/evaluate.py", "--models", json.dumps({"ours": str(model)}),
        "--chat_format", options.chat_format, "--benchmarks", options.benchmark, "--limit",
        str(options.problems), "--sampling.max_tokens", str(options.max_tokens), "--engine.name",
        engine, "--engine.dtype", "float32", "--output_dir", str(folder), "--track", "none",
    ], {})  # fmt: skip
    return read_rows(folder / "ours"), read_results(folder / "ours" / RESULTS)[0]


def run(command: Sequence[str], more: Mapping[str, str]) -> None:
    """Run a command; its output is shown if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **more})
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} ... failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def compare(
    benchmark: LoadedBenchmark,
    ours: Sequence[Row],
    theirs: Sequence[Row],
    prompts: Sequence[Sequence[int]],
    tokenizer: Any,
) -> list[dict[str, Any]]:
    """Return one row per problem with what differs; the verdicts stand in `ours` and `lm-eval`."""
    by_id = {row["id"]: row for row in ours}
    found = []
    for problem, sample, prompt in zip(benchmark.problems, theirs, prompts, strict=True):
        row, output = by_id[problem.id], sample["resps"][0][0]
        text = sample["arguments"]["gen_args_0"]["arg_0"]
        asked = tokenizer(text, add_special_tokens=False)["input_ids"]
        found.append(
            {
                "id": problem.id,
                "reference": problem.answer,
                "ours": bool(row["correct"]),
                "lm-eval": bool(sample["exact_match"]),
                "same prompt": asked == list(prompt),
                "same output": output.strip() == row["completion"].strip(),
                "our answer": row["extracted"],
                "its answer": sample["filtered_resps"][0],
                "our output": row["completion"],
                "its output": output,
            }
        )
    return found


def main() -> int:
    """Parse the options, ask both, and print what differs."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a model with its tokenizer")
    parser.add_argument("--chat-format", default="tinymath", help="default: tinymath")
    parser.add_argument("--benchmark", default="eval/benchmarks/tinymath_test.yaml", help="its YAML file")
    parser.add_argument("--problems", type=int, default=200, help="default: 200")
    parser.add_argument("--max-tokens", type=int, default=128, help="default: 128")
    parser.add_argument("--batch-size", type=int, default=32, help="lm-eval's batch size (32)")
    parser.add_argument("--lm-eval-python", default=sys.executable, help="interpreter that has lm-eval")
    add_option(parser)
    options = parser.parse_args()
    benchmark = load_benchmark(options.benchmark, options.problems)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = with_template(options.model, options.chat_format, folder / "model")
        chat = bind(load_format(options.chat_format), load_tokenizer(str(model)))
        # Compared as token ids, because lm-eval tokenises the text of the template again.
        asked = [chat.solve_prompt_ids(problem.question) for problem in benchmark.problems]
        task = folder / "task"  # a folder of its own: lm-eval reads every YAML file in it as a task
        task.mkdir()
        write_task(task, benchmark, options.max_tokens)
        theirs = ask_lm_eval(options.lm_eval_python, model, task, options.batch_size)
        ours, result = ask_ours(options, model, folder / "ours")
    rows = compare(benchmark, ours, theirs, asked, chat.tokenizer)
    if options.comparisons:
        right = [[float(row[side]) for row in rows] for side in ("ours", "lm-eval")]
        what = (
            f"accuracy of {Path(options.model).name} on {len(rows)} problems of {benchmark.name}, asked by "
            f"its chat template; {sum(row['same output'] for row in rows)} outputs and "
            f"{sum(row['ours'] == row['lm-eval'] for row in rows)} verdicts are equal"
        )
        difference = paired_difference([a - b for a, b in zip(*right, strict=True)])
        means = (sum(side) / len(rows) for side in right)
        version = version_in(options.lm_eval_python)
        key = "evaluation/same model and problems/lm-eval"
        found = accuracy(key, what, "lm-eval", version, *means, difference, len(rows), "accuracy")
        append(options.comparisons, [found])
    return report(rows, result)


def version_in(python: str) -> str:
    """Return the version of lm-eval in an interpreter's environment."""
    code = "from importlib.metadata import version; print(version('lm_eval'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def report(rows: Sequence[Mapping[str, Any]], result: Result) -> int:
    """Print the counts and every difference; return 1 if lm-eval's accuracy is outside our interval."""
    total, accuracy = len(rows), result.accuracy
    its = sum(row["lm-eval"] for row in rows) / total
    for key in ("same prompt", "same output"):
        print(f"{key}: {sum(row[key] for row in rows)} of {total}")
    print(f"same verdict: {sum(row['ours'] == row['lm-eval'] for row in rows)} of {total}")
    print(
        f"accuracy: ours {100 * (accuracy.value or 0):.1f} ({100 * (accuracy.low or 0):.1f} to "
        f"{100 * (accuracy.high or 0):.1f}), lm-eval {100 * its:.1f}"
    )
    for row in rows:
        if row["ours"] != row["lm-eval"] or not row["same prompt"] or not row["same output"]:
            print(json.dumps(row, ensure_ascii=False))
    return int(not (accuracy.low or 0) <= its <= (accuracy.high or 0))


if __name__ == "__main__":
    sys.exit(main())
