"""The plain head is TRL's fused head, to rounding, in values and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer import dpo_trainer, sft_trainer
from trl.trainer.utils import add_fused_lm_head

from scalequest.config import ConfigError
from scalequest.training.cpu import add_plain_head, plain_head

FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config)


def test_values_and_gradients_are_those_of_the_fused_head(model: LlamaForCausalLM) -> None:
    other = copy.deepcopy(model)
    add_fused_lm_head(model, outputs=FIELDS)
    add_plain_head(other, outputs=FIELDS)
    ids = torch.randint(0, 600, (3, 200))
    labels = ids.masked_fill(torch.rand(ids.shape) < 0.3, -100)  # more than one part of the metrics is left
    fused, plain = (one(input_ids=ids, labels=labels, fused_lm_head=True) for one in (model, other))
    assert torch.equal(plain.label_mask, fused.label_mask)
    for name in (*FIELDS, "loss"):
        torch.testing.assert_close(getattr(plain, name), getattr(fused, name), rtol=1e-4, atol=1e-5)
    fused.loss.backward()
    plain.loss.backward()
    for one, two in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


def test_rows_without_a_target_have_a_loss_of_zero_and_a_gradient(model: LlamaForCausalLM) -> None:
    add_plain_head(model, outputs=FIELDS)
    ids = torch.randint(0, 600, (2, 8))
    found = model(input_ids=ids, labels=torch.full_like(ids, -100), fused_lm_head=True)
    assert found.loss == 0
    found.loss.backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_without_the_word_the_forward_pass_is_the_models_own(model: LlamaForCausalLM) -> None:
    ids = torch.randint(0, 600, (2, 8))
    before = model(input_ids=ids, labels=ids)
    add_plain_head(model)
    after = model(input_ids=ids, labels=ids)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)


def test_a_model_that_scales_its_logits_keeps_the_fused_head(model: LlamaForCausalLM) -> None:
    model.config.logit_scale = 0.5
    add_plain_head(model)
    assert "num_items_in_batch" in model.forward.__code__.co_varnames  # TRL's


def test_trainers_see_it_on_a_cpu_only() -> None:
    with plain_head(False):
        assert sft_trainer.add_fused_lm_head is add_fused_lm_head
    with plain_head(True):
        assert sft_trainer.add_fused_lm_head is dpo_trainer.add_fused_lm_head is add_plain_head
    assert sft_trainer.add_fused_lm_head is add_fused_lm_head


def test_a_test_can_ask_for_the_head_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEQUEST_LM_HEAD", "fused")
    with plain_head(cpu=True):
        assert sft_trainer.add_fused_lm_head is dpo_trainer.add_fused_lm_head is add_fused_lm_head
    monkeypatch.setenv("SCALEQUEST_LM_HEAD", "triton")
    with pytest.raises(ConfigError, match="SCALEQUEST_LM_HEAD: expected plain or fused, got triton"):
        plain_head(cpu=True).__enter__()
