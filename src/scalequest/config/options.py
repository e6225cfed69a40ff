"""Config fields with help and range, the options shared by every stage, and `ConfigError`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

from scalequest.config.ranges import COUNT, SEED, Range
from scalequest.redaction import redacted


class ConfigError(ValueError):
    """An error in a setting or an input, in one line: where, which key or row, and what to do."""

    def __init__(self, message: str) -> None:
        """Keep the message on one line and free of secrets."""
        super().__init__(redacted(" ".join(message.split())))


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    within: Range | None = None,
    fingerprint: bool = True,
    default_factory: Callable[[], Any] | None = None,
) -> Any:
    """Make a dataclass field with a default and a line of help.

    Args:
        default: the value if the key is not given (or use `default_factory`).
        help: one line for `--help`.
        within: the range of the number, or of every number in the value; required for all numeric fields.
        fingerprint: False if no value of the field can change a row, e.g. for a batch size or a path.
        default_factory: creates the default, for a list or a nested dataclass.
    """
    metadata = {"help": help, "fingerprint": fingerprint, "within": within}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def required(help: str = "", *, within: Range | None = None, fingerprint: bool = True) -> Any:
    """Make a dataclass field that must be given (keyword-only, so it may follow fields with defaults)."""
    return field(kw_only=True, metadata={"help": help, "fingerprint": fingerprint, "within": within})


@dataclass(frozen=True)
class RunOptions:
    """Options of every data stage and evaluation."""

    output_dir: str = required("output folder of this stage", fingerprint=False)
    seed: int = option(42, "seed of the run; each row's seed is derived from it", within=SEED)
    limit: int | None = option(None, "use only the first N inputs", within=COUNT)
    fresh: bool = option(False, "start again and remove the contents of output_dir", fingerprint=False)
    block_size: int = option(
        256, "number of rows that are written together, and redone together after a crash", within=COUNT
    )
    track: Literal["wandb", "none"] = option(
        "wandb", "wandb (offline if no key is set) or none", fingerprint=False
    )
    group: str | None = option(None, "W&B group, usually the name of the pipeline", fingerprint=False)


@dataclass(frozen=True)
class TrainRunOptions:
    """Options of the training recipes in addition to the trainer's own config."""

    limit: int | None = option(None, "use only the first N rows", within=COUNT)
    fresh: bool = option(False, "start again and remove the contents of output_dir", fingerprint=False)
    track: Literal["wandb", "none"] = option(
        "wandb", "wandb (offline if no key is set) or none", fingerprint=False
    )
    group: str | None = option(None, "W&B group, usually the name of the pipeline", fingerprint=False)
