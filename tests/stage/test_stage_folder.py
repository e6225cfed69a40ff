from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from scalequest.records import read_rows, source_fingerprint
from scalequest.stage.block_files import read_part
from scalequest.stage.folder import Stage, StageError
from scalequest.stage.removal import refuse_overlap
from scalequest.stage.script import run_script

ROWS = 40
BLOCK = 14

SETTINGS = {"sampling": {"temperature": 1.0, "top_p": 0.99}, "seed": 42}


def opened(folder: Path, **changes: Any) -> Stage:
    arguments: dict[str, Any] = {
        "name": "demo",
        "version": 1,
        "config": {"learning_rate": 2e-5, "note": "1e-5", "input": ["a", "b"]},
        "fingerprint": SETTINGS,
        "inputs": {"seed_questions.jsonl": "abc"},
    }
    return Stage.open(folder, **(arguments | changes))


def row(number: int) -> dict[str, Any]:
    return {
        "id": f"q-{number:08d}",
        "question": f"What is {number} + ½?\r\nSay\u2028it \x00.",
        "answer": None if number < 20 else str(number),
        "answers": [None] if number < 10 else ["7", None],
        "agreement": 1 if number < 5 else number / 7,
    }


def work(stage: Stage) -> None:
    for index, block in stage.blocks.pending(ROWS, BLOCK):
        kept = [row(number) for number in block if number % 4]
        dropped = [(row(number), "even" if number % 8 else "eight") for number in block if number % 4 == 0]
        stage.blocks.write(index, kept, dropped, tokens=len(block))


def run(folder: Path, **changes: Any) -> Stage:
    stage = opened(folder, **changes)
    if not stage.finished:
        work(stage)
        stage.finish(rows_in=ROWS, card="# Demo", columns=("id", "question"))
    return stage


def files(folder: Path) -> dict[str, bytes]:
    kept = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def data(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(folder).items() if name.endswith(".parquet")}


# --------------------------------------------------------------------------------------------- what it writes


def test_a_finished_folder(tmp_path: Path) -> None:
    run(tmp_path / "out")
    receipt = json.loads((tmp_path / "out/receipt.json").read_bytes())
    assert sorted(files(tmp_path / "out")) == [
        "README.md",
        "config.yaml",
        "data/train-00000-of-00001.parquet",
        "dropped/train-00000-of-00001.parquet",
        "receipt.json",
    ]
    assert receipt["finished"]
    assert (receipt["rows_in"], receipt["kept"], receipt["dropped"]) == (40, 30, {"eight": 5, "even": 5})
    assert receipt["tokens"] == 40
    assert receipt["inputs"] == {"seed_questions.jsonl": "abc"}
    assert receipt["fingerprint_fields"]["sampling"] == {"temperature": 1.0, "top_p": 0.99}
    assert receipt["versions"]["pyarrow"]
    assert read_rows(tmp_path / "out") == [row(number) for number in range(ROWS) if number % 4]
    dropped = pq.read_table(tmp_path / "out/dropped").to_pylist()
    assert dropped == [row(n) | {"reason": "even" if n % 8 else "eight"} for n in range(0, ROWS, 4)]


def test_datasets_loads_the_folder(tmp_path: Path) -> None:
    from datasets import load_dataset

    run(tmp_path / "out")
    rows = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows[split]) for split in rows} == {"train": 30}
    assert rows["train"].column_names == ["id", "question", "answer", "answers", "agreement"]
    assert rows["train"][5] == row(7)


def test_the_config_is_read_back_as_it_was(tmp_path: Path) -> None:
    from scalequest.config import read_yaml

    run(tmp_path / "out")
    config = {"learning_rate": 2e-5, "note": "1e-5", "input": ["a", "b"]}
    assert read_yaml(tmp_path / "out/config.yaml") == config


def test_bytes_depend_on_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "one")
    stage = opened(tmp_path / "other")
    for index, block in stage.blocks.pending(ROWS, 11):
        kept = [row(number) for number in block if number % 4]
        stage.blocks.write(index, kept, [(row(n), "even" if n % 8 else "eight") for n in block if n % 4 == 0])
    stage.finish(rows_in=ROWS, card="# Another", seconds=1.5, columns=("id", "question"))
    assert data(tmp_path / "one") == data(tmp_path / "other")
    assert source_fingerprint(tmp_path / "one") == source_fingerprint(tmp_path / "other")

    monkeypatch.setattr("scalequest.stage.block_files.ROWS_PER_FILE", 12)
    monkeypatch.setattr("scalequest.stage.block_files.ROWS_PER_GROUP", 5)
    run(tmp_path / "many")
    assert [path.name for path in sorted((tmp_path / "many/data").iterdir())] == [
        f"train-0000{i}-of-00003.parquet" for i in range(3)
    ]
    assert read_rows(tmp_path / "many") == read_rows(tmp_path / "one")


def test_other_data_under_the_same_settings_is_another_source(tmp_path: Path) -> None:
    for name in ("one", "other"):
        stage = opened(tmp_path / name)
        stage.blocks.write(0, [{"id": name}])
        stage.finish(rows_in=1, card="")
    one, other = (source_fingerprint(tmp_path / name) for name in ("one", "other"))
    assert one != other
    assert one.partition("/")[0] == other.partition("/")[0]


def test_nothing_kept_still_loads(tmp_path: Path) -> None:
    stage = opened(tmp_path / "out")
    stage.blocks.write(0, [], [({"id": "a", "n": 1}, "why")])
    stage.finish(rows_in=1, card="", columns=("id",))
    table = pq.read_table(tmp_path / "out/data")
    assert (table.num_rows, table.column_names) == (0, ["id", "n"])


def test_no_rows_at_all(tmp_path: Path) -> None:
    stage = opened(tmp_path / "out")
    assert list(stage.blocks.pending(0, 5)) == []
    assert stage.finish(rows_in=0, card="", columns=("id", "question"))["kept"] == 0
    assert read_rows(tmp_path / "out") == []


def test_a_number_that_is_whole_in_the_first_block_and_missing_in_the_second(tmp_path: Path) -> None:
    stage = opened(tmp_path / "out")
    stage.blocks.write(0, [{"id": "a", "score": 1, "verdict": {"ok": True}}])
    stage.blocks.write(1, [{"id": "b"}])
    stage.blocks.write(2, [{"id": "c", "score": 0.5, "verdict": {"why": "no unit"}, "late": [["x"]]}])
    stage.finish(rows_in=3, card="")
    assert read_rows(tmp_path / "out") == [
        {"id": "a", "score": 1.0, "verdict": {"ok": True, "why": None}, "late": None},
        {"id": "b", "score": None, "verdict": None, "late": None},
        {"id": "c", "score": 0.5, "verdict": {"ok": None, "why": "no unit"}, "late": [["x"]]},
    ]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({}, None),
        ([{}, {}], [None, None]),
        ([[{}], []], [[None], []]),
        ({"why": {}}, {"why": None}),
        ({"why": {}, "n": 1}, {"why": None, "n": 1}),
    ],
)
def test_an_object_without_keys_is_stored_as_nothing(tmp_path: Path, value: Any, stored: Any) -> None:
    stage = opened(tmp_path / "out")
    stage.blocks.write(0, [{"id": "a", "verdict": value}, {"id": "b", "verdict": None}])
    stage.blocks.write(1, [{"id": "c", "verdict": value}], [({"id": "d", "verdict": value}, "why")])
    stage.finish(rows_in=4, card="")
    assert [row["verdict"] for row in read_rows(tmp_path / "out")] == [stored, None, stored]


@pytest.mark.parametrize(
    "value", [datetime.date(2024, 1, 2), b"x", {1}, 2**70, json.loads("[" * 60 + "]" * 60), "\ud800"]
)
def test_what_no_file_can_hold_is_found_in_the_first_block(tmp_path: Path, value: Any) -> None:
    stage = opened(tmp_path / "out")
    with pytest.raises(StageError):
        stage.blocks.write(0, [{"id": "a", "made": value}])
    assert list((tmp_path / "out/parts").iterdir()) == []


@pytest.mark.parametrize(("first", "second"), [(1, "a"), ("a", ["a"]), (True, 1), (1, 2**70)])
def test_a_column_of_two_types_is_named(tmp_path: Path, first: Any, second: Any) -> None:
    stage = opened(tmp_path / "out")
    stage.blocks.write(0, [{"id": "a", "level": first}])
    with pytest.raises(StageError, match="column 'level'"):  # as soon as one process has written both
        stage.blocks.write(1, [{"id": "b", "level": second}])
    stage.close()
    stage = opened(tmp_path / "out")
    if second != 2**70:
        stage.blocks.write(1, [{"id": "b", "level": second}])
        with pytest.raises(StageError, match="column 'level'"):
            stage.finish(rows_in=2, card="")
    assert not json.loads((tmp_path / "out/receipt.json").read_bytes())["finished"]


def test_a_row_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    stage = opened(tmp_path / "out")
    for value in (object(), "\ud800"):
        with pytest.raises(StageError, match="block 3: a row cannot be written"):
            stage.blocks.write(3, [{"id": value}])
    assert list((tmp_path / "out/parts").iterdir()) == []


# -------------------------------------------------------------------------------------------- nothing is lost


@pytest.mark.parametrize("rows_in", [ROWS - 1, ROWS + 1])
def test_a_lost_row_stops_the_stage(tmp_path: Path, rows_in: int) -> None:
    stage = opened(tmp_path / "out")
    work(stage)
    with pytest.raises(StageError, match=r"rows are lost: \d+ in, but 30 kept \+ 10 dropped"):
        stage.finish(card="", rows_in=rows_in)
    assert not json.loads((tmp_path / "out/receipt.json").read_bytes())["finished"]
    assert not (tmp_path / "out/data").exists()


def test_a_block_that_was_never_written_is_named(tmp_path: Path) -> None:
    stage = opened(tmp_path / "out")
    work(stage)
    (tmp_path / "out/parts/000002.jsonl").unlink()
    with pytest.raises(StageError, match="blocks 2 were never written"):
        stage.finish(rows_in=ROWS, card="")


def test_a_deleted_part_is_made_again(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    work(opened(tmp_path / "out"))
    (tmp_path / "out/parts/000002.jsonl").unlink()
    stage = opened(tmp_path / "out")
    assert [index for index, _ in stage.blocks.pending(ROWS, BLOCK)] == [2]
    run(tmp_path / "out", fresh=False)
    assert data(tmp_path / "out") == data(tmp_path / "whole")


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        (b'{"row": {"id": "q-00000017"', b'{"row": {"id": "q-00000071"'),  # nothing but the hash can tell
        (b'{"row": {"id": "q-00000017"', b'{"rwo": {"id": "q-00000017"'),
        (b'"kept": 11', b'"kept": 12'),
        (b'"tokens": 14', b'"tokens": null'),
        (b"What is 17", b"What is \xe9\xed\xa0\x80"),
        (b"\n", b""),
    ],
)
@pytest.mark.parametrize("hashed", [True, False])
def test_a_damaged_part_is_made_again(tmp_path: Path, there: bytes, instead: bytes, hashed: bool) -> None:
    run(tmp_path / "whole")
    stage = opened(tmp_path / "out")
    work(stage)
    stage.close()
    part = tmp_path / "out/parts/000001.jsonl"
    content = part.read_bytes()
    assert there in content
    changed = content.replace(there, instead)
    if not hashed:  # as parts were before
        changed = b"".join(changed.splitlines(True)[:-1])
    part.write_bytes(changed)
    stage = opened(tmp_path / "out")
    if not hashed and b"71" in instead:
        return  # nothing tells it
    assert [index for index, _ in stage.blocks.pending(ROWS, BLOCK)] == [1]
    stage.close()
    run(tmp_path / "out")
    assert data(tmp_path / "out") == data(tmp_path / "whole")


@pytest.mark.parametrize(
    "line", [b'{"row": null}', b'{"row": []}', b"5", b"[]", b'{"dropped": 5, "row": {}}']
)
def test_a_line_of_a_part_that_is_no_row_is_damage(tmp_path: Path, line: bytes) -> None:
    stage = opened(tmp_path / "out")
    stage.blocks.write(0, [{"id": "a"}])
    part = tmp_path / "out/parts/000000.jsonl"
    part.write_bytes(part.read_bytes().splitlines(True)[0] + line + b"\n")
    with pytest.raises(StageError, match=r"000000\.jsonl: damaged .* delete it"):
        stage.finish(rows_in=1, card="")


def test_no_bit_of_a_part_can_change_unseen(tmp_path: Path) -> None:
    work(opened(tmp_path / "out"))
    path = tmp_path / "out/parts/000001.jsonl"
    whole, rng = path.read_bytes(), random.Random(7)
    rows = list(read_part(path))
    for _ in range(200):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with contextlib.suppress(StageError):
            assert list(read_part(path)) == rows


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"block": 2, "kept": 5', None])
def test_a_damaged_part_is_named(tmp_path: Path, damage: bytes | None) -> None:
    stage = opened(tmp_path / "out")
    work(stage)
    part = tmp_path / "out/parts/000002.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(True)[:-2]) if damage is None else damage)
    with pytest.raises(StageError, match=r"000002\.jsonl: damaged .* delete it"):
        stage.finish(rows_in=ROWS, card="")


# ------------------------------------------------------------------------------- skip, go on, refuse, restart


def test_a_finished_stage_is_skipped(tmp_path: Path) -> None:
    run(tmp_path / "out")
    before = files(tmp_path / "out")
    assert opened(tmp_path / "out").finished
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("done", [True, False])
def test_other_settings_are_refused_by_name(tmp_path: Path, done: bool) -> None:
    if done:
        run(tmp_path / "out")
    else:
        work(opened(tmp_path / "out"))
    before = files(tmp_path / "out")
    fingerprint = {"sampling": {"temperature": 0.8, "top_p": 0.99}, "limit": 5}
    with pytest.raises(StageError) as caught:
        opened(tmp_path / "out", fingerprint=fingerprint, version=2, inputs={"elsewhere": "abd"})
    message = str(caught.value)
    for change in (
        "sampling.temperature: 1.0 -> 0.8",
        "version: 1 -> 2",
        "limit: (absent) -> 5",
        "seed: 42 ->",
    ):
        assert change in message
    assert 'inputs: ["abc"] -> ["abd"]' in message
    assert "top_p" not in message
    assert "--fresh" in message
    assert "\n" not in message
    assert files(tmp_path / "out") == before


def test_what_cannot_change_a_row_is_not_compared(tmp_path: Path) -> None:
    run(tmp_path / "out")
    inputs = {"another/path/seed_questions.jsonl": "abc"}
    assert opened(tmp_path / "out", config={"batch_size": 7}, inputs=inputs).finished


def test_fresh_starts_again_and_leaves_what_is_not_a_stages(tmp_path: Path) -> None:
    run(tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    (tmp_path / "out/wandb").mkdir()
    stage = opened(tmp_path / "out", fresh=True, version=2)
    assert sorted(files(tmp_path / "out")) == ["config.yaml", "notes.txt", "receipt.json"]
    work(stage)
    stage.finish(rows_in=ROWS, card="")
    assert opened(tmp_path / "out", version=2).finished


def test_fresh_removes_what_the_receipt_names(tmp_path: Path) -> None:
    """Also what was written after the stage was finished, and in the folders of other stages below it."""
    stage = opened(tmp_path / "out", writes=["results.json", "one [[]a]", "two"])
    for inner in ("one [a]", "two"):
        run(tmp_path / "out" / inner, writes=["audit.html"])
        (tmp_path / "out" / inner / "audit.html").touch()
    work(stage)
    stage.finish(rows_in=ROWS, card="")
    for name in ("results.json", "two/mine.txt", "report.html"):
        (tmp_path / "out" / name).touch()
    opened(tmp_path / "out", fresh=True).close()
    left = ["config.yaml", "receipt.json", "report.html", "two/mine.txt", "two/receipt.json"]
    assert sorted(files(tmp_path / "out")) == left
    assert not (tmp_path / "out/one [a]").exists()


def test_a_kill_while_folders_below_are_removed_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = opened(tmp_path / "out", writes=["one"])
    run(tmp_path / "out/one")
    work(stage)
    stage.finish(rows_in=ROWS, card="")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path / "out", fresh=True)
    opened(tmp_path / "out").close()
    assert sorted(files(tmp_path / "out")) == ["config.yaml", "receipt.json"]


def test_fresh_of_a_folder_of_before_removes_all_that_stages_left(tmp_path: Path) -> None:
    run(tmp_path / "out", name="evaluate", fingerprint={"labels": ["one"]})
    run(tmp_path / "out/one")
    path = tmp_path / "out/receipt.json"
    receipt = json.loads(path.read_bytes())
    path.write_text(json.dumps({key: receipt[key] for key in receipt if key not in ("writes", "files")}))
    for name in ("results.json", "audit.html", "mine.txt"):
        (tmp_path / "out" / name).touch()
    (tmp_path / "out/prepared").mkdir()
    opened(tmp_path / "out", name="evaluate", fingerprint={"labels": ["one"]}, fresh=True).close()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "config.yaml", "mine.txt", "parts", "receipt.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "read"),
    [
        ("a", "a"),
        ("a", "a[:5]"),
        ("a", "link"),
        ("link", "a"),
        ("a", "$STAGES/a"),
        ("a", "b/../a"),
        ("a", "a/data/train-00000-of-00001.parquet"),
        ("a", "a/checkpoint-7"),
        ("a", "a/checkpoint-*"),
        ("a", "a.yaml"),
        ("a/checkpoint-7", "a"),
        ("link/checkpoint-7", "a"),
    ],
)
def test_fresh_never_removes_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, read: str
) -> None:
    for name in ("a", "b", "a/checkpoint-7"):
        run(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a.yaml").write_text("source: a/data/train-00000-of-00001.parquet")
    monkeypatch.setenv("STAGES", str(tmp_path))
    before = files(tmp_path)
    source = read if read.startswith("$") else str(tmp_path / read)
    with pytest.raises(StageError, match=r"output_dir: .* which this stage reads"):
        refuse_overlap(tmp_path / output, True, {"models": {"one": source}})
    if "yaml" not in read and "*" not in read:
        with pytest.raises(StageError, match=r"output_dir: .* which this stage reads"):
            opened(tmp_path / output, inputs={source: "x"}, fresh=True, version=2)
    assert files(tmp_path) == before
    refuse_overlap(tmp_path / "b", True, {"input": [source], "prefix": "/", "here": ".", "none": ""})


def test_an_output_folder_that_is_read_is_refused_without_fresh_too(tmp_path: Path) -> None:
    run(tmp_path / "a")
    with pytest.raises(StageError, match=r"choose another output_dir$"):
        opened(tmp_path / "a", inputs={str(tmp_path / "a"): "x"})
    refuse_overlap(tmp_path / "a/evaluation", False, {"model": str(tmp_path / "a")})


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(StageError, match=r"holds README\.md but no receipt\.json"):
            opened(tmp_path, fresh=fresh)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/receipt.json").write_text('{"total": 12}')
    with pytest.raises(StageError, match="not a stage's receipt"):
        opened(tmp_path / "other", fresh=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="file"):
        opened(tmp_path / "file")


def test_other_code_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "out")
    path = tmp_path / "out/receipt.json"
    receipt = json.loads(path.read_bytes())
    receipt["versions"]["pyarrow"] = "1.0"
    path.write_text(json.dumps(receipt))
    assert opened(tmp_path / "out").finished
    assert "pyarrow 1.0 ->" in caplog.text


def test_models(tmp_path: Path) -> None:
    from scalequest.records import model_fingerprint

    stage = opened(tmp_path / "out", writes=("checkpoint-*", "*.safetensors", "config.json"))
    with pytest.raises(StageError, match="no weights"):
        stage.finish_model(rows_in=3, kept=3, card="# M")
    (tmp_path / "out/config.json").write_text("{}")
    (tmp_path / "out/model.safetensors").write_bytes(b"weights")
    (tmp_path / "out/spiece.model").write_bytes(b"pieces")
    (tmp_path / "out/checkpoint-1").mkdir()
    (tmp_path / "out/checkpoint-1-good").mkdir()
    with pytest.raises(StageError, match="rows are lost: 3 in, but 2 kept"):
        stage.finish_model(rows_in=3, kept=2, card="# M")
    receipt = stage.finish_model(
        rows_in=3,
        kept=2,
        dropped={"too_long": 1, "empty": 0},
        tokens=9,
        seconds=2.0,
        card="# M",
        saved=["spiece.model"],
        steps=4,
    )
    assert receipt["dropped"] == {"too_long": 1}
    assert (receipt["tokens"], receipt["counts"]) == (9, {"steps": 4})
    assert opened(tmp_path / "out").finished
    assert model_fingerprint(tmp_path / "out").startswith(stage.fingerprint)
    opened(tmp_path / "out", fresh=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "checkpoint-1-good", "config.yaml", "parts", "receipt.json",
    ]  # fmt: skip


# ---------------------------------------------------------------------------- killed, full, and two at a time

# Runs the stage in forks of a process that has imported everything, killing each at another moment: before
# and after every rename, flush, removal and row group, until a run gets through without being killed.
KILLER = """
import gc, os, shutil, sys
from pathlib import Path

import pandas, pyarrow.compute  # or pyarrow imports them in each fork, which takes longer than a stage
import pyarrow.parquet as pq
from tests.stage.test_stage_folder import data, files, run

import scalequest.stage.provenance

root, fresh = Path(sys.argv[1]), sys.argv[2] == "fresh"
scalequest.stage.provenance.code_versions()  # reads versions once for all forks
gc.freeze()  # or each fork's collections write to, and so copy, what was imported
events = 0

def deadly(function, moment):
    def call(*args, **kwargs):
        global events
        events += 1
        if events == moment:
            os.kill(os.getpid(), 9)
        result = function(*args, **kwargs)
        events += 1
        if events == moment:
            os.kill(os.getpid(), 9)
        return result
    return call

def forked(function):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]

def killed(folder, moment):
    os.replace, os.fsync = deadly(os.replace, moment), deadly(os.fsync, moment)
    shutil.rmtree, Path.unlink = deadly(shutil.rmtree, moment), deadly(Path.unlink, moment)
    pq.ParquetWriter.write_table = deadly(pq.ParquetWriter.write_table, moment)
    run(folder, fresh=fresh)

assert forked(lambda: run(root / "whole")) == 0
assert forked(lambda: run(root / "old", version=0)) == 0
moment = 0
while True:
    moment += 1
    folder = root / str(moment)
    if fresh:
        shutil.copytree(root / "old", folder)
    status = forked(lambda: killed(folder, moment))
    if status == 0:
        break
    assert status == 9, (moment, status)
    receipt = (folder / "receipt.json").read_bytes() if fresh else b""
    if b'"version": 0' in receipt and b"removing" not in receipt:
        there = {name: content for name, content in files(folder).items() if not name.endswith(".tmp")}
        assert there == files(root / "old"), moment  # not begun yet: the old stage is whole
        continue
    assert forked(lambda: run(folder)) == 0, moment
    assert data(folder) == data(root / "whole"), moment
    assert set(files(folder)) == set(files(root / "whole")), (moment, set(files(folder)))
print(moment - 1)
"""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that flushes cost nothing in, where the machine has one."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


def python(script: str, *words: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    command = [sys.executable, "-c", textwrap.dedent(script), *words]
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("mode", ["first", "fresh"])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(memory: Path, mode: str) -> None:
    driver = python(KILLER, str(memory), mode)
    try:
        out, error = driver.communicate(timeout=550)
    finally:
        driver.kill()
    assert driver.returncode == 0, error
    assert int(out) > 50  # moments


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from tests.stage.test_stage_folder import opened
        stage = opened(Path(sys.argv[1]))
        print("open", flush=True)
        sys.stdin.read()
    """
    first = python(script, str(tmp_path / "out"))
    assert first.stdout is not None
    assert first.stdout.readline() == "open\n"
    with pytest.raises(StageError, match=f"another run is writing here \\(process {first.pid} on "):
        opened(tmp_path / "out")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    run(tmp_path / "out")
    run(tmp_path / "whole")
    assert data(tmp_path / "out") == data(tmp_path / "whole")


def test_a_model_that_is_being_finished_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process loses its locks on a file when it closes that file, by whatever other handle."""
    said: list[str] = []

    def second_run(folder: Path) -> str:
        script = """
            import sys
            from pathlib import Path
            from tests.stage.test_stage_folder import StageError, opened
            try:
                opened(Path(sys.argv[1]))
            except StageError as error:
                print(error)
        """
        said.append(python(script, str(folder)).communicate()[0])
        return "f" * 16

    stage = opened(tmp_path / "out")
    (tmp_path / "out/model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("scalequest.stage.folder.digest_model", second_run)
    stage.finish_model(rows_in=1, kept=1, card="# M")
    assert "another run is writing here" in said[0]


@pytest.mark.parametrize("fresh", [False, True])
def test_workers_share_a_folder(tmp_path: Path, fresh: bool) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from tests.stage.test_stage_folder import run
        worker = int(sys.argv[2])
        time.sleep(0.5 if worker != 1 else 0)
        run(Path(sys.argv[1]), worker=worker, workers=3, fresh=sys.argv[3] == "True")
    """
    run(tmp_path / "whole")
    if fresh:
        run(tmp_path / "out")
        (tmp_path / "out/data/train-00000-of-00001.parquet").write_bytes(b"old")
    team = [python(script, str(tmp_path / "out"), str(worker), str(fresh)) for worker in range(3)]
    for process in team:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    assert data(tmp_path / "out") == data(tmp_path / "whole")
    assert opened(tmp_path / "out", worker=2, workers=3).finished


@pytest.mark.parametrize("done", [False, True])
def test_a_null_option_that_a_release_adds_changes_nothing(tmp_path: Path, done: bool) -> None:
    if done:
        run(tmp_path / "out")
    else:
        work(opened(tmp_path / "out"))
    more = {"shots": {"number": None}, "draw_tokens": None}
    stage = opened(tmp_path / "out", fingerprint={**SETTINGS, **more})
    assert stage.finished == done
    with pytest.raises(StageError, match=r"other settings: shots\.number: .* -> 4\."):
        opened(tmp_path / "out", fingerprint={**SETTINGS, "shots": {"number": 4}})
    with pytest.raises(StageError, match=r"max_length: \(absent\) -> null"):  # TRL's default is 1,024
        opened(tmp_path / "out", fingerprint={**SETTINGS, "max_length": None})


def test_a_worker_sees_other_settings_too(tmp_path: Path) -> None:
    run(tmp_path / "out")
    with pytest.raises(StageError, match="version: 1 -> 2"):
        opened(tmp_path / "out", version=2, worker=1, workers=2)


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    script = """
        import resource, sys
        from pathlib import Path
        from scalequest.stage.folder import StageError
        from tests.stage.test_stage_folder import opened, row, work
        stage = opened(Path(sys.argv[1]))
        if sys.argv[2] == "merge":
            work(stage)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            stage.blocks.write(0, [row(n) for n in range(100)]) if sys.argv[2] == "block" else None
            stage.finish(rows_in=40, card="")
        except StageError as error:
            print(error)
    """
    for mode in ("block", "merge"):
        process = python(script, str(tmp_path / mode), mode)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert out.count("\n") == 1
        assert "File too large" in out
        assert "run again" in out
        assert not json.loads((tmp_path / mode / "receipt.json").read_bytes())["finished"]
        assert not (tmp_path / mode / "data").exists()
        assert not [path for path in (tmp_path / mode / "parts").iterdir() if path.name.endswith(".tmp")]
        run(tmp_path / mode)
    run(tmp_path / "whole")
    assert data(tmp_path / "block") == data(tmp_path / "merge") == data(tmp_path / "whole")


def fill(stage: Stage) -> None:
    for index in range(100):
        stage.blocks.write(index, [{"id": "x" * 10_000}])


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tiny disk needs rights that this user lacks")
    try:
        stage = opened(disk / "out")
        with pytest.raises(StageError, match="No space left on device") as caught:
            fill(stage)
        assert "\n" not in str(caught.value)
        written = sorted(path.name for path in (disk / "out/parts").iterdir())
        assert written == [f"{index:06d}.jsonl" for index in range(len(written))]
        with pytest.raises(StageError):
            stage.finish(rows_in=100, card="")
        assert not json.loads((disk / "out/receipt.json").read_bytes())["finished"]
        stage.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_stands_beside_the_rows_is_there_before_anything_is_finished(tmp_path: Path) -> None:
    stage = opened(tmp_path / "out")
    work(stage)

    def killed(receipt: Any) -> None:
        assert receipt["kept"] == 30
        assert len(list((tmp_path / "out/data").glob("*.parquet"))) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.finish(rows_in=ROWS, card="# Demo", beside=killed)
    assert not json.loads((tmp_path / "out/receipt.json").read_bytes())["finished"]
    stage.close()
    again = opened(tmp_path / "out")
    page = tmp_path / "out/report.html"
    again.finish(rows_in=ROWS, card="# Demo", license="mit", beside=lambda _: page.write_text("page"))
    assert again.finished
    assert page.read_text() == "page"
    assert (tmp_path / "out/README.md").read_text().startswith("---\nlicense: mit\nconfigs:\n- config_name")


@pytest.mark.parametrize(("rank", "head"), [(None, "error: "), ("0", "error: "), ("5", "error: worker 5: ")])
def test_whichever_worker_is_stopped_says_why(
    rank: str | None, head: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)

    def main() -> None:
        os.environ.pop("RANK", None)  # as `worker` does
        raise StageError("no space left")

    assert run_script(main) == 2
    assert capsys.readouterr().err == f"{head}no space left\n"
