r"""Question fine-tuning (QFT): teach a problem solver to write problems, from questions alone.

The loss is on the whole text, header included, for one epoch: enough to make the model write questions after
the bare header, too little to learn these by heart (paper, section 2.2).

One machine (one GPU, or the CPU with the tiny profile):

    python recipes/qft.py --config recipes/tiny/qft.yaml

One node of 8 GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml \
        recipes/qft.py --config recipes/qwen2_math_7b/qft.yaml

Many nodes, once on each (under srun, with its own rank); 16 GPUs double the global batch of the presets,
which is one sequence a GPU of one node:

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/qft.py --config recipes/qwen2_math_7b/qft.yaml

Tokenise beforehand, on a machine without GPUs, with `--prepare_only --use_cpu`. The control "SFT on the
chosen side" of QPO is this recipe on preference rows: `--input runs/…/optimize_questions --columns
'{question: chosen}'`.

Hardware: 8 GPUs of 40 GB for 7B with ZeRO-3, two GPU-hours for 15K questions (paper, table 4); 2 CPU cores
and a minute or two for the tiny profile. Interrupted, it goes on from its last whole checkpoint when started
again.

Result: a model folder for generate_questions.py, with receipt.json, config.yaml, metrics.jsonl and a card.
The loss ends well above zero: it is the entropy of questions, and a low one would mean questions learnt by
heart.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe


def main(args: Any, training_args: Any, model_args: Any) -> None:
    """Tokenise, train, save; nothing is done twice."""
    from scalequest.training.finishing import run_training
    from scalequest.training.sft import QFT

    run_training(QFT, args, training_args, model_args)


def types() -> tuple[type, ...]:
    """The dataclasses whose fields are this recipe's keys."""
    from scalequest.training.sft import QFT

    return QFT.configs()


RECIPE = Recipe("qft", 1, "training", types, main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
