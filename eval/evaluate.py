r"""Ask models the problems of benchmarks and grade the answers: zero-shot, greedy, chain of thought.

One machine, from a config or all on the command line:

    python eval/evaluate.py --config recipes/tiny/evaluate.yaml
    python eval/evaluate.py --models '{base: runs/base, tuned: runs/sft}' --chat_format qwen2_math \
        --benchmarks eval/benchmarks/gsm8k.yaml eval/benchmarks/math.yaml --output_dir runs/evaluation

One node of 8 GPUs, each with a copy of the model and an eighth of the problems:

    accelerate launch --config_file accelerate_configs/ddp.yaml eval/evaluate.py --config ...

Many nodes, once on each, with output_dir on a file system that all of them see:

    accelerate launch --config_file accelerate_configs/ddp.yaml --num_machines 2 --num_processes 16 \
        --machine_rank $SLURM_NODEID --main_process_ip $HEAD_NODE --main_process_port 29500 \
        eval/evaluate.py --config ...

Hardware: a 24 GB GPU for each copy of a 7B model, or 2 CPU cores for the tiny ones. Each model runs in a
process of its own, its engine started once for all benchmarks. Interrupted, it goes on behind its last whole
block when started again.

Result: the table; OUTPUT/<label>/ with every completion, extracted answer and verdict (data/*.parquet) and
results.json: accuracy, n, 95 % interval, shares of truncated and answerless outputs, protocol fingerprint.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scalequest.config import ConfigError, RunOptions, parse
from scalequest.evaluation import harness, tables
from scalequest.evaluation.benchmarks import Benchmark, load_benchmark
from scalequest.shards import Stage
from scalequest.stages import begin, explained, tracked

RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")  # what a launcher tells a process


def main(run: RunOptions, config: harness.EvaluationConfig, words: Sequence[str]) -> None:
    """Evaluate every model in a process of its own, then gather; with `only`, evaluate that model here."""
    benchmarks = [load_benchmark(path, run.limit) for path in config.benchmarks]
    if len({benchmark.name for benchmark in benchmarks}) < len(benchmarks):
        raise ConfigError("benchmarks: two files have the same name")
    if config.only is not None:
        evaluate_one(run, config, config.only, benchmarks)
        return

    # 1. The folder of the whole, held by the first process of a launch
    first = all(os.environ.get(name, "0") == "0" for name in RANKS)
    stage = open_folder(run, config, list(config.models), benchmarks) if first else None

    # 2. Each model in its own process, under a guard that ends it when this one ends
    if stage is None or not stage.finished:
        for label in config.models:
            script = [sys.executable, __file__, *words, "--only", label]
            child = subprocess.Popen(
                [sys.executable, "-m", "scalequest.guard", *script], stdin=subprocess.PIPE
            )
            if status := child.wait():
                sys.exit(status)

    # 3. One table of all
    if stage is not None:
        gather(stage, config)


def evaluate_one(
    run: RunOptions, config: harness.EvaluationConfig, label: str, benchmarks: Sequence[Benchmark]
) -> None:
    """Run one model over all benchmarks into OUTPUT/<label>."""
    # Which of the launched processes this is, before anything that looks at devices is imported
    from scalequest.engines.launch import worker

    place = worker(config.engine.tensor_parallel_size)
    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.engines.base import open_generator

    run = replace(run, output_dir=str(Path(run.output_dir) / label))
    stage = open_folder(run, config, [label], benchmarks, place)
    if not stage.finished:
        model, revision = config.models[label], config.revisions.get(label)
        chat = bind(load_format(config.format_of(label)), load_tokenizer(model, revision))
        with (
            tracked(stage, run, config, worker=place[0]) as tracker,
            open_generator(model, config.engine, revision=revision, seed=run.seed) as generator,
        ):
            harness.evaluate(stage, generator, chat, config, run, benchmarks, tracker=tracker)
            if place[0] == 0:
                results = harness.collect(run.output_dir, config, label, benchmarks)
                tracker.log({f"{result.benchmark}/accuracy": result.accuracy.value for result in results})
    elif place[0] == 0:
        harness.collect(run.output_dir, config, label, benchmarks)  # a kill may have come before it


def open_folder(
    run: RunOptions,
    config: harness.EvaluationConfig,
    labels: Sequence[str],
    benchmarks: Sequence[Benchmark],
    place: tuple[int, int] = (0, 1),
) -> Stage:
    """Open the folder of one model, or of all."""
    return begin(
        "evaluate" if config.only is None else "evaluate_model",
        harness.VERSION,
        run,
        config,
        inputs=harness.models(config, labels),
        worker=place,
        **harness.identity(config, labels, benchmarks),
    )


def gather(stage: Stage, config: harness.EvaluationConfig) -> None:
    """Keep all models' results in the folder above theirs, and print them."""
    folders = {label: stage.output_dir / label for label in config.models}
    results = [
        result for folder in folders.values() for result in harness.read_results(folder / harness.RESULTS)
    ]
    shown = tables.benchmark_tables(results)
    if not stage.finished:
        receipts = [harness.read_receipt(folder) for folder in folders.values()]
        spent = {key: sum(receipt[key] for receipt in receipts) for key in ("tokens", "seconds")}
        stage.blocks(len(results), len(results))
        stage.write_block(0, [harness.result_row(result) for result in results], **spent)
        stage.finish(rows_in=len(results), card=tables.markdown(shown, title="Evaluation"))
    tables.show(shown)


if __name__ == "__main__":
    words = sys.argv[1:]
    options = parse(RunOptions, harness.EvaluationConfig, argv=words, description=__doc__ or "")
    sys.exit(explained(main, *options, words))
