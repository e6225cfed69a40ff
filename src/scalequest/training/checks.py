"""Checks made before anything is loaded: settings, memory, access to the hub."""

from __future__ import annotations

import logging
import os
from typing import Any

import psutil
import torch
from transformers import AutoConfig

from scalequest import estimate
from scalequest.config import ConfigError

log = logging.getLogger(__name__)


def check_settings(args: Any, model_args: Any) -> None:
    """Refuse settings that would not do what their names say; warn about weights too coarse to learn.

    Raises:
        ConfigError: one process sees several GPUs, a checkpoint is named, a run could not resume from its
            checkpoints, or the model would be saved in shards.
    """
    if args.n_gpu > 1:
        raise ConfigError(
            f"one process sees {args.n_gpu} GPUs: start with `accelerate launch --config_file "
            "accelerate_configs/…`, or select one GPU with CUDA_VISIBLE_DEVICES"
        )
    if args.resume_from_checkpoint:
        raise ConfigError(
            "resume_from_checkpoint: a run always resumes from its own last complete "
            "checkpoint; remove this setting, or set model_name_or_path to the checkpoint to "
            "train it further"
        )
    if args.save_only_model:
        raise ConfigError(
            "save_only_model: without the optimizer state, a resumed run would silently "
            "start with a new optimizer and schedule; remove this setting, and use "
            "save_total_limit to save disk space"
        )
    zero = estimate.zero_settings(args)
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ConfigError(
            "zero3_save_16bit_model (stage3_gather_16bit_weights_on_model_save in a "
            "DeepSpeed config file): must be true, or the trained model would be saved in "
            "shards that cannot be loaded"
        )
    # DeepSpeed and accelerate's FSDP2 keep float32 weights for the optimizer, whatever dtype is loaded.
    kept = bool(zero) or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if model_args.dtype != "float32" and not (model_args.use_peft or kept) and args.process_index == 0:
        log.warning(
            "dtype %s: without DeepSpeed or FSDP2, which also keep float32 weights, most "
            "updates at small learning rates are rounded to zero; set dtype: float32 (and "
            "bf16: true)",
            model_args.dtype,
        )


def check_publishing(args: Any) -> None:
    """Refuse to start a long training run whose model could not be published at the end.

    Raises:
        ConfigError: the hub is offline, or the user is not logged in.
    """
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        raise ConfigError("push_to_hub: HF_HUB_OFFLINE=1 is set; unset it, or remove push_to_hub")
    if not (args.hub_token or get_token()):
        raise ConfigError("push_to_hub: not logged in; run `hf auth login`, or remove push_to_hub")


def memory_check(model: str, args: Any, model_args: Any) -> str:
    """Say whether a process has enough memory, and what to change if it does not.

    Args:
        model: a folder or hub id.
        args: the trainer's config.
        model_args: TRL's `ModelConfig`.
    """
    try:
        config = AutoConfig.from_pretrained(model, revision=model_args.model_revision)
        sizes = estimate.Architecture.of(config)
    except (AttributeError, ValueError):  # not a decoder that transformers and the formula know
        return "memory: no estimate for this architecture"
    gpu = args.device.type == "cuda"
    if gpu:
        capacity = torch.cuda.get_device_properties(args.device).total_memory
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        capacity = psutil.virtual_memory().available / here
    work = estimate.Work.of(args, model_args)
    return estimate.verdict(sizes, work, estimate.Topology.launched(args), capacity, gpu)
