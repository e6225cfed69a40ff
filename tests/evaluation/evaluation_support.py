"""Scripts of eval/ as command lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def command(root: Path, name: str, *words: object) -> list[str]:
    """The command line of a script, of eval/ unless its name has a folder."""
    script = root / (name if "/" in name else f"eval/{name}")
    return [sys.executable, str(script), *map(str, words)]


def environment(root: Path) -> dict[str, str]:
    """Quiet and offline, our package importable, one thread."""
    path = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
