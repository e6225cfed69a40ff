"""Loading models: whatever keeps one from being loaded is one line that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError
from scalequest.durable import StageError

_LONGEST = 400  # characters of a library's message, which may list all that it knows


@contextmanager
def loading(model: str | Path) -> Iterator[None]:
    """Turn whatever a library raises while it loads a model into one line.

    Args:
        model: what the line is to name.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    try:
        yield
    except (ConfigError, StageError):
        raise
    except Exception as error:  # cut weights, unknown kernels, broken configs: each library has its own kinds
        said = " ".join(str(error).split())
        said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
        raise ConfigError(
            f"{model}: the model cannot be loaded: {type(error).__name__}: {said}; see that its folder is "
            "whole and that the settings suit it"
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
        loaded, report = auto.from_pretrained(model, output_loading_info=True, **how)
    if faults := [name for name in missing(report) if new is None or not name.startswith(f"{new}.")]:
        raise ConfigError(
            f"{model}: the model is not whole: {', '.join(faults[:3])} ({len(faults)} weights) missing or of "
            "another shape"
        )
    return loaded


def missing(report: Any) -> list[str]:
    """The weights that were not read, by transformers' report of a loading."""
    return sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
