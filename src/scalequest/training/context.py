"""A training recipe as a process: its exit status says whether it failed, was wrong, or is to start again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scalequest import stages
from scalequest.training.safety import leave_when_told


def explained(main: Callable[..., None], args: Any, training_args: Any, model_args: Any) -> int:
    """Run a recipe's `main`; a mistake of the user's becomes one line and status 2, SIGTERM status 75."""
    if threading.current_thread() is threading.main_thread():
        leave_when_told(Path(training_args.output_dir))
    return stages.explained(main, args, training_args, model_args)
