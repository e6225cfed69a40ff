from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from scalequest.tracking import MIRROR, Tracker


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_GROUP", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def mirror(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / MIRROR).read_text().splitlines()]


def offline_records(file: Path) -> list[Any]:
    """Read W&B's own offline file: a 7-byte header, then LevelDB log chunks in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, records = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def start(folder: Path, **changes: Any) -> Tracker:
    settings: dict[str, Any] = {
        "stage": "qft",
        "output_dir": folder,
        "config": {"learning_rate": 2e-5},
        "group": "pipeline-1",
        "fingerprint": "abc",
        "upstream": {"seed questions": "f00d"},
    }
    return Tracker.start(**{**settings, **changes})


def test_offline_run_files_hold_what_the_mirror_holds(tmp_path: Path) -> None:
    with start(tmp_path) as tracker:
        tracker.log({"loss": 1.5})
        tracker.log({"loss": 1.25, "accuracy": 0.5}, step=7)
        tracker.table(
            "samples", [{"question": "1 + 1?", "ids": [1, 2]}, {"question": "2 + 2?", "extra": None}]
        )
        tracker.artifact("model", "model", tmp_path, {"rows": 3})

    lines = mirror(tmp_path)
    assert [line.get("event") for line in lines] == ["start", None, None, "table", "artifact", "finish"]
    assert [(line["step"], line["loss"]) for line in lines if "step" in line] == [(0, 1.5), (7, 1.25)]
    assert lines[4]["metadata"] == {"rows": 3, "fingerprint": "abc", "upstream": {"seed questions": "f00d"}}

    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    records = offline_records(file)
    for _ in range(50):  # W&B's service may still be writing when `finish` returns
        if records and records[-1].HasField("exit"):
            break
        time.sleep(0.2)
        records = offline_records(file)
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.project, run.run_group, run.job_type) == ("scalequest", "pipeline-1", "qft")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["learning_rate"] == 2e-5
    assert config["upstream"] == {"seed questions": "f00d"}

    history = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    numbers = [
        {k: row[k] for k in ("step", "loss", "accuracy") if k in row} for row in history if "loss" in row
    ]
    assert numbers == [{k: v for k, v in line.items() if k != "time"} for line in lines if "step" in line]
    assert [
        json.loads(t.read_text())["columns"] for t in tmp_path.glob("wandb/offline-run-*/**/*.table.json")
    ] == [["question", "ids", "extra"]]
    logged = [r.artifact if r.HasField("artifact") else r.request.log_artifact.artifact for r in records]
    (artifact,) = [artifact for artifact in logged if artifact.type == "model"]
    assert artifact.name == "stage-abc"
    assert json.loads(artifact.metadata)["upstream"] == {"seed questions": "f00d"}


def test_restart_goes_on_with_the_same_run_and_step(tmp_path: Path) -> None:
    script = (
        "import os, sys; from scalequest.tracking import Tracker\n"
        "t = Tracker.start(stage='s', output_dir=sys.argv[1], config={}); t.log({'a': 1}); t.log({'a': 2})\n"
        "os.kill(os.getpid(), 9)"
    )
    # W&B lends a running service to child processes; the killed stage must have its own, as in life.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, env=environment)
    assert killed.returncode == -9
    first_id = (tmp_path / "wandb/run_id").read_text()
    time.sleep(1.1)  # W&B names its folders by the second
    with (tmp_path / MIRROR).open("a") as file:
        file.write('{"step": 2, "a"')  # what a kill in the middle of a write leaves

    with start(tmp_path) as tracker:
        tracker.log({"a": 3})
    assert [(line["step"], line["a"]) for line in mirror(tmp_path) if "step" in line] == [
        (0, 1),
        (1, 2),
        (2, 3),
    ]
    assert (tmp_path / "wandb/run_id").read_text() == first_id
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{first_id}"))) == 2

    (tmp_path / MIRROR).unlink()  # what `--fresh` does
    start(tmp_path).finish()
    assert (tmp_path / "wandb/run_id").read_text() != first_id


def test_a_failing_wandb_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "wandb").write_text("a file where W&B wants its folder")
    with pytest.warns(UserWarning, match="W&B stopped") as caught:
        tracker = start(tmp_path)
    assert len(caught) == 1
    with warnings.catch_warnings(), tracker:
        warnings.simplefilter("error")
        tracker.log({"loss": 1.0})
        tracker.table("samples", [{"q": 1}])
        tracker.artifact("model", "model", tmp_path)
    assert [line.get("event") for line in mirror(tmp_path)] == ["start", None, "table", "artifact", "finish"]


def test_without_wandb_the_mirror_remains_and_is_strict_json(tmp_path: Path) -> None:
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with start(tmp_path, mode="none") as tracker:
            tracker.log(
                {"nan": float("nan"), "inf": np.float64("inf"), "one": np.float32(1), "n": np.int64(2)}
            )
    assert not (tmp_path / "wandb").exists()
    line = mirror(tmp_path)[1]
    assert (line["nan"], line["inf"], line["one"], line["n"]) == ("nan", "inf", 1.0, 2)


def test_only_worker_zero_reports(tmp_path: Path) -> None:
    with start(tmp_path / "stage", worker=1) as tracker:
        tracker.log({"loss": 1.0})
    assert not (tmp_path / "stage").exists()


def test_a_failed_stage_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"), start(tmp_path, mode="none"):
        raise RuntimeError("boom")
    assert mirror(tmp_path)[-1]["event"] == "failed"
