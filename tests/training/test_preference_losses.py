"""IPO, robust DPO, KTO and ORPO: each loss is the one of its paper, computed here from logits by hand."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from training_support import RECIPES, logged, recipe, same, weights

from scalequest.config import ConfigError, build, read_configs

Settings = dict[str, Any]
Rows = dict[str, Path]


def run(name: str, settings: Settings, **more: Any) -> Path:
    module, given = recipe(name), {**settings, **more}
    module.main(*build(module.types(), given))
    return Path(given["output_dir"])


def trainer_of(name: str, settings: Settings, **more: Any) -> Any:
    from importlib import import_module

    from scalequest.training.identity import identify
    from scalequest.training.preparation import prepare

    stages = {"qpo": ("dpo", "QPO"), "kto": ("kto", "KTO"), "orpo": ("orpo", "ORPO")}
    module, attribute = stages[name]
    stage = getattr(import_module(f"scalequest.training.{module}"), attribute)
    return stage.trainer_of(prepare(identify(stage, *build(stage.configs(), {**settings, **more}))))


@pytest.fixture
def pairs(settings: Settings, rows: Rows) -> Settings:
    return {**settings, "input": [str(rows["pairs"])], "per_device_train_batch_size": 4}


def sums(model: Any, prompt: list[int], completions: list[list[int]]) -> torch.Tensor:
    """Log-probability of each completion, summed over its tokens, from the model's plain logits."""
    found = []
    for completion in completions:
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1].double()
        found.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).sum())
    return torch.stack(found)


def moved(trainer: Any) -> tuple[Any, Any]:
    """The trainer's policy a little away from its start, and the start."""
    from transformers import AutoModelForCausalLM

    start = AutoModelForCausalLM.from_pretrained(trainer.model.config._name_or_path, dtype="float32").eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    policy = AutoModelForCausalLM.from_pretrained(trainer.model.config._name_or_path, dtype="float32").eval()
    policy.load_state_dict(trainer.model.state_dict())
    trainer.state.global_step = 1  # policy and reference need no longer agree
    return policy, start


def first_loss(trainer: Any) -> tuple[dict[str, Any], float]:
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    return batch, float(trainer.compute_loss(trainer.model, batch))


def sides_of(batch: Any) -> tuple[list[int], list[list[int]]]:
    """Prompt and completions of TRL's batch of both sides."""
    completions = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    first = (batch["attention_mask"][0] - batch["completion_mask"][0]).bool()
    return batch["input_ids"][0][first].tolist(), completions


@pytest.mark.parametrize(
    ("more", "beta", "smoothing"),
    [
        ({"loss_type": ["ipo"], "beta": 0.5}, 0.5, 0.0),
        ({"loss_type": ["robust"], "label_smoothing": 0.2}, 0.1, 0.2),
    ],
    ids=["ipo", "robust"],
)
def test_losses_of_dpo(pairs: Settings, more: Settings, beta: float, smoothing: float) -> None:
    trainer = trainer_of("qpo", pairs, **more)
    policy, start = moved(trainer)
    batch, loss = first_loss(trainer)
    prompt, completions = sides_of(batch)
    gains = sums(policy, prompt, completions) - sums(start, prompt, completions)
    lengths = torch.tensor([len(one) for one in completions])
    if smoothing:
        (good, bad), at = gains.chunk(2), beta
        logits = at * (good - bad)
        wanted = (-(1 - smoothing) * F.logsigmoid(logits) + smoothing * F.logsigmoid(-logits)) / (
            1 - 2 * smoothing
        )
    else:
        good, bad = (gains / lengths).chunk(2)
        wanted = (good - bad - 1 / (2 * beta)) ** 2
    assert loss == pytest.approx(wanted.mean().item(), rel=1e-4)


def test_smoothing_that_a_loss_ignores_is_refused(pairs: Settings) -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing: loss_type sigmoid does not use it.*robust"):
        run("qpo", pairs, label_smoothing=0.1)


@pytest.mark.parametrize("precompute", [True, False])
def test_the_loss_of_kto(pairs: Settings, chat: Any, precompute: bool) -> None:
    more = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    trainer = trainer_of("kto", pairs, precompute_ref_log_probs=precompute, **more)
    policy, start = moved(trainer)
    batch, loss = first_loss(trainer)
    prompt, completions = sides_of(batch)
    assert prompt == list(chat.question_prefix_ids)
    good = batch["label"].tolist()
    assert good == [True, False, True, False]
    texts = [json.loads(line) for line in Path(pairs["input"][0]).read_text().splitlines()]
    known = {
        (side == "chosen", tuple(chat.question_ids(row[side])))
        for row in texts
        for side in ("chosen", "rejected")
    }
    assert {(label, (*prompt, *ids)) for label, ids in zip(good, completions, strict=True)} <= known
    mismatched = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["KL_input_ids"], batch["KL_completion_mask"], strict=True)
    ]
    assert mismatched == [completions[-1], *completions[:-1]]
    gains = sums(policy, prompt, completions) - sums(start, prompt, completions)
    kl = gains.mean().clamp(min=0)
    wanted = [
        1.5 * (1 - torch.sigmoid(0.3 * (gain - kl)))
        if label
        else 0.5 * (1 - torch.sigmoid(0.3 * (kl - gain)))
        for gain, label in zip(gains, good, strict=True)
    ]
    assert loss == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-4)


def test_the_loss_of_orpo(pairs: Settings, chat: Any) -> None:
    trainer = trainer_of("orpo", pairs, beta=0.4)
    policy, _ = moved(trainer)
    batch, loss = first_loss(trainer)
    means = []
    for side in ("chosen", "rejected"):
        completions = [labels[labels != -100].tolist() for labels in batch[f"{side}_labels"]]
        lengths = torch.tensor([len(one) for one in completions])
        means.append(sums(policy, list(chat.question_prefix_ids), completions) / lengths)
    log_odds = [mean - torch.log1p(-mean.exp()) for mean in means]
    wanted = -means[0].mean() - 0.4 * F.logsigmoid(log_odds[0] - log_odds[1]).mean()
    assert loss == pytest.approx(wanted.item(), rel=1e-4)


def test_orpo_does_not_depend_on_how_its_batch_is_split(pairs: Settings, tmp_path: Path) -> None:
    outs = [
        run(
            "orpo", pairs, output_dir=str(tmp_path / str(batch)), max_steps=2,
            per_device_train_batch_size=batch, gradient_accumulation_steps=8 // batch,
        )
        for batch in (2, 8)
    ]  # fmt: skip
    one, other = (weights(out) for out in outs)
    assert all(torch.allclose(one[name], other[name], atol=2e-4) for name in one)


@pytest.mark.parametrize("name", ["kto", "orpo"])
def test_a_stopped_run_goes_on_and_learns(name: str, pairs: Settings, tmp_path: Path) -> None:
    more = {
        "holdout": 8,
        "max_steps": 16,
        "per_device_train_batch_size": 8,
        "sample_every": 8,
        "sample_tokens": 4,
    }
    undisturbed = run(name, pairs, output_dir=str(tmp_path / "undisturbed"), **more)
    out = Path(pairs["output_dir"])

    def tell() -> None:
        while not (out / "metrics.jsonl").exists() or not logged(out):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    scheduler = threading.Thread(target=tell)
    scheduler.start()
    with pytest.raises(SystemExit):
        run(name, pairs, **more)
    scheduler.join()
    run(name, pairs, **more)
    assert same(undisturbed, out)
    receipt = json.loads((out / "receipt.json").read_text())
    assert (receipt["stage"], receipt["kept"], receipt["dropped"]) == (name, 32, {"held_out": 8})
    final = [record for record in logged(out) if "eval_rewards/chosen" in record][-1]
    assert final["eval_rewards/chosen"] > final["eval_rewards/rejected"]
    assert name.upper() in (out / "README.md").read_text()


def test_the_batch_of_ktos_kl_term_is_in_the_fingerprint(pairs: Settings) -> None:
    from scalequest.training.identity import identify
    from scalequest.training.kto import KTO

    found = [
        identify(KTO, *build(KTO.configs(), {**pairs, **more})).fingerprint
        for more in (
            {"per_device_train_batch_size": 4},
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        )
    ]
    assert found[0] != found[1]
    with pytest.raises(ConfigError, match="per_device_train_batch_size: KTO compares"):
        build(KTO.configs(), {**pairs, "per_device_train_batch_size": 1})
    with pytest.raises(ConfigError, match="loss_type"):
        build(KTO.configs(), {**pairs, "loss_type": "bco"})


@pytest.mark.parametrize(
    "files", ["tiny/kto", "tiny/orpo", "tiny/qpo variants/ipo", "tiny/qpo variants/robust"]
)
def test_presets_are_read(files: str) -> None:
    paths = [RECIPES / f"{name}.yaml" for name in files.split()]
    given = {**read_configs(*paths), "use_cpu": True, "bf16": False}
    _, training_args, _ = build(recipe(paths[0].stem).types(), given)
    assert training_args.beta > 0
