"""A long run's safety: a loss that is no number, a scheduler's signal, samples, memory, the hub."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
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
from scalequest.recipe import Recipe, run_with
from scalequest.stage.folder import StageError
from scalequest.stage.script import run_script
from scalequest.training import ranks
from scalequest.training.checks import check_settings
from scalequest.training.progress import Report, last_metrics
from scalequest.training.safety import NOT_FINITE, REQUEUE, SEAL, STOPPED, is_sound, whole_checkpoint
from scalequest.training.samples import ShowSamples
from scalequest.training.saving import NOT_PUBLISHED

Train = Callable[..., Path]
Settings = dict[str, Any]
Rows = dict[str, Path]


def test_a_gradient_that_is_no_number_stops_and_keeps_its_batch(
    settings: Settings, rows: Rows, train: Train, chat: Any
) -> None:
    given = {**settings, "input": [str(rows["solutions"])], "packing": False, "shuffle_dataset": False}
    with pytest.raises(StageError, match=r"the loss of step 2 or its gradient is not finite.*not_finite"):
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
    whole, gone_on = (json.loads((one / "receipt.json").read_text())["counts"] for one in (undisturbed, out))
    assert gone_on["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-6), "the loss of a part"


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
    assert sum("sample at step 2:" in record.message for record in caplog.records) == 3


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
    with pytest.raises(ConfigError, match="draw asks for 99 rows, and 40 are left"):
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
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = SimpleNamespace(
        n_gpu=1, resume_from_checkpoint=None, save_only_model=False, process_index=0, deepspeed_plugin=None
    )
    model = SimpleNamespace(dtype="float32", use_peft=False)
    check_settings(fine, model)
    with monkeypatch.context() as fsdp:
        fsdp.setenv("ACCELERATE_USE_FSDP", "true")
        check_settings(fine, SimpleNamespace(dtype="bfloat16", use_peft=False))
    assert not caplog.records
    for dtype in ("bfloat16", "auto"):  # that of most checkpoints is bfloat16
        check_settings(fine, SimpleNamespace(dtype=dtype, use_peft=False))
        assert f"dtype {dtype}: without" in caplog.text
    with pytest.raises(ConfigError, match="save_only_model"):
        check_settings(SimpleNamespace(**{**vars(fine), "save_only_model": True}), model)
    zero = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": 3}})
    with pytest.raises(ConfigError, match="zero3_save_16bit_model"):
        check_settings(SimpleNamespace(**{**vars(fine), "deepspeed_plugin": zero}), model)
    zero.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    check_settings(SimpleNamespace(**{**vars(fine), "deepspeed_plugin": zero}), model)
    with pytest.raises(ConfigError, match="one process sees 8 GPUs"):
        check_settings(SimpleNamespace(**{**vars(fine), "n_gpu": 8}), model)
    with pytest.raises(ConfigError, match="resume_from_checkpoint"):
        check_settings(SimpleNamespace(**{**vars(fine), "resume_from_checkpoint": "checkpoint-5"}), model)


def test_a_resumed_run_is_measured_from_where_it_went_on() -> None:
    report = Report("sft", None)
    state = SimpleNamespace(global_step=100, max_steps=200, num_input_tokens_seen=1_000_000)
    report.on_train_begin(None, state, None)
    report.first = report.seen = (*report.seen[:2], report.seen[2] - 10)
    logs = {"loss": 1.0}
    tracker = report.tracker = SimpleNamespace(log=lambda metrics, step: logs.update(metrics))  # type: ignore[assignment]
    state.global_step, state.num_input_tokens_seen = 110, 1_005_000
    report.on_log(None, state, None, logs=logs)
    assert tracker is not None
    assert logs["tokens_per_second"] == pytest.approx(500, rel=0.01), "tokens of earlier sessions counted"


def test_the_loss_of_a_run_in_pieces_is_that_of_all_its_steps() -> None:
    history = [
        {"step": 10, "loss": 3.0},
        {"step": 20, "loss": 2.0},
        {"step": 25, "loss": 1.0},
        {"step": 25, "train_loss": 0.0},
        {"step": 25, "eval_loss": 1.5},
    ]
    assert last_metrics(history, resumed=False)["train_loss"] == 0.0
    assert last_metrics(history, resumed=True) == {"step": 25, "train_loss": 55 / 25, "eval_loss": 1.5}


def test_folders_that_only_look_like_checkpoints_are_let_alone(tmp_path: Path) -> None:
    for name in ("checkpoint-5", "checkpoint-5-good", "checkpoint-10"):
        (tmp_path / name).mkdir()
    seal = {"fingerprint": "f", "seconds": 1.0, "files": {}}
    (tmp_path / "checkpoint-5" / SEAL).write_text(json.dumps(seal))
    assert whole_checkpoint(tmp_path, "f") == tmp_path / "checkpoint-5"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-5", "checkpoint-5-good"}


@pytest.mark.parametrize("begun", [True, False])
def test_sigterm_outside_of_training_is_no_failure_either(tmp_path: Path, begun: bool) -> None:
    """While rows are tokenised or the model is checked: status 75, and word for the scheduler."""
    if begun:
        (tmp_path / "receipt.json").write_text("{}")
    ready, said = os.pipe()

    def main(*_: Any) -> None:
        os.write(said, b"in")
        time.sleep(60)

    process = multiprocessing.get_context("fork").Process(  # which need not import torch again
        target=run_with,
        args=(Recipe("x", 1, "training", tuple, main), None, SimpleNamespace(output_dir=str(tmp_path)), None),
    )
    process.start()
    os.close(said)
    assert os.read(ready, 2) == b"in"
    os.close(ready)
    process.terminate()
    process.join(30)
    assert process.exitcode == REQUEUE
    assert (tmp_path / STOPPED).exists() == begun


def test_a_mistake_that_one_rank_finds_is_every_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the others would wait for it until the launcher kills them."""
    sent: list[list[Any]] = []

    def broadcast(outcome: list[Any], from_process: int) -> None:
        outcome[:] = sent[0] if sent else outcome
        sent.append(list(outcome))

    monkeypatch.setattr(ranks, "broadcast_object_list", broadcast)

    def mistaken() -> None:
        raise StageError("other settings")

    def fail(error: Exception) -> None:
        raise error

    for rank in (0, 1):
        with pytest.raises(StageError, match="other settings") as caught:
            ranks.once(SimpleNamespace(process_index=rank, world_size=2), mistaken)
        status, said = run_script(lambda *_, error=caught.value: fail(error)), capsys.readouterr().err
        assert (status, said) == (2, "" if rank else "error: other settings\n")  # said once
    sent[:] = [[7, None]]
    assert ranks.once(SimpleNamespace(process_index=1, world_size=2), lambda: 0) == 7


@pytest.mark.parametrize("together", [True, False])
def test_where_weights_lie_in_pieces_ranks_generate_to_the_longest_text(together: bool) -> None:
    """transformers asks for FSDP1 and its own FSDP2, not for accelerate's: a rank that ends early hangs."""
    asked: dict[str, Any] = {}

    class Model(torch.nn.Linear):
        def generate(self, ids: torch.Tensor, **settings: Any) -> torch.Tensor:
            asked.update(settings)
            return ids

    tokenizer = SimpleNamespace(pad_token_id=0, decode=lambda *_, **__: "")
    shower = ShowSamples(
        "qft", [[1, 2]], tokenizer, [3], every=1, tokens=4, seed=0, together=together, tracker=None
    )
    shower.generate(Model(1, 1), step=1)
    assert asked["synced_gpus"] is together


def test_what_a_run_is_made_of_does_not_know_the_run() -> None:
    from scalequest.training import checks, progress, safety, samples, saving

    for module in (checks, progress, ranks, safety, samples, saving):
        text = Path(str(module.__file__)).read_text()
        run = ("context", "stage", "identity", "preparation", "finishing")
        assert not [part for part in run if f"training.{part}" in text], module.__name__
