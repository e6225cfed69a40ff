"""Ask models the problems of benchmarks and grade the answers: zero-shot, greedy, chain of thought.

One machine, from a config or all on the command line:

    python eval/evaluate.py --config recipes/tiny/evaluate.yaml
    python eval/evaluate.py --models '{base: runs/base, tuned: runs/sft}' --chat_format qwen2_math \
        --benchmarks eval/benchmarks/gsm8k.yaml eval/benchmarks/math.yaml --output_dir runs/evaluation

A node with 8 GPUs, each with a copy of the model and an eighth of the problems (several nodes: the same
line on each, with --num_machines, --machine_rank and --main_process_ip, and output_dir on a shared disk):

    accelerate launch --config_file accelerate_configs/ddp.yaml eval/evaluate.py --config ...

Each model runs in a process of its own, its engine started once for all benchmarks; OUTPUT/<label>/ keeps
every completion (data/*.parquet) and results.json, and a killed run goes on where it stopped. GSM8K and
MATH together are 6,319 problems: minutes on one 80 GB GPU for a 7B model; the tiny models take seconds a
benchmark on 2 CPU cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scalequest.config import ConfigError, RunOptions, parse, to_dict
from scalequest.evaluation import harness, tables
from scalequest.evaluation.benchmarks import Benchmark, load_benchmark
from scalequest.shards import Stage, StageError


def main(args: harness.EvaluationConfig, run: RunOptions, argv: Sequence[str]) -> None:
    """Evaluate every model, then print and keep the table of all; with `only`, just that model's part."""
    benchmarks = [load_benchmark(path, run.limit) for path in args.benchmarks]
    if len({benchmark.name for benchmark in benchmarks}) < len(benchmarks):
        raise ConfigError("benchmarks: two files have the same name")
    if args.only is not None:
        evaluate_one(args, run, args.only, benchmarks)
        return
    whole = None
    if os.environ.get("RANK", "0") == "0":
        fields = {label: harness.model_fields(args, run, label, benchmarks) for label in args.models}
        whole = Stage.open(
            run.output_dir,
            name="evaluate",
            version=harness.VERSION,
            config={**to_dict(args), **to_dict(run)},
            fingerprint={"models": fields},
            fresh=run.fresh,
        )
    if whole is None or not whole.finished:
        for label in args.models:
            command = [
                sys.executable,
                "-m",
                "scalequest.guard",
                sys.executable,
                __file__,
                *argv,
                "--only",
                label,
            ]
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE
            )  # the guard ends it when this process ends
            if status := child.wait():
                sys.exit(status)
    if whole is not None:
        finish(whole, args, run)


def evaluate_one(
    args: harness.EvaluationConfig, run: RunOptions, label: str, benchmarks: Sequence[Benchmark]
) -> None:
    """Run one model over all benchmarks into OUTPUT/<label>."""
    from scalequest.engines.launch import worker as join

    worker, workers = join()
    folder = Path(run.output_dir) / label
    fields = harness.model_fields(args, run, label, benchmarks)
    config = {**to_dict(args), **to_dict(run), "only": label}
    stage = Stage.open(
        folder,
        name="evaluate_model",
        version=harness.VERSION,
        config=config,
        fingerprint=fields,
        fresh=run.fresh,
        worker=worker,
        workers=workers,
    )
    if not stage.finished:
        from transformers import AutoTokenizer

        from scalequest.chat import bind, load_format
        from scalequest.engines.base import open_generator
        from scalequest.tracking import Tracker

        model, revision = args.models[label], args.revisions.get(label)
        format = bind(
            load_format(args.format_of(label)), AutoTokenizer.from_pretrained(model, revision=revision)
        )
        with (
            Tracker.start(
                stage="evaluate",
                output_dir=folder,
                config=config,
                group=run.group,
                mode=run.track,
                fingerprint=stage.fingerprint,
                upstream={label: fields["model"]},
                worker=worker,
            ) as tracker,
            open_generator(model, args.engine, revision=revision, seed=run.seed) as generator,
        ):
            harness.evaluate(stage, generator, format, args, run, benchmarks, tracker=tracker)
            if worker == 0:
                results = harness.collect(folder, args, label, benchmarks)
                tracker.log({f"{result.benchmark}/accuracy": result.accuracy.value for result in results})
                tracker.artifact(f"evaluation-{label}", "result", folder)
    elif worker == 0:
        harness.collect(folder, args, label, benchmarks)


def finish(whole: Stage, args: harness.EvaluationConfig, run: RunOptions) -> None:
    """Gather the models' results in the folder above them, and print them."""
    folder = Path(run.output_dir)
    results = [
        result for label in args.models for result in harness.read_results(folder / label / harness.RESULTS)
    ]
    shown = tables.benchmark_tables(results)
    if not whole.finished:
        spent = [harness.read_receipt(folder / label) for label in args.models]
        total = {key: sum(receipt[key] for receipt in spent) for key in ("tokens", "seconds")}
        whole.blocks(len(results), len(results))
        whole.write_block(0, [harness.result_row(result) for result in results], **total)
        whole.finish(rows_in=len(results), card=tables.markdown(shown, title="Evaluation"))
    tables.show(shown)


if __name__ == "__main__":
    words = sys.argv[1:]
    options = parse(harness.EvaluationConfig, RunOptions, argv=words, description=__doc__ or "")
    try:
        main(*options, words)
    except (ConfigError, StageError) as error:
        sys.exit(f"error: {error}")
