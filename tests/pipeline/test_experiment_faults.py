"""What goes wrong in an experiment is one line on the command line, and nothing that was there is lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fault_server import Answer, Asked, FaultServer, completion, error
from stage_support import receipt

Run = Callable[..., "subprocess.CompletedProcess[str]"]
PAIRS = [
    {"id": f"q-{n}", "query": f"What is {n} + {n}?", "response": f"It is \\boxed{{{2 * n}}}."}
    for n in range(6)
]


@pytest.fixture
def run(quick_python: str) -> Run:
    def command(*words: object) -> subprocess.CompletedProcess[str]:
        given = [quick_python, *map(str, words)]
        variables = {**os.environ, "WANDB_MODE": "disabled"}
        return subprocess.run(given, capture_output=True, text=True, env=variables, check=False)

    return command


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def errors_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


SMALL_SFT = ("recipes/sft.py", "--config", "recipes/tiny/sft.yaml", "--track", "none", "--input")
ASSEMBLE = ("recipes/assemble_dataset.py", "--config", "recipes/tiny/assemble_dataset.yaml", "--parts")


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        (PAIRS, (*ASSEMBLE, "[{{source: {file}, rows: 600}}]"), "asks for 600 rows, and 6 are left"),
        (PAIRS, (*SMALL_SFT, "{file}", "--draw", "7"), "draw"),
        (PAIRS, (*SMALL_SFT, "{file}[:7]"), "7 rows requested, but there are only 6"),
        ([{"sum": "1 + 1?"}], (*SMALL_SFT, "{file}"), "row 1: no 'query' (it has sum)"),
        ([PAIRS[0], PAIRS[1], PAIRS[0]], (*ASSEMBLE, "[{{source: {file}}}]"), "duplicate id 'q-0'"),
    ],
    ids=["quota", "draw", "first rows", "column", "duplicate id"],
)
def test_an_input_that_does_not_fit(
    run: Run, tmp_path: Path, rows: list[dict[str, Any]], words: tuple[str, ...], said: str
) -> None:
    file = written(tmp_path / "pairs.jsonl", rows)
    before = file.read_bytes()
    done = run(*(word.format(file=file) for word in words), "--output_dir", tmp_path / "made")
    (line,) = errors_of(done)
    assert done.returncode == 2
    assert said in line
    assert file.read_bytes() == before
    assert not (tmp_path / "made/receipt.json").exists() or not receipt(tmp_path / "made")["finished"]


def test_a_benchmark_whose_checksum_differs(run: Run, tmp_path: Path) -> None:
    """It is neither evaluated on nor compared with."""
    written(tmp_path / "test.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    benchmark = tmp_path / "test.yaml"
    benchmark.write_text(f"name: test\nsource: test.jsonl\nrows: 1\nsha256: {'a' * 64}\n")
    pairs = written(tmp_path / "pairs.jsonl", PAIRS)
    for words in (
        ("eval/evaluate.py", "--config", "recipes/tiny/evaluate.yaml", "--benchmarks", benchmark),
        (*ASSEMBLE, f"[{{source: {pairs}}}]", "--contamination.benchmarks", benchmark),
        ("scripts/dataset_statistics.py", "--input", pairs, "--contamination.benchmarks", benchmark),
    ):
        done = run(*words, "--output_dir", tmp_path / "made")
        (line,) = errors_of(done)
        assert done.returncode == 2
        assert "contains different problems: 1 rows with sha256" in line
        assert not list(tmp_path.glob("made/data/*"))


def verdict(one: Asked) -> Answer:
    return completion("Conclusion: Yes", read=100, generated=20)


def busy_at_first(one: Asked) -> Answer:
    return error(429, retry_after="0") if one.attempt == 0 else verdict(one)


def nonsense_from_eight_on(one: Asked) -> Answer:
    return (
        verdict(one) if int(one.text.rpartition("What is ")[2].partition(" ")[0]) < 8 else completion("Moo.")
    )


def test_a_judge_that_answers_nonsense_or_429(run: Run, tmp_path: Path) -> None:
    """Nonsense ends the stage; the same command goes on with a better judge, and no row is lost."""
    questions = [{"id": f"q-{n:03d}", "question": f"What is {n} + {n}?"} for n in range(32)]
    file = written(tmp_path / "questions.jsonl", questions)

    def words(url: str, folder: str) -> list[object]:
        rule = {"judge": "server", "prompt": "recipes/prompts/solvability_judge.yaml"}
        server = {"url": url, "model": "judge", "max_wait": 0.05, "concurrency": 1}
        return [
            *("recipes/filter_questions.py", "--input", file, "--output_dir", tmp_path / folder),
            *("--steps", "[solvability]", "--solvability", json.dumps(rule), "--server", json.dumps(server)),
            *("--block_size", 4, "--track", "none", "--gates.after", 16, "--gates.junk", 0.3, "--seed", 1),
        ]

    with FaultServer(busy_at_first).running() as server:
        assert run(*words(server.url, "whole")).returncode == 0
    assert receipt(tmp_path / "whole")["kept"] == 32
    asked: list[str] = []
    with FaultServer(nonsense_from_eight_on).running() as server:
        done = run(*words(server.url, "broken"))
        asked += [one.text for one in server.asked]
    (line,) = errors_of(done)
    assert done.returncode != 0
    assert "gates.junk" in line
    assert not receipt(tmp_path / "broken")["finished"]
    with FaultServer(verdict).running() as server:
        done = run(*words(server.url, "broken"))
        again = [one.text for one in server.asked]
    assert done.returncode == 0, done.stderr
    good = [text for text in asked if int(text.rpartition("What is ")[2].partition(" ")[0]) < 8]
    assert len(good) == 8
    assert not set(good) & set(again), "an answer that was good is not asked for again"
    made = receipt(tmp_path / "broken")
    assert (made["rows_in"], made["kept"], made["dropped"]) == (32, 24, {"verdict_unparsed": 8})
