"""How trainers get their model: loaded here, or by those of TRL that load it themselves (DPO, rewards)."""

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
    """Load the model that training starts from, whole and as TRL's `ModelConfig` asks for it.

    Args:
        auto: a class of transformers, e.g. `AutoModelForCausalLM`.
        identity: of the run.
        new: name of the layer that is to be drawn, e.g. a new head.
        how: further arguments of `from_pretrained`, which go before those of `ModelConfig`.

    Raises:
        ConfigError: it cannot be loaded, or weights are missing or of another shape.
    """
    model_args = identity.model_args
    given: dict[str, Any] = {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
    }
    quantization = get_quantization_config(model_args)
    if quantization is not None:  # cannot be moved once it is loaded, so each rank loads it onto its device
        given |= {"quantization_config": quantization, "device_map": {"": identity.training_args.device}}
    return load_whole(auto, identity.model, new=new, **{**given, **how})


def make_self_loading(trainer: type[T], identity: Identity, train: Any, holdout: Any) -> T:
    """Make a `trainer` of the run's model; the pad token and the stop tokens are those of the chat format.

    Args:
        trainer: a trainer of TRL.
        identity: of the run.
        train: what it learns from, in the columns of its collator.
        holdout: what it is evaluated on, or None.

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
        adapter.task_type = "SEQ_CLS"  # whose head is trained whole and saved
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
        ConfigError: it does.
    """
    if identity.chat.pad_id is None:
        raise ConfigError(
            f"model_name_or_path: {identity.model} has no token '{identity.format.pad}' for "
            "padding; start from a model saved by recipes/qft.py"
        )


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
