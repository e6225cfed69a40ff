"""Trainers of TRL that load their model themselves: that of DPO, and that of the reward model."""

from __future__ import annotations

from typing import Any, TypeVar

from trl import get_peft_config, get_quantization_config

from scalequest.chat import prepare_tokenizer_and_model
from scalequest.config import ConfigError
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
        ConfigError: the model has no pad token of its own.
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
    with plain_head(args.device.type == "cpu"):
        made: Any = trainer(**options)
    run.chat = prepare_tokenizer_and_model(made.model, run.tokenizer, run.format)
    return made  # type: ignore[no-any-return]
