from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from evaluation_support import command, environment

from scalequest.config import ConfigError, RunOptions, build
from scalequest.evaluation.results import read_results
from scalequest.evaluation.settings import EvaluationConfig
from scalequest.evaluation.statistics import share
from scalequest.records import read_rows

Script = Callable[..., "subprocess.CompletedProcess[str]"]

LIMIT = 20


def words(model: Path, output: Path, *more: object) -> list[str]:
    """An evaluation of one model under two labels on two splits, on transformers."""
    benchmarks = ["eval/benchmarks/tinymath_test.yaml", "eval/benchmarks/tinymath_longer.yaml"]
    models = f"{{one: {model}, the other: {model}}}"
    given = [
        "--models",
        models,
        "--benchmarks",
        *benchmarks,
        "--chat_format",
        "tinymath",
        "--output_dir",
        output,
    ]
    given += [
        "--engine.name",
        "transformers",
        "--sampling.max_tokens",
        12,
        "--limit",
        LIMIT,
        "--block_size",
        4,
    ]
    return [str(word) for word in [*given, "--track", "none", *more]]


@pytest.fixture(scope="module")
def evaluated(root: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of an undisturbed evaluation, and what it printed."""
    output = tmp_path_factory.mktemp("evaluated")
    done = subprocess.run(
        command(root, "evaluate.py", *words(model_dir, output)),
        capture_output=True,
        text=True,
        env=environment(root),
        cwd=root,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


def test_every_completion_is_kept(evaluated: tuple[Path, str]) -> None:
    rows = read_rows(evaluated[0] / "one")
    assert [row["benchmark"] for row in rows] == ["tinymath_test"] * LIMIT + ["tinymath_longer"] * LIMIT
    assert len({row["prompt_sha256"] for row in rows}) == 2 * LIMIT
    assert {"completion", "finish_reason", "tokens", "extracted", "rule", "correct"} <= set(rows[0])
    assert rows == read_rows(evaluated[0] / "the other")


def test_results_say_how_they_came_about(evaluated: tuple[Path, str]) -> None:
    output, shown = evaluated
    results = read_results(output / "one" / "results.json")
    rows = read_rows(output / "one")
    assert [result.benchmark for result in results] == ["tinymath_test", "tinymath_longer"]
    for result in results:
        mine = [row for row in rows if row["benchmark"] == result.benchmark]
        assert result.n == LIMIT
        assert result.accuracy == share(sum(row["correct"] for row in mine), LIMIT)
        assert result.truncated == sum(row["finish_reason"] == "length" for row in mine) / LIMIT
        assert result.no_answer == sum(row["extracted"] is None for row in mine) / LIMIT
        assert sum(estimate.n for estimate in result.split["steps"].values()) == LIMIT
        protocol = result.protocol
        assert (protocol["engine"], protocol["dtype"], protocol["limit"]) == (
            "transformers",
            "float32",
            LIMIT,
        )
        assert protocol["engine_version"]
        assert protocol["grader"].startswith("scalequest-")
        assert protocol["sampling"] == {"temperature": 0.0, "top_p": 1.0, "max_tokens": 12}
    other = read_results(output / "the other" / "results.json")
    assert [result.fingerprint for result in other] == [result.fingerprint for result in results]
    assert "TinyMath longer" in shown
    assert len(read_rows(output)) == 4
    assert json.loads((output / "receipt.json").read_text())["finished"]


def test_it_is_not_done_twice(evaluated: tuple[Path, str], script: Script, model_dir: Path) -> None:
    output, shown = evaluated
    before = (output / "one" / "receipt.json").stat().st_mtime_ns
    again = script("evaluate.py", *words(model_dir, output))
    assert "finished before" in again.stdout
    assert again.stdout.splitlines()[-1] == shown.splitlines()[-1]
    assert (output / "one" / "receipt.json").stat().st_mtime_ns == before
    other = script("evaluate.py", *words(model_dir, output, "--truncated", "graded"), check=False)
    assert other.returncode == 2
    assert 'truncated: "wrong" -> "graded"' in other.stderr


def test_killed_and_started_again_it_gives_the_same_rows(
    evaluated: tuple[Path, str], root: Path, model_dir: Path, tmp_path: Path, script: Script
) -> None:
    process = subprocess.Popen(
        command(root, "evaluate.py", *words(model_dir, tmp_path)),
        env=environment(root),
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    parts, deadline = tmp_path / "one" / "parts", time.monotonic() + 120
    while not list(parts.glob("0*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert list(parts.glob("0*.jsonl"))
    while (held := _process(tmp_path / "one")) and time.monotonic() < deadline:
        time.sleep(0.05)  # its guard ends the model's process
    assert not held
    script("evaluate.py", *words(model_dir, tmp_path))
    for label in ("one", "the other"):
        assert read_rows(tmp_path / label) == read_rows(evaluated[0] / label)


def _process(folder: Path) -> int | None:
    """The process that a folder's lock names, if it is still there."""
    number = int((folder / ".lock").read_text().split()[1])
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    status = Path(f"/proc/{number}/status")
    return None if status.exists() and "State:\tZ" in status.read_text() else number


def test_a_model_that_fails_stops_everything_in_one_line(script: Script, tmp_path: Path) -> None:
    done = script("evaluate.py", *words(tmp_path / "nothing", tmp_path / "out"), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"only": "missing"}, "no model has the label 'missing'; there are one"),
        ({"chat_formats": {"missing": "llama3"}}, "chat_formats: no model has the label 'missing'"),
        ({"revisions": {"a": "b"}}, "revisions: no model has the label 'a'"),
        ({"models": {"a/b": "x"}}, "label 'a/b' cannot name a folder"),
        ({"models": {"data": "x"}}, "label 'data' cannot name a folder"),
        ({"sampling": {"max_token": 5}}, "did you mean 'sampling.max_tokens'"),
    ],
)
def test_mistakes(more: dict[str, object], message: str) -> None:
    given = {"models": {"one": "x"}, "benchmarks": [], "chat_format": "tinymath", "output_dir": "out"}
    with pytest.raises(ConfigError, match=message):
        build((RunOptions, EvaluationConfig), {**given, **more})


@pytest.mark.parametrize("name", ["evaluate.py", "report.py", "measure_questions.py"])
def test_help_imports_no_torch(name: str, root: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{name!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(root / 'eval' / name)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'transformers', 'vllm', 'trl', 'datasets', 'sympy', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(root), cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert "--output_dir" in done.stdout
