r"""Measure how much of bare vLLM's speed a synthesis stage keeps, the cost of seeds and Ray, and its memory.

    python bench/synthesis.py --model runs/smollm2/models/smollm2-135m-instruct

For meaningful numbers: SmolLM2-135M in bfloat16 on an otherwise idle machine, about an hour on 2 cores.
As a quick test: `--model recipes/tiny/models/tiny-solver --chat-format tinymath --rows 64 --pairs 1
--memory-rows 2000 --memory-mark 500 --ray-rows 128`.

The speed is measured by bench/engines.py. Then the recipe runs as one worker, and as one worker that is a Ray
task; and with the tiny model over many rows, where its memory must not grow.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from comparisons import append

from engines import Timed, compared, measure, parser, say, show, write

ROOT = Path(__file__).resolve().parents[1]
FLAT = 1.1  # peak at the end over peak at the mark


def recipe(options: argparse.Namespace, folder: Path, rows: int, *more: str) -> list[str]:
    """Return the command of the generation recipe."""
    return [
        sys.executable, str(ROOT / "recipes/generate_questions.py"),
        "--output_dir", str(folder), "--track", "none", "--chat_format", options.chat_format,
        "--model_name_or_path", options.model,
        "--num_questions", str(rows), "--engine.dtype", options.dtype,
        "--engine.max_model_len", str(options.max_model_len), "--sampling.top_p", "1.0",
        "--sampling.max_tokens", str(options.max_tokens), *more,
    ]  # fmt: skip


def ray(options: argparse.Namespace) -> dict[str, Timed]:
    """Run one worker alone and as a Ray task; return tokens over the receipt's seconds of work."""
    found = {}
    for way in ("local", "ray"):
        with tempfile.TemporaryDirectory() as folder:
            say(f"one worker, launch: {way}")
            more = ["--launch", way, *(["--ray_workers", "1"] if way == "ray" else [])]
            words = recipe(options, Path(folder) / "out", options.ray_rows, *more)
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            receipt = json.loads((Path(folder) / "out/receipt.json").read_bytes())
            found[way] = Timed(receipt["rows_in"], receipt["tokens"], receipt["seconds"])
    return found


def memory(options: argparse.Namespace) -> dict[str, float]:
    """Return the peak resident bytes of a long run with the tiny model, at the mark and at the end."""
    tiny = argparse.Namespace(**{**vars(options), "model": options.memory_model, "chat_format": "tinymath",
                                 "dtype": "float32", "max_tokens": 24, "max_model_len": 128})  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        say(f"memory over {options.memory_rows} rows")
        out = Path(folder) / "out"
        words = recipe(tiny, out, options.memory_rows, "--block_size", "256", "--gates.truncated", "1")
        process = psutil.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = mark = 0.0
        while process.poll() is None:
            time.sleep(0.25)
            try:
                peak = max(peak, float(process.memory_info().rss))
            except psutil.Error:
                break
            if not mark and sum(1 for _ in out.glob("parts/[0-9]*.jsonl")) * 256 >= options.memory_mark:
                mark = peak
        if process.wait() or not mark:
            raise SystemExit("the memory run failed, or ended before it reached --memory_mark")
        return {"mark": mark, "end": peak}


def show_rest(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print the table of Ray and memory."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", "against", "bar")
    if (ways := found.get("ray")) is not None:
        ratio = ways["ray"].rate / ways["local"].rate
        table.add_row("one worker, local", f"{ways['local'].rate:.0f} tokens/s", "", "")
        table.add_row(
            "the same worker under Ray", f"{ways['ray'].rate:.0f} tokens/s", f"{ratio:.3f} × local", ""
        )
    if (peaks := found.get("memory")) is not None:
        table.add_row(
            f"peak memory, {options.memory_rows:,} rows",
            f"{peaks['end'] / 2**20:.0f} MiB",
            f"{peaks['end'] / peaks['mark']:.3f} × at {options.memory_mark:,}",
            f"≤ {FLAT}",
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def main() -> None:
    """Parse the options, measure, and print the results."""
    arguments = parser()
    arguments.description = (__doc__ or "").partition("\n")[0]
    rows = arguments.add_argument_group("long runs; set their rows to 0 to leave one out")
    rows.add_argument("--ray-rows", type=int, default=1000, help="number of rows of the run under Ray")
    rows.add_argument(
        "--memory-rows", type=int, default=100_000, help="number of rows of the run whose memory is measured"
    )
    rows.add_argument(
        "--memory-mark", type=int, default=10_000, help="number of rows after which the memory must not grow"
    )
    rows.add_argument("--memory-model", default=str(ROOT / "recipes/tiny/models/tiny-solver"))
    options = arguments.parse_args()
    if options.model is None:
        arguments.error("--model is missing")
    found = measure(options) if options.pairs else {}
    if options.ray_rows:
        found["ray"] = ray(options)
    if options.memory_rows:
        found["memory"] = memory(options)
    write(options, found)
    if options.pairs:
        append(options.comparisons, compared(options, found))
        show(options, found)
    show_rest(options, found)


if __name__ == "__main__":
    main()
