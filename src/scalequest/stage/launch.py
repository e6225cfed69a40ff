"""Which of the launched processes this one is, and which devices are its own.

Data stages use a launcher only to start one process a model copy: the processes share a folder, not a process
group. Training recipes leave the launcher's variables alone and only ask `check_world`.
"""

from __future__ import annotations

import os
import sys
from typing import Literal

from scalequest.config import ConfigError
from scalequest.hardware import count_gpus, has_gpu, listed_gpus, told_cpu

# Settings of every stage that can be spread.
Launch = Literal["local", "ray"]
LAUNCH = "local: the processes started by the launcher; ray: workers as tasks of a Ray cluster"
RAY_WORKERS = (
    "ray: number of workers; null: one per engine.tensor_parallel_size GPUs, or one if there are no GPUs"
)

# Seconds after which torchrun, and so `accelerate launch`, kills its ranks once it was told to stop. Its own
# default is 30, in which no checkpoint of a 7B model under ZeRO-3 (about 122 GB) reaches a disk. Whatever
# starts a launcher sets the variable, and has to wait longer itself.
STOP_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
STOP_SECONDS = 540

# What each launcher tells a process: rank, world size, local rank, local world size.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MPI = (
    tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
# Tasks of the step that srun started. SLURM_NTASKS will not do: it is the whole job's, and a batch script and
# the shell of salloc have it, too, though they are one process.
_SRUN_TASKS = "SLURM_STEP_NUM_TASKS"
# What would make an engine join the launcher's process group, or a process that a worker starts be refused.
_REMOVED = (
    _SRUN_TASKS,
    *("MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE"),
    *_TORCHRUN,
)
_REMOVED_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_")
IN_RAY = "SCALEQUEST_RAY_WORKER"  # set where a worker of `launch: ray` runs


def worker(tensor_parallel_size: int = 1) -> tuple[int, int]:
    """Take this process's number and the number of processes from the launcher, and set its devices.

    Call once, before anything that looks at devices is imported. `CUDA_VISIBLE_DEVICES` becomes this
    process's group of `tensor_parallel_size` GPUs out of the caller's list (of all GPUs where there is none);
    without a GPU the process is bound to its share of the cores. Each of several workers gets a folder of its
    own for what vLLM compiles. The launcher's variables are then removed.

    Returns:
        The worker's number, from 0, and how many workers there are; (0, 1) without a launcher.

    Raises:
        ConfigError: the launcher started fewer processes than it was asked for, its variables contradict each
            other, srun started several processes without one, or there are fewer GPUs than they need.
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
        # vLLM binds memory to NUMA nodes on CPU, and torch warns of it at every start unless told so before.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if told_cpu():  # engines ask `has_gpu` again, when the launcher's word is gone
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for name in list(os.environ):
        if name in _REMOVED or name.startswith(_REMOVED_PREFIXES):
            del os.environ[name]
    return index, workers


def on_ray(launch: Launch) -> bool:
    """Whether this process has to start workers on Ray, being none of them."""
    return launch == "ray" and IN_RAY not in os.environ


def check_world() -> None:
    """Stop a training recipe whose processes do not see each other; call it behind the trainer's config.

    On CPU some launcher settings start several processes that each take themselves for the only one and write
    over each other, or one process where several were asked for, which then trains on smaller batches.

    Raises:
        ConfigError: `torch.distributed` sees another world size than was launched, or srun started several
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
    """`accelerate launch` without a GPU starts one process, whatever --num_processes says.

    It then sets a rendezvous address (which it does for more than one process only) and no world size.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and _family() is None:
        raise ConfigError(
            "accelerate launch was asked for several processes but started one: on CPU, use "
            "`torchrun --standalone --nproc_per_node N`, or a config file with "
            "distributed_type: MULTI_GPU and use_cpu: true (or unset MASTER_PORT if you want "
            "one process)"
        )


def _refuse_strangers() -> None:
    """Several tasks of srun that no launcher numbered: each would take itself for the only process."""
    tasks = os.environ.get(_SRUN_TASKS, "1")
    if tasks.isdecimal() and int(tasks) > 1 and "SLURM_PROCID" in os.environ and _family() is None:
        raise ConfigError(
            f"srun started {tasks} independent processes: let srun start one `accelerate "
            "launch --config_file accelerate_configs/...` per machine, as the script written "
            f"by `python slurm/launch.py` does (or unset {_SRUN_TASKS} if you want one "
            "process)"
        )


def _family() -> tuple[str, ...] | None:
    """The variables of the innermost launcher."""
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        return _TORCHRUN
    # Slurm sets some of MPI's too, without saying which process of its machine this is.
    return next((family for family in _MPI if all(name in os.environ for name in family)), None)


def _place() -> tuple[int, int, int, int]:
    """Rank, world size, local rank and local world size."""
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
        # A number that no GPU has would hide all of them, and transformers would run on the CPU.
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
    """Give this worker a folder of its own for what vLLM compiles, unless the caller chose one.

    vLLM writes parts of its cache in place, and tells ranks apart only within one engine: engines that start
    together would read each other's half-written files. The folder is named after the worker's number among
    all workers, because machines often share a home; a restart finds it again.
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
    # Launchers write 1 where the user has set nothing.
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
