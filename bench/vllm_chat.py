r"""Serve a fine-tuned model with vLLM, ask its chat endpoint, and compare every text with our evaluation's.

    python recipes/solve_questions.py --config recipes/tiny/solve_questions.yaml --samples 2 --reuse false \
        --input 'eval/benchmarks/data/tinymath_dev.jsonl.gz[:200]' --output_dir runs/served/solve
    python recipes/select_solutions.py --config recipes/tiny/select_solutions.yaml \
        --input runs/served/solve --output_dir runs/served/select
    python recipes/sft.py --config recipes/tiny/sft.yaml --input runs/served/select \
        --model_name_or_path recipes/tiny/models/tiny-solver --max_steps 20 --output_dir runs/served/sft
    python bench/vllm_chat.py --model runs/served/sft --chat-format tinymath \
        --benchmark eval/benchmarks/tinymath_test.yaml

200 problems, greedy, at most 128 tokens each; a few minutes on 2 cores. The server is told nothing but the
folder: prompts, stop tokens and sampling defaults come from what training saved there. It is what
`vllm serve` starts; that command itself asks for the version of a package that vLLM's CPU build is not.
The evaluation uses vLLM, too, in the same precision, so that equal prompts should give equal texts.

Printed: how many texts and finish reasons are equal, and every row in which they differ. The exit status is 1
if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from lm_eval_chat import ask_ours

from scalequest.evaluation.benchmarks import LoadedBenchmark, load_benchmark
from scalequest.records import Row

NAME = "model"
AT_ONCE = 16  # requests in flight
STARTING = 600  # seconds that the server may take to start


@contextmanager
def serving(model: Path, log: Path, at_once: int = AT_ONCE) -> Iterator[str]:
    """Serve a model's folder, with so many requests in a batch; gives the address of the API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port),
        "--served-model-name", NAME, "--enforce-eager", "--max-num-seqs", str(at_once),
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**cpu, **os.environ}, stdout=out, stderr=out)
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + STARTING
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(address, timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    sys.exit(f"the server did not start:\n{log.read_text(errors='replace')[-4000:]}")


def ask(address: str, benchmark: LoadedBenchmark, max_tokens: int) -> list[dict[str, Any]]:
    """Return the server's choice for each problem, in their order."""

    def choice(question: str) -> dict[str, Any]:
        asked = {
            "model": NAME,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        reply = client.post(f"{address}/chat/completions", json=asked)
        if reply.is_error:
            sys.exit(f"the server refused a question: {reply.text[:500]}")
        (first,) = reply.json()["choices"]
        return dict(first)

    with httpx.Client(timeout=600, trust_env=False) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(choice, [problem.question for problem in benchmark.problems]))


def compare(
    benchmark: LoadedBenchmark, ours: Sequence[Row], served: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return one row per problem: what the two said, and whether it is the same, character for character."""
    by_id = {row["id"]: row for row in ours}
    found = []
    for problem, choice in zip(benchmark.problems, served, strict=True):
        row, text = by_id[problem.id], choice["message"]["content"]
        found.append(
            {
                "id": problem.id,
                "same text": text == row["completion"],
                "same finish reason": choice["finish_reason"] == row["finish_reason"],
                "ours": [row["completion"], row["finish_reason"]],
                "served": [text, choice["finish_reason"]],
            }
        )
    return found


def main() -> int:
    """Parse the options, ask both, and print what differs."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder that a training recipe wrote")
    parser.add_argument("--chat-format", default="tinymath", help="of the evaluation; default: tinymath")
    parser.add_argument("--benchmark", default="eval/benchmarks/tinymath_test.yaml", help="its YAML file")
    parser.add_argument("--problems", type=int, default=200, help="default: 200")
    parser.add_argument("--max-tokens", type=int, default=128, help="default: 128")
    options = parser.parse_args()
    benchmark = load_benchmark(options.benchmark, options.problems)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(options.model, folder / "log") as address:
            served = ask(address, benchmark, options.max_tokens)
        ours, result = ask_ours(options, options.model, folder / "ours", "vllm")
    rows = compare(benchmark, ours, served)
    for key in ("same text", "same finish reason"):
        print(f"{key}: {sum(row[key] for row in rows)} of {len(rows)}")
    ended = sum(row["finish_reason"] == "stop" for row in ours)
    print(f"distinct texts: {len({row['completion'] for row in ours})}; ended by a stop token: {ended}; "
          f"accuracy {100 * (result.accuracy.value or 0):.1f} %")  # fmt: skip
    different = [row for row in rows if not (row["same text"] and row["same finish reason"])]
    for row in different:
        print(json.dumps(row, ensure_ascii=False))
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
