r"""Measure how much of the engine's speed a stage keeps, and how much faster it is than transformers.

    python bench/engines.py --model runs/smollm2/models/smollm2-135m-instruct

For meaningful numbers: SmolLM2-135M in bfloat16 on an otherwise idle machine, half an hour on 2 cores.
As a quick test: `--model recipes/tiny/models/tiny-solver --chat-format tinymath --rows 64 --pairs 1`.

A round times our question generation stage on a running engine, and right after it one bare, unseeded
`LLM.generate` with the same ids on the same engine, and a typical user's loop with transformers: `generate`
with sampling at its best batch size, with the completions decoded and written as JSON lines. Our stage is
everything that recipes/generate_questions.py does after loading: folder, seeds, decoding, checks, limits,
progress, tracker, blocks, parquet, card. Ratios are of generated tokens per second within a round; the table
gives their median.

Below the line, with fewer rows, measured once and without a target: seeds per block instead of per row, and
the paper's top-p (each compared with a bare call with the same sampling), the stage on our own transformers
engine, and vLLM with its default settings, in its own process.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comparisons import Comparison, add_option, append, timing, version_of, vllm_version

from scalequest.config import RunOptions
from scalequest.engines import EngineConfig, Generator, Sampling, open_generator

BATCHES = (32, 64, 128)
BARS = {"bare vLLM": 0.95, "transformers": 3.0}


@dataclass(frozen=True)
class Timed:
    """One run: rows requested, tokens generated, seconds."""

    rows: int
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """The number of generated tokens per second."""
        return self.tokens / self.seconds


def stage(
    generator: Generator, options: argparse.Namespace, sampling: Sampling, scope: Any, rows: int
) -> Timed:
    """Run our stage into a new folder, including the tracker; `scope` is its `seed_scope`."""
    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.questions.generation import VERSION, GenerationConfig, generate_questions
    from scalequest.stage.script import open_stage, track

    config = GenerationConfig(
        model_name_or_path=options.model,
        chat_format=options.chat_format,
        num_questions=rows,
        seed_scope=scope,
        sampling=sampling,
    )
    chat = bind(load_format(options.chat_format), load_tokenizer(options.model))
    with tempfile.TemporaryDirectory() as folder:
        run = RunOptions(output_dir=f"{folder}/stage", track="none")
        start = time.perf_counter()
        opened = open_stage("generate_questions", VERSION, run, config, inputs={})
        with track(opened, run, config) as tracker:
            receipt = generate_questions(opened, generator, chat, config, run, tracker=tracker)
        return Timed(rows, receipt["tokens"], time.perf_counter() - start)


class Loop:
    """A typical user's loop with transformers."""

    def __init__(self, options: argparse.Namespace, prompt: list[int], stops: list[int]) -> None:
        """Load the model."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(
            options.model, dtype=getattr(torch, options.dtype), use_safetensors=True
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


def bare(llm: Any, prompt: list[int], stops: list[int], sampling: Sampling, rows: int) -> Timed:
    """Run one unseeded `LLM.generate`."""
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        stop_token_ids=stops,
        ignore_eos=True,
        detokenize=False,
    )
    start = time.perf_counter()
    outputs = llm.generate([{"prompt_token_ids": prompt}] * rows, params, use_tqdm=False)
    seconds = time.perf_counter() - start
    return Timed(rows, sum(len(output.outputs[0].token_ids) for output in outputs), seconds)


def as_it_comes(options: argparse.Namespace, prompt: list[int], stops: list[int]) -> Timed:
    """Run a bare call with vLLM's default settings, in a process without ours."""
    names = ("model", "dtype", "max_tokens", "max_model_len")
    asked = {"prompt": prompt, "stops": stops, "rows": options.column_rows}
    asked |= {name: getattr(options, name) for name in names}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    command = [sys.executable, __file__, "--as-it-comes", json.dumps(asked)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    (result,) = [
        line for line in done.stdout.splitlines() if line.startswith('{"rows"')
    ]  # vLLM also writes its log there
    return Timed(**json.loads(result))


def _as_it_comes(asked: dict[str, Any]) -> None:
    from vllm import LLM

    # Only the memory is limited, because by default it would take nearly all of the machine's.
    memory = {"max_model_len": asked["max_model_len"], "gpu_memory_utilization": 0.5}
    llm = LLM(asked["model"], dtype=asked["dtype"], **memory)
    sampling = Sampling(1.0, 1.0, asked["max_tokens"])
    bare(llm, asked["prompt"], asked["stops"], sampling, 32)
    print(json.dumps(asdict(bare(llm, asked["prompt"], asked["stops"], sampling, asked["rows"]))))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything with one model.

    Returns:
        `rounds` (one dict of method to `Timed` per round), `columns` (method to a pair of `Timed`: the method
        and what it is compared with, or None) and `batch`.
    """
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
        stage(ours, options, sampling, "row", 32)
        bare(llm, prompt, stops, sampling, 32)
        trials = {batch: loop.run(batch, few) for batch in BATCHES}
        batch = max(trials, key=lambda size: trials[size].rate)
        for size, timed in trials.items():
            say(f"transformers, batch {size}: {timed.rate:.0f} tokens/s")

        ways: dict[str, Callable[[], Timed]] = {
            "our stage": lambda: stage(ours, options, sampling, "row", options.rows),
            "bare vLLM": lambda: bare(llm, prompt, stops, sampling, options.rows),
            "transformers": lambda: loop.run(batch, few),
        }
        rounds = []
        for number in range(options.pairs):
            order = list(ways) if number % 2 == 0 else list(ways)[::-1]
            rounds.append({way: ways[way]() for way in order})
            say(
                f"round {number + 1}: "
                + ", ".join(f"{way} {timed.rate:.0f}" for way, timed in rounds[-1].items())
            )

        nucleus = replace(sampling, top_p=0.99)
        columns: dict[str, tuple[Timed, Timed | None]] = {
            "our stage, seeds per block": (
                stage(ours, options, sampling, "block", options.column_rows),
                bare(llm, prompt, stops, sampling, options.column_rows),
            ),
            "our stage, top-p 0.99": (
                stage(ours, options, nucleus, "row", options.column_rows),
                bare(llm, prompt, stops, nucleus, options.column_rows),
            ),
        }
    with open_generator(options.model, replace(engine, name="transformers", batch_size=batch)) as own:
        columns["our stage on transformers"] = stage(own, options, sampling, "row", few), None
    if not options.skip_as_it_comes:
        try:
            columns["vLLM with default settings, bare"] = as_it_comes(options, prompt, stops), None
        except subprocess.CalledProcessError as error:  # everything before took an hour
            say(f"vLLM with default settings: exit status {error.returncode}, left out")
    return {"rounds": rounds, "columns": columns, "batch": batch}


def show(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    import scalequest

    title = f"{options.rows} rows of at most {options.max_tokens} tokens, {options.dtype}, temperature 1"
    table = Table(title=title)
    for column in ("", "tokens/s", "our stage is", "rounds", "bar"):
        table.add_column(column, justify="left" if not column else "right")
    rounds: list[dict[str, Timed]] = found["rounds"]
    for way in rounds[0]:
        rates = [one[way].rate for one in rounds]
        ratios = [one["our stage"].rate / one[way].rate for one in rounds]
        name = f"{way}, batch {found['batch']}" if way == "transformers" else way
        beside = way != "our stage"
        table.add_row(
            name,
            f"{statistics.median(rates):.0f}",
            f"{statistics.median(ratios):.3f} ×" if beside else "",
            f"{min(ratios):.3f} to {max(ratios):.3f}" if beside else str(len(rounds)),
            f"≥ {BARS[way]}" if beside else "",
        )
    table.add_section()
    for way, (timed, against) in found["columns"].items():
        ratio = f"{timed.rate / against.rate:.3f} × bare ({against.rate:.0f})" if against else ""
        table.add_row(way, f"{timed.rate:.0f}", ratio, "1", "")
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(
        f"scalequest {scalequest.__version__}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the end; transformers on "
        f"{rounds[0]['transformers'].rows} rows, the entries below the line on "
        f"{options.column_rows}",
        highlight=False,
    )


def say(line: str) -> None:
    """Print the progress separately from the table."""
    print(line, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the options, which bench/synthesis.py shares."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    made.add_argument("--model", help="folder of a model with its tokenizer")
    made.add_argument("--chat-format", default="smollm2", help="default: smollm2")
    made.add_argument("--dtype", default="bfloat16", help="default: bfloat16")
    made.add_argument("--rows", type=int, default=2000, help="number of rows of a run (2000)")
    made.add_argument(
        "--transformers-rows", type=int, default=256, help="number of rows of a run of transformers (256)"
    )
    made.add_argument(
        "--column-rows", type=int, default=500, help="number of rows of the runs without a target (500)"
    )
    made.add_argument("--pairs", type=int, default=5, help="rounds (5)")
    made.add_argument("--max-tokens", type=int, default=64, help="default: 64")
    made.add_argument("--max-model-len", type=int, default=512, help="default: 512")
    made.add_argument(
        "--skip-as-it-comes", action="store_true", help="leave out vLLM with its default settings"
    )
    made.add_argument("--output", type=Path, help="also write all timings as JSON")
    add_option(made)
    return made


def compared(options: argparse.Namespace, found: dict[str, Any]) -> list[Comparison]:
    """Return our stage's speed beside those of bare vLLM and of a loop with transformers."""
    rounds: list[dict[str, Timed]] = found["rounds"]
    model = f"{Path(options.model).name} in {options.dtype}"
    peers = {
        "bare vLLM": (vllm_version(), f"{options.rows:,} rows"),
        "transformers": (
            version_of("transformers"),
            f"{rounds[0]['transformers'].rows:,} of {options.rows:,} rows, batch {found['batch']}",
        ),
    }
    return [
        timing(
            f"synthesis/question generation/{peer}",
            f"generating questions with {model}, {rows} of at most {options.max_tokens} tokens",
            peer, version, "tokens/s",
            *([one[way].rate for one in rounds] for way in ("our stage", peer)),
        )
        for peer, (version, rows) in peers.items()
    ]  # fmt: skip


def write(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write the results to `--output`, if given."""
    if options.output:
        timings = {"options": {**vars(options), "output": str(options.output)}, **found}
        options.output.write_text(json.dumps(timings, default=asdict, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the options, measure, and print the results."""
    arguments = parser()
    arguments.description = (__doc__ or "").partition("\n")[0]
    arguments.add_argument("--as-it-comes", type=json.loads, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.as_it_comes is not None:
        _as_it_comes(options.as_it_comes)
        return
    if options.model is None:
        arguments.error("--model is missing")
    found = measure(options)
    write(options, found)
    append(options.comparisons, compared(options, found))
    show(options, found)


if __name__ == "__main__":
    main()
