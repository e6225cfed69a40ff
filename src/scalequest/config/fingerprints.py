"""Configs as JSON: whole for the record, and what of them can change a row or a weight."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from scalequest.config.schema import default_of, is_ours
from scalequest.redaction import redacted

# Settings of transformers' TrainingArguments and TRL's configs that change no weight, and paths.
_UNFINGERPRINTED = re.compile(
    r"output_dir|run_name|report_to|project|disable_tqdm|use_cpu|push_to_hub|resume_from_checkpoint|deepspeed|fsdp.*"
    r"|accelerator_config|parallelism_config|gradient_checkpointing.*|per_device_eval.*|model_name_or_path"
    r"|(logging|log|save|hub|ddp|dataloader(?!_drop_last)|trackio|torch_compile|eval|dataset_num)_.*"
)


def to_dict(config: Any) -> dict[str, Any]:
    """Everything a config holds, as JSON could hold it; secrets are left out."""
    held: dict[str, Any] = redacted(_fields_of(config))
    return held


def _fields_of(config: Any) -> dict[str, Any]:
    return {
        item.name: as_json(getattr(config, item.name)) for item in dataclasses.fields(config) if item.init
    }


def as_json(value: Any) -> Any:
    """A value as JSON could hold it: dataclasses and enums by their content, all else as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields_of(value)
    if isinstance(value, Enum):
        return as_json(value.value)
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(one) for one in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def fingerprint_fields(config: Any) -> dict[str, Any]:
    """The settings that can change a row or a weight, as JSON could hold them.

    Ours are marked by `option(..., fingerprint=False)`. Of a library's config (no field is marked) those are
    taken that differ from the library's default, logging, saving and hardware apart: so a new release of the
    library that adds a setting does not make a finished stage look changed. Secrets are left out, and a new
    key changes nothing.
    """
    ours = is_ours(type(config))
    out: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        if not item.init or not item.metadata.get("fingerprint", True):
            continue
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            out[item.name] = fingerprint_fields(value)
            continue
        plumbing = not ours and _UNFINGERPRINTED.fullmatch(item.name)
        if plumbing or (not ours and as_json(value) == as_json(default_of(item))):
            continue
        out[item.name] = as_json(value)
    kept: dict[str, Any] = redacted(out, environment=False)
    return kept
