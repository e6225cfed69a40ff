"""QPO: TRL trains on our ids, and learns."""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_support import RECIPES, logged, recipe, same, weights

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
    from scalequest.training.dpo import QPO
    from scalequest.training.identity import identify
    from scalequest.training.preparation import prepare

    return QPO.trainer_of(prepare(identify(QPO, *build(recipe("qpo").types(), {**settings, **more}))))


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


def test_a_pair_with_equal_sides_is_dropped_and_the_receipt_says_so(
    settings: Settings, rows: Rows, tmp_path: Path, train: Train
) -> None:
    equal = tmp_path / "equal.jsonl"
    pair = {"id": "e", "chosen": "How many  apples?", "rejected": "How many apples?\n"}
    equal.write_text(rows["pairs"].read_text() + json.dumps(pair) + "\n")
    out = train("qpo", settings, input=[str(equal)], max_steps=1)
    assert json.loads((out / "receipt.json").read_text())["dropped"] == {"equal_sides": 1}


def test_a_model_without_the_pad_token_is_refused(settings: Settings, rows: Rows) -> None:
    with pytest.raises(ConfigError, match=r"no token '\[PAD\]' for padding"):
        trainer_of(settings, input=[str(rows["pairs"])], chat_format="alpaca")


def test_a_fall_of_the_chosen_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from scalequest.training.dpo import WatchChosen

    watch = WatchChosen(beta=0.1, limit=5, main=True)
    state = SimpleNamespace(global_step=3)
    with caplog.at_level(logging.WARNING):
        watch.on_log(None, state, None, logs={"rewards/chosen": -0.4})
        assert not caplog.records
        watch.on_log(None, state, None, logs={"rewards/chosen": -0.6})
    assert "fell by 6.0 nats" in caplog.text


def at_the_start(**changes: float) -> dict[str, float]:
    """TRL's metrics of a batch before the first step, in bfloat16, with beta 0.1."""
    good = {
        "rewards/chosen": 0.001,
        "rewards/rejected": -0.05,
        "logps/chosen": -60.0,
        "logps/rejected": -426.0,
    }
    return {**good, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards/chosen": 0.3},
        {"rewards/chosen": -0.3},
        {"rewards/rejected": 35.3},
        {"rewards/rejected": -1.0},
    ],
    ids=str,
)
def test_a_reference_that_is_another_model_is_refused(changes: dict[str, float]) -> None:
    from scalequest.training.dpo import check_start

    with pytest.raises(ConfigError, match="the reference is not the model that training starts from"):
        check_start(at_the_start(**changes), beta=0.1)


def test_what_rounding_explains_is_no_other_model() -> None:
    from scalequest.training.dpo import check_start

    check_start(at_the_start(), beta=0.1)
    check_start(at_the_start(**{"rewards/rejected": 5.0}), beta=10)  # half a nat
    check_start(at_the_start(**{"rewards/chosen": 0.0, "rewards/rejected": 0.0}), beta=0)
    check_start(at_the_start(**{"rewards/chosen": math.nan}), beta=0.1)  # the guard of all losses tells


@pytest.mark.parametrize("precompute", [True, False])
def test_only_the_first_step_of_a_fresh_run_is_checked(
    settings: Settings, rows: Rows, precompute: bool
) -> None:
    more = {"model_name_or_path": str(RECIPES / "tiny/models/tiny-base"), "dtype": "float32"}
    trainer = trainer_of(settings, input=[str(rows["pairs"])], precompute_ref_log_probs=precompute, **more)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(math.log(2), abs=1e-4)
    for parameter in (trainer.model if precompute else trainer.ref_model).parameters():
        parameter.data.zero_()
    with pytest.raises(ConfigError, match="differs by"):
        trainer.compute_loss(trainer.model, batch)
    trainer.state.global_step = 1  # trained, or gone on from a checkpoint
    trainer.compute_loss(trainer.model, batch)
    trainer.state.global_step = 0
    trainer.model.eval()
    trainer.compute_loss(trainer.model, batch)


@pytest.mark.parametrize(
    "more",
    [
        {"precompute_ref_log_probs": False, "sync_ref_model": True, "ref_model_sync_steps": 1},
        {"loss_type": ["ipo", "sft"], "loss_weights": [1.0, 0.5], "beta": 0.5},
        {"gradient_accumulation_steps": 2, "logging_steps": 2, "f_divergence_type": "js_divergence"},
    ],
    ids=["sync", "ipo", "accumulated"],
)
def test_the_check_passes_what_starts_right(
    settings: Settings, rows: Rows, train: Train, more: Settings
) -> None:
    out = train("qpo", settings, input=[str(rows["pairs"])], **more)
    assert len([record for record in logged(out) if "loss" in record]) == 4 / more.get("logging_steps", 1)


def test_lora_under_fsdp_does_not_compute_its_reference_beforehand(
    settings: Settings, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are on one process only until training starts."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="under FSDP, the model of a LoRA run has no weights"):
        trainer_of(settings, input=[str(rows["pairs"])], use_peft=True, precompute_ref_log_probs=True)


def test_log_probabilities_leave_fsdp2_unrounded() -> None:
    from accelerate import FullyShardedDataParallelPlugin

    from scalequest.training.loading import keep_outputs_exact

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.output_dtype == torch.bfloat16, (
        "accelerate rounds no more: drop ours"
    )
    keep_outputs_exact(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
    assert plugin.mixed_precision_policy.output_dtype is None
    assert plugin.mixed_precision_policy.param_dtype == torch.bfloat16
    keep_outputs_exact(SimpleNamespace(state=SimpleNamespace()))
