"""SimPO: TRL's CPOTrainer trains on our ids, and learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_support import RECIPES, logged, recipe, weights

from scalequest.config import ConfigError, build, read_yaml
from scalequest.estimate import Work

Settings = dict[str, Any]
Rows = dict[str, Path]


@pytest.fixture
def simpo(settings: Settings, rows: Rows) -> Callable[..., Path]:
    """Run the recipe on pairs; gives its output folder."""
    module = recipe("simpo")

    def run(**more: Any) -> Path:
        given = {**settings, "input": [str(rows["pairs"])], **more}
        module.main(*build(module.types(), given))
        return Path(given["output_dir"])

    return run


def test_our_ids_reach_the_model_unchanged(settings: Settings, rows: Rows, chat: Any) -> None:
    from scalequest.training.identity import identify
    from scalequest.training.preparation import prepare
    from scalequest.training.simpo import SIMPO

    given = {**settings, "input": [str(rows["pairs"])], "train_sampling_strategy": "sequential"}
    trainer = SIMPO.trainer_of(prepare(identify(SIMPO, *build(SIMPO.configs(), given))))
    batch = next(iter(trainer.get_train_dataloader()))
    pairs = [json.loads(line) for line in rows["pairs"].read_text().splitlines()][:2]
    header = len(chat.question_prefix_ids)
    for side in ("chosen", "rejected"):
        for n, pair in enumerate(pairs):
            ids, mask = batch[f"{side}_input_ids"][n], batch[f"{side}_attention_mask"][n].bool()
            wanted = chat.question_ids(pair[side])
            assert ids[mask].tolist() == wanted
            labels = batch[f"{side}_labels"][n]
            assert labels[labels != -100].tolist() == wanted[header:]


def test_loss_falls_and_chosen_is_preferred(simpo: Callable[..., Path]) -> None:
    from transformers import AutoModelForCausalLM

    out = simpo(holdout=8, max_steps=16, per_device_train_batch_size=4, sample_every=8, sample_tokens=4)
    losses = [record["loss"] for record in logged(out) if "loss" in record]
    assert losses[-1] < 0.5 * losses[0]
    counts = json.loads((out / "receipt.json").read_text())
    assert (counts["stage"], counts["kept"], counts["dropped"]) == ("simpo", 32, {"held_out": 8})
    final = [record for record in logged(out) if "eval_rewards/accuracies" in record][-1]
    assert final["eval_rewards/accuracies"] > 0.9
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id
    assert "SimPO" in (out / "README.md").read_text()


def test_accumulation_times_batch_is_what_counts(simpo: Callable[..., Path], tmp_path: Path) -> None:
    one, other = (
        weights(
            simpo(
                output_dir=str(tmp_path / f"{batch}x{steps}"),
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=steps,
                max_steps=3,
            )
        )
        for batch, steps in ((1, 8), (8, 1))
    )
    assert all(torch.allclose(one[name], other[name], atol=2e-4) for name in one)


def test_lora_is_merged(simpo: Callable[..., Path]) -> None:
    out = simpo(use_peft=True, lora_r=4, lora_target_modules=["q_proj", "v_proj"], max_steps=2)
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize("setting", [{"cpo_alpha": 1.0}, {"generate_during_eval": True}])
def test_what_is_not_offered_is_refused(simpo: Callable[..., Path], setting: Settings) -> None:
    with pytest.raises(ConfigError, match="cpo_alpha, generate_during_eval: not supported"):
        simpo(**setting)


def test_the_tiny_preset_is_read_and_its_memory_has_whole_logits() -> None:
    path = RECIPES / "tiny/simpo.yaml"
    given = {**read_yaml(path), "use_cpu": True}
    _, training_args, model_args = build(recipe("simpo").types(), given, str(path))
    work = Work.of(training_args, model_args)
    assert (work.rows, work.reference, work.second, work.whole_logits) == (32, 0, False, True)
