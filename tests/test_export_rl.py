"""The export for RL trainers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError

ROWS = [
    {"id": "a", "question": "2 + 2?", "answers": ["4", "\\frac{8}{2}", "5", None], "reference": "4"},
    {"id": "b", "question": "3 + 3?", "answers": [None, None], "reference": "6"},
    {"id": "c", "query": "4 + 4?", "answer": "8", "agreement": 0.75, "reference": "8"},
]


@pytest.fixture(scope="module")
def script() -> Any:
    path = Path(__file__).parents[1] / "scripts" / "export_rl.py"
    spec = importlib.util.spec_from_file_location("export_rl", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["export_rl"] = module
    spec.loader.exec_module(module)
    return module


def export(script: Any, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Both files, which have to hold the same rows."""
    import pyarrow.parquet as pq

    source = folder / "rows.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    script.main(script.ExportConfig(input=[str(source)], output_dir=str(folder / "out"), **options))
    rows = [json.loads(line) for line in (folder / "out" / "train.jsonl").read_text().splitlines()]
    assert pq.read_table(folder / "out" / "train.parquet").to_pylist() == rows
    return rows


def test_questions_go_out_with_answer_pass_rate_and_agreement(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, third = export(script, tmp_path)
    assert first["prompt"] == [{"role": "user", "content": "2 + 2?"}]
    assert (first["answer"], first["pass_rate"], first["agreement"]) == ("4", 0.5, 0.5)
    assert third["prompt"][0]["content"] == "4 + 4?"
    assert (third["answer"], third["pass_rate"], third["agreement"]) == ("8", None, 0.75)
    assert "2 of 3 rows" in capsys.readouterr().out


def test_a_reference_is_what_is_graded_against(script: Any, tmp_path: Path) -> None:
    rows = export(script, tmp_path, reference="reference")
    assert [(row["answer"], row["pass_rate"]) for row in rows] == [("4", 0.5), ("6", 0.0), ("8", None)]
    with pytest.raises(ConfigError, match="has no column 'solution'"):
        export(script, tmp_path, reference="solution")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.csv", "Problem,Expected Answer\n2 + 2?,4\n3 + 3?,\n"),
        (
            "own.jsonl",
            '{"instruction": "2 + 2?", "solution": "Two and two.\\n#### 4"}\n{"instruction": "?"}\n',
        ),
    ],
)
def test_usual_names_of_columns_are_recognised(
    script: Any, tmp_path: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    script.main(script.ExportConfig(input=[str(tmp_path / name)], output_dir=str(tmp_path / "out")))
    (row,) = (json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text().splitlines())
    assert (row["prompt"][0]["content"], row["answer"]) == ("2 + 2?", "4")
    assert "1 of 2 rows" in capsys.readouterr().out


def test_a_column_that_cannot_be_guessed_is_said(script: Any, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("prompt,problem,answer\nSolve.,2 + 2?,4\n")
    given = {"input": [str(tmp_path / "own.csv")], "output_dir": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match="'question' may be column 'prompt' or 'problem'"):
        script.main(script.ExportConfig(**given))
    script.main(script.ExportConfig(**given, columns={"question": "problem"}))
    assert '"2 + 2?"' in (tmp_path / "out/train.jsonl").read_text()
