"""Models are loaded whole and from safetensors alone; what keeps one from being loaded is one line.

A pickle can run code when it is opened.
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

_LONGEST = 400  # characters of a library's message, which may list all that it knows


_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_CONVERT = (
    "weights are read from safetensors only, because a pickle can execute code; if "
    "you trust it, load it with from_pretrained(..., weights_only=True) and save it "
    "again with save_pretrained"
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
    """Turn whatever a library raises while it loads a model into one line.

    Args:
        model: what the line is to name.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    # Without safetensors on the hub, transformers would have a service convert the pickle, and load that.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        yield
    except (ConfigError, StageError):
        raise
    except Exception as error:  # cut weights, unknown kernels, broken configs: each library has its own kinds
        if isinstance(error, OSError) and "safetensors" in str(error):
            raise ConfigError(f"{model}: cannot be loaded: no safetensors weights; {_CONVERT}") from error
        said = " ".join(str(error).split())
        said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
        raise ConfigError(
            f"{model}: the model cannot be loaded: {type(error).__name__}: {said}; check that "
            "its folder is complete and that the settings match it"
        ) from error


def load_whole(auto: Any, model: str, *, new: str | None = None, **how: Any) -> Any:
    """Load a model with `from_pretrained`, all of its weights from its files.

    transformers only warns of weights that are missing, and draws them at random.

    Args:
        auto: a class of transformers, e.g. `AutoModelForCausalLM`.
        model: folder or hub id.
        new: name of the layer that is to be drawn, e.g. a new head.
        how: further arguments of `from_pretrained`.

    Raises:
        ConfigError: it cannot be loaded, or weights are missing or of another shape.
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
    """The weights that were not read, by transformers' report of a loading."""
    return sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})


def adapter_base(model: str | Path) -> str | None:
    """The model that a LoRA adapter belongs to, by `adapter_config.json`; None where `model` is no adapter.

    Raises:
        ConfigError: the adapter does not name its base.
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
