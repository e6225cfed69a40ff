"""Ranges of numeric settings: declared with each field, or listed here for fields of libraries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Finite numbers within inclusive (`least`, `most`) or exclusive (`above`, `below`) bounds."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        """Return whether `value` is finite and within the bounds."""
        try:
            finite = math.isfinite(value)
        except OverflowError:  # an integer too large for a float
            return False
        return (
            finite
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return the range in words, e.g. "above 0, at most 1"."""
        words = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
        bounds = [(word, getattr(self, name)) for name, word in words.items()]
        said = [f"{word} {bound}" for word, bound in bounds if bound is not None]
        return ", ".join(said) or "a finite number"


FINITE = Range()
COUNT = Range(least=1)
NOT_NEGATIVE = Range(least=0)
POSITIVE = Range(above=0)
SHARE = Range(least=0, most=1)
SHARE_ABOVE_0 = Range(above=0, most=1)
SHARE_BELOW_1 = Range(least=0, below=1)
SEED = Range(least=0, most=2**32 - 1)  # accepted by numpy's generators

# Fields of transformers' TrainingArguments and TRL's configs, which accept any number and then fail, or learn
# nothing, hours later.
OF_LIBRARIES: Mapping[str, Range] = {
    **dict.fromkeys(("seed", "data_seed"), SEED),
    **dict.fromkeys(
        (
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
            *("max_length", "pad_to_multiple_of", "lora_r", "lora_alpha", "precompute_ref_batch_size"),
            *("dataset_num_proc", "dataloader_prefetch_factor", "eval_accumulation_steps"),
            *("torch_empty_cache_steps", "ref_model_sync_steps", "ddp_bucket_cap_mb", "ddp_timeout"),
        ),
        COUNT,
    ),
    **dict.fromkeys(("num_train_epochs", "beta", "discopop_tau"), POSITIVE),
    **dict.fromkeys(
        (
            *("learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon", "warmup_steps"),
            *("logging_steps", "eval_steps", "save_steps", "eval_delay", "save_total_limit"),
            *("dataloader_num_workers", "neftune_noise_alpha", "router_aux_loss_coef", "loss_weights"),
            "center_rewards_coefficient",
        ),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "lora_dropout", "label_smoothing_factor"), SHARE_BELOW_1),
    **dict.fromkeys(("ld_alpha", "ref_model_mixup_alpha"), SHARE),
    "label_smoothing": Range(least=0, below=0.5),
    **dict.fromkeys(("max_steps", "local_rank"), Range(least=-1)),  # -1: not given
    "f_alpha_divergence_coef": FINITE,
}


def range_of(item: dataclasses.Field[Any], *, ours: bool) -> Range:
    """Return the range declared for a field, or listed for a library's; by default, all finite numbers."""
    declared = item.metadata.get("within")
    if isinstance(declared, Range):
        return declared
    return FINITE if ours else OF_LIBRARIES.get(item.name, FINITE)


def outside(value: Any, within: Range) -> Iterator[float]:
    """Return all numbers in a value, including its lists and mappings, that are outside the range."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value not in within:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from outside(item, within)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from outside(item, within)
