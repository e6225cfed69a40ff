r"""Train the difficulty scorer: a regression head that predicts how often a solver fails a question.

The loss is the mean squared error on fail rates in [0, 1], and the input is only the question (paper, section
2.4). The fail rates are given in the rows (`fail_rate`), or computed as the share of wrong answers among
those that solve_questions.py sampled.

One machine (one GPU, or the CPU with the tiny profile):

    python recipes/difficulty.py --config recipes/tiny/difficulty.yaml

One node of 8 GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml \
        recipes/difficulty.py --config recipes/deepseek_math_7b/difficulty.yaml

Several nodes, run once on each (under srun, with its own rank):

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/difficulty.py \
        --config recipes/deepseek_math_7b/difficulty.yaml --per_device_train_batch_size 4

Hardware: 8 GPUs with 40 GB each for a 7B model with ZeRO-3 (the paper does not count this run); 2 CPU cores
and a minute for the tiny profile. Run the same command again to resume from the last complete checkpoint.

Result: a plain sequence-classification model with one output, for filter_questions.py or any transformers
pipeline. Its card has the mean squared error and Spearman's correlation on held-out questions, and a
calibration plot; holdout.jsonl has the predictions.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe
from scalequest.training.settings import FailRates


def main(args: Any, training_args: Any, model_args: Any) -> None:
    """Grade, tokenise, train, evaluate and save; finished steps are not repeated."""
    from scalequest.training.difficulty_scorer import DIFFICULTY
    from scalequest.training.finishing import run_training

    run_training(DIFFICULTY, args, training_args, model_args)


def types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are this recipe's keys."""
    from scalequest.training.difficulty_scorer import DIFFICULTY

    return DIFFICULTY.configs()


RECIPE = Recipe("difficulty", 2, "training", types, main, own=FailRates)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
