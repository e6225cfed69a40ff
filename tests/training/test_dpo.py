"""QPO: TRL trains on our ids, and learns."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_support import recipe, same, weights

from scalequest.config import ConfigError, build

Train = Callable[..., Path]
Settings = dict[str, Any]
Rows = dict[str, Path]


def test_installed_trl_is_the_one_that_the_override_was_written_for() -> None:
    """If this fails after an upgrade: read DPOTrainer._prepare_dataset again, and what its collator takes."""
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    parameters = list(inspect.signature(DPOTrainer._prepare_dataset).parameters)
    assert parameters == ["self", "dataset", "processing_class", "args", "dataset_name"]
    row = {"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [5]}
    batch = DataCollatorForPreference(pad_token_id=0, max_length=8)([row])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [1, 2, 5, 0]]
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 1], [0, 0, 1, 0]]
    source = inspect.getsource(DPOTrainer)
    assert source.count("_prepare_dataset(") == 6, "TRL prepares data in a new place"


def trainer_of(settings: Settings, **more: Any) -> Any:
    from scalequest.training.context import begin
    from scalequest.training.dpo import dpo_trainer, prepare_pairs

    run = begin("qpo", 1, *build(recipe("qpo").types(), {**settings, **more}))
    return dpo_trainer(run, prepare_pairs(run))


def test_our_ids_reach_the_model_unchanged(settings: Settings, rows: Rows, chat: Any) -> None:
    trainer = trainer_of(settings, input=[str(rows["pairs"])], train_sampling_strategy="sequential")
    batch = next(iter(trainer.get_train_dataloader()))
    pairs = [json.loads(line) for line in rows["pairs"].read_text().splitlines()][:2]
    wanted = [chat.question_ids(pair[side]) for side in ("chosen", "rejected") for pair in pairs]
    for got, mask, complete, ids in zip(
        batch["input_ids"], batch["attention_mask"], batch["completion_mask"], wanted, strict=True
    ):
        assert got[mask.bool()].tolist() == ids
        assert got[complete.bool()].tolist() == ids[len(chat.question_prefix_ids) :]
        assert ids[-1] in chat.question_stop_ids
    assert trainer.ref_model is None, "a second model is held"
    assert "ref_chosen_logps" in trainer.train_dataset.column_names


def test_loss_falls_and_chosen_is_preferred(
    settings: Settings, rows: Rows, train: Train, model_dir: Path
) -> None:
    out = train(
        "qpo", settings, input=[str(rows["pairs"])], holdout=8, max_steps=16, per_device_train_batch_size=4
    )
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3), "policy and reference do not start equal"
    assert losses[-1] < 0.5 * losses[0]
    final = [record for record in records if "eval_rewards/accuracies" in record][-1]
    assert final["eval_rewards/accuracies"] > 0.9
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id


def test_reference_computed_before_or_beside_is_the_same(
    settings: Settings, rows: Rows, train: Train, tmp_path: Path
) -> None:
    outs = [
        train(
            "qpo",
            settings,
            input=[str(rows["pairs"])],
            precompute_ref_log_probs=early,
            output_dir=str(tmp_path / str(early)),
        )
        for early in (True, False)
    ]
    one, other = (weights(out) for out in outs)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_lora_turns_its_adapter_off_for_the_reference(settings: Settings, rows: Rows, train: Train) -> None:
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]}
    trainer = trainer_of(settings, input=[str(rows["pairs"])], **lora)
    assert trainer.ref_model is None
    assert not trainer.precompute_ref_logps
    out = train("qpo", settings, input=[str(rows["pairs"])], **lora)
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[2])
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_swapped_pairs_teach_no_direction(settings: Settings, rows: Rows) -> None:
    plain = trainer_of(settings, input=[str(rows["pairs"])]).train_dataset
    mixed = trainer_of(settings, input=[str(rows["pairs"])], shuffle_pairs=True).train_dataset
    swapped = [a == b for a, b in zip(plain["chosen_ids"], mixed["rejected_ids"], strict=True)]
    assert 10 < sum(swapped) < 30


def test_sft_on_the_chosen_side_is_qft_on_its_column(
    settings: Settings, rows: Rows, train: Train, tmp_path: Path
) -> None:
    outs = [
        train("qft", settings, input=[str(rows[name])], columns=columns, output_dir=str(tmp_path / name))
        for name, columns in (("pairs", {"question": "chosen"}), ("questions", {}))
    ]
    assert same(*outs)


def test_a_pair_that_does_not_fit_is_dropped(
    settings: Settings, rows: Rows, tmp_path: Path, train: Train
) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text(
        rows["pairs"].read_text() + json.dumps({"id": "l", "chosen": "a b " * 99, "rejected": "c"}) + "\n"
    )
    out = train("qpo", settings, input=[str(long)], max_steps=1)
    assert json.loads((out / "receipt.json").read_text())["dropped"] == {"too_long": 1}


def test_a_model_without_the_pad_token_is_refused(settings: Settings, rows: Rows) -> None:
    with pytest.raises(ConfigError, match=r"no token '\[PAD\]' to pad with"):
        trainer_of(settings, input=[str(rows["pairs"])], chat_format="alpaca")


def test_a_fall_of_the_chosen_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from scalequest.training.dpo import WatchChosen

    watch = WatchChosen(beta=0.1, limit=5, main=True)
    state = SimpleNamespace(global_step=3)
    with caplog.at_level(logging.WARNING):
        watch.on_log(None, state, None, logs={"rewards/chosen": -0.4})
        assert not caplog.records
        watch.on_log(None, state, None, logs={"rewards/chosen": -0.6})
    assert "lost 6.0 nats" in caplog.text
