"""Whether two ranks train as one does: DDP, ZeRO-2, ZeRO-3 and FSDP2 beside a single process.

    python bench/ranks.py --output_dir runs/ranks
    python bench/ranks.py --output_dir runs/ranks --stages sft --topologies zero3    # one of them

Each stage (QFT packed, QPO with the reference computed beforehand, SFT with accumulation 2) trains a
two-layer model in fp32 for 40 steps, on the same global batches in the same order, through its own recipe, on
two CPU ranks over gloo. All steps lie in one epoch: at the end of one, accelerate fills up the last batch of
two ranks with rows that one rank does not read again. Printed, and drawn into OUTPUT/ranks.png: every logged
loss beside that of the single process. Fails where one is off by more than 1e-3 of it, or where the loss
falls by less than 20 %. About five minutes on two idle cores.

On CPU ranks accelerate takes an FSDP file for DDP. It looks at the kind of its processes only, so `--as-gpus`
tells it that they are GPUs, and FSDP2 is accelerate's own: the same file, sharding, loading and saving.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalequest.pages.markup import table_lines

ROOT = Path(__file__).parents[1]
STAGES = ("qft", "qpo", "sft")
TOPOLOGIES = ("ddp", "zero2", "zero3", "fsdp2")
STEPS, TOLERANCE, FALL = 40, 1e-3, 0.2
# rows of a forward pass, over all ranks, and forward passes a step
BATCHES = {"qft": (4, 1), "qpo": (8, 1), "sft": (4, 2)}


def make_inputs(folder: Path) -> dict[str, Any]:
    """Write rows and a model with random weights; return what all runs share."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from scalequest.chat import load_tokenizer
    from scalequest.records import read_rows

    seeds = read_rows(ROOT / "recipes/tiny/data/seed_questions.jsonl.gz", limit=1500)  # 40 steps in one epoch
    texts = [row["question"] for row in seeds if row["question"].isascii()]
    rows = {
        "qft": [{"question": text} for text in texts],
        "sft": [{"query": text, "response": text} for text in texts],
        "qpo": [{"chosen": text, "rejected": " ".join(text.split()[::-1])} for text in texts],
    }
    for stage, made in rows.items():
        (folder / f"{stage}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    tokenizer = load_tokenizer(str(ROOT / "recipes/tiny/models/tiny-base"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return {
        "model_name_or_path": str(folder / "model"), "chat_format": "tinymath", "dtype": "float32",
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "track": "none",
        "max_length": 192, "max_steps": STEPS, "logging_steps": 1, "save_strategy": "no",
        "learning_rate": 3e-3, "lr_scheduler_type": "cosine", "optim": "adamw_torch", "seed": 7,
    }  # fmt: skip


def train(folder: Path, stage: str, topology: str, shared: dict[str, Any]) -> list[float]:
    """Run a recipe and return its logged losses."""
    ranks = 1 if topology == "one" else 2
    rows, accumulation = BATCHES[stage]
    out = folder / f"{stage}-{topology}"
    settings = {
        **shared,
        "input": [str(folder / f"{stage}.jsonl")],
        "output_dir": str(out),
        "per_device_train_batch_size": rows // ranks // accumulation,
        "gradient_accumulation_steps": accumulation,
        **({"learning_rate": 1e-3} if stage == "qpo" else {}),
        **({"ddp_backend": "gloo"} if topology in ("ddp", "fsdp2") else {}),
    }
    config = folder / f"{out.name}.yaml"
    config.write_text(json.dumps(settings))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    accelerate += ["--main_process_port", "0", "--mixed_precision", "no"]
    script = [str(ROOT / f"recipes/{stage}.py")]
    accelerate += ["--config_file", f"accelerate_configs/{topology}.yaml"]
    command = {
        "one": [sys.executable, *script],
        "ddp": [*torchrun, *script],
        "fsdp2": [*accelerate, __file__, "--as-gpus", stage],
    }.get(topology) or [*accelerate, *script]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    env["TORCH_EXTENSIONS_DIR"] = str(folder / "extensions")  # DeepSpeed compiles one at its first start
    started = time.monotonic()
    with (folder / f"{out.name}.log").open("w") as log:
        done = subprocess.run(
            [*command, "--config", str(config)], cwd=ROOT, env=env, stdout=log, stderr=log, check=False
        )
    if done.returncode:
        sys.exit(f"{stage} on {topology} failed: {folder / (out.name + '.log')}")
    print(f"{stage} {topology}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def as_gpus(stage: str, config: str) -> None:
    """One rank of a recipe that accelerate takes for a GPU's, so that it applies an FSDP file to it."""
    from accelerate import DistributedType, PartialState

    from scalequest.recipe import load_recipe

    recipe = load_recipe(ROOT / f"recipes/{stage}.py")
    assert recipe is not None, stage
    given = recipe.parse(["--config", config])
    assert given[1].world_size > 1, "the launcher started only one rank"  # this makes the PartialState, too
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    recipe(*given)


def draw(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Plot all curves, a panel a stage, the single process as a wide line beneath."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 3.2), layout="constrained")
    for axes, (stage, runs) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        for topology, losses in runs.items():
            one = topology == "one"
            label = "one rank" if one else f"{topology}, two ranks"
            axes.plot(losses, label=label, linewidth=6 if one else 1, color="0.85" if one else None)
        axes.set(title=stage, xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(args: argparse.Namespace) -> int:
    """Run, compare, draw. Returns the exit status."""
    folder = Path(args.output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shared = make_inputs(folder)
    curves: dict[str, dict[str, list[float]]] = {}
    lines, failed = [], False
    for stage in args.stages:
        runs = {topology: train(folder, stage, topology, shared) for topology in ("one", *args.topologies)}
        curves[stage] = runs
        one = runs["one"]
        fall = 1 - one[-1] / one[0]
        for topology, losses in runs.items():
            if topology == "one":
                continue
            off = max(abs(a - b) / abs(b) for a, b in zip(losses, one, strict=True))
            good = off <= TOLERANCE and fall >= FALL and len(losses) >= STEPS
            failed |= not good
            numbers = [f"{one[0]:.4f}", f"{one[-1]:.4f}", f"{losses[-1]:.4f}", f"{fall:.0%}", f"{off:.1e}"]
            lines.append((stage, topology, len(losses), *numbers, "ok" if good else "NO"))
    steps = ("stage", "two ranks", "steps", "first loss", "last, one", "last, two", "fall")
    print("\n".join(table_lines((*steps, "largest difference", ""), lines)))
    (folder / "curves.json").write_text(json.dumps(curves) + "\n")
    draw(curves, folder / "ranks.png")
    return int(failed)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--output_dir", help="output folder for runs, logs, curves and the plot")
    made.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    made.add_argument("--topologies", nargs="+", choices=TOPOLOGIES, default=TOPOLOGIES)
    made.add_argument("--as-gpus", choices=STAGES, help=argparse.SUPPRESS)
    made.add_argument("--config", help=argparse.SUPPRESS)
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Parse and run."""
    args = parser().parse_args(argv)
    if args.as_gpus:
        as_gpus(args.as_gpus, args.config)
        return 0
    if not args.output_dir:
        parser().error("--output_dir is required")
    return main(args)


if __name__ == "__main__":
    sys.exit(run())
