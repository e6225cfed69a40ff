"""Every script of bench/ still runs, small: what it prints at this size says nothing about speed."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    "page": ["--output_dir={out}", "--rows=300", "--repeats=0"],
    "precision": ["--output_dir={out}", "--steps=2"],
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
def test_datatroves_inference_block_answers_every_question() -> None:
    python = os.environ.get("DATATROVE_PYTHON")
    if python is None:
        pytest.skip("DATATROVE_PYTHON is not set to an interpreter that has datatrove")
    pytest.importorskip("vllm")
    shown = run("bench/inference_block.py", "--problems=16", "--repeats=1", f"--datatrove-python={python}")
    assert "ours / theirs: " in shown


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


def test_rows_on_which_lm_eval_differs_are_printed(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    monkeypatch.syspath_prepend(str(root / "bench"))
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
    elsewhere = {
        "filters",
        "gsm8k_rules",
        "inference_block",
        "lm_eval_chat",
        "vllm_chat",
        "dart_math_rules",
        "comparisons",
        "run_all",
    }
    elsewhere |= {"datatrove_inference", "datatrove_minhash"}  # in another environment, by other benches
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


# ------------------------------------------------------------------------------- the comparisons with peers


@pytest.fixture
def bench(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script of bench/ as a module."""
    monkeypatch.syspath_prepend(str(root / "bench"))
    return importlib.import_module


def test_a_comparison_has_one_form(bench: Callable[[str], Any], tmp_path: Path, root: Path) -> None:
    comparisons = bench("comparisons")
    fast = comparisons.timing(
        "area/what/peer", "1,000 rows", "peer", "1.2", "rows/s", [30.0, 20.0, 44.0], [10.0, 10.0, 11.0]
    )
    assert (fast.ours, fast.theirs, fast.value, fast.low, fast.high, fast.count) == (30, 10, 3, 2, 4, 3)
    once = comparisons.timing("area/what/peer", "", "peer", "", "rows/s", [1.0], [3.0])
    assert (once.low, once.high, once.count) == (None, None, 1)
    path = tmp_path / "found.jsonl"
    words = [str(root / "bench/grading.py"), "--step", "2", "--comparisons", str(path)]
    comparisons.append(path, [once, fast], words)
    comparisons.append(path, [fast], [str(root / "bench/grading.py"), f"--comparisons={path}", "--reports"])
    first, second, third = map(json.loads, path.read_text().splitlines())
    assert first["value"] == 0.33333
    assert second["command"] == "python bench/grading.py --step 2"
    assert third["command"] == "python bench/grading.py --reports"
    assert {"cpu", "cores"} == set(second["machine"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", second["date"])
    comparisons.append(None, [fast], words)


JOB_SCRIPT = """
import json, os, subprocess, sys, time
how, path = sys.argv[1], sys.argv[-1]
with open(os.environ["STARTED"], "a") as file:
    print(how, file=file)
if how == "hangs":
    subprocess.Popen(["sleep", "600"])
    time.sleep(600)
if how == "raises":
    raise ValueError
if how != "nothing":
    line = {"key": f"area/{how}/peer", "value": 1.0, "command": f"python bench/{sys.argv[0][6:-3]}.py {how}"}
    with open(path, "w") as file:
        print(json.dumps(line), file=file)
sys.exit(how == "missed")
"""


def test_the_runner_goes_on_and_does_not_repeat(
    bench: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_all = bench("run_all")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/job.py").write_text(JOB_SCRIPT)
    monkeypatch.setattr(run_all, "ROOT", tmp_path)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    kinds = ("raises", "nothing", "hangs", "missed", "good")
    jobs = [
        run_all.Job(
            how, "job", (how,), (how, "full"), (0.02 if how == "hangs" else 1, 1), (), (f"a/{how}/p",)
        )
        for how in kinds
    ]
    jobs.append(run_all.Job("absent", "job", (), (), (1, 1), ("no_such_module",), ()))
    monkeypatch.setattr(run_all, "JOBS", tuple(jobs))
    words = ["--quick", f"--output_dir={tmp_path}/out", f"--results={tmp_path}/results.jsonl"]
    assert run_all.main(run_all.parser().parse_args(words)) == 1
    said = capsys.readouterr().out
    assert said.count("    failed: ") == 3
    assert "failed: it compared nothing; see" in said
    assert "it took longer than 0.02 minutes" in said
    assert "left out: no_such_module is not installed: `make setup`" in said
    known = run_all.read(tmp_path / "results.jsonl")
    assert [one["key"] for one in known] == ["area/missed/peer", "area/good/peer"]
    assert all(one["quick"] for one in known)
    (tmp_path / "started").unlink()
    run_all.main(run_all.parser().parse_args([*words, "--only", "missed", "good", "absent"]))
    assert capsys.readouterr().out.count("finished before, 1 comparisons") == 2
    assert not (tmp_path / "started").exists(), "it measured again what was finished"
    run_all.main(run_all.parser().parse_args([*words, "--only", "good", "--fresh"]))
    assert (tmp_path / "started").read_text() == "good\n"


def test_a_quick_figure_does_not_replace_a_full_one(bench: Callable[[str], Any]) -> None:
    merged = bench("run_all").merged
    full, quick = {"key": "x", "value": 1, "quick": False}, {"key": "x", "value": 2, "quick": True}
    assert merged([full], [quick]) == [full]
    assert merged([quick], [full]) == [full]
    assert merged([quick], [{**quick, "value": 3}]) == [{**quick, "value": 3}]
    assert merged([], [quick]) == [quick]


def test_every_peer_says_how_it_is_installed(
    bench: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all = bench("run_all")
    monkeypatch.setattr(run_all, "ROOT", tmp_path)
    monkeypatch.setattr(run_all, "find_spec", lambda name: None)
    monkeypatch.setenv("SCALEQUEST_DATA", str(tmp_path))
    for job in run_all.JOBS:
        why = run_all.lacking(job, quick=False)
        assert (why is None) == (set(job.needs) <= {"data"}), job.name
    assert "pip install 'lm-eval[hf]'" in run_all.lacking(run_all.JOBS[-1], quick=True)
    monkeypatch.setenv("SCALEQUEST_DATA", str(tmp_path / "none"))
    assert all(run_all.lacking(job, quick=True) for job in run_all.JOBS)
    (tmp_path / ".venv-lm-eval/bin").mkdir(parents=True)
    (tmp_path / ".venv-lm-eval/bin/python").touch()
    words = run_all.words_of(run_all.JOBS[-1], quick=True)
    assert words[-2:] == ["--lm-eval-python", ".venv-lm-eval/bin/python"]
    assert run_all.lacking(run_all.JOBS[-1], quick=True) is None


def test_every_comparison_is_shown_with_who_is_better(root: Path, bench: Callable[[str], Any]) -> None:
    bench("run_all")
    page = runpy.run_path(str(root / "scripts/peer_results.py"), run_name="peer_results")
    shared = {
        "what": "1,000 rows", "peer": "tool", "version": "2", "unit": "rows/s", "ours": 3000.0,
        "theirs": 2.0, "kind": "ratio", "count": 3, "machine": {"cpu": "A CPU", "cores": 2},
        "date": "2026-02-03", "command": "python bench/filters.py", "quick": True,
    }  # fmt: skip
    cases = {
        "ours": {"value": 1.5, "low": 1.1, "high": 2.0},
        "theirs": {"value": 0.5, "low": 0.4, "high": 0.99},
        "neither": {"value": 1.5, "low": 0.9, "high": 2.0},
    }
    for expected, numbers in cases.items():
        assert page["better"]({**shared, **numbers}) == expected
    alone = {"low": None, "high": None}
    assert [page["better"]({**shared, **alone, "value": v}) for v in (0.96, 1.06, 0.9)] == [
        "neither", "ours", "theirs",
    ]  # fmt: skip
    shares = {"kind": "difference", "unit": "%", "ours": 91.5, "theirs": 90.0}
    assert page["better"]({**shared, **shares, "value": 1.5, "low": -0.1, "high": 3.0}) == "neither"
    assert page["better"]({**shared, **shares, "kind": "accuracy", "value": 1.5, **alone}) == "–"
    found = [{**shared, **cases["theirs"], "key": "filters/x/tool"}]
    shown = page["filled"]("<!-- peers: table -->\n<!-- end of peers -->", found)
    row = next(line for line in shown.splitlines() if "1,000 rows" in line)
    cells = (
        "filters | 1,000 rows | tool 2 | 3,000 rows/s | 2.00 rows/s | 0.50 times (0.40 to 0.99; 3 repeats)"
    )
    assert row == f"| {cells} | theirs | 1, quick |"
    assert "1. 3 February 2026, 2 cores, A CPU: `python bench/filters.py`" in shown
    assert shown.count("| not measured |") == len(page["wanted"]())
    shown = page["filled"]("<!-- peers: theirs -->\n<!-- end of peers -->", found)
    assert "the other tool is better in 1 and neither in 0" in shown
