"""Load models completely and from safetensors only, with one-line errors if that fails.

A pickle can execute code when it is opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalequest.atomic_files import StageError, read_object
from scalequest.config import ConfigError

_LONGEST = 400  # characters kept of a library's message, which may list everything that it supports


_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_CONVERT = (
    "weights are read from safetensors only, because a pickle can execute code; if "
    "you trust it, load it with from_pretrained(..., weights_only=True) and save it "
    "again with save_pretrained"
)


def check_safetensors(folder: str | Path) -> None:
    """Refuse a model or adapter folder whose weights are stored as pickles.

    Raises:
        ConfigError: the folder contains only pickles, or its index refers to one.
    """
    folder = Path(folder)
    files = {path.name for path in folder.iterdir() if path.is_file()}
    named = {"config.json": _read(folder / "config.json").get("transformers_weights") or "model.safetensors"}
    for index in sorted(name for name in files if name.endswith(".safetensors.index.json")):
        for part in _read(folder / index).get("weight_map", {}).values():
            named[index] = part if not str(part).endswith(".safetensors") else named.get(index, part)
    for source, name in named.items():
        if not str(name).endswith((".safetensors", ".safetensors.index.json")):
            raise ConfigError(f"{folder / source}: refers to {name!s:.80}; {_CONVERT}")
    adapter = {name for name in files if name.startswith("adapter_model.")}
    lora = "adapter_config.json" in files
    if lora:
        _check_files(folder, adapter)
    if not lora or "config.json" in files:
        _check_files(folder, files - adapter - {"training_args.bin"})


def _check_files(folder: Path, files: set[str]) -> None:
    pickles = sorted(name for name in files if name.endswith(_PICKLES))
    if pickles and not any(name.endswith((".safetensors", ".gguf")) for name in files):
        raise ConfigError(f"{folder}: contains {pickles[0]} but no safetensors; {_CONVERT}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
    return content if isinstance(content, dict) else {}


@contextmanager
def loading(model: str | Path) -> Iterator[None]:
    """Turn any exception that a library raises while loading a model into a one-line error.

    Args:
        model: the name for the error message.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    # If a hub model has no safetensors, transformers would ask a service to convert the pickle and load the
    # result.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        yield
    except (ConfigError, StageError):
        raise
    except Exception as error:  # every library raises its own types
        if isinstance(error, OSError) and "safetensors" in str(error):
            raise ConfigError(f"{model}: cannot be loaded: no safetensors weights; {_CONVERT}") from error
        said = " ".join(str(error).split())
        said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
        raise ConfigError(
            f"{model}: the model cannot be loaded: {type(error).__name__}: {said}; check that "
            "its folder is complete and that the settings match it"
        ) from error


def load_whole(auto: Any, model: str, *, new: str | None = None, **how: Any) -> Any:
    """Load a model with `from_pretrained`, with all of its weights taken from its files.

    transformers only warns about missing weights and initialises them at random.

    Args:
        auto: a transformers class, e.g. `AutoModelForCausalLM`.
        model: a folder or hub id.
        new: name of a layer that is meant to be initialised at random, e.g. a new head.
        how: further arguments of `from_pretrained`.

    Raises:
        ConfigError: the model cannot be loaded, or weights are missing or have a different shape.
    """
    with loading(model):
        loaded, report = auto.from_pretrained(
            model, output_loading_info=True, **{**how, "use_safetensors": True}
        )
    if faults := [name for name in missing(report) if new is None or not name.startswith(f"{new}.")]:
        raise ConfigError(
            f"{model}: the model is incomplete: {', '.join(faults[:3])} ({len(faults)} "
            "weights) missing or of a different shape"
        )
    return loaded


def missing(report: Any) -> list[str]:
    """Return the weights that were not loaded, according to transformers' loading report."""
    return sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})


def adapter_base(model: str | Path) -> str | None:
    """Return the base model of a LoRA adapter from `adapter_config.json`; None if `model` is not an adapter.

    Raises:
        ConfigError: the adapter does not name its base model.
    """
    folder = Path(model).expanduser()
    path = folder / "adapter_config.json"
    if not path.is_file() or (folder / "config.json").exists():
        return None
    base = read_object(path).get("base_model_name_or_path")
    if not base:
        raise ConfigError(
            f"{path}: no base_model_name_or_path; merge the adapter, or name its base model there"
        )
    return str(base)
