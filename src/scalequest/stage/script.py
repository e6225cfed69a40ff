"""Start and end the script of a data stage; what happens in between is up to the stage."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from scalequest import heartbeat
from scalequest.config import ConfigError, RunOptions, fingerprint_fields, to_dict
from scalequest.functions import functions_of
from scalequest.interrupts import sent_again
from scalequest.precision import engine_dtype
from scalequest.stage.folder import Stage, StageError
from scalequest.stage.removal import refuse_overlap
from scalequest.tracking import Tracker

log = logging.getLogger(__name__)


def open_stage(
    name: str,
    version: int,
    run: RunOptions,
    config: Any,
    *,
    inputs: Mapping[str, str],
    writes: Sequence[str] = (),
    worker: tuple[int, int] = (0, 1),
    **identity: Any,
) -> Stage:
    """Set up logging and open the stage's folder; `.finished` says whether there is nothing to do.

    Args:
        name: the stage's name.
        version: the version of its code, increased by hand.
        run: the options of the run.
        config: the stage's own settings.
        inputs: the fingerprint of every source and model.
        writes: see `Stage.open`.
        worker: this process's number and the number of workers.
        identity: anything else that can change a row: chat format, prompts.
    """
    index, workers = worker
    heartbeat.named(name)
    heartbeat.now("reading and preparing the inputs")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    logging.getLogger("scalequest").setLevel(logging.INFO if index == 0 else logging.WARNING)
    refuse_overlap(run.output_dir, run.fresh, to_dict(config))
    stage = Stage.open(
        run.output_dir,
        name=name,
        version=version,
        config={**to_dict(run), **to_dict(config)},
        fingerprint={**fingerprint_fields(run), **_settings(config), **identity},
        inputs=inputs,
        writes=writes,
        fresh=run.fresh,
        worker=index,
        workers=workers,
    )
    if not stage.finished and (functions := [key.load() for key in functions_of(config)]):
        stage.receipt["functions"] = {function.label: function.sha256 for function in functions}
    if stage.finished:
        log.info("%s: already finished with the same settings: %s", name, run.output_dir)
    return stage


def _settings(config: Any) -> dict[str, Any]:
    """Return a stage's settings for its fingerprint, with those left to the hardware resolved."""
    fields = fingerprint_fields(config)
    model, engine = getattr(config, "model_name_or_path", None), fields.get("engine")
    if model and engine:
        revision, trusted = getattr(config, "model_revision", None), config.engine.trust_remote_code
        with suppress(OSError):  # the engine reports a model that cannot be loaded
            dtype = engine_dtype(config.engine.dtype, model, revision=revision, trust_remote_code=trusted)
            fields["engine"] = {**engine, "dtype": dtype}
    return fields


@contextmanager
def track(stage: Stage, run: RunOptions, config: Any, *, worker: int = 0) -> Iterator[Tracker]:
    """Report on a stage while its body runs, and its counts and folder afterwards."""
    name = str(stage.receipt["stage"])
    with Tracker.start(
        stage=name,
        output_dir=run.output_dir,
        config={**to_dict(run), **to_dict(config)},
        group=run.group,
        mode=run.track,
        fingerprint=stage.fingerprint,
        upstream=stage.receipt["inputs"],
        worker=worker,
    ) as tracker:
        yield tracker
        if worker:
            return
        receipt = stage.receipt
        drops = ", ".join(f"{count} {reason}" for reason, count in receipt["dropped"].items()) or "none"
        log.info(
            "%s: %d in, %d kept; dropped: %s; %.0f s, %d tokens: %s",
            name, receipt["rows_in"], receipt["kept"], drops, receipt["seconds"], receipt["tokens"],
            run.output_dir,
        )  # fmt: skip
        tracker.log({"rows_in": receipt["rows_in"], "kept": receipt["kept"], **_drops(receipt)})
        tracker.artifact(name, "dataset", run.output_dir, {"rows": receipt["kept"]})


def run_script(main: Callable[..., None], *args: Any) -> int:
    """Run a script's `main`; a user's mistake becomes one line and exit status 2.

    Every worker reports its own error with its number, because the first worker may have none, or the
    launcher may stop it before it can report. Without a terminal, the first worker writes progress lines
    meanwhile.
    """
    rank = os.environ.get("RANK", "0")  # before `main`, which removes the launcher's variables
    try:
        with sent_again(), heartbeat.signs(speaks=heartbeat.first_rank()):
            main(*args)
    except (ConfigError, StageError) as error:
        if getattr(error, "told", False):  # another process reports it
            return 2
        print(f"error: {error}" if rank == "0" else f"error: worker {rank}: {error}", file=sys.stderr)
        return 2
    return 0


def _drops(receipt: Mapping[str, Any]) -> dict[str, int]:
    return {f"dropped/{reason}": count for reason, count in receipt["dropped"].items()}
