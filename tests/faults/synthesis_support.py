"""The data recipes as processes that can be killed within milliseconds of a chosen block.

A fork server has imported torch once, so a start costs a fork; the child runs the recipe's own `main`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from forks import context

ROOT = Path(__file__).resolve().parents[2]


def run_recipe(name: str, given: Mapping[str, Any], log: str, variables: Mapping[str, str]) -> None:
    """In the child: run a recipe's main as its script would, output into `log`."""
    import importlib.util

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(ROOT)
    os.environ.update(variables)
    import torch

    torch.set_num_threads(1)
    folder = "eval" if name == "evaluate" else "recipes"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    from scalequest.config import build
    from scalequest.stage.script import run_script

    sys.exit(run_script(script.RECIPE, *build(script.RECIPE.configs(), given)))


def start(name: str, given: Mapping[str, Any], **variables: str) -> Any:
    """Start a recipe; a process with pid, exitcode and join."""
    log = f"{given['output_dir']}.log"
    # A daemonic process may not start others, as an evaluation starts its grading processes.
    daemonic = name != "evaluate"
    process = context.Process(target=run_recipe, args=(name, dict(given), log, variables), daemon=daemonic)
    process.start()
    return process


def finish(name: str, given: Mapping[str, Any], **variables: str) -> None:
    """Run a recipe to its end."""
    process = start(name, given, **variables)
    process.join(500)
    assert process.exitcode == 0, Path(f"{given['output_dir']}.log").read_text()[-2000:]


def blocks(folder: str | Path) -> int:
    """How many blocks are on disk."""
    return sum(1 for _ in Path(folder).glob("parts/[0-9]*.jsonl"))


def until(process: Any, ready: Callable[[], bool], seconds: float = 400.0) -> bool:
    """Wait until `ready`; False where the process ended first."""
    end = time.monotonic() + seconds
    while not ready():
        if process.exitcode is not None:
            return False
        assert time.monotonic() < end, "neither ready nor ended"
        time.sleep(0.0005)
    return True


def questions(path: Path, count: int) -> Path:
    """A file of questions that the tiny model has seen the like of, and one that cannot be asked."""
    from tiny_model import stories

    rows = [{"id": f"s-{n:04d}", "question": text} for n, (text, _) in enumerate(stories(count, seed=9))]
    rows[7]["question"] += " <|end|>"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
