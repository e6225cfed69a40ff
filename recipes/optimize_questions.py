r"""Make preference pairs for QPO: rewrite each question in one random direction, solvable or harder.

One process (rules, or one GPU):

    python recipes/optimize_questions.py --config recipes/tiny/optimize_questions.yaml

One node of 8 GPUs, one model copy and every eighth block of questions each:

    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/optimize_questions.py \
        --config recipes/qwen2_math_7b/optimize_questions.yaml

Many nodes, once on each, with output_dir on a file system that all of them see:

    accelerate launch --config_file accelerate_configs/ddp.yaml --num_machines 2 --num_processes 16 \
        --machine_rank $SLURM_NODEID --main_process_ip $HEAD_NODE --main_process_port 29500 \
        recipes/optimize_questions.py --config recipes/qwen2_math_7b/optimize_questions.yaml

Hardware: none for the rules; a 24 GB GPU for each copy of a 7B model. The paper's 10,000 pairs a generator
cost it about $3 of an API each (its table 4).

Result: rows of chosen (rewritten) and rejected (original) questions; rewrites that were cut, unparsed,
unchanged or not in English in dropped/.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.config import RunOptions, parse, to_dict
from scalequest.questions.rewriting import (
    VERSION,
    RewriteConfig,
    local_rewriter,
    optimize_questions,
    rule_rewriter,
)
from scalequest.stages import begin, explained, tracked


def main(run: RunOptions, config: RewriteConfig) -> None:
    """Read the questions, load the rewriter, rewrite, write."""
    # 1. Which of the launched processes this is, before anything that looks at devices is imported
    from scalequest.engines.launch import worker

    index, workers = worker(config.engine.tensor_parallel_size)
    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.engines.base import open_generator
    from scalequest.questions.prompts import load_prompt
    from scalequest.records import model_fingerprint, read_inputs, source_fingerprint

    # 2. The folder, and the fingerprint of all that can change a row
    model, revision = config.model_name_or_path or "", config.model_revision
    local = config.rewriter == "local"
    inputs = {source: source_fingerprint(source) for source in config.input}
    identity: dict[str, Any] = {}
    if local:
        inputs[model] = model_fingerprint(model, revision)
        chat_format = load_format(config.chat_format or "")
        prompts = {way: load_prompt(path) for way, path in to_dict(config.prompts).items()}
        shown = {way: to_dict(prompt) for way, prompt in prompts.items()}
        identity = {"chat_format": to_dict(chat_format), "prompts": shown}
    stage = begin(
        "optimize_questions", VERSION, run, config, inputs=inputs, worker=(index, workers), **identity
    )
    if stage.finished:
        return

    # 3. Rewrite each question in the direction that its id draws
    rows = read_inputs(config.input, "question", columns=config.columns, limit=run.limit)
    with tracked(stage, run, config, worker=index) as tracker:
        if not local:
            optimize_questions(stage, rows, rule_rewriter, config, run, tracker=tracker)
            return
        chat = bind(chat_format, load_tokenizer(model, revision))
        with open_generator(model, config.engine, revision=revision, seed=run.seed) as generator:
            stage.receipt["engine"] = f"{generator.name} {generator.version}"
            rewriter = local_rewriter(generator, chat, prompts, config.sampling)
            optimize_questions(stage, rows, rewriter, config, run, tracker=tracker)


if __name__ == "__main__":
    sys.exit(explained(main, *parse(RunOptions, RewriteConfig, description=__doc__ or "")))
