"""A finished stage's folder is read as its stage has left it, or not at all."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from scalequest.config import ConfigError
from scalequest.evaluation.funnel import build_funnel, read_stages
from scalequest.evaluation.protocol import read_receipt
from scalequest.pipeline import status_table
from scalequest.records import check_rows, model_fingerprint, read_dropped, read_rows, source_fingerprint
from scalequest.stage.folder import Stage, StageError

OLD = Path(__file__).parent / "data/old_stage"  # as it was written before receipts named files
ONE = "data/train-00000-of-00003.parquet"


def made(folder: Path, rows: int = 30, **settings: Any) -> Path:
    stage = Stage.open(folder, **{"name": "demo", "version": 1, "config": {}, "fingerprint": {}} | settings)
    kept = [{"id": f"q-{n}", "question": f"What is {n}?"} for n in range(rows)]
    stage.blocks.write(0, kept, [({"id": "d", "question": ""}, "empty")])
    stage.finish(rows_in=rows + 1, card="")
    return folder


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage of 30 rows in three files, and one that it dropped."""
    monkeypatch.setattr("scalequest.stage.block_files.ROWS_PER_FILE", 10)
    return made(tmp_path / "whole")


def cut(path: Path, rows: int) -> None:
    pq.write_table(pq.read_table(path).slice(0, rows), path, compression="zstd")


def swap(folder: Path) -> None:
    one, other = folder / ONE, folder / ONE.replace("00000-", "00001-")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def other_rows(folder: Path) -> None:
    """Bytes of the same length."""
    path = folder / ONE
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / ONE).unlink(), f"{ONE} with 10 rows is not there"),
        (lambda folder: shutil.rmtree(folder / "data"), f"{ONE} with 10 rows is not there"),
        (
            lambda folder: shutil.copy(folder / ONE, folder / "data/x.parquet"),
            "data/x.parquet was not written",
        ),
        (lambda folder: cut(folder / ONE, 4), f"{ONE} has [0-9]+ bytes instead of"),
        (lambda folder: (folder / ONE).write_bytes(b""), f"{ONE} has 0 bytes"),
        (other_rows, f"{ONE} has different content"),
        (swap, "data/train-0000.*(has different content|instead of)"),
    ],
)
def test_rows_that_are_lost_or_altered_are_not_read(whole: Path, damage: Any, said: str) -> None:
    assert len(read_rows(whole)) == 30
    damage(whole)
    with pytest.raises(ConfigError, match=f"changed since its stage finished: {said}.*--fresh") as caught:
        read_rows(whole)
    with pytest.raises(ConfigError, match=f"changed since its stage finished: {said}"):
        check_rows(whole)
    assert "\n" not in str(caught.value)


def test_the_first_rows_are_read_where_all_files_are_there(whole: Path) -> None:
    assert len(read_rows(f"{whole}[:5]")) == 5
    (whole / ONE.replace("00000-", "00002-")).unlink()
    with pytest.raises(ConfigError, match="is missing"):
        read_rows(f"{whole}[:5]")


def test_dropped_rows_are_counted_too(whole: Path) -> None:
    assert [row["reason"] for row in read_dropped(whole)] == ["empty"]
    shutil.rmtree(whole / "dropped")
    with pytest.raises(ConfigError, match=r"dropped/train-00000-of-00001\.parquet with 1 rows is missing"):
        read_dropped(whole)


@pytest.mark.parametrize("part", ["data", "dropped"])
def test_no_bit_of_the_rows_can_change_unseen(tmp_path: Path, part: str) -> None:
    made(tmp_path / "out", rows=300)
    read: Callable[[Path], list[Any]] = read_rows if part == "data" else read_dropped
    path, rows, rng = (
        tmp_path / f"out/{part}/train-00000-of-00001.parquet",
        read(tmp_path / "out"),
        random.Random(3),
    )
    content = path.read_bytes()
    for _ in range(200):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with contextlib.suppress(ConfigError):
            assert read(tmp_path / "out") == rows


def test_a_folder_of_before_is_read_if_its_rows_are_as_many(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    assert [row["id"] for row in read_rows(folder)] == ["q-1", "q-2", "q-4", "q-5"]
    assert [row["reason"] for row in read_dropped(folder)] == ["empty", "empty"]
    settings = {"name": "generate_questions", "fingerprint": {"seed": 42}, "inputs": {"model": "abc"}}
    assert Stage.open(folder, version=1, config={}, **settings).finished
    assert not build_funnel(read_stages(tmp_path))[1]
    for part, read in (("dropped", read_dropped), ("data", read_rows)):
        cut(folder / part / "train-00000-of-00001.parquet", 1)
        with pytest.raises(
            ConfigError, match=rf"{part}/ contains 1 rows, but the receipt says [24]; restore"
        ):
            read(folder)
    assert build_funnel(read_stages(tmp_path))[1] == ["old: data/ contains 1 rows, but the receipt says 4"]


def model(folder: Path) -> Path:
    stage = Stage.open(folder, name="sft", version=1, config={}, fingerprint={})
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "config.json").write_text("{}")
    stage.finish_model(rows_in=1, kept=1, card="")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", b"weights", "model.safetensors has different content"),
        ("model.safetensors", None, "no weights"),
        ("config.json", b"[]", "config.json has different content"),
        ("config.json", None, "config.json is not there"),
        ("model-00002.safetensors", b"more", "model-00002.safetensors was not written by it"),
    ],
)
def test_a_model_is_the_one_that_was_saved(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = model(tmp_path / "sft") / name
    made_by = model_fingerprint(tmp_path / "sft")
    (tmp_path / "sft/notes.txt").write_text("what anyone may put beside it")
    assert model_fingerprint(tmp_path / "sft") == made_by
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        model_fingerprint(tmp_path / "sft")


def test_a_models_folder_holds_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the stage 'sft' produced a model: there are no rows"):
        read_rows(model(tmp_path / "sft"))


@pytest.mark.parametrize(
    "content",
    ["[]", "null", '"x"', "5", "{", "[" * 5_000, '{"stage": "\\ud800"}', "{}",
     *({"kept": "30"}, {"kept": -1}, {"dropped": [1]}, {"dropped": {"empty": "1"}}, {"inputs": ["x"]},
       {"inputs": {"x": None}}, {"fingerprint": 7}, {"output": None}, {"files": 3}, {"files": {"x": []}},
       {"finished": "yes"}, {"fingerprint_fields": []}, {"versions": [1]}, {"stage": None})],
)  # fmt: skip
def test_a_receipt_that_is_none_is_one_line_to_every_reader(whole: Path, content: Any) -> None:
    path = whole / "receipt.json"
    if not isinstance(content, str):
        content = json.dumps(json.loads(path.read_bytes()) | content)
    path.write_text(content)
    readers: list[Callable[[], Any]] = [lambda: read_rows(whole), lambda: source_fingerprint(whole)]
    readers += [lambda: model_fingerprint(whole), lambda: read_dropped(whole)]
    readers += [lambda: Stage.open(whole, name="demo", version=1, config={}, fingerprint={})]
    if content != "{}":
        readers += [lambda: read_stages(whole.parent), lambda: read_receipt(whole)]
    for read in readers:
        with pytest.raises((ConfigError, StageError)) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert str(whole) in str(caught.value)
    assert status_table.read_receipt(whole) == {}
