r"""Make preference pairs for QPO: rewrite each question in one random direction, solvable or more difficult.

One process (a function as the rewriter, or one GPU):

    python recipes/optimize_questions.py --config recipes/tiny/optimize_questions.yaml

One node with 8 GPUs; each runs a copy of the model and gets every eighth block of questions:

    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/optimize_questions.py \
        --config recipes/qwen2_math_7b/optimize_questions.yaml

Several nodes, run once on each, with output_dir on a shared file system:

    accelerate launch --config_file accelerate_configs/ddp.yaml --num_machines 2 --num_processes 16 \
        --machine_rank $SLURM_NODEID --main_process_ip $HEAD_NODE --main_process_port 29500 \
        recipes/optimize_questions.py --config recipes/qwen2_math_7b/optimize_questions.yaml

With a server, here our own; any other OpenAI-compatible server needs its url, prices and a budget, and its
key in the environment (server.key_variable names the variable):

    vllm serve Qwen/Qwen2-Math-7B-Instruct --port 8000
    python recipes/optimize_questions.py --config recipes/qwen2_math_7b/optimize_questions.yaml \
        --rewriter server --server.url http://localhost:8000/v1 --server.model Qwen/Qwen2-Math-7B-Instruct

On a Ray cluster started with `ray start`, or on this machine (slurm/ray_cluster.sbatch starts a cluster):

    python recipes/optimize_questions.py --config recipes/qwen2_math_7b/optimize_questions.yaml --launch ray

Hardware: none for a function or a remote server; a 24 GB GPU per copy of a 7B model. The API for the paper's
10,000 pairs cost about $3 per generator (its table 4). After an interruption, paid answers are not requested
again.

Result: rows of chosen (rewritten) and rejected (original) questions, twenty of them in pairs.html; rewrites
that were truncated, unparsed, unchanged or not in English in dropped/; the cost of a server in receipt.json.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from scalequest.config import RunOptions, to_dict
from scalequest.questions.rewriting import (
    VERSION,
    FunctionRewriter,
    RewriteConfig,
    Rewriter,
    asking_rewriter,
    optimize_questions,
)
from scalequest.recipe import Recipe, run_recipe
from scalequest.stage.script import open_stage, track


def main(run: RunOptions, config: RewriteConfig, worker: tuple[int, int]) -> None:
    """Read the questions, load the rewriter, rewrite, and write the pairs."""
    from scalequest.questions.judges import judge_identity, open_judge
    from scalequest.questions.prompts import load_prompt
    from scalequest.records import read_inputs, source_fingerprint

    # 1. The folder, and the fingerprint of everything that can change a row
    inputs = {source: source_fingerprint(source) for source in config.input}
    identity: dict[str, Any] = {}
    if config.rewriter == "function":
        (function,) = (key.load() for key in config.functions)
        identity["function"] = function.identity
    else:
        prompts = {way: load_prompt(path) for way, path in to_dict(config.prompts).items()}
        identity["prompts"] = {way: to_dict(prompt) for way, prompt in prompts.items()}
        models, more = judge_identity(config)
        inputs |= models
        identity |= more
    writes = ("pairs.html",)
    stage = open_stage(
        RECIPE.name, RECIPE.version, run, config,
        inputs=inputs, writes=writes, worker=worker, **identity,
    )  # fmt: skip
    if stage.finished:
        return

    # 2. Rewrite each question in the direction drawn by its id
    rows = read_inputs(config.input, "question", columns=config.columns, limit=run.limit)
    with ExitStack() as stack:
        tracker = stack.enter_context(track(stage, run, config, worker=worker[0]))
        rewriter: Rewriter
        if config.rewriter == "function":
            rewriter = FunctionRewriter(function.name, function.call)
        else:
            judge = stack.enter_context(open_judge(config, stage, run, worker))
            rewriter = asking_rewriter(judge, prompts, config.sampling)
        optimize_questions(stage, rows, rewriter, config, run, tracker=tracker)


RECIPE = Recipe("optimize_questions", VERSION, "data", lambda: (RunOptions, RewriteConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
