r"""ORPO on question pairs: the chosen question becomes likely, and the odds against the rejected one rise.

There is no reference model (Hong et al., arXiv 2403.07691), and training may start from a solver that has not
been through QFT. The ScaleQuest paper uses DPO, see `qpo.py`; this is a variant for comparison.

One machine (one GPU, or the CPU with the tiny profile):

    python recipes/orpo.py --config recipes/tiny/orpo.yaml

One node of 8 GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml \
        recipes/orpo.py --config recipes/tiny/orpo.yaml --model_name_or_path runs/qwen2_math_7b/qft \
        --input runs/qwen2_math_7b/optimize_questions --output_dir runs/qwen2_math_7b/orpo \
        --chat_format qwen2_math --learning_rate 5e-7 --max_length 1024 \
        --per_device_train_batch_size 4 --gradient_accumulation_steps 4 --gradient_checkpointing true

Several nodes, run once on each (under srun, with its own rank): the same, but with

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/orpo.py

Hardware: 2 CPU cores and a minute for the tiny profile. There is no pass of a reference, but the logits of
all tokens are in memory together. It has been run on a CPU only. Run the same command again to resume from
the last complete checkpoint.

Result: a model folder for generate_questions.py. `rewards/accuracies` rises.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe
from scalequest.training.settings import QuestionPairs


def main(args: Any, training_args: Any, model_args: Any) -> None:
    """Tokenise, train and save; finished steps are not repeated."""
    from scalequest.training.finishing import run_training
    from scalequest.training.orpo import ORPO

    run_training(ORPO, args, training_args, model_args)


def types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are this recipe's keys."""
    from scalequest.training.orpo import ORPO

    return ORPO.configs()


RECIPE = Recipe("orpo", 1, "training", types, main, own=QuestionPairs)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
