"""Which GPUs this process may use, found without importing torch.

torch reads OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES when it is imported, and a worker sets both before that.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
GPU_FOLDER = Path("/dev")  # holds one file nvidia<number> per GPU


def has_gpu() -> bool:
    """Whether this machine has a GPU that the caller lets us use.

    A laptop with a GPU and the CPU environment of `make setup` has none for us.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    if told_cpu() or _cpu_build():
        return False
    return any(Path(file).exists() for file in GPU_FILES)


@cache
def _cpu_build() -> bool:
    """Whether the installed torch was built without GPUs."""
    return version("torch").endswith("+cpu")


def told_cpu() -> bool:
    """Whether a launcher was told to use the CPU."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def listed_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names; empty if it names none."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [] if listed == "-1" else [gpu.strip() for gpu in listed.split(",") if gpu.strip()]


def count_gpus() -> int:
    """How many NVIDIA GPUs the machine has, whoever may use them."""
    return len(list(GPU_FOLDER.glob("nvidia[0-9]*")))
