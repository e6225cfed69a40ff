"""`launch: ray`: run the workers of a data stage as tasks of a Ray cluster, restarted if one is lost.

    ray start --head                      # on the first machine, `ray start --address ...` on the others
    python recipes/generate_questions.py --config ... --launch ray

A task is a complete worker: the recipe's own `main` with its share of the blocks and one engine that is
always kept busy. Ray places the tasks, assigns the GPUs, and restarts a task whose process or machine is
lost: it continues after the blocks on disk, which all machines must be able to see. A single machine needs no
`ray start`.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from scalequest import heartbeat
from scalequest.atomic_files import StageError
from scalequest.config import ConfigError, RunOptions, to_dict
from scalequest.stage.launch import IN_RAY
from scalequest.stage.opening import SESSION, clear
from scalequest.stage.removal import refuse_overlap

RETRIES = 10  # restarts of a worker whose process or machine was lost

logger = logging.getLogger(__name__)


def spread(main: Callable[[RunOptions, Any], None], run: RunOptions, config: Any) -> None:
    """Run `main` as all workers of a stage on the cluster at `RAY_ADDRESS`, or on this machine.

    Args:
        main: the recipe's `main`.
        run: its options; with `fresh`, the folder is cleared once, here, and not again when a worker
            restarts.
        config: the stage's config, of which `ray_workers` and `engine.tensor_parallel_size` are used.

    Raises:
        ConfigError: ray is not installed, the cluster is too small, or `main` raised it.
        StageError: `main` raised it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # By default Ray's workers have a low priority, but here they are the purpose of the machine.
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
        together = workers if len(nodes) == 1 else 1  # otherwise the placement is unknown
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
        with heartbeat.quiet():  # worker 0 reports
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
    """Run worker `number` in a Ray process that ends with it; this many workers share these cores."""
    place = {"RANK": number, "WORLD_SIZE": workers}
    place |= {"LOCAL_RANK": number % together, "LOCAL_WORLD_SIZE": together}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update({SESSION: session, IN_RAY: "1"})
    os.chdir(folder)
    with heartbeat.signs(speaks=number == 0):
        main(run, config)


def _room(nodes: Sequence[Mapping[str, float]], config: Any) -> tuple[int, float, int]:
    """Return the number of workers, and the CPUs and GPUs for each.

    All workers must run at the same time, because the first one waits for the others, and each must fit on
    one of the machines with these resources.
    """
    gpus = config.engine.tensor_parallel_size if any(node.get("GPU") for node in nodes) else 0

    def places(cpus: float) -> int:
        """Return how many workers with this number of cores fit if there are no GPUs."""
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
