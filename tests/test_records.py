from __future__ import annotations

import datetime
import gzip
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalequest.config import ConfigError
from scalequest.records import (
    model_fingerprint,
    read_columns,
    read_inputs,
    read_rows,
    require,
    row_seed,
    source_fingerprint,
)

ROWS = [{"id": "a", "problem": "1 + 1?", "level": 3}, {"id": "b", "problem": "½ of\u2028two?", "level": None}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def test_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "c.json").write_text(json.dumps(ROWS, indent=1))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    (tmp_path / "e.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n") + b"\n  \n")
    for path in sorted(tmp_path.iterdir()):
        assert read_rows(path) == ROWS
        assert read_rows(str(path), limit=1) == ROWS[:1]
        assert read_rows(f"{path}[:1]") == read_rows(f"{path}[:5]", limit=1) == ROWS[:1]
        assert source_fingerprint(f"{path}[:1]") == source_fingerprint(path) + "[:1]"


def test_columns_are_renamed_and_others_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    rows = read_columns(tmp_path / "a.jsonl", "question", columns={"question": "problem"})
    assert rows[0] == {"id": "a", "question": "1 + 1?", "level": 3}
    with pytest.raises(ConfigError, match=r"a\.jsonl: row 1: no 'question' \(it has id, problem, level\)"):
        read_columns(tmp_path / "a.jsonl", "question", columns={"question": "query"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LINES + b'{"id": "c", "pro', "line 3: not JSON"),
        (LINES + b"[1]\n", "line 3: expected an object, got list"),
        (b'{"id": "\\ud83d"}\n', "line 1: not JSON: .*surrogates"),
        (b'{"id": "\xff"}\n', "line 1: not JSON"),
        (b"[" * 100_000 + b"\n", "line 1: not JSON"),
        (b'{"id": "\xed\xa0\xbd"}\n', "line 1: not JSON: 'utf-8' codec"),  # half of a pair, as bytes
        (LINES + b'{"id": ' + b"[" * 40 + b"]" * 40 + b"}\n", "line 3: not JSON: nested more than 32"),
        (LINES + '{"id": "a"}'.encode("utf-16"), "line 3: not JSON"),
        (b'{"id": "\xc0\x80"}\n', "line 1: not JSON"),
        (b'{"id": ' + b"9" * 5_000 + b"}\n", "line 1: not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"a\.jsonl: {said}") as caught:
        read_rows(tmp_path / "a.jsonl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ['{"id": "\\ud83d"}', '{"id": ' + "[" * 40 + "]" * 40 + "}", "5"])
def test_a_broken_row_of_a_list_is_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "a.json").write_text(f'[{{"id": "\\u00e9"}}, {row}]')
    with pytest.raises(ConfigError, match=r"a\.json: row 2: "):
        read_rows(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"b\.json: not JSON"):
        read_rows(tmp_path / "b.json")


@pytest.mark.parametrize("before", [0, 1_500])
@pytest.mark.parametrize("inside", [False, True])
def test_a_value_of_parquet_that_cannot_be_read_is_named(tmp_path: Path, before: int, inside: bool) -> None:
    values = pa.array([b"ok"] * before + [b"\xff\xfe"])
    column = pa.Array.from_buffers(pa.string(), len(values), values.buffers())
    if inside:
        column = pa.ListArray.from_arrays(list(range(len(values) + 1)), column)
    pq.write_table(pa.table({"id": ["a"] * len(values), "question": column}), tmp_path / "a.parquet")
    said = rf"a\.parquet: row {before + 1}: column 'question' cannot be read: 'utf-8' codec"
    with pytest.raises(ConfigError, match=said):
        read_rows(tmp_path / "a.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: duplicate column name 'a'"):
        read_rows(tmp_path / "a.parquet")


@pytest.mark.parametrize("look", [read_rows, source_fingerprint, model_fingerprint])
def test_a_name_that_is_too_long_is_one_line(look: Any) -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        look("x" * 5_000)


def test_dates_and_decimals_are_text(tmp_path: Path) -> None:
    """As JSON files hold them, so that they can go on into any stage's data."""
    day, moment = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3, 4, 5)
    row = {"question": "q", "day": day, "at": [moment], "price": Decimal("1.50"), "of": {"day": day}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (read,) = read_inputs([str(tmp_path / "a.parquet")], "question", without=())
    assert read == {
        "id": "a-00000000", "question": "q", "day": "2024-01-02", "at": ["2024-01-02T03:04:05"],
        "price": "1.50", "of": {"day": "2024-01-02"},
    }  # fmt: skip


def test_a_column_of_bytes_is_found_before_the_stage_has_run(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"question": "q", "image": b"\xff"}]), tmp_path / "a.parquet")
    with pytest.raises(
        ConfigError, match=r"a\.parquet: column 'image' has type binary, which rows do not support"
    ):
        read_inputs([str(tmp_path / "a.parquet")], "question", without=())
    assert read_inputs([str(tmp_path / "a.parquet")], "question", without=("image",))


@pytest.mark.parametrize("source", ["hub:owner/name", "hub:owner/name[:1]", "hub:owner/name@main:train"])
def test_the_hub_is_not_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    (tmp_path / "owner/name/train.jsonl").write_bytes(LINES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"hub:owner/name.*: cannot be loaded"):
        read_rows(source)


def test_a_share_of_a_source_is_exact_or_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    number = len(ROWS)
    assert len(read_rows(f"{tmp_path / 'a.jsonl'}[:{number}]")) == number
    with pytest.raises(
        ConfigError, match=rf"a\.jsonl\[:600\]: 600 rows requested, but there are only {number}"
    ):
        read_rows(f"{tmp_path / 'a.jsonl'}[:600]")
    assert len(read_rows(f"{tmp_path / 'a.jsonl'}[:600]", limit=600)) == number  # a trial run has fewer


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"id": row_seed(1, "x", i)}).encode() + b"\n" for i in range(5_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-2_000])
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz: unreadable after line \d{3,}"):
        read_rows(tmp_path / "a.jsonl.gz")
    (tmp_path / "b.jsonl.gz").write_bytes(lines)
    with pytest.raises(ConfigError, match="unreadable: Not a gzipped file"):
        read_rows(tmp_path / "b.jsonl.gz")
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="not a readable parquet file"):
        read_rows(tmp_path / "c.parquet")
    (tmp_path / "d.json").write_bytes(b"[" + LINES)
    with pytest.raises(ConfigError, match=r"d\.json: not JSON"):
        read_rows(tmp_path / "d.json")


def test_what_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_rows(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="no receipt"):
        read_rows(tmp_path)
    (tmp_path / "a.xlsx").write_text("id\n")
    with pytest.raises(
        ConfigError, match=r"a\.xlsx: expected a stage folder or a file that ends in \.jsonl, "
    ):
        read_rows(tmp_path / "a.xlsx")
    (tmp_path / "receipt.json").write_text('{"stage": "qft", "finished": false}')
    with pytest.raises(ConfigError, match="the stage 'qft' is not finished"):
        read_rows(tmp_path)
    with pytest.raises(ConfigError, match="not finished"):
        source_fingerprint(tmp_path)
    with pytest.raises(ConfigError, match="expected hub:owner/name"):
        read_rows("hub:gsm8k")
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    for source in ("$NO_SUCH_FOLDER/a.jsonl", "${NO_SUCH_FOLDER}/a.jsonl"):
        with pytest.raises(ConfigError, match="environment variable NO_SUCH_FOLDER is not set"):
            read_rows(source)


def test_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    assert read_rows("$SOME_DATA/a.jsonl") == ROWS
    assert source_fingerprint("${SOME_DATA}/a.jsonl") == source_fingerprint(tmp_path / "a.jsonl")


@pytest.mark.parametrize(("name", "rows"), [("gsm8k_train", 7473), ("math_train", 7500)])
def test_the_papers_questions(name: str, rows: int) -> None:
    if not Path(os.environ.get("SCALEQUEST_DATA", "/nowhere")).is_dir():
        pytest.skip("SCALEQUEST_DATA is not set to a folder")
    assert len(read_rows(f"$SCALEQUEST_DATA/{name}.jsonl.gz")) == rows


def test_a_missing_value_is_named() -> None:
    row = {"id": "a", "question": None, "answer": ""}
    require(row, "id", "answer", source="x.jsonl", index=6)
    with pytest.raises(ConfigError, match=r"x\.jsonl: row 7: no 'question' \(it has id, answer\)"):
        require(row, "id", "question", source="x.jsonl", index=6)


def test_seeds_are_stable_apart_and_fit_63_bits() -> None:
    assert row_seed(42, "generate_questions", 7) == 4913213508026756738
    seeds = [
        row_seed(42, stage, part) for stage in ("a", "b") for part in (*range(500), *map(str, range(500)))
    ]
    assert len(set(seeds)) == 2_000
    assert row_seed(1, "a", 2, 3) != row_seed(1, "a", 23)
    assert 0 <= min(seeds) < 2**58
    assert 2**62 < max(seeds) < 2**63


def test_a_model_is_its_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no weights"):
        model_fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    weights = bytearray(3 << 20)
    (tmp_path / "model.safetensors").write_bytes(weights)
    seen = {model_fingerprint(tmp_path)}
    for position in (0, -1):
        weights[position] = 1
        (tmp_path / "model.safetensors").write_bytes(weights)
        seen.add(model_fingerprint(tmp_path))
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    seen.add(model_fingerprint(tmp_path))
    assert len(seen) == 4
    (tmp_path / "README.md").write_text("card")
    (tmp_path / "checkpoint-3").mkdir()
    assert model_fingerprint(tmp_path) in seen


def test_a_model_of_the_hub_is_its_revision() -> None:
    assert model_fingerprint("Qwen/Qwen2-Math-7B", "abc") == "hub:Qwen/Qwen2-Math-7B@abc"
    with pytest.raises(ConfigError, match="no such model folder"):
        model_fingerprint("recipes/typo")  # `recipes` is a folder here
    for path in ("/no/such/model", "./no-such-model", "no/such/model"):
        with pytest.raises(ConfigError, match="no such model folder"):
            model_fingerprint(path)


def test_importing_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'trl', 'vllm'}"
    script = f"import sys, scalequest.stage.folder; print({heavy} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout == "set()\n"


def test_inputs_of_a_stage_are_read_one_after_the_other(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text('{"problem": "a"}\n{"problem": "b"}\n')
    two.write_text('{"id": "x", "question": "c"}\n{"id": "x", "question": "d"}\n')
    columns = {"question": "problem"}
    rows = read_inputs([str(one), str(two)], "question", columns=columns, limit=3)
    assert rows == [
        {"id": "one-00000000", "question": "a"},
        {"id": "one-00000001", "question": "b"},
        {"id": "x", "question": "c"},
    ]
    with pytest.raises(ConfigError, match="row 2: duplicate id 'x'"):
        read_inputs([str(one), str(two)], "question", columns=columns)
    assert [row["question"] for row in read_inputs([str(one)], "question")] == ["a", "b"], "the usual name"
    with pytest.raises(ConfigError, match="no 'answer'"):
        read_inputs([str(one)], "question", "answer")
    two.write_text('{"question": 5}\n')
    with pytest.raises(ConfigError, match=r"two.jsonl: row 1: 'question' must be a string, got 5"):
        read_inputs([str(two)], "question")


def test_a_column_of_two_types_is_found_before_the_stage_has_run(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("".join(f'{{"id": {n}, "question": "q", "level": {n}, "old": 1}}\n' for n in range(1500)))
    two.write_text('{"id": "x", "question": "q", "level": 2.5, "old": [1]}\n')
    rows = read_inputs([str(one), str(two)], "question", without=("old",))
    assert [row["id"] for row in rows[-2:]] == ["1499", "x"], "numbers and names are one column"
    assert all("old" not in row for row in rows)
    with pytest.raises(ConfigError, match=r"two\.jsonl: column 'old' mixes types"):
        read_inputs([str(one), str(two)], "question", without=())
    assert len(read_inputs([str(one), str(two)], "question")) == 1501, "it does not matter where none goes on"


def test_a_branch_on_the_hub_is_identified_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the hub; offline by the local copy; where neither is there the branch's name is all there is."""
    from huggingface_hub import HfApi, constants

    commit, other = "a" * 40, "b" * 40
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert source_fingerprint("hub:owner/name@v1:test") == "hub:owner/name/@v1:test"
    assert "owner/name: cannot determine the commit of 'v1'" in caplog.text
    for kind, ref in (("models", "main"), ("datasets", "v1")):
        refs = tmp_path / f"{kind}--owner--name" / "refs"
        refs.mkdir(parents=True)
        (refs / ref).write_text(commit)
    assert source_fingerprint("hub:owner/name@v1:test") == f"hub:owner/name/@{commit}:test"
    assert model_fingerprint("owner/name") == f"hub:owner/name@{commit}"
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **given: SimpleNamespace(sha=other, **given))
    assert model_fingerprint("owner/name") == f"hub:owner/name@{other}"
    assert model_fingerprint("owner/name", "c" * 40) == f"hub:owner/name@{'c' * 40}"
