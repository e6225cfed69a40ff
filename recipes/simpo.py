r"""SimPO on question pairs: the same data and purpose as QPO, without a reference model.

The reward is the mean log-probability of a question's tokens; the reward of the chosen question should exceed
that of the rejected one by a margin (Meng et al., arXiv 2405.14734). The ScaleQuest paper uses DPO, see
`qpo.py`; this is a variant for comparison.

One machine (one GPU, or the CPU with the tiny profile):

    python recipes/simpo.py --config recipes/tiny/simpo.yaml

One node of 8 GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml \
        recipes/simpo.py --config recipes/tiny/simpo.yaml --model_name_or_path runs/qwen2_math_7b/qft \
        --input runs/qwen2_math_7b/optimize_questions --output_dir runs/qwen2_math_7b/simpo \
        --chat_format qwen2_math --learning_rate 5e-7 --max_length 1024 \
        --per_device_train_batch_size 4 --gradient_accumulation_steps 4 --gradient_checkpointing true

Several nodes, run once on each (under srun, with its own rank): the same, but with

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/simpo.py

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
    from scalequest.training.simpo import SIMPO

    run_training(SIMPO, args, training_args, model_args)


def types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are this recipe's keys."""
    from scalequest.training.simpo import SIMPO

    return SIMPO.configs()


RECIPE = Recipe("simpo", 1, "training", types, main, own=QuestionPairs)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
