"""Every script of bench/ still runs, small: what it prints at this size says nothing about speed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_every_bench_has_a_small_run(root: Path) -> None:
    # tests/questions/test_filter_text.py, above, and tests/test_dart_math_rules.py
    elsewhere = {"filters", "gsm8k_rules", "dart_math_rules"}
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
