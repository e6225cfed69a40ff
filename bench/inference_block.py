r"""Measure solving on our vLLM engine beside datatrove's inference block on a vLLM server.

    python bench/inference_block.py --datatrove-python .venv-datatrove/bin/python

Both answer the same problems with the same model in float32, greedily, once each, and write every answer; the
two take turns. Ours is `recipes/solve_questions.py`, whose engine is in the process; datatrove's block sends
one request per question to a server on this machine, as it does everywhere. No start-up is counted. Printed:
tokens/s of both sides, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from comparisons import add_option, append, timing
from lm_eval_chat import run, with_template
from vllm_chat import NAME, serving

from scalequest.pipeline.status_table import read_receipt
from scalequest.records import read_rows

SCRIPT = "recipes/solve_questions.py"
AT_ONCE = 512  # requests in flight, or rows of a batch


def theirs(options: argparse.Namespace, file: Path, address: str) -> dict[str, Any]:
    """Return datatrove's seconds, tokens and version."""
    script = Path(__file__).with_name("datatrove_inference.py")
    command = [options.datatrove_python, str(script), str(file), address, NAME, str(options.max_tokens)]
    done = subprocess.run(
        [*command, str(AT_ONCE)], capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"datatrove failed under {options.datatrove_python}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def ours(options: argparse.Namespace, file: Path, folder: Path) -> float:
    """Return the tokens/s of our stage."""
    settings = {
        "input": file,
        "model_name_or_path": options.model,
        "chat_format": options.chat_format,
        "samples": 1,
        "sampling.temperature": 0,
        "sampling.max_tokens": options.max_tokens,
        "engine.name": "vllm",
        "engine.dtype": "float32",
        "engine.max_num_seqs": AT_ONCE,
        "output_dir": folder,
        "track": "none",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    run([sys.executable, SCRIPT, "--config", "recipes/tiny/solve_questions.yaml", *words], {})
    receipt = read_receipt(folder)
    return float(receipt["tokens"] / receipt["seconds"])


def main(options: argparse.Namespace) -> int:
    """Measure both sides in turns; print the rates and the ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = [row["question"] for row in read_rows(options.questions, limit=options.problems)]
        asked, texts = folder / "asked.jsonl", folder / "texts.json"
        lines = [json.dumps({"question": text}) + "\n" for text in questions]
        asked.write_text("".join(lines), encoding="utf-8")
        texts.write_text(json.dumps(questions), encoding="utf-8")
        model = with_template(options.model, options.chat_format, folder / "model")
        rates: list[tuple[float, float]] = []
        with serving(model, folder / "log", AT_ONCE) as address:
            for number in range(options.repeats):
                mine = ours(options, asked, folder / f"ours_{number}")
                block = theirs(options, texts, address.removesuffix("/v1"))
                rates.append((mine, block["tokens"] / block["seconds"]))
                print(f"repeat {number + 1}: ours {mine:,.0f} tokens/s, datatrove's {rates[-1][1]:,.0f}")
    what = f"solving {len(questions):,} problems with {Path(options.model).name}, both on vLLM"
    key, peer = "synthesis/inference block/datatrove", "datatrove's inference block"
    compared = timing(key, what, peer, block["version"], "tokens/s", *zip(*rates, strict=True))
    print(f"ours / theirs: {compared.value:.2f}")
    append(options.comparisons, [compared])
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--model", default="recipes/tiny/models/tiny-solver", help="folder of a model")
    made.add_argument("--chat-format", default="tinymath", help="default: tinymath")
    made.add_argument(
        "--questions", default="eval/benchmarks/data/tinymath_dev.jsonl.gz", help="rows with `question`"
    )
    made.add_argument("--problems", type=int, default=1000, help="default: 1000")
    made.add_argument("--max-tokens", type=int, default=128, help="default: 128")
    made.add_argument("--repeats", type=int, default=3, help="default: 3")
    made.add_argument("--datatrove-python", default=sys.executable, help="interpreter that has datatrove")
    add_option(made)
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
