"""Report a stage's metrics while it runs: to W&B if available, and always to `metrics.jsonl`."""

from __future__ import annotations

import json
import math
import netrc
import os
import re
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

from scalequest.redaction import redacted

MIRROR = "metrics.jsonl"
_ID_FILE = "wandb/run_id"
# Small files that are uploaded with an artifact; data and weights are referenced, not copied.
_CARRIED = ("receipt.json", "config.yaml", "README.md")


class Tracker:
    """The tracker of one stage's run.

    Every call first appends one JSON line to the mirror file and flushes it, so a killed stage leaves
    everything that it reported. W&B is only imported here; any exception that it raises becomes one warning,
    and the stage continues with the mirror alone. A restarted stage continues the same mirror and the same
    W&B run id.
    """

    def __init__(self, output_dir: Path | None, fingerprint: str, upstream: Mapping[str, str]) -> None:
        self._fingerprint = fingerprint
        self._upstream = {redacted(source): digest for source, digest in upstream.items()}
        self._run: Any = None
        self._mirror = None
        self._goes_on = False
        self._next_step = 0
        if output_dir is not None:
            output_dir.mkdir(parents=True, exist_ok=True)
            path = output_dir / MIRROR
            self._goes_on = path.is_file()
            self._next_step = _repair(path)
            self._mirror = path.open("a", encoding="utf-8")

    @classmethod
    def start(
        cls,
        *,
        stage: str,
        output_dir: str | Path,
        config: Mapping[str, Any],
        group: str | None = None,
        mode: Literal["wandb", "none"] = "wandb",
        fingerprint: str = "",
        upstream: Mapping[str, str] | None = None,
        worker: int = 0,
    ) -> Tracker:
        """Open the mirror and, unless `mode` is "none", a W&B run.

        The W&B project is `WANDB_PROJECT` or "scalequest", the group is the pipeline (`group`, else
        `WANDB_RUN_GROUP`), and the job type is the stage. Without an API key the run is offline; `wandb sync`
        uploads it later. With `WANDB_MODE=disabled`, W&B is not even imported.

        Args:
            stage: the stage's name.
            output_dir: the stage's folder, which receives the mirror and W&B's own files.
            config: the resolved config.
            group: name of the pipeline run.
            mode: "none" writes only the mirror.
            fingerprint: the fingerprint of this stage.
            upstream: the fingerprint of every input, by its name in the config.
            worker: the worker's number; only worker 0 reports, and the others get a tracker that does
                nothing.
        """
        if worker:
            return cls(None, fingerprint, {})
        # The mirror
        folder = Path(output_dir)
        tracker = cls(folder, fingerprint, upstream or {})
        group = group or os.environ.get("WANDB_RUN_GROUP") or None
        # W&B
        if mode == "wandb" and os.environ.get("WANDB_MODE") != "disabled":
            try:
                settings = redacted({**config, "fingerprint": fingerprint})
                run_id = _run_id(folder, tracker._goes_on)
                tracker._run = _open_run(stage, folder, run_id, settings, group, tracker._upstream)
            except Exception as error:  # tracking must never stop a run
                _warn(error)
        tracker._write({"event": "start", "stage": stage, "group": group, "fingerprint": fingerprint})
        return tracker

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Report numbers. `step` defaults to one more than the last step, also after a restart."""
        step = self._next_step if step is None else step
        self._next_step = step + 1
        record = {"step": step, **metrics}
        self._write(record)
        self._send(lambda run: run.log(record))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Report sample rows, e.g. twenty questions, with a column for every key in order of appearance."""
        self._write({"event": "table", "name": name, "rows": [dict(row) for row in rows]})

        def send(run: Any) -> None:
            import wandb

            columns: list[str | int] = list(dict.fromkeys(key for row in rows for key in row))
            data = [[_cell(row.get(str(column))) for column in columns] for row in rows]
            run.log({name: wandb.Table(columns=columns, data=data)})

        self._send(send)

    def image(self, name: str, path: Path) -> None:
        """Report a picture; the mirror names its file."""
        self._write({"event": "image", "name": name, "file": str(path)})

        def send(run: Any) -> None:
            import wandb

            run.log({name: wandb.Image(str(path))})

        self._send(send)

    def artifact(
        self, name: str, kind: str, path: str | Path, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Report an output folder or file.

        The W&B artifact is named by the stage's fingerprint, so a later stage can refer to it as its input.
        It contains the receipt, the config and the card, and references the other files without copying them.

        Args:
            name: the kind of content, e.g. "questions".
            kind: "dataset", "model" or "result".
            path: the stage's folder, or one file.
            metadata: values by which to find the artifact.
        """
        details = {**redacted(metadata or {}), "fingerprint": self._fingerprint, "upstream": self._upstream}
        self._write({"event": "artifact", "name": name, "kind": kind, "metadata": details})

        def send(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(
                _artifact_name(self._fingerprint or name), type=kind, description=name, metadata=details
            )
            place = Path(path)
            carried = [place] if place.is_file() else [place / part for part in _CARRIED]
            for file in carried:
                if file.is_file():
                    artifact.add_file(str(file))
            if place.is_dir():
                artifact.add_reference(place.resolve().as_uri(), name="output", checksum=False)
            run.log_artifact(artifact)

        self._send(send)

    def finish(self, exit_code: int = 0) -> None:
        """Close the run; a second call does nothing."""
        if self._mirror is not None:
            self._write({"event": "finish" if exit_code == 0 else "failed"})
            self._mirror.close()
            self._mirror = None
        self._send(lambda run: run.finish(exit_code=exit_code))
        self._run = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(exit_code=0 if kind is None else 1)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._mirror is not None:
            line = {"time": round(time.time(), 3), **record}
            self._mirror.write(json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n")
            self._mirror.flush()

    def _send(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            _warn(error)


def _run_id(folder: Path, goes_on: bool) -> str:
    """Return the run id of the mirror, or a new one if there was no mirror."""
    file = folder / _ID_FILE
    if goes_on and file.is_file() and (known := file.read_text().strip()):
        return known
    file.parent.mkdir(parents=True, exist_ok=True)
    run_id = secrets.token_hex(4)
    file.write_text(run_id)
    return run_id


def _open_run(
    stage: str,
    folder: Path,
    run_id: str,
    config: Mapping[str, Any],
    group: str | None,
    upstream: Mapping[str, str],
) -> Any:
    import wandb

    settings: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT") or "scalequest",
        "group": group,
        "job_type": stage,
        "name": f"{group}/{stage}" if group else stage,
        "id": run_id,
        "resume": "allow",
        "dir": str(folder.resolve()),
        "config": {**config, "upstream": dict(upstream)},
        "reinit": "create_new",
        "settings": wandb.Settings(console="off", quiet=True, silent=True, init_timeout=30),
    }
    run, mode = _init(settings)
    # Our own step axis, because W&B's must increase, while a resumed stage may report a step again.
    run.define_metric("*", step_metric="step")
    if mode == "online":
        for label, fingerprint in upstream.items():
            try:
                run.use_artifact(f"{_artifact_name(fingerprint)}:latest")
            except Exception:  # an input made by an untracked stage; the run's config has its fingerprint
                print(f"W&B has no artifact for {label}")
    return run


def _init(settings: Mapping[str, Any]) -> tuple[Any, str]:
    """Open a W&B run, offline if the server cannot be reached; returns the run and its mode."""
    import wandb

    mode: Any = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    try:
        with _words_without_secrets():
            return wandb.init(mode=mode, **settings), mode
    except Exception as error:
        if mode != "online":
            raise
        said = redacted(str(error))
    warnings.warn(f"W&B cannot be reached ({said}); this run is offline", stacklevel=5)
    with _words_without_secrets():
        return wandb.init(mode="offline", **settings), "offline"


@contextmanager
def _words_without_secrets() -> Iterator[None]:
    """Let W&B read and upload the command line without its secrets."""
    words, sys.argv = sys.argv, redacted(sys.argv)
    try:
        yield
    finally:
        sys.argv = words


def has_key() -> bool:
    """Return whether W&B would find an API key without asking, in the environment or in a netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    try:
        file = os.environ.get("NETRC") or Path.home() / ".netrc"
        return netrc.netrc(str(file)).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _artifact_name(fingerprint: str) -> str:
    return "stage-" + re.sub(r"[^A-Za-z0-9._-]", "-", fingerprint)[:24]


def _repair(path: Path) -> int:
    """Cut off an incomplete last line left by a kill; return the step after the last reported one."""
    if not path.is_file():
        return 0
    with path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)
    steps = [record["step"] for record in map(json.loads, data[:whole].splitlines()) if "step" in record]
    return steps[-1] + 1 if steps else 0


def _plain(value: Any) -> Any:
    """Turn a value into strict JSON: numpy scalars become numbers, NaN and infinities become words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (str, int)):
        return value
    return _plain(value.item()) if hasattr(value, "item") else str(value)


def _cell(value: Any) -> Any:
    """Return one table cell: a W&B column holds one type, so nested values become text."""
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(_plain(value))


def _warn(error: Exception) -> None:
    why = redacted(f"{type(error).__name__}: {error}")
    warnings.warn(f"W&B stopped ({why}); continuing with {MIRROR} only", stacklevel=4)
