r"""Question fine-tuning (QFT): teach a problem solver to write problems, from questions only.

The loss is on the whole text, header included, for one epoch: enough for the model to write questions after
the bare header, but too little to memorise these questions (paper, section 2.2).

One machine (one GPU, or the CPU with the tiny profile):

    python recipes/qft.py --config recipes/tiny/qft.yaml

One node of 8 GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml \
        recipes/qft.py --config recipes/qwen2_math_7b/qft.yaml

Several nodes, run once on each (under srun, with its own rank); 16 GPUs double the global batch of the
presets, which have one sequence per GPU on one node:

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/qft.py --config recipes/qwen2_math_7b/qft.yaml

To tokenise beforehand on a machine without GPUs, use `--prepare_only --use_cpu`. QPO's control "SFT on the
chosen side" is this recipe on preference rows: `--input runs/…/optimize_questions --columns '{question:
chosen}'`.

Hardware: 8 GPUs with 40 GB each for a 7B model with ZeRO-3, two GPU-hours for 15K questions (paper, table 4);
2 CPU cores and a minute or two for the tiny profile. Run the same command again to resume from the last
complete checkpoint.

Result: a model folder for generate_questions.py, with receipt.json, config.yaml, metrics.jsonl and a card.
The final loss is well above zero: it is the entropy of questions, and a low loss would mean that questions
were memorised.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe
from scalequest.training.settings import QuestionData


def main(args: Any, training_args: Any, model_args: Any) -> None:
    """Tokenise, train and save; finished steps are not repeated."""
    from scalequest.training.finishing import run_training
    from scalequest.training.sft import QFT

    run_training(QFT, args, training_args, model_args)


def types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are this recipe's keys."""
    from scalequest.training.sft import QFT

    return QFT.configs()


RECIPE = Recipe("qft", 1, "training", types, main, own=QuestionData)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
