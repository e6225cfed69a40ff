r"""Filter questions by language, duplicates, contamination, solvability and difficulty.

One process (one GPU, or the CPU with the tiny profile):

    python recipes/filter_questions.py --config recipes/tiny/filter_questions.yaml

One node with 8 GPUs; each runs a copy of the model and gets every eighth block of questions:

    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/filter_questions.py \
        --config recipes/qwen2_math_7b/filter_questions.yaml

Several nodes, run once on each, with output_dir on a shared file system:

    accelerate launch --config_file accelerate_configs/ddp.yaml --num_machines 2 --num_processes 16 \
        --machine_rank $SLURM_NODEID --main_process_ip $HEAD_NODE --main_process_port 29500 \
        recipes/filter_questions.py --config recipes/qwen2_math_7b/filter_questions.yaml

With a judge behind a chat server (its url, prices and a budget; the key comes from the environment, under the
name that server.key_variable gives), here one of our own:

    vllm serve Qwen/Qwen2.5-72B-Instruct --port 8000
    python recipes/filter_questions.py --config recipes/qwen2_math_7b/filter_questions.yaml \
        --solvability.judge server --server.url http://localhost:8000/v1 \
        --server.model Qwen/Qwen2.5-72B-Instruct

Interrupted, answers that were paid for are not asked for again.

With a filter of your own, e.g. this my_filters.py; it gets each row and returns None to keep it, or a reason:

    def keep(row):
        return "too_short" if len(row["question"]) < 20 else None

    python recipes/filter_questions.py --config recipes/tiny/filter_questions.yaml \
        --steps language my_filters.py:keep duplicates

Hardware: a 24 GB GPU for each copy of a 7B model, none if no step asks a model here; solvability and
difficulty of the paper's two million questions took 110.6 hours of an A100-40G (its table 4).

Result: the questions that go on, with what was measured; the others in dropped/ with the step that stopped
them; report.html with counts, near-duplicates and benchmark matches side by side; what a server cost in
receipt.json. The paper lost 20.1 % to
language, 19.4 % to solvability and 9.2 % to difficulty, as shares of all.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from scalequest.config import RunOptions, to_dict
from scalequest.questions.filters import VERSION, FilterConfig, filter_questions
from scalequest.recipe import Recipe, run_recipe
from scalequest.stage.script import open_stage, track


def main(run: RunOptions, config: FilterConfig, worker: tuple[int, int]) -> None:
    """Read the questions, load or call the judge or solver if a step needs one, filter, write."""
    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.engines.loading import open_generator
    from scalequest.evaluation.benchmark_questions import (
        BenchmarkQuestions,
        read_benchmark_questions,
        report_left_out,
        sha256_of_questions,
    )
    from scalequest.questions.judges import judge_identity, open_judge
    from scalequest.questions.prompts import load_prompt
    from scalequest.records import read_inputs, source_fingerprint

    # 1. The folder, and the fingerprint of everything that can change a row
    model, revision = config.model_name_or_path or "", config.model_revision
    tests = (
        read_benchmark_questions(config.contamination)
        if "contamination" in config.steps
        else BenchmarkQuestions()
    )
    inputs = {source: source_fingerprint(source) for source in config.input}
    identity: dict[str, Any] = {"benchmarks": sha256_of_questions(tests.questions), **config.identity}
    prompt = None
    if config.asks_model:
        models, more = judge_identity(config)
        inputs |= models
        identity |= more
    if config.prompt:
        prompt = load_prompt(config.prompt)
        identity["prompt"] = to_dict(prompt)
    stage = open_stage(
        RECIPE.name, RECIPE.version, run, config,
        inputs=inputs, writes=("report.html",), worker=worker, **identity,
    )  # fmt: skip
    if stage.finished:
        return
    report_left_out(tests, stage)

    # 2. Text steps run over all rows; then the model is asked about the remaining rows, block by block
    rows = read_inputs(config.input, "question", columns=config.columns, limit=run.limit, without=())
    with ExitStack() as stack:
        tracker = stack.enter_context(track(stage, run, config, worker=worker[0]))
        generator = chat = judge = None
        if config.judge:
            judge = stack.enter_context(open_judge(config, stage, run, worker))
        elif config.asks_model:
            chat = bind(
                load_format(config.chat_format or "", model, revision), load_tokenizer(model, revision)
            )
            generator = stack.enter_context(
                open_generator(model, config.engine, revision=revision, seed=run.seed)
            )
            stage.receipt["engine"] = f"{generator.name} {generator.version}"
        filter_questions(
            stage, rows, config, run, benchmarks=tests.questions,
            generator=generator, chat=chat, judge=judge, prompt=prompt, tracker=tracker,
        )  # fmt: skip


RECIPE = Recipe("filter_questions", VERSION, "data", lambda: (RunOptions, FilterConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
