"""Merge pieces into one complete model, which `from_pretrained` and every engine can load.

A LoRA adapter and its base model (the SFT recipe does this itself at the end):

    python scripts/merge_adapter.py --adapter runs/x/sft/adapter --output_dir runs/x/merged

A checkpoint saved in shards by DeepSpeed or FSDP, for example of a run that will not be resumed:

    python scripts/merge_adapter.py --checkpoint runs/x/sft/checkpoint-500 --output_dir runs/x/whole

Hardware: a CPU, memory for two copies of the model in fp32 (60 GB for 7B), and a few minutes.

Result: a model folder with its tokenizer, loaded once as a check. It has no receipt, because no stage made
it.
"""

from __future__ import annotations

import sys

from scalequest.recipe import Recipe, run_recipe
from scalequest.training.settings import MergeConfig


def main(config: MergeConfig) -> None:
    """Merge the model and print its folder."""
    from scalequest.stage.launch import check_world
    from scalequest.training.merging import merge

    check_world()  # one process is enough
    print(f"merged into {merge(config)}")


RECIPE = Recipe("merge_adapter", 1, "tool", lambda: (MergeConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
