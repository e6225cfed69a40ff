"""Time datatrove's inference block against a server; bench/inference_block.py runs this in its environment.

    python bench/datatrove_inference.py questions.json http://127.0.0.1:8000 model 128 512

The file holds a list of questions; then come the server's address and the name of its model, the tokens per
answer and the requests in flight. Greedy, one answer per question, written as JSONL. Printed as JSON: the
seconds from the first request until the file is closed, the tokens, and datatrove's version.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def answer(
    questions: Sequence[str], address: str, model: str, max_tokens: int, at_once: int
) -> tuple[float, int]:
    """Return the seconds of the block, and the tokens of its answers."""
    os.environ.setdefault("DATATROVE_COLORIZE_LOGS", "0")
    import httpx  # noqa: F401  without it, datatrove waits for the server in silence
    from datatrove.data import Document
    from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
    from datatrove.pipeline.writers import JsonlWriter
    from loguru import logger

    async def rollout(document, generate):  # type: ignore[no-untyped-def]
        return await generate({"messages": [{"role": "user", "content": document.text}]})

    logger.remove()
    config = InferenceConfig(
        server_type="endpoint", endpoint_url=address, model_name_or_path=model,
        default_generation_params={"temperature": 0.0, "max_tokens": max_tokens},
        max_concurrent_generations=at_once,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runner = InferenceRunner(rollout, config, JsonlWriter(folder, compression=None))
        documents = [Document(text=text, id=str(number)) for number, text in enumerate(questions)]
        start = time.perf_counter()
        runner.run(iter(documents))
        seconds = time.perf_counter() - start
        lines = [json.loads(line) for path in Path(folder).rglob("*.jsonl") for line in path.open()]
    if len(lines) != len(questions):
        raise SystemExit(f"{len(lines)} of {len(questions)} questions were answered")
    results = [line["metadata"]["rollout_results"][0] for line in lines]
    return seconds, sum(result["usage"]["completion_tokens"] for result in results)


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    spent, tokens = answer(asked, sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    print(json.dumps({"seconds": spent, "tokens": tokens, "version": version("datatrove")}))
