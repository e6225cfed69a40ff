r"""Question preference optimisation (QPO): teach a question generator to prefer improved questions.

This is DPO with the bare header as the prompt, the rewritten question as chosen and the generator's own as
rejected (paper, section 2.3). The reference is the generator at the start of training; its log-probabilities
are computed once before training.

One machine (one GPU, or the CPU with the tiny profile):

    python recipes/qpo.py --config recipes/tiny/qpo.yaml

One node of 8 GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml \
        recipes/qpo.py --config recipes/qwen2_math_7b/qpo.yaml

Several nodes, run once on each (under srun, with its own rank):

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/qpo.py --config recipes/qwen2_math_7b/qpo.yaml \
        --gradient_accumulation_steps 1

There are two controls: `--shuffle_pairs` swaps the sides of about half of the pairs and must show no gain;
plain SFT on the chosen side is `recipes/qft.py` on the same rows with `--columns '{question: chosen}'`.

Hardware: 8 GPUs with 40 GB each for a 7B model with ZeRO-3, 3.3 GPU-hours for 10K pairs (paper, table 4: 6.6
for two generators); 2 CPU cores and a minute or two for the tiny profile. Run the same command again to
resume from the last complete checkpoint.

Result: a model folder for generate_questions.py. `rewards/accuracies` rises from 0.5; a warning is logged if
the chosen questions become much less likely, too.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe
from scalequest.training.settings import PreferenceData


def main(args: Any, training_args: Any, model_args: Any) -> None:
    """Tokenise, train and save; finished steps are not repeated."""
    from scalequest.training.dpo import QPO
    from scalequest.training.finishing import run_training

    run_training(QPO, args, training_args, model_args)


def types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are this recipe's keys."""
    from scalequest.training.dpo import QPO

    return QPO.configs()


RECIPE = Recipe("qpo", 2, "training", types, main, own=PreferenceData)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
