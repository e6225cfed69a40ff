r"""Sample new questions: a question generator completes the bare header of a user turn.

One process (one GPU, or the CPU with the tiny profile):

    python recipes/generate_questions.py --config recipes/tiny/generate_questions.yaml

One node with 8 GPUs; each runs a copy of the model and gets every eighth block of rows:

    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/generate_questions.py \
        --config recipes/qwen2_math_7b/generate_questions.yaml

Several nodes, run once on each, with output_dir on a shared file system:

    accelerate launch --config_file accelerate_configs/ddp.yaml --num_machines 2 --num_processes 16 \
        --machine_rank $SLURM_NODEID --main_process_ip $HEAD_NODE --main_process_port 29500 \
        recipes/generate_questions.py --config recipes/qwen2_math_7b/generate_questions.yaml

On a Ray cluster started with `ray start`, or on this machine (slurm/ray_cluster.sbatch starts a cluster):

    python recipes/generate_questions.py --config recipes/qwen2_math_7b/generate_questions.yaml --launch ray

Few-shot prompting of a model that is no question generator:

    python recipes/generate_questions.py --config recipes/tiny/generate_questions.yaml \
        --model_name_or_path recipes/tiny/models/tiny-solver --output_dir runs/few_shot \
        --shots.input recipes/tiny/data/seed_questions.jsonl.gz --shots.number 4

Hardware: a 24 GB GPU per copy of a 7B model; the paper's two million questions took 38.4 GPU-hours on
A100-40G (its table 4). Run the same command again to resume after the last complete block.

Result: question rows with their seeds; truncated, empty and garbled ones, a few per cent after QFT, in
dropped/.
"""

from __future__ import annotations

import sys

from scalequest.config import RunOptions, to_dict
from scalequest.questions.generation import VERSION, GenerationConfig, generate_questions
from scalequest.recipe import Recipe, run_recipe
from scalequest.stage.script import open_stage, track


def main(run: RunOptions, config: GenerationConfig, worker: tuple[int, int]) -> None:
    """Load the generator, sample, and write the questions."""
    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.engines.loading import open_generator
    from scalequest.records import model_fingerprint, row_seed, source_fingerprint

    # 1. The folder, and the fingerprint of everything that can change a row
    model, revision = config.model_name_or_path, config.model_revision
    chat_format = load_format(config.chat_format, model, revision)
    inputs = {model: model_fingerprint(model, revision)}
    inputs |= {source: source_fingerprint(source) for source in config.shots.input}
    stage = open_stage(
        RECIPE.name, RECIPE.version, run, config,
        inputs=inputs, chat_format=to_dict(chat_format), worker=worker,
    )  # fmt: skip
    if stage.finished:
        return

    # 2. Sample every row with its own seed, block by block
    chat = bind(chat_format, load_tokenizer(model, revision))
    # If an engine with several processes cannot be seeded per block, every worker and restart starts
    # differently.
    seed = row_seed(run.seed, "engine", worker[0], stage.blocks.written())
    with (
        track(stage, run, config, worker=worker[0]) as tracker,
        open_generator(model, config.engine, revision=revision, seed=seed) as generator,
    ):
        stage.receipt["engine"] = f"{generator.name} {generator.version}"
        generate_questions(stage, generator, chat, config, run, tracker=tracker)


RECIPE = Recipe("generate_questions", VERSION, "data", lambda: (RunOptions, GenerationConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
