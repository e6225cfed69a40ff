"""Trainers of TRL that load their model themselves: that of DPO, and that of the reward model."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from trl import get_peft_config, get_quantization_config

from scalequest.chat import prepare_tokenizer_and_model
from scalequest.config import ConfigError
from scalequest.models import loading
from scalequest.training.context import Run
from scalequest.training.cpu import plain_head

T = TypeVar("T")


def self_loading(trainer: type[T], run: Run, train: Any, holdout: Any) -> T:
    """Make a `trainer` of the run's model; the pad token and the stop tokens are those of the chat format.

    Args:
        trainer: a trainer of TRL.
        run: begun and opened.
        train: what it learns from, in the columns of its collator.
        holdout: what it is evaluated on, or None.

    Raises:
        ConfigError: the model has no pad token of its own, or cannot be loaded.
    """
    args, model_args = run.training_args, run.model_args
    if run.chat.pad_id is None:
        raise ConfigError(
            f"model_name_or_path: {run.model} has no token '{run.format.pad}' to pad with; start from a "
            "model that recipes/qft.py saved"
        )
    args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
        **(args.model_init_kwargs or {}),
        "use_safetensors": True,
    }
    run.tokenizer.pad_token = run.format.pad
    options: dict[str, Any] = {
        "model": run.model,
        "args": args,
        "train_dataset": train,
        "eval_dataset": holdout,
        "processing_class": run.tokenizer,
        "quantization_config": get_quantization_config(model_args),
        "peft_config": get_peft_config(model_args),
    }
    if run.scorer and options["peft_config"] is not None:
        options["peft_config"].task_type = "SEQ_CLS"  # whose head is trained whole and saved
    with loading(run.model), plain_head(args.device.type == "cpu"):
        made: Any = trainer(**options)
    run.chat = prepare_tokenizer_and_model(made.model, run.tokenizer, run.format)
    return made  # type: ignore[no-any-return]


def keep_outputs_exact(accelerator: Any) -> None:
    """Under FSDP2 in bf16, keep accelerate from rounding what the model returns to bfloat16.

    TRL's head computes log-probabilities in float32, to be summed over a completion. Rounded to bfloat16, the
    sum of a question at -100 nats moves in steps of half a nat, at -400 in steps of 2: coarser than what DPO
    learns from. What the layers pass to each other is bfloat16 all the same, as their weights are.

    Args:
        accelerator: of a trainer, before it has prepared any model.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    policy: Any = getattr(plugin, "mixed_precision_policy", None)
    if plugin is not None and getattr(policy, "output_dtype", None) is not None:
        plugin.mixed_precision_policy = dataclasses.replace(policy, output_dtype=None)
