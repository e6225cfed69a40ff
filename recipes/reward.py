r"""Train a reward model on sampled solutions: of two solutions to a question, the correct one scores higher.

It uses TRL's RewardTrainer on pairs of a correct and a wrong solution, distinguished by a reference answer or
by a clear majority of the samples of solve_questions.py. The paper uses a published reward model; this one
needs nothing but the solver.

One machine (one GPU, or the CPU with a small model):

    python recipes/reward.py --model_name_or_path recipes/tiny/models/tiny-base --chat_format tinymath \
        --input runs/tiny/filter_difficulty --max_length 256 --holdout 50 --output_dir runs/tiny/reward \
        --learning_rate 5e-4 --num_train_epochs 3 --use_cpu --gradient_checkpointing false

One node of 8 GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml recipes/reward.py \
        --config recipes/qwen2_math_7b/reward.yaml

Several nodes, run once on each (under srun, with its own rank):

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/reward.py --config recipes/qwen2_math_7b/reward.yaml \
        --gradient_accumulation_steps 2

Hardware: 8 GPUs with 40 GB each for a 7B model with ZeRO-3; 2 CPU cores and minutes for the tiny profile. Run
the same command again to resume from the last complete checkpoint.

Result: a plain sequence-classification model with one output, for score.py; its card has the accuracy on
held-out pairs.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe
from scalequest.training.settings import SolutionPairs


def main(args: Any, training_args: Any, model_args: Any) -> None:
    """Make pairs, tokenise, train, evaluate and save; finished steps are not repeated."""
    from scalequest.training.finishing import run_training
    from scalequest.training.reward import REWARD

    run_training(REWARD, args, training_args, model_args)


def types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are this recipe's keys."""
    from scalequest.training.reward import REWARD

    return REWARD.configs()


RECIPE = Recipe("reward", 1, "training", types, main, own=SolutionPairs)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
