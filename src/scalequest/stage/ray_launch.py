"""`launch: ray`: the workers of a data stage as tasks of a Ray cluster, started again where one is lost.

    ray start --head                      # on the first machine, `ray start --address ...` on the others
    python recipes/generate_questions.py --config ... --launch ray

A task is a whole worker: the recipe's own `main` with its share of the blocks, one engine that is fed without
a break. Ray places the tasks, gives each its GPUs, and runs one again whose process or machine is gone: it
goes on behind the blocks that are on disk, which all machines have to see. A laptop needs no `ray start`.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from scalequest import heartbeat
from scalequest.config import ConfigError, RunOptions, to_dict
from scalequest.stage.folder import SESSION, StageError, clear
from scalequest.stage.launch import IN_RAY
from scalequest.stage.removal import refuse_overlap

RETRIES = 10  # of a worker whose process or machine was lost

logger = logging.getLogger(__name__)


def spread(main: Callable[[RunOptions, Any], None], run: RunOptions, config: Any) -> None:
    """Run `main` as all workers of a stage on the cluster of `RAY_ADDRESS`, or on this machine.

    Args:
        main: the recipe's.
        run: its options; with `fresh` the folder is cleared here, once, whatever is started again later.
        config: the stage's; `ray_workers` and `engine.tensor_parallel_size` count.

    Raises:
        ConfigError: ray is not installed, the cluster is too small, or what `main` raised.
        StageError: what `main` raised.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # By default Ray's workers give way to everything else on the machine; these are what it is there for.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"launch: ray is not installed ({error}): pip install 'scalequest[ray]'") from None
    run = replace(run, output_dir=os.path.abspath(run.output_dir))
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=True)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers, cpus, gpus = _room(nodes, config)
        if run.fresh:
            refuse_overlap(run.output_dir, True, to_dict(config))
            clear(run.output_dir)
        session = secrets.token_hex(8)
        together = workers if len(nodes) == 1 else 1  # else nobody knows who is where
        given = (
            main,
            replace(run, fresh=False),
            config,
            workers,
            1 if gpus else together,
            session,
            os.getcwd(),
        )
        logger.info("%d workers on Ray, each with %g CPUs and %d GPUs", workers, cpus, gpus)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, max_calls=1)(_worker)
        waiting = [task.remote(number, *given) for number in range(workers)]
        with heartbeat.quiet():  # worker 0 speaks
            while waiting:
                done, waiting = ray.wait(waiting)
                ray.get(done)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        raise cause if isinstance(cause, ConfigError | StageError) else error from None
    finally:
        ray.shutdown()


def _worker(
    number: int,
    main: Callable[[RunOptions, Any], None],
    run: RunOptions,
    config: Any,
    workers: int,
    together: int,
    session: str,
    folder: str,
) -> None:
    """In a process of Ray's that ends with it: be worker `number`, one of so many that share these cores."""
    place = {"RANK": number, "WORLD_SIZE": workers}
    place |= {"LOCAL_RANK": number % together, "LOCAL_WORLD_SIZE": together}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update({SESSION: session, IN_RAY: "1"})
    os.chdir(folder)
    with heartbeat.signs(speaks=number == 0):
        main(run, config)


def _room(nodes: Sequence[Mapping[str, float]], config: Any) -> tuple[int, float, int]:
    """How many workers there are, and CPUs and GPUs for each.

    All of them have to run at the same time, since the first waits for the others; and each on one of the
    machines, whose resources these are.
    """
    gpus = config.engine.tensor_parallel_size if any(node.get("GPU") for node in nodes) else 0

    def places(cpus: float) -> int:
        """Room for workers of so many cores where there are no GPUs."""
        return sum(int(node.get("CPU", 0.0) // cpus) for node in nodes)

    groups = [int(node.get("GPU", 0.0) // gpus) for node in nodes] if gpus else []
    most = sum(groups) if gpus else places(1.0)
    workers = config.ray_workers or (most if gpus else 1)
    if not 1 <= workers <= most:
        needs = f"{gpus} GPU(s)" if gpus else "a core"
        raise ConfigError(
            f"ray_workers: {workers} workers need {needs} each, but the cluster has room for {most}"
        )
    if gpus:
        shares = [node.get("CPU", 0.0) / own for node, own in zip(nodes, groups, strict=True) if own]
        return workers, min(1.0, *shares), gpus
    largest = int(max(node.get("CPU", 0.0) for node in nodes))
    return workers, next(float(cpus) for cpus in range(largest, 0, -1) if places(cpus) >= workers), 0
