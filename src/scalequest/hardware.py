"""Find the GPUs that this process may use, without importing torch.

torch reads OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES when it is imported, and a worker sets both before that.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
GPU_FOLDER = Path("/dev")  # contains one file nvidia<number> per GPU


def has_gpu() -> bool:
    """Return whether this machine has a GPU that we may use.

    A laptop that has a GPU, but the CPU environment of `make setup`, counts as having none.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    if told_cpu() or _cpu_build():
        return False
    return present()


def present() -> bool:
    """Return whether this machine has a GPU, whether or not we may use it."""
    return any(Path(file).exists() for file in GPU_FILES)


@cache
def _cpu_build() -> bool:
    """Return whether the installed torch, if any, was built without GPU support."""
    from importlib.metadata import PackageNotFoundError, version  # reads email and more

    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def told_cpu() -> bool:
    """Return whether a launcher was told to use the CPU."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def listed_gpus() -> list[str]:
    """Return the GPUs listed in CUDA_VISIBLE_DEVICES; an empty list if there are none."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [] if listed == "-1" else [gpu.strip() for gpu in listed.split(",") if gpu.strip()]


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs in the machine, whether or not this process may use them."""
    return len(list(GPU_FOLDER.glob("nvidia[0-9]*")))
