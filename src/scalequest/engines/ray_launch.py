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
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scalequest.config import ConfigError, RunOptions
from scalequest.engines.launch import IN_RAY
from scalequest.shards import SESSION, StageError, clear

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
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"launch: ray is not installed ({error}): pip install 'scalequest[ray]'") from None
    run = replace(run, output_dir=os.path.abspath(run.output_dir))
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=True)
    try:
        workers, cpus, gpus = _room(ray.cluster_resources(), config)
        if run.fresh:
            clear(run.output_dir)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = 0
        task = _Worker(main, replace(run, fresh=False), config, workers, secrets.token_hex(8), os.getcwd())
        logger.info("%d workers on Ray, each with %g CPUs and %d GPUs", workers, cpus, gpus)
        numbers = ray.data.range(workers, override_num_blocks=workers)
        numbers.map_batches(
            task.run, batch_size=1, num_cpus=cpus, num_gpus=gpus, concurrency=workers, max_retries=RETRIES
        ).materialize()
    except ray.exceptions.RayError as error:
        cause = _cause(error)
        raise cause if isinstance(cause, ConfigError | StageError) else error from None
    finally:
        ray.shutdown()


class _Worker:
    """What a task needs; pickled with it."""

    def __init__(
        self, main: Callable[..., None], run: RunOptions, config: Any, workers: int, session: str, folder: str
    ) -> None:
        self.main, self.given, self.workers = main, (run, config), workers
        self.session, self.folder = session, folder

    def run(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Be the worker whose number is in the batch."""
        (number,) = batch["id"].tolist()
        place = {"RANK": number, "WORLD_SIZE": self.workers, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ.update({SESSION: self.session, IN_RAY: "1"})
        os.chdir(self.folder)
        self.main(*self.given)
        return batch


def _room(resources: dict[str, float], config: Any) -> tuple[int, float, int]:
    """How many workers there are, and CPUs and GPUs for each.

    All of them have to run at the same time, since the first waits for the others.
    """
    gpus = config.engine.tensor_parallel_size if resources.get("GPU") else 0
    cores = resources.get("CPU", 1.0)
    most = int(resources["GPU"] // gpus) if gpus else int(cores)
    workers = config.ray_workers or (most if gpus else 1)
    if not 1 <= workers <= most:
        needs = f"{gpus} GPU(s)" if gpus else "a core"
        raise ConfigError(
            f"ray_workers: {workers} workers need {needs} each, and the cluster has room for {most}"
        )
    return workers, max(1.0, cores // workers) if not gpus else min(1.0, cores / workers), gpus


def _cause(error: BaseException) -> BaseException:
    """The exception inside Ray's wrappers."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConfigError | StageError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error
