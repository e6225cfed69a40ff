r"""Sample several solutions per question, and extract the answer of each.

One process (one GPU, or the CPU with the tiny profile):

    python recipes/solve_questions.py --config recipes/tiny/solve_questions.yaml

One node with 8 GPUs; each runs a copy of the model and gets every eighth block of questions:

    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/solve_questions.py \
        --config recipes/qwen2_math_7b/solve_questions.yaml

Several nodes, run once on each, with output_dir on a shared file system:

    accelerate launch --config_file accelerate_configs/ddp.yaml --num_machines 2 --num_processes 16 \
        --machine_rank $SLURM_NODEID --main_process_ip $HEAD_NODE --main_process_port 29500 \
        recipes/solve_questions.py --config recipes/qwen2_math_7b/solve_questions.yaml

On a Ray cluster started with `ray start`, or on this machine (slurm/ray_cluster.sbatch starts a cluster):

    python recipes/solve_questions.py --config recipes/qwen2_math_7b/solve_questions.yaml --launch ray

Hardware: a 24 GB GPU per copy of a 7B model; five responses to each of the paper's million questions took 251
GPU-hours on A100-40G (its table 4). Run the same command again to resume after the last complete block.

Result: one row per question with all responses, their answers, how each ended, and the share that agrees;
questions without a complete response that has an answer in dropped/.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from scalequest.config import RunOptions, to_dict
from scalequest.recipe import Recipe, run_recipe
from scalequest.solutions.solving import (
    SAMPLE_COLUMNS,
    VERSION,
    SolveConfig,
    asks_model,
    check_reuse,
    left_out,
    solve_questions,
)
from scalequest.stage.script import open_stage, track


def main(run: RunOptions, config: SolveConfig, worker: tuple[int, int]) -> None:
    """Read the questions, load the solver, sample, and write the solutions."""
    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.engines.loading import open_generator
    from scalequest.records import model_fingerprint, read_inputs, row_seed, source_fingerprint

    # 1. The folder, and the fingerprint of everything that can change a row
    model, revision = config.model_name_or_path, config.model_revision
    chat_format = load_format(config.chat_format, model, revision)
    inputs = {source: source_fingerprint(source) for source in config.input}
    solver = model_fingerprint(model, revision)
    if config.reuse:
        check_reuse(config.input, solver, chat_format, config.sampling)
    stage = open_stage(
        RECIPE.name, RECIPE.version, run, config,
        inputs={**inputs, model: solver}, chat_format=to_dict(chat_format), worker=worker,
    )  # fmt: skip
    if stage.finished:
        return

    # 2. Sample each question n times, every sample with its own seed
    needed = ("question", *(SAMPLE_COLUMNS if config.reuse else ()))
    without = left_out(config)
    rows = read_inputs(config.input, *needed, columns=config.columns, limit=run.limit, without=without)
    chat = bind(chat_format, load_tokenizer(model, revision))
    with ExitStack() as stack:
        tracker = stack.enter_context(track(stage, run, config, worker=worker[0]))
        generator = None
        if asks_model(rows, config):
            # If an engine with several processes cannot be seeded per block, every worker starts differently.
            seed = row_seed(run.seed, "engine", worker[0], stage.blocks.written())
            loading = open_generator(model, config.engine, revision=revision, seed=seed)
            generator = stack.enter_context(loading)
            stage.receipt["engine"] = f"{generator.name} {generator.version}"
        solve_questions(stage, rows, generator, chat, config, run, tracker=tracker)


RECIPE = Recipe("solve_questions", VERSION, "data", lambda: (RunOptions, SolveConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
