"""Let one process do work for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

from scalequest.atomic_files import StageError
from scalequest.config import ConfigError

T = TypeVar("T")


def once(training_args: Any, work: Callable[[], T]) -> T:
    """Let the main process do the work, and return its result on all ranks, which wait up to `ddp_timeout`.

    Args:
        training_args: the trainer's config.
        work: returns a result that can be pickled.

    Raises:
        ConfigError: raised by the work; all ranks raise it, because those that wait would otherwise hang.
        StageError: likewise.
    """
    outcome: list[Any] = [None, None]
    if training_args.process_index == 0:
        try:
            outcome[0] = work()
        except (ConfigError, StageError) as error:
            outcome[1] = error
    if training_args.world_size > 1:
        broadcast_object_list(outcome, from_process=0)
    if outcome[1] is not None:
        outcome[1].told = training_args.process_index > 0  # the main process reports it
        raise outcome[1]
    found: T = outcome[0]
    return found
