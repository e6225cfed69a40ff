"""Load models for trainers: here, or in the TRL trainers that load them themselves (DPO, rewards)."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from trl import get_peft_config, get_quantization_config

from scalequest.chat import prepare_tokenizer_and_model
from scalequest.config import ConfigError
from scalequest.models import load_whole, loading
from scalequest.training.cpu import plain_head
from scalequest.training.identity import Identity

T = TypeVar("T")


def load_model(auto: Any, identity: Identity, *, new: str | None = None, **how: Any) -> Any:
    """Load the complete model that training starts from, as specified in TRL's `ModelConfig`.

    Args:
        auto: a transformers class, e.g. `AutoModelForCausalLM`.
        identity: the identity of the run.
        new: name of a layer that is meant to be initialised at random, e.g. a new head.
        how: further arguments of `from_pretrained`, which override those from `ModelConfig`.

    Raises:
        ConfigError: the model cannot be loaded, or weights are missing or have a different shape.
    """
    model_args = identity.model_args
    given: dict[str, Any] = {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
    }
    quantization = get_quantization_config(model_args)
    if quantization is not None:  # cannot be moved after loading, so each rank loads it onto its device
        given |= {"quantization_config": quantization, "device_map": {"": identity.training_args.device}}
    return load_whole(auto, identity.model, new=new, **{**given, **how})


def make_self_loading(trainer: type[T], identity: Identity, train: Any, holdout: Any) -> T:
    """Make a `trainer` for the run's model, with the pad token and stop tokens of the chat format.

    Args:
        trainer: a TRL trainer class.
        identity: the identity of the run.
        train: the training rows, in the columns of its collator.
        holdout: the rows for evaluation, or None.

    Raises:
        ConfigError: the model has no pad token of its own, or cannot be loaded.
    """
    args, model_args = identity.training_args, identity.model_args
    check_pad_token(identity)
    args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
        **(args.model_init_kwargs or {}),
        "use_safetensors": True,
    }
    identity.tokenizer.pad_token = identity.format.pad
    adapter = get_peft_config(model_args)
    if identity.stage.scorer and adapter is not None:
        adapter.task_type = "SEQ_CLS"  # its head is trained in full and saved
    options: dict[str, Any] = {
        "model": identity.model,
        "args": args,
        "train_dataset": train,
        "eval_dataset": holdout,
        "processing_class": identity.tokenizer,
        "quantization_config": get_quantization_config(model_args),
        "peft_config": adapter,
    }
    with loading(identity.model), plain_head(args.device.type == "cpu"):
        made: Any = trainer(**options)
    prepare_tokenizer_and_model(made.model, identity.tokenizer, identity.format)
    return made  # type: ignore[no-any-return]


def check_pad_token(identity: Identity) -> None:
    """Refuse a model whose tokenizer lacks the pad token of the chat format.

    Raises:
        ConfigError: the pad token is missing.
    """
    if identity.chat.pad_id is None:
        raise ConfigError(
            f"model_name_or_path: {identity.model} has no token '{identity.format.pad}' for "
            "padding; start from a model saved by recipes/qft.py"
        )


def keep_outputs_exact(accelerator: Any) -> None:
    """Under FSDP2 in bf16, keep accelerate from rounding the model's outputs to bfloat16.

    TRL's head computes log-probabilities in float32, which are then summed over a completion. In bfloat16,
    the sum of a question at -100 nats changes in steps of half a nat, and at -400 nats in steps of 2, which
    is coarser than what DPO learns from. The layers still pass bfloat16 to each other, like their weights.

    Args:
        accelerator: the accelerator of a trainer that has not prepared any model yet.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    policy: Any = getattr(plugin, "mixed_precision_policy", None)
    if plugin is not None and getattr(policy, "output_dtype", None) is not None:
        plugin.mixed_precision_policy = dataclasses.replace(policy, output_dtype=None)
