r"""KTO on question pairs: each question counts by itself as good or bad (arXiv 2402.01306).

The chosen questions are desirable and the rejected ones are not; `desirable_weight` and `undesirable_weight`
weigh them. The reference is the generator at the start of training. The ScaleQuest paper uses DPO, see
`qpo.py`; this is a variant for comparison.

One machine (one GPU, or the CPU with the tiny profile):

    python recipes/kto.py --config recipes/tiny/kto.yaml

One node of 8 GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml \
        recipes/kto.py --config recipes/tiny/kto.yaml --model_name_or_path runs/qwen2_math_7b/qft \
        --input runs/qwen2_math_7b/optimize_questions --output_dir runs/qwen2_math_7b/kto \
        --chat_format qwen2_math --learning_rate 5e-7 --max_length 1024 \
        --per_device_train_batch_size 4 --gradient_accumulation_steps 4 --gradient_checkpointing true

Several nodes, run once on each (under srun, with its own rank): the same, but with

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/kto.py

Hardware: 2 CPU cores and a minute for the tiny profile. It has been run on a CPU only. The KL term is
computed over the batch of one process, so `per_device_train_batch_size` counts as a setting of the method.
Run the same command again to resume from the last complete checkpoint.

Result: a model folder for generate_questions.py. `rewards/margins` rises from 0.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe
from scalequest.training.settings import QuestionPairs


def main(args: Any, training_args: Any, model_args: Any) -> None:
    """Tokenise, train and save; finished steps are not repeated."""
    from scalequest.training.finishing import run_training
    from scalequest.training.kto import KTO

    run_training(KTO, args, training_args, model_args)


def types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are this recipe's keys."""
    from scalequest.training.kto import KTO

    return KTO.configs()


RECIPE = Recipe("kto", 1, "training", types, main, own=QuestionPairs)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
