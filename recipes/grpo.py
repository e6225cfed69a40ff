r"""GRPO: reinforcement learning of a solver, or of a question generator, from rewards for its own texts.

A solver is rewarded by the grader (`reward: [grader]`): 1 for a complete solution with the reference answer,
else 0. `min_pass_rate` and `max_pass_rate` keep the questions that earlier samples solved sometimes, because
a group of texts that are all right or all wrong teaches nothing. A generator (`task: question`) is rewarded
by a model of ours (`scorer`), by a solver's agreement (`agreement`), or by your own function:

    def brevity(rows, texts):  # in my_rewards.py; the recipe gets --reward my_rewards.py:brevity
        return [1 / (1 + len(text)) for text in texts]

One machine (one GPU, or the CPU with the tiny profile):

    python recipes/grpo.py --config recipes/tiny/grpo.yaml

One node of 8 GPUs, with rollouts by vLLM on the same GPUs:

    accelerate launch --config_file accelerate_configs/zero3.yaml \
        recipes/grpo.py --config recipes/qwen2_math_7b/grpo.yaml

Several nodes, run once on each (under srun, with its own rank):

    accelerate launch --config_file accelerate_configs/multi_node.yaml --machine_rank $SLURM_NODEID \
        --main_process_ip $HEAD_NODE recipes/grpo.py --config recipes/qwen2_math_7b/grpo.yaml

Without `use_vllm`, transformers writes the rollouts. With it, `vllm_mode: colocate` runs vLLM beside the
trainer, and `server` uses one that runs on GPUs of its own, because TRL sends the weights by NCCL:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config '{"backend": "nccl"}' \
        --logprobs-mode processed_logprobs --max-logprobs -1

TRL's settings `vllm_*` are passed on. TRL 1.16 names vLLM 0.22 to 0.31 as the versions that it supports; we
have not run rollouts by vLLM.

Hardware: 2 CPU cores and a few minutes for the tiny profile. It has been run on a CPU only. Run the same
command again to resume from the last complete checkpoint.

Result: a model folder for eval/evaluate.py, or for generate_questions.py. `reward` rises;
`frac_reward_zero_std` is the share of groups without a difference, and `completions/clipped_ratio` the share
of texts that were cut off.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe
from scalequest.training.rollout_settings import RolloutData


def main(args: Any, training_args: Any, model_args: Any) -> None:
    """Tokenise the prompts, train and save; finished steps are not repeated."""
    from scalequest.training.finishing import run_training
    from scalequest.training.grpo import GRPO

    run_training(GRPO[args.task], args, training_args, model_args)


def types() -> tuple[type, ...]:
    """Return the dataclasses whose fields are this recipe's keys."""
    from scalequest.training.grpo import GRPO

    return GRPO["solve"].configs()


RECIPE = Recipe("grpo", 1, "training", types, main, own=RolloutData)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
