"""The control that takes as many pairs of each length as a filter left."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

Script = Callable[..., "subprocess.CompletedProcess[str]"]


def put(path: Path, sentences: Sequence[int]) -> Path:
    """Write one pair per number of sentences."""
    rows = (
        {"id": f"p-{i}", "query": "Ann has 3.5 kg. " * (n - 1) + "How many?", "response": "4", "answer": "4"}
        for i, n in enumerate(sentences)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_first_pairs_of_each_length_are_taken(tmp_path: Path, script: Script) -> None:
    source, like = put(tmp_path / "all.jsonl", [3, 4, 3, 2, 3, 4]), put(tmp_path / "few.jsonl", [4, 3, 3])
    out = tmp_path / "out"
    done = script("recipes/tiny/match_lengths.py", "--input", source, "--like", like, "--output_dir", out)
    taken = [json.loads(line)["id"] for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert taken == ["p-0", "p-1", "p-2"]
    assert "3 pairs, by number of sentences: 2 of 3, 1 of 4" in done.stdout


def test_too_few_of_a_length_are_refused(tmp_path: Path, script: Script) -> None:
    source, like = put(tmp_path / "all.jsonl", [3, 3]), put(tmp_path / "few.jsonl", [3, 5, 5])
    out = tmp_path / "out"
    refused = script(
        "recipes/tiny/match_lengths.py", "--input", source, "--like", like, "--output_dir", out, check=False
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "2 pairs of 5 sentences too few" in refused.stderr
    assert not out.exists()


def test_rows_that_are_no_pairs_are_refused(tmp_path: Path, script: Script) -> None:
    like, out = put(tmp_path / "few.jsonl", [3]), tmp_path / "out"
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"id": "q-0", "question": "How many?"}\n', encoding="utf-8")
    refused = script(
        "recipes/tiny/match_lengths.py",
        *("--input", questions, "--like", like, "--output_dir", out),
        check=False,
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "row 1: no 'query'" in refused.stderr
