r"""Supervised fine-tuning (SFT): teach a base model to solve problems, from questions and selected solutions.

The prompt has no loss. The target is the solution with its stop token; it is never truncated.

One machine (one GPU, or the CPU with the tiny profile):

    python recipes/sft.py --config recipes/tiny/sft.yaml

One node of 8 GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml \
        recipes/sft.py --config recipes/mistral_7b/sft.yaml

Several nodes, run once on each (under srun, with its own rank):

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/sft.py --config recipes/mistral_7b/sft.yaml \
        --gradient_accumulation_steps 4

One GPU with LoRA:

    python recipes/sft.py --config recipes/mistral_7b/sft.yaml recipes/variants/lora.yaml \
        --output_dir runs/mistral_7b/sft_lora

To tokenise beforehand on a machine without GPUs, use `--prepare_only --use_cpu`.

Hardware: 8 GPUs with at least 40 GB each for a 7B model with ZeRO-3 (computed; the paper does not give its
own); 2 CPU cores and a few minutes for the tiny profile. Run the same command again to resume from the last
complete checkpoint.

Result: a model folder that loads with `from_pretrained` and in vLLM (a LoRA adapter is merged, and also kept
in adapter/), for eval/evaluate.py. The paper's accuracies for 1M pairs: GSM8K 88.5, MATH 62.9 (Mistral-7B);
89.7, 73.4 (Qwen2-Math-7B).
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe
from scalequest.training.settings import SolutionData


def main(args: Any, training_args: Any, model_args: Any) -> None:
    """Tokenise, train and save; finished steps are not repeated."""
    from scalequest.training.finishing import run_training
    from scalequest.training.sft import SFT

    run_training(SFT, args, training_args, model_args)


def types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are this recipe's keys."""
    from scalequest.training.sft import SFT

    return SFT.configs()


RECIPE = Recipe("sft", 1, "training", types, main, own=SolutionData)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
