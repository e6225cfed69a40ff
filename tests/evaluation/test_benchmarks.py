from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalequest.config import ConfigError
from scalequest.evaluation.benchmarks import load_benchmark, sha256_of_rows
from scalequest.evaluation.problems import BenchmarkProblem

ROWS = [
    {"question": " What is 1 + 1? ", "answer": "It is\n#### 2", "steps": 1},
    {"question": "3?", "answer": "#### 3"},
]


def written(folder: Path, *lines: str, rows: int = 2, also: tuple[str, ...] = ()) -> Path:
    (folder / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    digest = sha256_of_rows(ROWS, "question", "answer", *also)
    path = folder / "small.yaml"
    path.write_text(
        "\n".join(["name: small", "source: small.jsonl", f"rows: {rows}", f"sha256: {digest}", *lines])
    )
    return path


SIZES = {
    **{"gsm8k": 1319, "math": 5000, "math500": 500, "college_math": 2818, "olympiadbench": 675},
    **{"svamp": 1000, "asdiv": 2215, "minerva_math": 272, "theoremqa": 747, "gaokao2023en": 385},
    **{"amc23": 40, "aime24": 30},
}


@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_every_benchmark_with_data(name: str, root: Path, data_dir: Path) -> None:
    benchmark = load_benchmark(root / f"eval/benchmarks/{name}.yaml")
    assert (benchmark.name, len(benchmark.problems)) == (name, SIZES[name])
    patched = load_benchmark(root / f"eval/benchmarks/{name}.yaml", patches=True)
    assert all(problem.question and problem.answer for problem in patched.problems)


def test_every_benchmark_has_a_test(root: Path) -> None:
    files = {path.stem for path in (root / "eval/benchmarks").glob("*.yaml")}
    assert {name for name in files if not name.startswith("tinymath_")} == set(SIZES)


@pytest.mark.data
def test_references_as_they_would_be_written(root: Path, data_dir: Path) -> None:
    def first(name: str) -> BenchmarkProblem:
        return load_benchmark(root / f"eval/benchmarks/{name}.yaml", limit=1).problems[0]

    svamp = first("svamp")
    assert svamp.answer == "145"
    assert " into 93 groups. How big is each" in svamp.question  # its body has no full stop
    assert first("asdiv").answer == "9"
    assert first("minerva_math").answer == "1.6"
    assert first("aime24").answer == "204"
    theorem = load_benchmark(root / "eval/benchmarks/theoremqa.yaml")
    lists = [p for p in theorem.problems if p.metadata["Answer_type"] == "list of integer"]
    assert lists[0].answer_rule.several
    assert "," in lists[0].answer
    for kind, relative in (("integer", 0.0), ("float", 0.04)):
        rules = [p.answer_rule for p in theorem.problems if p.metadata["Answer_type"] == kind]
        assert {rule.relative for rule in rules} == {relative}


@pytest.mark.data
def test_olympiadbench_has_its_own_rules(root: Path, data_dir: Path) -> None:
    problems = load_benchmark(root / "eval/benchmarks/olympiadbench.yaml").problems
    assert sum(problem.answer_rule.several for problem in problems) == 94
    assert sum(problem.answer_rule.unit is not None for problem in problems) == 8
    assert [p.answer_rule.tolerance for p in problems if p.answer_rule.tolerance is not None] == [0.1]


@pytest.mark.data
def test_patches_are_applied_on_request_and_said(root: Path, data_dir: Path) -> None:
    plain = load_benchmark(root / "eval/benchmarks/math.yaml")
    patched = load_benchmark(root / "eval/benchmarks/math.yaml", patches=True)
    changed = [(old, new) for old, new in zip(plain.problems, patched.problems, strict=True) if old != new]
    assert len(changed) == 12
    assert plain.patched is None
    assert patched.patched is not None
    assert patched.sha256 == plain.sha256
    by_id = {new.id: new for _, new in changed}
    assert by_id["test/414"].answer == "-2,1"
    assert (by_id["test/2716"].answer, by_id["test/2716"].also) == ("(10,0)", ("(0,0)",))


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


def test_names_and_ids_that_break_later(tmp_path: Path) -> None:
    path = written(tmp_path)
    for name in ("a/b", ".a", "''"):
        path.write_text(path.read_text().replace("name: small", f"name: {name}"))
        with pytest.raises(ConfigError, match=r"small.yaml: name: '.*' cannot be used as a file name"):
            load_benchmark(path)
        path = written(tmp_path)
    rows = [{"question": "1?", "answer": "1", "n": 7}, {"question": "2?", "answer": "2", "n": 7}]
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    digest = sha256_of_rows(rows, "question", "answer")
    lines = ["name: small", "source: small.jsonl", "rows: 2", f"sha256: {digest}", "id: n"]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"not unique: rows 1 and 2 of .*small.jsonl are both '7'"):
        load_benchmark(path)


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
    with pytest.raises(
        ConfigError, match=r"small.yaml: .* contains different problems: 2 rows .* expected 3"
    ):
        load_benchmark(written(tmp_path, rows=3))
    path = written(tmp_path)
    (tmp_path / "small.jsonl").write_text(
        json.dumps(ROWS[0]) + "\n" + json.dumps({**ROWS[1], "answer": "4"}) + "\n"
    )
    with pytest.raises(ConfigError, match="contains different problems"):
        load_benchmark(path)


def test_a_wrong_key_or_column_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'anser'; did you mean 'answer'"):
        load_benchmark(written(tmp_path, "anser: gold"))
    with pytest.raises(ConfigError, match="row 1: no 'gold'"):
        load_benchmark(written(tmp_path, "answer: gold"))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("metadata: [stpes]", "metadata"),
        ("where: {stpes: 1}", "where"),
        ("judging: {tolerance: stpes}", "judging"),
    ],
)
def test_a_column_that_no_row_has_is_refused(line: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"small.yaml: {key}: no row of .* has a column 'stpes'"):
        load_benchmark(written(tmp_path, line))


def test_the_sum_covers_what_a_verdict_depends_on(tmp_path: Path) -> None:
    path = written(tmp_path, "judging: {tolerance: steps}", also=("steps",))
    assert [problem.answer_rule.tolerance for problem in load_benchmark(path).problems] == [1.0, None]
    (tmp_path / "small.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [{**ROWS[0], "steps": 2}, ROWS[1]])
    )
    with pytest.raises(ConfigError, match="contains different problems"):
        load_benchmark(path)


def test_parts_of_an_answer_and_rows(tmp_path: Path) -> None:
    found = load_benchmark(written(tmp_path, "where: {steps: 1}", "answer_box: false", also=("steps",)))
    assert [problem.id for problem in found.problems] == ["00000"]
    with pytest.raises(ConfigError, match="row 1: the answer does not contain a box"):
        load_benchmark(written(tmp_path, "answer_box: true"))
    (tmp_path / "fix.yaml").write_text("corrections: [{id: '00007', answer: '1', why: wrong}]")
    with pytest.raises(ConfigError, match="no problem has the id '00007'"):
        load_benchmark(written(tmp_path, "patch: fix.yaml"), patches=True)


def test_missing_data_name_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.delenv("SCALEQUEST_DATA", raising=False)
    with pytest.raises(
        ConfigError, match=r"SCALEQUEST_DATA is not set; .*README.md lists .*; or set hub: true to read"
    ):
        load_benchmark(root / "eval/benchmarks/gsm8k.yaml")
