"""What training on a CPU needs: TRL's loss is made for GPUs, glibc's allocator for small objects.

Measured on SmolLM2-135M (bfloat16 autocast, 2,048 tokens a step, 2 cores): 108 tokens/s without
this, 176 with the plain head, 224 with the memory kept as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from scalequest.config import ConfigError
from scalequest.training.data import IGNORED

HEAD_VARIABLE = "SCALEQUEST_LM_HEAD"
# glibc's mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _NEVER = -1, -4, 2**31 - 1
# Between hidden states and log-probabilities these models do more than a matrix product.
_UNUSUAL = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
    "output_router_logits",
)
_ROWS = 256  # tokens that metrics are computed on at a time; each has as many logits as the vocabulary


@contextlib.contextmanager
def plain_head(cpu: bool) -> Iterator[None]:
    """On a CPU, let trainers that are made in here have `add_plain_head` in place of TRL's fused head.

    The fused head never holds all logits: it computes them in tiles, in float32, and once more for the
    backward pass. Triton makes up for that on a GPU; on a CPU it is 40 % of a step. With
    `SCALEQUEST_LM_HEAD=fused` it stays in place on a CPU as well, for tests of what GPUs run.

    Raises:
        ConfigError: that variable has another value.
    """
    head = os.environ.get(HEAD_VARIABLE) or "plain"
    if head not in ("plain", "fused"):
        raise ConfigError(f"{HEAD_VARIABLE}: expected plain or fused, got {head}; unset it")
    with contextlib.ExitStack() as patches:
        for trainer in ("sft_trainer", "dpo_trainer") if cpu and head == "plain" else ():
            patches.enter_context(mock.patch(f"trl.trainer.{trainer}.add_fused_lm_head", add_plain_head))
        yield


def add_plain_head(model: Any, *, outputs: tuple[str, ...] = ("log_probs",)) -> None:
    """Make `model(..., labels=…, fused_lm_head=True)` return what TRL's head does, from plain logits.

    Args:
        model: causal language model of transformers; its `forward` is replaced.
        outputs: fields of `FusedCausalLMOutput`, (batch, length - 1) each, zero if the label is ignored.
    """
    config = model.config.get_text_config()
    if any(getattr(config, name, None) for name in _UNUSUAL):
        add_fused_lm_head(model, outputs=outputs)
        return
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return original(*args, **kwargs, **({} if labels is None else {"labels": labels}))
        items = kwargs.pop("num_items_in_batch", None)
        hidden = self.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != IGNORED
        logits = self.get_output_embeddings()(hidden[mask]).float()
        log_probs = logits.log_softmax(-1)
        found = {
            "log_probs": log_probs.gather(-1, labels[mask].unsqueeze(-1)).squeeze(-1),
            **_metrics(logits, log_probs, labels[mask], outputs),
        }
        return FusedCausalLMOutput(
            loss=-found["log_probs"].sum() / (mask.sum().clamp(min=1) if items is None else items),
            label_mask=mask,
            **{
                name: value.new_zeros(mask.shape).masked_scatter(mask, value) for name, value in found.items()
            },
        )

    model.forward = types.MethodType(forward, model)


@torch.no_grad()
def _metrics(
    logits: torch.Tensor, log_probs: torch.Tensor, labels: torch.Tensor, outputs: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    ways: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "entropy": lambda _, logs, __: -(logs.exp() * logs).sum(-1),
        "log_sum_sq_probs": lambda _, logs, __: (2 * logs).logsumexp(-1),
        "mean_logits": lambda scores, _, __: scores.mean(-1),
        "is_top1": lambda scores, _, targets: scores.argmax(-1) == targets,
    }
    parts = list(zip(logits.split(_ROWS), log_probs.split(_ROWS), labels.split(_ROWS), strict=True))
    return {name: torch.cat([ways[name](*part) for part in parts]) for name in outputs if name in ways}


def keep_memory() -> None:
    """Let this process keep what it frees, on Linux with glibc.

    By default each large tensor is a mapping of its own that goes back to the kernel when it is freed, and is
    cleared by page faults when it comes again: a fifth of a training step.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another libc
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
