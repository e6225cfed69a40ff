r"""Measure what a precision costs on this CPU: tokens/s of the demo's stages, in bfloat16 and in float32.

    python bench/precision.py --output_dir runs/precision
    ONEDNN_MAX_CPU_ISA=AVX2 python bench/precision.py --output_dir runs/precision

The second command measures a CPU without bfloat16 instructions on one that has them. QFT, SFT, generation and
evaluation of the tiny models run one after the other, each once per precision; an emulated one does a
twentieth of the work. One JSON line per stage: tokens/s without start-up, the precision that
`scalequest.precision` chooses on this machine, and the ratio of its speed to that of the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalequest.pipeline.status_table import read_receipt
from scalequest.precision import BF16, FP32, native

SOLVER = "recipes/tiny/models/tiny-solver"
SOLVED = "recipes/tiny/data/solved.jsonl.gz"
EMULATED = 20  # how much less work an emulated precision does


def commands(size: int) -> dict[str, list[str]]:
    """Return each stage's command at a number of training steps."""
    steps, rows = str(max(2, size)), str(max(32, 12 * size))
    generate = ["--model_name_or_path", SOLVER, "--label", "bench", "--id_prefix", "bench"]
    return {
        "qft": ["recipes/qft.py", "--max_steps", steps],
        "sft": ["recipes/sft.py", "--input", SOLVED, "--max_steps", steps],
        "generate_questions": ["recipes/generate_questions.py", *generate, "--num_questions", rows],
        "evaluate": ["eval/evaluate.py", "--models", f"{{solver: {SOLVER}}}", "--limit", rows],
    }


def measure(stage: str, words: Sequence[str], dtype: str, folder: Path) -> float:
    """Run a stage into a new folder; return the tokens/s of its work."""
    trains = stage in ("qft", "sft")
    how = ["--bf16", str(dtype == BF16).lower(), "--use_cpu"] if trains else ["--engine.dtype", dtype]
    config = ["--config", f"recipes/tiny/{stage}.yaml", "--output_dir", str(folder)]
    done = subprocess.run(
        [sys.executable, words[0], *config, *words[1:], *how], capture_output=True, text=True, check=False,
        env={**os.environ, "WANDB_MODE": "offline"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"error: {words[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    if not trains:
        receipt = read_receipt(folder / "solver" if stage == "evaluate" else folder)
        return float(receipt["tokens"] / receipt["seconds"])
    with (folder / "metrics.jsonl").open(encoding="utf-8") as lines:
        runtimes = [one["train_runtime"] for one in map(json.loads, lines) if "train_runtime" in one]
    return float(read_receipt(folder)["tokens"] / runtimes[-1])


def main(args: argparse.Namespace) -> int:
    """Measure every stage in both precisions, and print one JSON line per stage."""
    found = native(cpu=True)
    chosen, other = found.dtype, FP32 if found.dtype == BF16 else BF16
    for stage in commands(args.steps):
        speeds = {}
        for dtype in (chosen, other):
            emulated = dtype == BF16 and found.emulates_bf16
            words = commands(args.steps // EMULATED if emulated else args.steps)[stage]
            speeds[dtype] = measure(stage, words, dtype, args.output_dir / f"{stage}_{dtype}_{chosen}")
        line: dict[str, Any] = {"stage": stage, "chosen": chosen, "why": found.why}
        line |= {f"{dtype}_tokens_per_second": round(speed) for dtype, speed in speeds.items()}
        print(json.dumps(line | {"ratio": round(speeds[chosen] / speeds[other], 2)}), flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--output_dir", type=Path, required=True, help="where the stages write")
    made.add_argument("--steps", type=int, default=100, help="of training; 12 times as many rows elsewhere")
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
