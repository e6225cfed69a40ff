"""One whole model out of pieces, which `from_pretrained` and every engine load.

A LoRA adapter and its base (the SFT recipe does this by itself at its end):

    python scripts/merge_adapter.py --adapter runs/x/sft/adapter --output_dir runs/x/merged

A checkpoint of DeepSpeed or FSDP that lies in shards, e.g. of a run that will not go on:

    python scripts/merge_adapter.py --checkpoint runs/x/sft/checkpoint-500 --output_dir runs/x/whole

Hardware: CPU, and memory for the model twice in fp32 (7B: 60 GB); minutes.

Result: a model folder with its tokenizer, loaded once to be sure. It has no receipt: it is no stage's.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.recipe import Recipe, run_recipe


def main(config: Any) -> None:
    """Merge, and say where to."""
    from scalequest.stage.launch import check_world
    from scalequest.training.merging import merge

    check_world()  # one process is enough
    print(f"merged into {merge(config)}")


def types() -> tuple[type, ...]:
    """The dataclass whose fields are this script's keys."""
    from scalequest.training.merging import MergeConfig

    return (MergeConfig,)


RECIPE = Recipe("merge_adapter", 1, "tool", types, main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
