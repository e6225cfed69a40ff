r"""Measure the overhead of the evaluation harness over the bare engine: files, grading, prompts, everything.

    python bench/harness.py --model runs/smollm2/models/smollm2-135m-instruct

It uses 500 GSM8K problems, greedy, with at most 256 tokens each, and SmolLM2-135M in bfloat16 on vLLM, on an
otherwise idle machine; this takes about a quarter of an hour on 2 cores. As a quick test:

    python bench/harness.py --model recipes/tiny/models/tiny-solver --chat-format tinymath \
        --benchmark eval/benchmarks/tinymath_test.yaml --problems 64 --max-tokens 64 --pairs 1

A pair times, on one running engine, the harness from its first prompt to its result file (including grading),
and one bare `LLM.generate` with the same ids and sampling settings; the order alternates, and the prefix
cache is cleared before each run. The overhead is the additional time of the harness over its total time. The
target is 5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comparisons import add_option, append, timing, vllm_version

from scalequest.config import RunOptions
from scalequest.engines.base import EngineConfig, Generator, Sampling
from scalequest.engines.loading import open_generator
from scalequest.evaluation.benchmarks import LoadedBenchmark, load_benchmark
from scalequest.evaluation.settings import EvaluationConfig

BAR = 0.05


def harness(
    generator: Generator,
    chat: Any,
    config: EvaluationConfig,
    benchmark: LoadedBenchmark,
    pool: Any,
    block_size: int,
) -> tuple[float, int]:
    """Return seconds and tokens of our evaluation: what eval/evaluate.py does once the engine is running."""
    from scalequest.evaluation.evaluated_model import connect_engine
    from scalequest.evaluation.harness import VERSION, collect_results, evaluate
    from scalequest.evaluation.protocol import fingerprints_of_models, identity_of
    from scalequest.stage.script import open_stage

    (label,) = config.models
    with tempfile.TemporaryDirectory() as folder:
        run = RunOptions(output_dir=folder, track="none", block_size=block_size)
        given = identity_of(config, [label], [benchmark])
        stage = open_stage(
            "evaluate_model", VERSION, run, config, inputs=fingerprints_of_models(config, [label]), **given
        )
        start = time.perf_counter()
        model = connect_engine(generator, chat, config.sampling)
        receipt = evaluate(stage, model, config, run, [benchmark], pool)
        collect_results(folder, config, label, [benchmark])
        return time.perf_counter() - start, int(receipt["tokens"])


def bare(llm: Any, prompts: list[list[int]], stops: list[int], sampling: Sampling) -> tuple[float, int]:
    """Return seconds and tokens of one `LLM.generate`."""
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        stop_token_ids=stops,
        ignore_eos=True,
        detokenize=False,
    )
    asked = [{"prompt_token_ids": ids} for ids in prompts]
    start = time.perf_counter()
    outputs = llm.generate(asked, params, use_tqdm=False)
    seconds = time.perf_counter() - start
    return seconds, sum(len(output.outputs[0].token_ids) for output in outputs)


def measure(options: argparse.Namespace) -> list[dict[str, tuple[float, int]]]:
    """Yield one dict of method to seconds and tokens per pair."""
    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.evaluation.output_grading import GradingPool

    sampling = Sampling(0.0, 1.0, options.max_tokens)
    engine = EngineConfig(
        name="vllm",
        dtype=options.dtype,
        max_model_len=options.max_model_len,
        enforce_eager=False if options.compile else None,
    )
    config = EvaluationConfig(
        models={"model": options.model},
        benchmarks=[options.benchmark],
        chat_format=options.chat_format,
        sampling=sampling,
        engine=engine,
    )
    benchmark = load_benchmark(options.benchmark, options.problems)
    chat = bind(load_format(options.chat_format), load_tokenizer(options.model))
    prompts = [benchmark.prompts[0].ids(problem, chat) for problem in benchmark.problems]
    found = []
    with GradingPool(config.grading) as pool, open_generator(options.model, engine) as generator:
        llm = generator.llm  # type: ignore[attr-defined]
        bare(llm, prompts[:8], chat.solve_stop_ids, Sampling(0.0, 1.0, 8))  # warm-up
        ways = {
            "harness": lambda: harness(generator, chat, config, benchmark, pool, options.block_size),
            "bare": lambda: bare(llm, prompts, chat.solve_stop_ids, sampling),
        }
        for number in range(options.pairs):
            pair = {}
            for way in list(ways)[:: 1 if number % 2 == 0 else -1]:
                llm.reset_prefix_cache()
                pair[way] = ways[way]()
                say(f"pair {number + 1}: {way} {pair[way][0]:.1f} s, {pair[way][1]:,} tokens")
            found.append(pair)
    return found


def overhead(pair: dict[str, tuple[float, int]]) -> float:
    """Return the share of the harness's wall-clock time that the bare engine does not take."""
    return 1 - pair["bare"][0] / pair["harness"][0]


def say(line: str) -> None:
    """Print the progress separately from the result."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Parse the options, measure, and print the results."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a model with its tokenizer")
    parser.add_argument("--chat-format", default="smollm2", help="default: smollm2")
    parser.add_argument("--benchmark", default="eval/benchmarks/gsm8k.yaml", help="default: gsm8k")
    parser.add_argument("--problems", type=int, default=500, help="default: 500")
    parser.add_argument("--max-tokens", type=int, default=256, help="default: 256")
    parser.add_argument("--max-model-len", type=int, help="by default the model's own")
    parser.add_argument("--block-size", type=int, default=64, help="number of rows per part file (64)")
    parser.add_argument("--dtype", default="bfloat16", help="default: bfloat16")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile, also on CPU")
    parser.add_argument("--pairs", type=int, default=3, help="default: 3")
    parser.add_argument("--output", type=Path, help="also write all timings as JSON")
    add_option(parser)
    options = parser.parse_args()
    pairs = measure(options)
    shares = [overhead(pair) for pair in pairs]
    if options.output:
        content = {"options": {**vars(options), "output": str(options.output)}, "pairs": pairs}
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    what = (
        f"evaluating {Path(options.model).name} in {options.dtype} on {options.problems} problems of "
        f"{Path(options.benchmark).stem}, at most {options.max_tokens} tokens each, with grading and files"
    )
    rates = ([options.problems / pair[way][0] for pair in pairs] for way in ("harness", "bare"))
    found = timing("evaluation/harness/bare vLLM", what, "bare vLLM", vllm_version(), "problems/s", *rates)
    append(options.comparisons, [found])
    harness_seconds = statistics.median(pair["harness"][0] for pair in pairs)
    bare_seconds = statistics.median(pair["bare"][0] for pair in pairs)
    print(
        f"{options.problems} problems of at most {options.max_tokens} tokens, greedy, {options.dtype}: "
        f"harness {harness_seconds:.1f} s, bare LLM.generate {bare_seconds:.1f} s (medians of {len(pairs)})"
    )
    print(
        f"overhead {100 * statistics.median(shares):.1f} % ({100 * min(shares):.1f} to "
        f"{100 * max(shares):.1f}; limit: {100 * BAR:.0f}); {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the end"
    )


if __name__ == "__main__":
    main()
