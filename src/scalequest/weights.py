"""Weights are read from safetensors alone: a pickle can run code when it is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_CONVERT = (
    "weights are taken from safetensors alone, since a pickle can run code; where you trust it, load it with "
    "from_pretrained(..., weights_only=True) and save it again with save_pretrained"
)


def check_safetensors(folder: str | Path) -> None:
    """Refuse a model's or an adapter's folder whose weights lie in pickles.

    Raises:
        ConfigError: it holds pickles only, or its index names one.
    """
    folder = Path(folder)
    files = {path.name for path in folder.iterdir() if path.is_file()}
    named = {"config.json": _read(folder / "config.json").get("transformers_weights") or "model.safetensors"}
    for index in sorted(name for name in files if name.endswith(".safetensors.index.json")):
        for part in _read(folder / index).get("weight_map", {}).values():
            named[index] = part if not str(part).endswith(".safetensors") else named.get(index, part)
    for source, name in named.items():
        if not str(name).endswith((".safetensors", ".safetensors.index.json")):
            raise ConfigError(f"{folder / source}: names {name!s:.80}; {_CONVERT}")
    adapter = {name for name in files if name.startswith("adapter_model.")}
    lora = "adapter_config.json" in files
    if lora:
        _check_files(folder, adapter)
    if not lora or "config.json" in files:
        _check_files(folder, files - adapter - {"training_args.bin"})


def _check_files(folder: Path, files: set[str]) -> None:
    pickles = sorted(name for name in files if name.endswith(_PICKLES))
    if pickles and not any(name.endswith((".safetensors", ".gguf")) for name in files):
        raise ConfigError(f"{folder}: holds {pickles[0]} and no safetensors; {_CONVERT}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: unreadable: {type(error).__name__}: {error}") from None
    return content if isinstance(content, dict) else {}


@contextmanager
def loading(model: str | Path) -> Iterator[None]:
    """Say in one line what is wrong with a model that `from_pretrained` cannot load.

    Raises:
        ConfigError: instead of its OSError, e.g. because a hub repository has pickles only.
    """
    # Without safetensors on the hub, transformers would have a service convert the pickle, and load that.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        yield
    except OSError as error:
        why = f"no weights in safetensors; {_CONVERT}" if "safetensors" in str(error) else str(error)
        raise ConfigError(f"{model}: cannot be loaded: {why}") from error
