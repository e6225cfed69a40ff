"""A long run's safety: a loss that is no number, a scheduler's signal, samples, memory, the hub."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_support import logged, same

from scalequest.config import ConfigError
from scalequest.shards import StageError
from scalequest.training.context import check_settings
from scalequest.training.safety import NOT_FINITE, REQUEUE, SEAL, STOPPED, is_sound
from scalequest.training.saving import NOT_PUBLISHED

Train = Callable[..., Path]
Settings = dict[str, Any]
Rows = dict[str, Path]


def test_a_gradient_that_is_no_number_stops_and_keeps_its_batch(
    settings: Settings, rows: Rows, train: Train, chat: Any
) -> None:
    given = {**settings, "input": [str(rows["solutions"])], "packing": False, "shuffle_dataset": False}
    with pytest.raises(StageError, match=r"the loss of step 2 is no finite number.*not_finite"):
        train("sft", given, learning_rate=1e30, max_grad_norm=1e30, save_strategy="steps", save_steps=2)
    out = Path(given["output_dir"])
    batch = load_file(out / NOT_FINITE / "step-2-rank-0.safetensors")
    said = json.loads((out / NOT_FINITE / "step-2-rank-0.json").read_text())
    assert batch["input_ids"].shape[0] == len(said["rows"]) == settings["per_device_train_batch_size"]
    assert said["rows"] == [chat.tokenizer.decode(ids) for ids in batch["input_ids"]]
    assert not list(out.glob("checkpoint-*")), "weights that are no numbers were saved"
    assert all(record["step"] < 2 for record in logged(out)), "the step was reported as if it were one"


def test_sigterm_saves_and_the_rest_is_as_if_nothing_had_been(
    settings: Settings, rows: Rows, train: Train, tmp_path: Path
) -> None:
    """Stopped between two checkpoints, with dropout-free fp32: the same weights come out."""
    given = {**settings, "input": [str(rows["solutions"])], "max_steps": 30, "lr_scheduler_type": "cosine"}
    undisturbed = train("sft", given, output_dir=str(tmp_path / "undisturbed"))
    out = Path(given["output_dir"])

    def tell() -> None:
        while not (out / "metrics.jsonl").exists() or not logged(out):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    scheduler = threading.Thread(target=tell)
    scheduler.start()
    with pytest.raises(SystemExit) as left:
        train("sft", given)
    scheduler.join()
    assert left.value.code == REQUEUE == os.EX_TEMPFAIL
    step = json.loads((out / STOPPED).read_text())["step"]
    assert 0 < step < 30
    assert (out / f"checkpoint-{step}" / SEAL).is_file()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "the handler was left behind"
    train("sft", given)
    assert same(undisturbed, out)
    assert not (out / STOPPED).exists()


@pytest.mark.parametrize("name", ["qft", "sft", "qpo"])
def test_samples_are_shown_and_change_nothing(
    name: str,
    settings: Settings,
    rows: Rows,
    train: Train,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = {"qft": "questions", "sft": "solutions", "qpo": "pairs"}[name]
    given = {**settings, "input": [str(rows[source])]}
    plain = train(name, given, output_dir=str(tmp_path / "plain"))
    with caplog.at_level(logging.INFO, logger="scalequest"):
        out = train(name, given, sample_every=2, sample_count=3, sample_tokens=8)
    assert same(plain, out)
    tables = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    shown = [record["rows"] for record in tables if record.get("name") == "samples"]
    assert [[row["step"] for row in table] for table in shown] == [[2] * 3, [4] * 3]
    assert sum("step 2 writes:" in record.message for record in caplog.records) == 3


def test_the_memory_check_speaks_before_the_model_is_loaded(
    settings: Settings, rows: Rows, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="scalequest"):
        train("sft", settings, input=[str(rows["solutions"])], max_steps=1)
    said = [record.message for record in caplog.records if "memory: estimated" in record.message]
    assert len(said) == 1
    assert said[0].endswith("fits")


def test_nothing_is_published_unless_asked_and_the_hub_is_asked_first(
    settings: Settings, rows: Rows, train: Train
) -> None:
    given = {**settings, "input": [str(rows["solutions"])]}
    with pytest.raises(ConfigError, match="push_to_hub: HF_HUB_OFFLINE=1 is set"):
        train("sft", given, push_to_hub=True)
    assert not Path(given["output_dir"]).exists(), "it began to train what it cannot publish"


def test_rows_are_drawn_by_seed(settings: Settings, rows: Rows, train: Train) -> None:
    out = train("sft", settings, input=[str(rows["solutions"])], draw=12, max_steps=1)
    assert json.loads((out / "receipt.json").read_text())["rows_in"] == 12
    with pytest.raises(ConfigError, match="draw: 99 rows are to be drawn from 40"):
        train("sft", settings, input=[str(rows["solutions"])], draw=99, output_dir=str(out) + "-more")


@pytest.mark.parametrize(
    ("norm", "sound"), [(1.0, True), (None, True), (math.inf, False), (math.nan, False), (-1.0, False)]
)
def test_a_gradient_is_judged_by_its_norm(norm: float | None, sound: bool) -> None:
    """Clipping an infinite gradient leaves zeros almost everywhere; DeepSpeed masks its norm with -1."""
    assert is_sound(norm if norm is None else torch.tensor(norm)) == sound


def test_what_is_not_of_the_model_is_not_published() -> None:
    from huggingface_hub.utils import filter_repo_objects

    model = ["model.safetensors", "README.md", "receipt.json", "adapter/adapter_config.json"]
    other = ["wandb/run-1/files/config.yaml", "not_finite/step-3-rank-0.json", "prepared/ab/counts.json"]
    other += ["checkpoint-10/model.safetensors", "metrics.jsonl", "stopped.json", ".lock"]
    assert list(filter_repo_objects([*model, *other], ignore_patterns=list(NOT_PUBLISHED))) == model


def test_settings_that_would_do_something_else_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fine = SimpleNamespace(n_gpu=1, resume_from_checkpoint=None, process_index=0, deepspeed_plugin=None)
    model = SimpleNamespace(dtype="float32", use_peft=False)
    check_settings(fine, model)
    assert not caplog.records
    check_settings(fine, SimpleNamespace(dtype="bfloat16", use_peft=False))
    assert "round to nothing" in caplog.text
    with pytest.raises(ConfigError, match="one process sees 8 GPUs"):
        check_settings(SimpleNamespace(**{**vars(fine), "n_gpu": 8}), model)
    with pytest.raises(ConfigError, match="resume_from_checkpoint"):
        check_settings(SimpleNamespace(**{**vars(fine), "resume_from_checkpoint": "checkpoint-5"}), model)
