"""Export results in the JSON layout of EleutherAI's lm-evaluation-harness, for tools that read it.

Our rows contain neither questions nor prompts, so `arg_0`, which is the prompt in lm-eval, is the prompt's
name, next to the hash of the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scalequest import atomic_files
from scalequest.config import ConfigError
from scalequest.evaluation.comparison import scores_of_problems
from scalequest.evaluation.results import Result, sha256_of
from scalequest.records import Row

METRIC = "exact_match"


def write_lm_eval(
    folder: str | Path, results: Sequence[Result], rows: Sequence[Row], receipt: Mapping[str, Any]
) -> Path:
    """Write `results_<time>.json` and one `samples_<task>_<time>.jsonl` per benchmark, in the model's folder.

    Args:
        folder: the parent of the model's folder.
        results: the results of one model.
        rows: the model's outputs, including dropped ones (`comparison.read_outputs`).
        receipt: the receipt of the stage that made them.

    Returns:
        The path of the results file.
    """
    ended = datetime.fromisoformat(str(receipt["ended"]))
    stamp = ended.strftime("%Y-%m-%dT%H-%M-%S.%f")
    name = re.sub(r"[^\w.-]+", "__", results[0].model)
    for given in (name, *(result.benchmark for result in results)):  # the results may come from anyone
        if fault := atomic_files.name_fault(given):
            raise ConfigError(f"lm_eval: {given[:80]!r} cannot be used as a file name: {fault}")
    target = Path(folder) / name
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"results_{stamp}.json"
    content = lm_eval_results_of(results, rows, receipt, ended)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for result in results:
        mine = [row for row in rows if row["benchmark"] == result.benchmark]
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in lm_eval_samples_of(mine)]
        (target / f"samples_{result.benchmark}_{stamp}.jsonl").write_text("".join(lines), encoding="utf-8")
    return path


def lm_eval_results_of(
    results: Sequence[Result], rows: Sequence[Row], receipt: Mapping[str, Any], ended: datetime
) -> dict[str, Any]:
    """Return the content of a results file; the filter is called `none`, as in a task without filters."""
    by_problem: dict[str, list[float]] = {}
    for (benchmark, _), score in scores_of_problems(rows).items():
        by_problem.setdefault(benchmark, []).append(score)
    first = results[0]
    protocol, names = first.protocol, [result.benchmark for result in results]
    return {
        "results": {
            result.benchmark: {
                "alias": result.benchmark,
                f"{METRIC},none": result.accuracy.value,
                f"{METRIC}_stderr,none": _standard_error_of(by_problem.get(result.benchmark, [])),
                **{f"{name},none": one.value for name, one in result.metrics.items()},
            }
            for result in results
        },
        "group_subtasks": {name: [] for name in names},
        "configs": {result.benchmark: _task_config_of(result, protocol["sampling"]) for result in results},
        "versions": dict.fromkeys(names, 1.0),
        "n-shot": {result.benchmark: result.protocol["shots"] for result in results},
        "higher_is_better": {name: {METRIC: True} for name in names},
        "n-samples": {result.benchmark: {"original": result.n, "effective": result.n} for result in results},
        "config": {
            "model": protocol["engine"],
            "model_args": f"pretrained={next(iter(receipt['inputs']), '')},dtype={protocol['dtype']}",
            "limit": protocol["limit"],
            "gen_kwargs": _generation_settings_of(protocol["sampling"]),
            "random_seed": protocol["seed"],
        },
        "git_hash": first.commit,
        "date": ended.timestamp(),
        "model_name": first.model,
        "model_name_sanitized": re.sub(r"[^\w.-]+", "__", first.model),
        "chat_template": protocol["chat_format"],
        "chat_template_sha": protocol["chat_format_sha256"],
        "total_evaluation_time_seconds": str(receipt["seconds"]),
    }


def _task_config_of(result: Result, sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": result.benchmark,
        "output_type": "generate_until",
        "repeats": result.samples,
        "num_fewshot": result.protocol["shots"],
        "generation_kwargs": _generation_settings_of(sampling),
        "metric_list": [{"metric": METRIC, "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"scalequest": dict(result.protocol), "fingerprint": result.fingerprint},
    }


def lm_eval_samples_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the content of a samples file: one entry per problem and prompt, with all of its outputs.

    A dropped request has no output, and counts as wrong.
    """
    docs: dict[str, int] = {}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        docs.setdefault(row["id"], len(docs))
        groups.setdefault((row["id"], row["prompt"]), []).append(row)
    return [
        {
            "doc_id": docs[row["id"]],
            "doc": {"id": row["id"], **json.loads(row["metadata"])},
            "target": row["reference"],
            "arguments": {"gen_args_0": {"arg_0": row["prompt"], "prompt_sha256": row.get("prompt_sha256")}},
            "resps": [[one.get("completion") or "" for one in group]],
            "filtered_resps": [one["extracted"] for one in group],
            "filter": "none",
            "metrics": [METRIC],
            "doc_hash": sha256_of(f"{row['benchmark']}/{row['id']}"),
            "prompt_hash": row.get("prompt_sha256"),
            "target_hash": sha256_of(row["reference"]),
            METRIC: fmean([one["correct"] for one in group]),
        }
        for group in groups.values()
        for row in group[:1]  # a dropped one comes after all others
    ]


def _generation_settings_of(sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "do_sample": sampling["temperature"] > 0,
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "max_gen_toks": sampling["max_tokens"],
    }


def _standard_error_of(per_problem: Sequence[float]) -> float | str:
    """Return the standard error of the mean over problems, or lm-eval's placeholder if there is none."""
    return stdev(per_problem) / len(per_problem) ** 0.5 if len(per_problem) > 1 else "N/A"
