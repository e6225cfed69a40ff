"""A pipeline file: stage after stage, each its own process, skipping what is done.

    name: tiny
    hub: false                    # true lets stages download; otherwise they run with HF_HUB_OFFLINE=1
    preload: false                # true: without a GPU, libraries are imported once and stages forked
    vars: {solver: some/folder}   # for ${solver} in args
    env: {OMP_NUM_THREADS: "2"}   # for every stage
    stages:
      - name: qft                 # also its folder: ${output}/qft
        script: recipes/qft.py
        config: recipes/tiny/qft.yaml   # or a list, each over those before it
        launch: null              # an accelerate file; without one, a single process started by python
        args:                     # settings over the config: --key value, a list as words, a map as '{...}'
          model_name_or_path: ${output}/base
        needs: []                 # stages it needs beyond those whose folders its args name
        always: false             # true: run it every time and show what it prints

A stage with a `config` gets `--output_dir ${output}/<name>` unless `args` gives another, and `--limit` and
`--fresh` where the run has them. `${NAME}` is one of `vars` or an environment variable, `${NAME:-text}` has a
default, `${output}` is the output folder. Paths are relative to the working directory. A file may be made of
others: an entry of `stages` may be an `include`, see `includes.py`.

Whether a stage is finished is its own decision: its receipt holds a fingerprint of all that can change its
rows or weights. The look ahead works out the fingerprints that finished stages would have now; one that is
equal, and whose inputs no stage of this run has changed, is not started. A script that writes no receipt is
finished if the same command ended well before and its folder is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from scalequest import atomic_files, heartbeat
from scalequest.config import ConfigError, build, option, required
from scalequest.pipeline.includes import known_variables, read_pipeline, resolved
from scalequest.pipeline.preload import Forked, Preloaded, possible
from scalequest.pipeline.status_table import StageStatus, StatusTable, read_receipt
from scalequest.pipeline.subreaper import SupervisedProcess, forward_signals
from scalequest.redaction import redacted
from scalequest.stage.launch import STOP_SECONDS, STOP_VARIABLE

STATE = "run.json"
_OWN = (STATE, "logs", "imports")  # names of the output folder, and of a log, that no stage may have
_LOG_LINES = 25


@dataclass(frozen=True)
class StageSpec:
    """One entry under `stages`."""

    name: str = required("its name and folder")
    script: str = required("the Python file")
    config: str | list[str] | None = option(None, "its YAML file, or several, each over those before it")
    launch: str | None = option(None, "an accelerate config file; without one, a single process")
    args: dict[str, Any] = option(default_factory=dict, help="command-line settings over the config")
    needs: list[str] = option(default_factory=list, help="stages needed beyond those that args name")
    always: bool = option(False, "run it every time and show what it prints")

    @property
    def configs(self) -> tuple[str, ...]:
        """Its YAML files, in their order."""
        return (self.config,) if isinstance(self.config, str) else tuple(self.config or ())


@dataclass(frozen=True)
class PipelineSpec:
    """A pipeline file."""

    name: str = required("of the pipeline; W&B groups are called after it")
    stages: list[StageSpec] = required("in the order they run")
    hub: bool = option(False, "stages may download from the hub")
    preload: bool = option(False, "without a GPU, import the libraries once and fork the stages")
    vars: dict[str, str] = option(default_factory=dict, help="texts that args may use as ${name}")
    env: dict[str, str] = option(default_factory=dict, help="environment of every stage")


@dataclass(frozen=True)
class Step:
    """A stage as it will be run: nothing left to substitute."""

    spec: StageSpec
    command: tuple[str, ...]
    settings: Mapping[str, Any]  # what the command gives over the config
    needs: tuple[str, ...]

    @property
    def output_dir(self) -> Path | None:
        """Its folder, where it has one."""
        return Path(self.settings["output_dir"]) if "output_dir" in self.settings else None

    @property
    def shown(self) -> str:
        """The command as a shell takes it, without its secrets."""
        head = self.command[: len(self.command) - len(_arguments(self.settings))]
        return str(redacted(shlex.join([*head, *_arguments(redacted(self.settings))])))

    @property
    def words(self) -> list[str]:
        """The script and its arguments, without what starts it."""
        return list(self.command[self.command.index(self.spec.script) :])


# --------------------------------------------------------------------------------------------------- planning


def load(path: str | Path, given: Mapping[str, str] | None = None) -> PipelineSpec:
    """Read a pipeline file and those that it includes.

    Args:
        path: the file.
        given: variables that go over its `vars`.

    Raises:
        ConfigError: a key, a name or a file is wrong.
    """
    spec: PipelineSpec = build((PipelineSpec,), read_pipeline(path, given), str(path))[0]
    known = known_variables(spec.vars)
    spec = replace(spec, stages=[_filled(stage, known, str(path)) for stage in spec.stages])
    names: set[str] = set()
    files: dict[str, str] = {}
    for stage in spec.stages:
        if fault := _stage_fault(stage.name):
            raise ConfigError(f"{path}: stage {stage.name[:80]!r}: {fault}")
        if stage.name in names:
            raise ConfigError(f"{path}: duplicate stage name {stage.name!r}")
        if (other := files.setdefault(atomic_files.one_file(stage.name), stage.name)) != stage.name:
            raise ConfigError(f"{path}: stages {other!r} and {stage.name!r} differ only by case; rename one")
        for need in stage.needs:
            if need not in names:
                raise ConfigError(
                    f"{path}: stage {stage.name!r} needs {need!r}, which no earlier stage is called"
                )
        configs = [("config", file) for file in stage.configs]
        for key, file in [("script", stage.script), *configs, ("launch", stage.launch)]:
            if file is not None and not Path(file).is_file():
                raise ConfigError(
                    f"{path}: stage {stage.name!r}: {key}: no file {file}; run from the repository root"
                )
        names.add(stage.name)
    if not names:
        raise ConfigError(f"{path}: stages: needs at least one")
    return spec


def _filled(stage: StageSpec, known: Mapping[str, str], path: str) -> StageSpec:
    """A stage without variables in its name, its needs and the files that it names; no launcher is None."""
    keys = ("name", "script", "config", "launch", "needs")
    said = {key: resolved(getattr(stage, key), known, f"{path}: stage {stage.name!r}") for key in keys}
    return replace(stage, **{**said, "launch": said["launch"] or None})


def _stage_fault(name: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        return "a name is letters, digits, '_', '.' and '-'"
    if atomic_files.one_file(name) in _OWN:
        return "the run keeps its own things under this name; choose another"
    fault = atomic_files.name_fault(name)
    return f"it cannot name a folder: {fault}" if fault else None


def plan(
    spec: PipelineSpec,
    output: Path,
    *,
    limit: int | None = None,
    fresh: bool = False,
    source: str = "pipeline",
) -> list[Step]:
    """Work out every stage's exact command.

    Args:
        spec: the pipeline.
        output: its output folder.
        limit: passed to every stage that has a config.
        fresh: likewise.
        source: what errors call the pipeline.

    Raises:
        ConfigError: a variable is not set, or a stage names the folder of a later one.
    """
    known = known_variables(spec.vars) | {"output": "${output}"}  # which stays, to see whose folders are used
    names = [stage.name for stage in spec.stages]
    steps: list[Step] = []
    for stage in spec.stages:
        args = dict(stage.args)
        if stage.configs:
            args.setdefault("output_dir", "${output}/" + stage.name)
            if limit is not None:
                args["limit"] = limit
            if fresh:
                args["fresh"] = True
        where = f"{source}: stage {stage.name!r}"
        args = resolved(args, known, where)
        own = {key: value for key, value in args.items() if key in stage.args}
        used = set(re.findall(r"\$\{output\}/([A-Za-z0-9_.-]+)", json.dumps(own)))
        for late in (used & set(names[len(steps) :])) - {stage.name}:
            raise ConfigError(f"{source}: stage {stage.name!r} uses {late!r}, which runs after it")
        settings = resolved(args, {"output": str(output)}, where)
        steps.append(
            Step(
                spec=stage,
                command=(
                    *_start(stage),
                    *(("--config", *stage.configs) if stage.configs else ()),
                    *_arguments(settings),
                ),
                settings=settings,
                needs=tuple(name for name in names[: len(steps)] if name in used or name in stage.needs),
            )
        )
    return steps


def _start(stage: StageSpec) -> tuple[str, ...]:
    python = Path(sys.executable)
    with contextlib.suppress(ValueError):
        python = python.relative_to(Path.cwd())
    if stage.launch is None:
        return (str(python), stage.script)
    accelerate = python.with_name("accelerate")
    launcher = (
        (str(accelerate),)
        if accelerate.exists()
        else (str(python), "-m", "accelerate.commands.accelerate_cli")
    )
    return (*launcher, "launch", "--config_file", stage.launch, stage.script)


def _arguments(settings: Mapping[str, Any]) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", *_words(value))]


def _words(value: Any) -> list[str]:
    """How the command line takes a value: words as they are, all else as YAML."""
    if isinstance(value, list):
        return [word for item in value for word in _words(item)]
    return [value if isinstance(value, str) else json.dumps(value)]


# ----------------------------------------------------------------------------------------------- what is done


def finished(step: Step, fingerprint: str | None, noted: Mapping[str, Any]) -> bool:
    """Whether `step` need not be started.

    Args:
        step: the stage.
        fingerprint: what it would have now; None if that is not known.
        noted: what an earlier run noted about it, which decides if it writes no receipt.
    """
    if step.spec.always or "--fresh" in step.command:
        return False
    if receipt := read_receipt(step.output_dir):
        return bool(receipt.get("finished")) and receipt["fingerprint"] == fingerprint
    there = step.output_dir is None or step.output_dir.is_dir()
    return there and noted.get("command") == redacted(list(step.command))


# ---------------------------------------------------------------------------------------------------- running


class Failed(RuntimeError):
    """A stage failed or was stopped; everything there is to say has been printed.

    Attributes:
        status: its exit status.
        stage: its name.
        stopped: whether a signal to this process stopped it.
    """

    def __init__(self, status: int, stage: str, stopped: bool) -> None:
        super().__init__(f"stage {stage}: exit status {status}")
        self.status, self.stage, self.stopped = status, stage, stopped


def run(
    spec: PipelineSpec,
    steps: Sequence[Step],
    output: Path,
    *,
    rerun: str,
    fingerprints: Mapping[str, str],
    start: str | None = None,
    end: str | None = None,
    only: str | None = None,
    console: Console | None = None,
) -> None:
    """Run the stages that are not finished, one after the other.

    Args:
        spec: the pipeline.
        steps: from `plan`.
        output: its folder: stage folders, `logs/`, and `run.json`.
        rerun: the command that started this, shown where something fails.
        fingerprints: of finished stages, as they would be now, from the look ahead.
        start: leave out what stands before this stage.
        end: leave out what stands after this stage.
        only: leave out all other stages.
        console: where to print.

    Raises:
        ConfigError: `start`, `end` or `only` names no stage, `end` stands before `start`, what a stage needs
            is not finished, or another run is on.
        Failed: a stage failed, or a signal stopped it.
    """
    console = console or Console()
    chosen = wanted(steps, start, end, only)
    heartbeat.every()  # a wrong interval is an error before anything runs
    began = time.monotonic()
    # The folder, its lock, and what earlier runs noted
    (output / "logs").mkdir(parents=True, exist_ok=True)
    lock = take_lock(output)
    state = start_state(spec, output)
    environment = environment_of(spec, state["group"])
    forks = None
    if spec.preload and possible():
        forks = Preloaded(environment, lock, output / "logs" / "imports.log")
    # Stage after stage
    table = StatusTable(console, {step.spec.name: StageStatus() for step in steps})
    running = _Run(steps, output, rerun, fingerprints, state, environment, lock, table, forks)
    try:
        with table, forks or contextlib.nullcontext():
            for number, step in enumerate(steps, 1):
                running.do(step, f"[{number}/{len(steps)}] {step.spec.name}", step in chosen)
    finally:
        os.close(lock)
    # What stages such as reports have printed
    for text in running.shown:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{spec.name}: done in {time.monotonic() - began:.0f} s: {output}", soft_wrap=True)


@dataclass(frozen=True)
class _Run:
    """One run of a pipeline.

    Attributes:
        steps: all stages.
        output: the pipeline's folder.
        rerun: the command that started it.
        fingerprints: of finished stages, from the look ahead.
        state: what `run.json` holds.
        environment: of every stage.
        lock: descriptor that every stage holds open.
        table: the status table.
        forks: the process that stages are forked off, if any.
        changed: stages that ran, so that what the look ahead knew of those after them is old.
        shown: what is printed at the end.
    """

    steps: Sequence[Step]
    output: Path
    rerun: str
    fingerprints: Mapping[str, str]
    state: dict[str, Any]
    environment: Mapping[str, str]
    lock: int
    table: StatusTable
    forks: Preloaded | None
    changed: set[str] = field(default_factory=set)
    shown: list[str] = field(default_factory=list)

    def do(self, step: Step, prefix: str, chosen: bool) -> None:
        """Run a stage, unless it was not chosen or is finished.

        Raises:
            ConfigError: what it needs is not finished.
            Failed: it failed, or a signal stopped it.
        """
        name, line = step.spec.name, self.table.lines[step.spec.name]
        noted = self.state["stages"].get(name, {})
        known = None if self.changed & set(step.needs) else self.fingerprints.get(name)
        if not chosen or finished(step, known, noted):
            line.state = "finished before" if chosen else "left out"
            line.receipt, line.seconds = read_receipt(step.output_dir), noted.get("seconds")
            self.table.say(f"{prefix}: {line.state}", live=False)
            return
        check_needs(step, self.steps, self.state)
        self.table.say(f"{prefix}: {step.shown}")
        log, before = self.output / "logs" / f"{name}.log", read_receipt(step.output_dir)
        cpu_before = self._cpu_seconds()
        status, from_byte = self._start(step, log, prefix)
        earlier: Mapping[str, Any] = {} if "command" in noted else noted  # an attempt that was stopped
        line.seconds = round((line.seconds or 0.0) + earlier.get("seconds", 0.0), 1)
        cpu_seconds = round(self._cpu_seconds() - cpu_before + earlier.get("cpu_seconds", 0.0), 1)
        self._note(name, {"seconds": line.seconds, "cpu_seconds": cpu_seconds})
        if status:
            self.table.say(_explain(step, line, log, from_byte, status, self.rerun))
            raise Failed(status, name, line.state == "stopped")
        line.receipt = read_receipt(step.output_dir)
        if before.get("finished") and before == line.receipt:  # it was asked, and had nothing to do
            line.state, line.seconds = "finished before", noted.get("seconds", line.seconds)
            cpu_seconds = noted.get("cpu_seconds", cpu_seconds)
        else:
            self.changed.add(name)
        command = redacted(list(step.command))
        self._note(name, {"command": command, "seconds": line.seconds, "cpu_seconds": cpu_seconds})
        self.table.say(f"{prefix}: {line.state}, {line.summary}", live=False)
        if step.spec.always:
            self.shown.append(_tail(log, from_byte, None))

    def _cpu_seconds(self) -> float:
        """CPU seconds of all stages that this run has ended, of all their processes and threads."""
        ended = os.times()
        forked = self.forks.cpu_seconds() if self.forks else 0.0
        return ended.children_user + ended.children_system + forked

    def _note(self, name: str, what: Mapping[str, Any]) -> None:
        self.state["stages"][name] = what
        write_state(self.output, self.state)

    def _start(self, step: Step, log: Path, prefix: str) -> tuple[int, int]:
        """Run a stage, with signs of life that begin with `prefix` if there is no terminal.

        Return its exit status and where its part of the log begins.
        """
        line = self.table.lines[step.spec.name]
        life = log.with_suffix(".now").absolute()
        life.unlink(missing_ok=True)
        line.state, began = "running", time.monotonic()
        with log.open("ab") as file:
            from_byte = file.tell()
            file.write(f"$ {step.shown}\n".encode())
            file.flush()
        process: SupervisedProcess | Forked
        told = {heartbeat.FILE: str(life)}
        if self.forks is not None and step.spec.launch is None:
            process = self.forks.start(step.command[1:], log.absolute(), told)
        else:
            environment = {**self.environment, **told}
            with log.open("ab") as file:
                process = SupervisedProcess(
                    step.command, output=file, environment=environment, keep=[self.lock]
                )
        try:
            with forward_signals(process) as received:
                while process.poll() is None:
                    line.seconds = time.monotonic() - began
                    line.look(step.output_dir)
                    self.table.refresh()
                    self.table.beat(prefix, line, life)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.5)
        finally:
            process.end()  # whatever happened here
            ended = process.finish()
            line.seconds, line.note = time.monotonic() - began, ""
            life.unlink(missing_ok=True)
        status = 128 + received[0] if received else ended
        line.state = "stopped" if received else "failed" if status else "done"
        return status, from_byte


def environment_of(spec: PipelineSpec, group: str) -> dict[str, str]:
    """The environment of every stage."""
    return {
        STOP_VARIABLE: str(STOP_SECONDS),  # for stages that a launcher starts; we wait as long as they take
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP") or group,
        **variables(spec),
    }


def variables(spec: PipelineSpec) -> dict[str, str]:
    """What the environment of every stage has beside the caller's."""
    return {**({} if spec.hub else {"HF_HUB_OFFLINE": "1"}), **spec.env}


def wanted(
    steps: Sequence[Step], start: str | None = None, end: str | None = None, only: str | None = None
) -> list[Step]:
    """The stages that are not left out: see `run`.

    Raises:
        ConfigError: a name is no stage's, or `end` stands before `start`.
    """
    names = [step.spec.name for step in steps]
    for option_name, name in (("--from", start), ("--to", end), ("--only", only)):
        if name is not None and name not in names:
            raise ConfigError(f"{option_name}: no stage is called {name!r}; there are {', '.join(names)}")
    if only is not None:
        return [steps[names.index(only)]]
    first, last = names.index(start or names[0]), names.index(end or names[-1])
    if last < first:
        raise ConfigError(f"--to: {end!r} runs before {start!r}, which --from names")
    return list(steps[first : last + 1])


def check_needs(step: Step, steps: Sequence[Step], state: Mapping[str, Any]) -> None:
    """Refuse a stage whose input is not there.

    Raises:
        ConfigError: what it needs is not finished.
    """
    by_name = {other.spec.name: other for other in steps}
    for need in step.needs:
        receipt = read_receipt(by_name[need].output_dir)
        if not (receipt.get("finished") if receipt else "command" in state["stages"].get(need, {})):
            raise ConfigError(f"stage {step.spec.name!r} needs {need!r}, which is not finished; run it first")


def _explain(step: Step, line: StageStatus, log: Path, from_byte: int, status: int, rerun: str) -> str:
    if line.state == "stopped":
        return f"{step.spec.name}: stopped; the same command goes on from here:\n  {rerun}"
    return (
        f"{_tail(log, from_byte, _LOG_LINES)}\n"
        f"error: stage {step.spec.name} ended with exit status {status}; its whole log is {log}\n"
        f"this stage alone:  {step.shown}\n"
        f"go on from here:   {rerun}"
    )


def _tail(log: Path, from_byte: int, lines: int | None) -> str:
    with log.open("rb") as file:
        file.seek(from_byte)
        text = file.read().decode(errors="replace")
    rows = text.replace("\r", "\n").splitlines()[1:]  # without the command
    return "\n".join(rows[-lines:] if lines else rows)


# ------------------------------------------------------------------------------------------ state and display


def take_lock(output: Path) -> int:
    """Lock the output folder; a killed run's last processes are given ten seconds to go."""
    file = os.open(output / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + 10
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if time.monotonic() > deadline:
                os.close(file)
                raise ConfigError(f"{output}: another run is at work here; wait for it, or end it") from None
            time.sleep(0.1)


def start_state(spec: PipelineSpec, output: Path) -> dict[str, Any]:
    """What `run.json` holds, with the W&B group of all runs in this folder."""
    state = read_state(output)
    state.setdefault("group", f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
    write_state(output, state)
    return state


def read_state(output: Path) -> dict[str, Any]:
    """What `run.json` holds; no stage if there is none."""
    with contextlib.suppress(OSError, ValueError):
        state = json.loads((output / STATE).read_text(encoding="utf-8"))
        if isinstance(state, dict) and isinstance(state.get("stages"), dict):
            return state
    return {"stages": {}}


def write_state(output: Path, state: Mapping[str, Any]) -> None:
    """Write `run.json`, whole."""
    atomic_files.write(output / STATE, atomic_files.as_json(state))
