r"""What a whole synthesis stage keeps of bare vLLM's speed, what seeds and Ray cost, and its memory.

    python bench/synthesis.py --model runs/smollm2/model

For the numbers that count: SmolLM2-135M in bfloat16 on an otherwise idle machine, about two hours on 2 cores.
To see that it runs: `--model recipes/tiny/models/tiny-solver --chat-format tinymath --rows 64 --pairs 1
--memory-rows 2000 --memory-mark 500 --ray-rows 128`.

Speed is measured as in bench/engines.py: bare is one unseeded `LLM.generate` on the same ids and engine;
ratios are of generated tokens a second, within a round of interleaved runs; the table gives their median.
Our stage is all that recipes/generate_questions.py does behind loading: folder, seeds, decoding, checks,
gates, progress, tracker, blocks, parquet, card. The loop that a user would write is transformers' `generate`
with sampling, at the batch size that was its best, its completions decoded and written as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from engines import BATCHES, Timed, bare, say
from scalequest.config import RunOptions
from scalequest.engines import EngineConfig, Generator, Sampling, open_generator

ROOT = Path(__file__).resolve().parents[1]
BARS = {"bare vLLM": 0.95, "a user's loop, transformers": 3.0}
FLAT = 1.1  # peak at the end against the peak at the mark


def stage(generator: Generator, options: argparse.Namespace, sampling: Sampling, scope: Any) -> Timed:
    """Our stage into a fresh folder, tracker and all."""
    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.questions.generation import VERSION, GenerationConfig, generate_questions
    from scalequest.stages import begin, tracked

    config = GenerationConfig(
        model_name_or_path=options.model,
        chat_format=options.chat_format,
        num_questions=options.rows,
        seed_scope=scope,
        sampling=sampling,
    )
    chat = bind(load_format(options.chat_format), load_tokenizer(options.model))
    with tempfile.TemporaryDirectory() as folder:
        run = RunOptions(output_dir=f"{folder}/stage", track="none")
        start = time.perf_counter()
        opened = begin("generate_questions", VERSION, run, config, inputs={})
        with tracked(opened, run, config) as tracker:
            receipt = generate_questions(opened, generator, chat, config, run, tracker=tracker)
        return Timed(options.rows, receipt["tokens"], time.perf_counter() - start)


class Loop:
    """The loop that a user would write with transformers."""

    def __init__(self, options: argparse.Namespace, prompt: list[int], stops: list[int]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(
            options.model, dtype=getattr(torch, options.dtype)
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.prompt, self.stops, self.options = prompt, stops, options

    def run(self, batch: int, rows: int) -> Timed:
        """Generate `rows` rows and write them."""
        import torch

        tokens = 0
        start = time.perf_counter()
        with tempfile.TemporaryFile("w") as file, torch.inference_mode():
            for first in range(0, rows, batch):
                ids = torch.tensor([self.prompt] * min(batch, rows - first))
                output = self.model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
                    max_new_tokens=self.options.max_tokens, eos_token_id=self.stops,
                    pad_token_id=self.stops[0],
                )  # fmt: skip
                for generated in output[:, ids.shape[1] :].tolist():
                    end = next((n for n, token in enumerate(generated) if token in self.stops), None)
                    tokens += len(generated) if end is None else end + 1
                    text = self.tokenizer.decode(generated[:end])
                    file.write(json.dumps({"question": text}) + "\n")
        return Timed(rows, tokens, time.perf_counter() - start)


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of our stage, bare vLLM and the user's loop; then seeds by block beside seeds by row."""
    from scalequest.chat import bind, load_format, load_tokenizer

    chat = bind(load_format(options.chat_format), load_tokenizer(options.model))
    prompt, stops = list(chat.question_prefix_ids), list(chat.question_stop_ids)
    sampling = Sampling(1.0, 1.0, options.max_tokens)
    engine = EngineConfig(name="vllm", dtype=options.dtype, max_model_len=options.max_model_len)
    few = min(options.rows, options.transformers_rows)
    loop = Loop(options, prompt, stops)
    with open_generator(options.model, engine) as ours:
        llm = ours.llm  # type: ignore[attr-defined]
        say("warming up")
        bare(llm, prompt, stops, sampling, 32)
        trials = {batch: loop.run(batch, few) for batch in BATCHES}
        batch = max(trials, key=lambda size: trials[size].rate)
        ways: dict[str, Callable[[], Timed]] = {
            "our stage": lambda: stage(ours, options, sampling, "row"),
            "bare vLLM": lambda: bare(llm, prompt, stops, sampling, options.rows),
            "our stage, seeds by block": lambda: stage(ours, options, sampling, "block"),
            "a user's loop, transformers": lambda: loop.run(batch, few),
        }
        rounds = []
        for number in range(options.pairs):
            order = list(ways) if number % 2 == 0 else list(ways)[::-1]
            rounds.append({way: ways[way]() for way in order})
            say(", ".join(f"{way} {timed.rate:.0f}" for way, timed in rounds[-1].items()))
    return {"rounds": rounds, "batch": batch}


def recipe(options: argparse.Namespace, folder: Path, rows: int, *more: str) -> list[str]:
    """The command of the generation recipe."""
    return [
        sys.executable, str(ROOT / "recipes/generate_questions.py"),
        "--output_dir", str(folder), "--track", "none", "--chat_format", options.chat_format,
        "--model_name_or_path", options.model,
        "--num_questions", str(rows), "--engine.dtype", options.dtype,
        "--engine.max_model_len", str(options.max_model_len), "--sampling.top_p", "1.0",
        "--sampling.max_tokens", str(options.max_tokens), *more,
    ]  # fmt: skip


def ray(options: argparse.Namespace) -> dict[str, Timed]:
    """One worker by itself and the same as a task of Ray: tokens over the receipt's seconds of work."""
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
    """Peak resident bytes of a long run on the tiny model, when the mark was passed and at the end."""
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
            raise SystemExit("the memory run failed, or ended before its mark")
        return {"mark": mark, "end": peak}


def show(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    import scalequest

    rounds: list[dict[str, Timed]] = found["rounds"]
    table = Table(
        title=f"{options.rows} rows of at most {options.max_tokens} tokens, {options.dtype}, temperature 1"
    )
    for column in ("", "tokens/s", "our stage is", "rounds", "bar"):
        table.add_column(column, justify="left" if not column else "right")
    for way in rounds[0]:
        rates = [one[way].rate for one in rounds]
        ratios = [one["our stage"].rate / one[way].rate for one in rounds]
        name = f"{way}, batch {found['batch']}" if "loop" in way else way
        beside = way != "our stage"
        table.add_row(
            name,
            f"{statistics.median(rates):.0f}",
            f"{statistics.median(ratios):.3f} ×" if beside else "",
            f"{min(ratios):.3f} to {max(ratios):.3f}" if beside else str(len(rounds)),
            f"≥ {BARS[way]}" if way in BARS else "",
        )
    table.add_section()
    if (ways := found.get("ray")) is not None:
        ratio = ways["ray"].rate / ways["local"].rate
        table.add_row("one worker, local", f"{ways['local'].rate:.0f}", "", "1", "")
        table.add_row("the same worker under Ray", f"{ways['ray'].rate:.0f}", f"{ratio:.3f} × local", "1", "")
    if (peaks := found.get("memory")) is not None:
        table.add_row(
            f"peak memory, {options.memory_rows:,} rows", f"{peaks['end'] / 2**20:.0f} MiB",
            f"{peaks['end'] / peaks['mark']:.3f} × at {options.memory_mark:,}", "1", f"≤ {FLAT}",
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(
        f"scalequest {scalequest.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the "
        f"end; the loop on {next(timed.rows for way, timed in rounds[0].items() if 'loop' in way)} rows",
        highlight=False,
    )


def main() -> None:
    """Parse, measure, show."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a model with its tokenizer")
    parser.add_argument("--chat-format", default="smollm2", help="default: smollm2")
    parser.add_argument("--dtype", default="bfloat16", help="default: bfloat16")
    parser.add_argument("--rows", type=int, default=2000, help="rows of a run (2000)")
    parser.add_argument("--transformers-rows", type=int, default=256, help="rows of a run of the loop (256)")
    parser.add_argument("--pairs", type=int, default=5, help="rounds (5)")
    parser.add_argument("--max-tokens", type=int, default=64, help="default: 64")
    parser.add_argument("--max-model-len", type=int, default=512, help="default: 512")
    parser.add_argument(
        "--ray-rows", type=int, default=1000, help="rows of the run under Ray; 0 leaves it out"
    )
    parser.add_argument(
        "--memory-rows", type=int, default=100_000, help="rows of the long run; 0 leaves it out"
    )
    parser.add_argument("--memory-mark", type=int, default=10_000, help="rows at which memory has to be flat")
    parser.add_argument("--memory-model", default=str(ROOT / "recipes/tiny/models/tiny-solver"))
    parser.add_argument("--output", type=Path, help="write all timings as JSON, too")
    options = parser.parse_args()
    found = speed(options)
    if options.ray_rows:
        found["ray"] = ray(options)
    if options.memory_rows:
        found["memory"] = memory(options)
    if options.output:
        timings = {"options": {**vars(options), "output": str(options.output)}, **found}
        options.output.write_text(json.dumps(timings, default=asdict, indent=1) + "\n", encoding="utf-8")
    show(options, found)


if __name__ == "__main__":
    main()
