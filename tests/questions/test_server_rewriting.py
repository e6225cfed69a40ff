"""Question optimisation through the recipe, against real servers: one that misbehaves, and `vllm serve`."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_server import Answer, Asked, FaultServer, completion, error
from scalequest.config import build
from scalequest.engines.server import BudgetSpent
from stage_support import data_files, dropped, kept, receipt

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes/optimize_questions.py"
PROMPTS = {"solvability": "FINAL QUESTION:", "difficulty": "#Finally Rewritten Problem#:"}


def settings(folder: Path, questions: Path, url: str, **server: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "input": [str(questions)],
        "block_size": 4,
        "track": "none",
        "rewriter": "server",
        "server": {"url": url, "model": "rewriter", "max_wait": 0.05, **server},
        "prompts": {way: f"recipes/prompts/{way}_rewrite.yaml" for way in PROMPTS},
        "sampling": {"temperature": 0.0, "max_tokens": 64},
        "system": "You are a helpful assistant.",
    }


def optimize(given: dict[str, Any]) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("recipe_optimize_questions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.RECIPE(*build(script.RECIPE.configs(), given))
    return receipt(given["output_dir"])


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q-{n:03d}", "question": f"What is {n} + {n}?"} for n in range(30)]
    rows[5]["question"] = "What is <script>alert(5)</script> & 5?"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rewriting(one: Asked) -> Answer:
    """Keeps the contract of both prompts."""
    number = one.text.rpartition("What is ")[2].partition(" ")[0]
    marker = PROMPTS["solvability" if "VERIFICATION" in one.text else "difficulty"]
    text = f"Some thoughts. {marker} no, once more.\n{marker}\nWhat is {number} + {number} + 1?"
    return completion(text, read=100, generated=20)


def test_pairs_by_a_server_that_misbehaves(tmp_path: Path, questions: Path) -> None:
    def behaviour(one: Asked) -> Answer | None:
        if "What is 1 + 1?" in one.text:
            return completion("I would rather not.", read=100, generated=5)
        if "What is 2 + 2?" in one.text:
            return completion("FINAL QUESTION: #Finally Rewritten Problem#: What is", "length", read=100)
        if "What is 3 + 3?" in one.text:
            text = "FINAL QUESTION: what is 3 + 3?  #Finally Rewritten Problem#: What is 3 + 3?"
            return completion(text.split("#")[0] if "VERIFICATION" in one.text else text, read=100)
        if "What is 4 + 4?" in one.text:
            return completion("FINAL QUESTION: ответ? #Finally Rewritten Problem#: 四加四是多少？", read=100)
        if one.attempt == 0 and one.number % 4 == 0:
            return [error(429), error(500), Answer(200, b"nonsense"), None][one.number // 4 % 4]
        return rewriting(one)

    folder = tmp_path / "pairs"
    with FaultServer(behaviour).running() as server:
        given = settings(folder, questions, server.url, price_in=0.15, price_out=0.6, concurrency=4)
        made = optimize(given)
    assert made["dropped"] == {"non_english": 1, "truncated": 1, "unchanged": 1, "unparsed": 1}
    pairs = kept(folder)
    assert made["kept"] == len(pairs) == 26
    assert all("+ 1?" in pair["chosen"] for pair in pairs)
    assert {pair["direction"] for pair in pairs} == {"solvability", "difficulty"}
    asked = server.asked[0].body
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    # the ledger: every request that was made, every token that was billed, and what they cost
    assert made["counts"]["requests"] == len(server.asked) > 30
    assert made["counts"]["prompt_tokens"] == 3000
    cost = (3000 * 0.15 + made["tokens"] * 0.6) / 1e6
    assert made["counts"]["cost"] == pytest.approx(cost)
    # the page: escaped, loads nothing
    page = (folder / "pairs.html").read_text()
    assert page.count('class="label"') == 20
    assert page.count("<td>") == 2 * 20 + 4 * 4
    assert "Dropped: unparsed (1)" in page
    assert "I would rather not." in page
    assert "<script" not in page
    assert "<mark>" in page
    assert "http" not in page.partition("</style>")[2]


def test_a_budget_stops_it_and_a_higher_one_pays_for_the_rest_only(tmp_path: Path, questions: Path) -> None:
    folder = tmp_path / "pairs"
    with FaultServer(rewriting).running() as server:
        # a question is billed at 120 tokens, and its prompt alone may be some 1,800 by its bytes
        with pytest.raises(BudgetSpent):
            optimize(settings(folder, questions, server.url, budget_tokens=3500))
        first = len(server.asked)
        assert 0 < first < 30
        assert not receipt(folder)["finished"]
        made = optimize(settings(folder, questions, server.url))
        assert len(server.asked) == 30
        whole = tmp_path / "whole"
        optimize(settings(whole, questions, server.url))
    assert made["counts"]["prompt_tokens"] == 3000, "what was paid before the stop is in the ledger"
    assert data_files(folder) == data_files(whole)
    assert not (folder / "parts").exists()


def test_mistakes_in_the_config_are_said_at_once(tmp_path: Path, questions: Path) -> None:
    from scalequest.config import ConfigError

    given = settings(tmp_path / "out", questions, "http://localhost:1/v1")
    with pytest.raises(ConfigError, match=r"server\.url and server\.model"):
        optimize({**given, "server": {}})
    with pytest.raises(ConfigError, match=r"prompts\.solvability"):
        optimize({**given, "prompts": {}})
    with pytest.raises(ConfigError, match="unknown key"):
        optimize({**given, "server": {"api_key": "sk-1"}})


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tiny solver behind `vllm serve`; gives the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("vllm")
    template = folder / "template.jinja"
    template.write_text("<s><|user|>{{ messages[-1]['content'] }}<|end|><|assistant|>")
    log = folder / "log"
    # What `vllm serve` runs; the command itself asks for the version of a package that the CPU build is not.
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(ROOT / "recipes/tiny/models/tiny-solver"),
        "--host", "127.0.0.1", "--port", str(port), "--chat-template", str(template), "--served-model-name",
        "rewriter", "--enforce-eager", "--max-num-seqs", "8", "--generation-config", "vllm",
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0",
                   "VLLM_NO_USAGE_STATS": "1"}  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            end = time.monotonic() + 400
            while True:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < end, log.read_text()[-3000:]
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                        break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait(10)


@pytest.mark.slow
def test_pairs_by_vllm_serve(tmp_path: Path, vllm_server: str) -> None:
    """The tiny solver solves whatever it is asked; with its own phrase as the marker that is a rewrite."""
    prompt = tmp_path / "prompt.yaml"
    prompt.write_text("template: '{question}'\nmarkers: ['FINAL', 'answer is']\n")
    source = tmp_path / "questions.jsonl"
    text = "Tom has {} red pens. Tom buys {} more red pens. How many red pens does Tom have now?"
    rows = [{"id": f"q-{n}", "question": text.format(n + 3, n + 2)} for n in range(24)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = settings(tmp_path / "pairs", source, vllm_server, timeout=120.0, price_out=1.0)
    given |= {"prompts": {"solvability": str(prompt), "difficulty": str(prompt)}, "system": None}
    made = optimize(given)
    assert made["rows_in"] == 24 == made["kept"] + sum(made["dropped"].values())
    assert made["kept"] >= 12, dropped(tmp_path / "pairs")[:3]
    assert made["counts"]["requests"] == 24
    assert made["counts"]["cost"] == pytest.approx(made["tokens"] / 1e6)
    assert made["counts"]["prompt_tokens"] > 24 * 10
    # a question that the server refuses, since it does not fit, costs that row alone
    rows[7]["question"] = "pens " * 2000
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = optimize({**given, "output_dir": str(tmp_path / "refused")})
    assert made["dropped"]["refused"] == 1
