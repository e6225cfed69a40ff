"""Every script of bench/ still runs, small: what it prints at this size says nothing about speed."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_model import stories

TINY = "recipes/tiny/models"
SOLVER = ["--model", f"{TINY}/tiny-solver", "--chat-format", "tinymath"]
SMALL = {
    "attention": ["--small"],
    "engines": [*SOLVER, "--rows=64", "--pairs=1", "--transformers-rows=32", "--column-rows=32"],
    "grading": ["--step=200"],
    "grading --outputs": ["--step=200"],
    "gpu": [
        *("--output_dir={out}", "--small", "--seconds=900"),
        *("env", "tiny", "head", "attention", "lora", "full"),
    ],
    "harness": [
        *SOLVER,
        "--benchmark=eval/benchmarks/tinymath_test.yaml",
        "--problems=32",
        "--max-tokens=64",
        "--pairs=1",
    ],
    "ranks": ["--stages", "sft", "--topologies", "ddp", "--output_dir", "{out}"],
    "synthesis": [
        *SOLVER,
        "--rows=64",
        "--pairs=1",
        "--transformers-rows=32",
        "--memory-rows=2000",
        "--memory-mark=500",
        "--ray-rows=64",
    ],
    "training": [
        "--model",
        f"{TINY}/tiny-base",
        "--chat-format=tinymath",
        "--steps=1",
        "--rounds=1",
        "--rows=500",
        "--prepare=500",
    ],
}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", SMALL)
def test_a_bench_runs_small(name: str, tmp_path: Path) -> None:
    script, *options = name.split()
    shown = run(f"bench/{script}.py", *options, *(word.format(out=tmp_path) for word in SMALL[name]))
    assert shown.strip(), "it printed no table"
    assert '"failed"' not in shown, "a check of bench/gpu.py raised an error"
    assert '"tail"' not in shown, "a recipe that bench/gpu.py ran failed"


@pytest.mark.slow
@pytest.mark.data
def test_the_rules_of_gsm8k_are_compared_on_an_evaluation(tmp_path: Path) -> None:
    evaluation = [
        f"--models={{tiny: {TINY}/tiny-solver}}",
        "--chat_format=tinymath",
        "--benchmarks=eval/benchmarks/gsm8k.yaml",
        "--limit=8",
        "--sampling.max_tokens=32",
        "--engine.name=transformers",
        f"--output_dir={tmp_path}",
    ]
    run("eval/evaluate.py", *evaluation)
    assert "flexible" in run("bench/gsm8k_rules.py", str(tmp_path / "tiny"))


@pytest.mark.slow
def test_lm_eval_asks_the_same_and_hears_the_same() -> None:
    python = os.environ.get("LM_EVAL_PYTHON")
    if python is None:
        pytest.skip("LM_EVAL_PYTHON is not set to an interpreter that has lm-eval")
    shown = run("bench/lm_eval_chat.py", *SOLVER, "--problems=16", f"--lm-eval-python={python}")
    for what in ("prompt", "output", "verdict"):
        assert f"same {what}: 16 of 16" in shown


@pytest.mark.slow
def test_a_served_model_says_what_the_evaluation_says(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"query": question, "response": response} for question, response in stories(32)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        "recipes/sft.py", "--config=recipes/tiny/sft.yaml", f"--input={pairs}", "--max_steps=2",
        "--track=none", f"--model_name_or_path={TINY}/tiny-solver", f"--output_dir={tmp_path}/sft",
    )  # fmt: skip
    shown = run("bench/vllm_chat.py", f"--model={tmp_path}/sft", "--problems=16")
    assert "same text: 16 of 16" in shown
    assert "same finish reason: 16 of 16" in shown


def test_rows_on_which_lm_eval_differs_are_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace

    bench = SimpleNamespace(**runpy.run_path(str(root / "bench/lm_eval_chat.py"), run_name="bench"))
    assert re.findall(bench._BOX, r"\boxed{1}, so \boxed{\frac{1}{\sqrt{2}}}")[-1] == r"\frac{1}{\sqrt{2}}"
    problems = [SimpleNamespace(id=name, answer="1/2") for name in "ab"]
    ours = [
        {"id": name, "correct": True, "completion": "x", "extracted": answer}
        for name, answer in (("b", "0.5"), ("a", "1/2"))
    ]
    asked = {"gen_args_0": {"arg_0": "q"}}
    theirs = [
        {"arguments": asked, "resps": [["x"]], "filtered_resps": [answer], "exact_match": hit}
        for answer, hit in (("1/2", 1.0), ("0.5", 0.0))
    ]
    rows = bench.compare(
        SimpleNamespace(problems=problems), ours, theirs, [[7], [7]], lambda *_, **__: {"input_ids": [7]}
    )
    result = SimpleNamespace(accuracy=SimpleNamespace(value=1.0, low=0.6, high=1.0))
    assert bench.report(rows, result) == 1, "lm-eval's 50 % are outside"
    shown = capsys.readouterr().out
    assert "same prompt: 2 of 2\nsame output: 2 of 2\nsame verdict: 1 of 2" in shown
    (line,) = (line for line in shown.splitlines() if line.startswith("{"))
    assert json.loads(line)["our answer"] == json.loads(line)["its answer"] == "0.5"


def test_every_bench_has_a_small_run(root: Path) -> None:
    # tests/questions/test_filter_text.py, above, and tests/test_dart_math_rules.py
    elsewhere = {"filters", "gsm8k_rules", "lm_eval_chat", "vllm_chat", "dart_math_rules"}
    assert {path.stem for path in root.glob("bench/*.py")} == {
        *(name.split()[0] for name in SMALL),
        *elsewhere,
    }


def run(script: str, *words: str) -> str:
    """What it printed; a bar missed at this size is no failure."""
    command = [sys.executable, script, *words]
    wide = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=wide)
    assert done.returncode == 0 or "missed" in done.stdout, f"{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout
