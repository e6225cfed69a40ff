from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalequest.config import ConfigError
from scalequest.evaluation.benchmarks import content_sha256, load_benchmark

ROWS = [
    {"question": " What is 1 + 1? ", "answer": "It is\n#### 2", "steps": 1},
    {"question": "3?", "answer": "#### 3"},
]


def written(folder: Path, *lines: str, rows: int = 2) -> Path:
    (folder / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    digest = content_sha256(ROWS, "question", "answer")
    path = folder / "small.yaml"
    path.write_text(
        "\n".join(["name: small", "source: small.jsonl", f"rows: {rows}", f"sha256: {digest}", *lines])
    )
    return path


def test_every_benchmark_of_the_repository_is_what_its_file_says(root: Path) -> None:
    for path in sorted((root / "eval/benchmarks").glob("tinymath*.yaml")):
        benchmark = load_benchmark(path)
        assert benchmark.name == path.stem
        assert len(benchmark.problems) == 1000
        assert all(problem.answer.isdigit() and problem.metadata["steps"] for problem in benchmark.problems)


@pytest.mark.data
def test_gsm8k_and_math(root: Path, data_dir: Path) -> None:
    gsm8k = load_benchmark(root / "eval/benchmarks/gsm8k.yaml")
    assert (len(gsm8k.problems), gsm8k.problems[0].answer) == (1319, "18")
    math = load_benchmark(root / "eval/benchmarks/math.yaml", limit=3)
    assert [problem.id for problem in math.problems] == ["test/0", "test/1", "test/2"]
    assert math.limit == 3
    assert math.problems[0].metadata == {"level": "Level 3", "subject": "Algebra"}


def test_the_answer_stands_behind_its_marker(tmp_path: Path) -> None:
    benchmark = load_benchmark(written(tmp_path, "answer_after: '####'", "metadata: [steps]"))
    first, second = benchmark.problems
    assert (first.id, first.question, first.answer, first.metadata) == (
        "00000",
        "What is 1 + 1?",
        "2",
        {"steps": 1},
    )
    assert (second.answer, second.metadata) == ("3", {"steps": None})


def test_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"small.yaml: .* holds other problems: 2 rows .* expected 3"):
        load_benchmark(written(tmp_path, rows=3))
    path = written(tmp_path)
    (tmp_path / "small.jsonl").write_text(
        json.dumps(ROWS[0]) + "\n" + json.dumps({**ROWS[1], "answer": "4"}) + "\n"
    )
    with pytest.raises(ConfigError, match="holds other problems"):
        load_benchmark(path)


def test_a_wrong_key_or_column_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'anser'; did you mean 'answer'"):
        load_benchmark(written(tmp_path, "anser: gold"))
    with pytest.raises(ConfigError, match="row 1: no 'gold'"):
        load_benchmark(written(tmp_path, "answer: gold"))


def test_missing_data_name_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.delenv("SCALEQUEST_DATA", raising=False)
    with pytest.raises(ConfigError, match="SCALEQUEST_DATA is not set"):
        load_benchmark(root / "eval/benchmarks/gsm8k.yaml")
