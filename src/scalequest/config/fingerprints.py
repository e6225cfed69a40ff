"""Convert configs to JSON: in full for the record, or only what can change a row or a weight."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from scalequest.config.schema import default_of, is_ours
from scalequest.redaction import redacted

# Settings of transformers' TrainingArguments and TRL's configs that cannot change a weight, and paths.
_UNFINGERPRINTED = re.compile(
    r"output_dir|run_name|report_to|project|disable_tqdm|use_cpu|push_to_hub|resume_from_checkpoint|deepspeed|fsdp.*"
    r"|accelerator_config|parallelism_config|gradient_checkpointing.*|per_device_eval.*|model_name_or_path"
    r"|(logging|log|save|hub|ddp|dataloader(?!_drop_last)|trackio|torch_compile|eval|dataset_num)_.*"
)


def to_dict(config: Any) -> dict[str, Any]:
    """Return all settings of a config in JSON form, without secrets."""
    held: dict[str, Any] = redacted(_fields_of(config))
    return held


def _fields_of(config: Any) -> dict[str, Any]:
    return {
        item.name: as_json(getattr(config, item.name)) for item in dataclasses.fields(config) if item.init
    }


def as_json(value: Any) -> Any:
    """Return a value in JSON form: dataclasses and enums by their content, everything else as text."""
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
    """Return the settings that can change a row or a weight, in JSON form.

    Our own settings are marked with `option(..., fingerprint=False)`. Configs of libraries have no such
    marks; of these, the settings that differ from the library's default are included, except for logging,
    saving and hardware. A new release of the library that adds a setting therefore does not make a finished
    stage look changed. Secrets are left out, so a new API key changes nothing.
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
