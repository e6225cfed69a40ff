"""Merge a LoRA adapter with its base model, or the shards of a checkpoint, into one complete model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from scalequest.atomic_files import read_object
from scalequest.chat import load_format, load_tokenizer
from scalequest.config import ConfigError
from scalequest.training.saving import check_model, merge_adapter
from scalequest.training.settings import MergeConfig

FSDP_SHARDS = "pytorch_model_fsdp_0"  # accelerate's name for them
DEEPSPEED_LATEST = "latest"
GENERATION = "generation_config.json"


def merge(config: MergeConfig) -> Path:
    """Merge, save, and check that the result loads.

    Raises:
        ConfigError: a folder does not contain what is to be merged, or `output_dir` already contains a model.
    """
    folder = Path(config.output_dir)
    if (folder / "config.json").exists():
        raise ConfigError(f"output_dir: {folder} already contains a model; choose another folder")
    if config.adapter is not None:
        adapter = Path(config.adapter)
        base = config.model_name_or_path or base_of(adapter)
        # Use its own tokenizer if it has one, because the base model's may stop at other tokens.
        tokenizer = load_tokenizer(str(adapter) if (adapter / "tokenizer_config.json").is_file() else base)
        prepared = (tokenizer, load_format(config.chat_format, base)) if config.chat_format else None
        dtype = getattr(torch, config.dtype)
        merge_adapter(base, adapter, folder, dtype=dtype, prepared=prepared, scorer=config.scorer)
        if (adapter / GENERATION).is_file():
            shutil.copyfile(adapter / GENERATION, folder / GENERATION)
    else:
        checkpoint = Path(config.checkpoint or "")
        source = config.model_name_or_path
        if source is None or (checkpoint / "config.json").exists():
            source = str(checkpoint)
        weights = gather_weights(checkpoint)
        model = make_whole(source, weights, config.scorer)
        model.to(getattr(torch, config.dtype)).save_pretrained(folder)
        tokenizer = load_tokenizer(source)
    tokenizer.save_pretrained(folder)
    check_model(folder, tokenizer("1 + 1")["input_ids"], config.scorer)
    return folder


def base_of(adapter: Path) -> str:
    """Return the base model that an adapter was trained on, according to the adapter."""
    try:
        return str(read_object(adapter / "adapter_config.json")["base_model_name_or_path"])
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"{adapter}: no adapter_config.json that names a base model") from None


def gather_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Gather the complete weights of a sharded checkpoint on the CPU, by name.

    Raises:
        ConfigError: it is not such a checkpoint.
    """
    if (checkpoint / DEEPSPEED_LATEST).is_file():
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        found: dict[str, torch.Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint))
        return found
    if (checkpoint / FSDP_SHARDS).is_dir():
        from accelerate.utils import merge_fsdp_weights
        from safetensors.torch import load_file

        with tempfile.TemporaryDirectory() as temporary:
            merge_fsdp_weights(str(checkpoint / FSDP_SHARDS), temporary)
            files: Iterable[Path] = sorted(Path(temporary).glob("*.safetensors"))
            return {name: weight for file in files for name, weight in load_file(file).items()}
    raise ConfigError(
        f"{checkpoint}: contains shards of neither DeepSpeed ('{DEEPSPEED_LATEST}') nor "
        f"FSDP ('{FSDP_SHARDS}'); a checkpoint with model.safetensors needs no merging"
    )


def make_whole(source: str, weights: dict[str, torch.Tensor], scorer: bool) -> Any:
    """Make a model of the architecture named in `source`, with these weights and as many token rows."""
    config = AutoConfig.from_pretrained(source)
    embedding = next((w for name, w in weights.items() if name.endswith("embed_tokens.weight")), None)
    if embedding is None:
        raise ConfigError(
            f"{source}: the shards contain no token embeddings; check that it is not the "
            "checkpoint of an adapter"
        )
    config.vocab_size = embedding.shape[0]
    auto: Any = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    model = auto.from_config(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        first = sorted({*missing, *unexpected} - tied)[0]
        raise ConfigError(f"{source}: the shards do not match this architecture: {first}")
    model.tie_weights()
    return model
