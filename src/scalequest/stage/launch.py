"""Determine which of the launched processes this is, and which devices belong to it.

Data stages use a launcher only to start one process per copy of the model: the processes share a folder, not
a process group. Training recipes leave the launcher's variables unchanged and only call `check_world`.
"""

from __future__ import annotations

import os
import sys
from typing import Literal

from scalequest.config import ConfigError
from scalequest.hardware import count_gpus, has_gpu, listed_gpus, told_cpu

# Settings of every stage that can use several workers.
Launch = Literal["local", "ray"]
LAUNCH = "local: the processes started by the launcher; ray: workers as tasks of a Ray cluster"
RAY_WORKERS = (
    "ray: number of workers; null: one per engine.tensor_parallel_size GPUs, or one if there are no GPUs"
)

# Seconds after which torchrun, and therefore `accelerate launch`, kills its ranks once it was told to stop.
# The default is 30, which is too short to write a checkpoint of a 7B model under ZeRO-3 (about 122 GB).
# Whatever starts a launcher sets this variable, and must wait longer itself.
STOP_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
STOP_SECONDS = 540

# Variables by which each launcher tells a process its rank, world size, local rank and local world size.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MPI = (
    tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
# The number of tasks in the step started by srun. SLURM_NTASKS is not suitable: it belongs to the whole job,
# and a batch script or the shell of salloc has it, too, although it is a single process.
_SRUN_TASKS = "SLURM_STEP_NUM_TASKS"
# Variables that would make an engine join the launcher's process group, or make a worker's child processes
# fail.
_REMOVED = (
    _SRUN_TASKS,
    *("MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE"),
    *_TORCHRUN,
)
_REMOVED_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_")
IN_RAY = "SCALEQUEST_RAY_WORKER"  # set in the workers of `launch: ray`


def worker(tensor_parallel_size: int = 1) -> tuple[int, int]:
    """Get this process's number and the number of processes from the launcher, and set its devices.

    Call this once, before importing anything that looks at devices. `CUDA_VISIBLE_DEVICES` becomes this
    process's group of `tensor_parallel_size` GPUs from the caller's list (or from all GPUs if there is no
    list). Without a GPU, the process is bound to its share of the cores. If there are several workers, each
    gets its own folder for what vLLM compiles. Finally, the launcher's variables are removed.

    Returns:
        The worker's number, from 0, and how many workers there are; (0, 1) without a launcher.

    Raises:
        ConfigError: the launcher started fewer processes than requested, its variables contradict each other,
            srun started several processes without a launcher, or there are not enough GPUs.
    """
    _refuse_strangers()
    _refuse_lonely_launch()
    index, workers, local_index, local_workers = _place()
    by_launcher = any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", *_TORCHRUN))
    gpu = has_gpu()
    if by_launcher or workers > 1:
        if gpu or listed_gpus():
            _pin_gpus(local_index, tensor_parallel_size)
        if not gpu:
            _bind_cores(local_index, local_workers)
    if workers > 1:
        _separate_caches(index)
    if not gpu:
        # On a CPU, vLLM binds memory to NUMA nodes, and torch warns about it at every start unless this is
        # set first.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if told_cpu():  # engines call `has_gpu` again, when the launcher's variables are gone
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for name in list(os.environ):
        if name in _REMOVED or name.startswith(_REMOVED_PREFIXES):
            del os.environ[name]
    return index, workers


def on_ray(launch: Launch) -> bool:
    """Return whether this process must start workers on Ray, because it is not one of them."""
    return launch == "ray" and IN_RAY not in os.environ


def check_world() -> None:
    """Stop a training recipe whose processes do not see each other; call it after the trainer's config.

    On CPU, some launcher settings start several processes that each believe to be the only one and overwrite
    each other's files, or one process although several were requested, which then trains with smaller
    batches.

    Raises:
        ConfigError: `torch.distributed` has a different world size than was launched, or srun started several
            processes without a launcher.
    """
    import torch.distributed

    _refuse_strangers()
    _refuse_lonely_launch()
    _, launched, _, _ = _place()
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    seen = torch.distributed.get_world_size() if distributed else 1
    if seen != launched:
        raise ConfigError(
            f"{launched} processes were launched, but torch.distributed sees a world of {seen}: "
            "on CPU, add `--use_cpu true`"
        )


def _refuse_lonely_launch() -> None:
    """Return whether `accelerate launch` started one process instead of several, as it does without a GPU.

    It then sets a rendezvous address (which it does only for more than one process), but no world size.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and _family() is None:
        raise ConfigError(
            "accelerate launch was asked for several processes but started one: on CPU, use "
            "`torchrun --standalone --nproc_per_node N`, or a config file with "
            "distributed_type: MULTI_GPU and use_cpu: true (or unset MASTER_PORT if you want "
            "one process)"
        )


def _refuse_strangers() -> None:
    """Stop if srun started several tasks without a launcher: each would believe to be the only process."""
    tasks = os.environ.get(_SRUN_TASKS, "1")
    if tasks.isdecimal() and int(tasks) > 1 and "SLURM_PROCID" in os.environ and _family() is None:
        raise ConfigError(
            f"srun started {tasks} independent processes: let srun start one `accelerate "
            "launch --config_file accelerate_configs/...` per machine, as the script written "
            f"by `python slurm/launch.py` does (or unset {_SRUN_TASKS} if you want one "
            "process)"
        )


def _family() -> tuple[str, ...] | None:
    """Return the variables of the innermost launcher."""
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        return _TORCHRUN
    # Slurm also sets some of MPI's variables, but not which process of its machine this is.
    return next((family for family in _MPI if all(name in os.environ for name in family)), None)


def _place() -> tuple[int, int, int, int]:
    """Return rank, world size, local rank and local world size."""
    family = _family()
    if family is None:
        return 0, 1, 0, 1
    rank, size, local_rank, local_size = family
    for name, other in ((rank, size), (size, rank)):
        if name not in os.environ:
            raise ConfigError(f"{other} is set but {name} is not: unset both")
    index, workers = _number(rank), _number(size)
    local_index = _number(local_rank) if local_rank in os.environ else index
    local_workers = _number(local_size) if local_size in os.environ else workers
    if not 0 <= index < workers or not 0 <= local_index < local_workers <= workers:
        raise ConfigError(
            f"{rank}={index}, {size}={workers}, {local_rank}={local_index}, "
            f"{local_size}={local_workers} contradict each other; unset them if they are left "
            "over from another launch"
        )
    return index, workers, local_index, local_workers


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise ConfigError(
            f"environment variable {name}: expected a number, got {os.environ[name]!r}"
        ) from None


def _pin_gpus(local_index: int, group: int) -> None:
    first = local_index * group
    gpus, where = listed_gpus(), "CUDA_VISIBLE_DEVICES"
    if not gpus:
        # An invalid GPU number would hide all GPUs, and transformers would silently run on the CPU.
        there, where = count_gpus(), "this machine"
        gpus = [str(number) for number in range(there or first + group)]
    if len(gpus) < first + group:
        raise ConfigError(
            f"worker {local_index} of this machine needs GPUs {first} to {first + group - 1} "
            f"of the list, but {where} has {len(gpus)} ({','.join(gpus)}): launch one process "
            f"per {group} GPUs"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + group])


def _separate_caches(index: int) -> None:
    """Give this worker its own folder for what vLLM compiles, unless the caller chose one.

    vLLM writes parts of its cache in place, and distinguishes ranks only within one engine, so engines that
    start at the same time would read each other's incomplete files. The folder is named after the worker's
    number among all workers, because machines often share a home directory; a restart finds it again.
    """
    if "VLLM_CACHE_ROOT" not in os.environ:
        base = os.environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
        os.environ["VLLM_CACHE_ROOT"] = os.path.join(base, "vllm", f"worker-{index}")


def _bind_cores(local_index: int, local_workers: int) -> None:
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        start, end = (len(cores) * number // local_workers for number in (local_index, local_index + 1))
        share = cores[start:end] or [cores[local_index % len(cores)]]
        os.sched_setaffinity(0, share)
        threads = len(share)
    else:
        threads = max(1, (os.cpu_count() or 1) // local_workers)
    # Launchers set 1 if the user has set nothing.
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
