"""What can be known of a pipeline's stages before the first of them runs: settings, and files that exist.

A stage late in a pipeline is days away: a key that it does not know, a variable that is not set, a file that
is not there are said at once, for every stage, while nothing has been spent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from scalequest.atomic_files import StageError
from scalequest.config import ConfigError, read_configs, read_yaml
from scalequest.functions import functions_of
from scalequest.hardware import has_gpu
from scalequest.pipeline import columns
from scalequest.pipeline.preload import exit_status_of
from scalequest.pipeline.runner import Step
from scalequest.pipeline.status_table import read_receipt
from scalequest.recipe import load_recipe
from scalequest.records import check_model_name, expand, whole_source
from scalequest.stage.removal import refuse_overlap

_MODELS = ("model_name_or_path", "tokenizer", "models")
_UNSET = "the environment variable "
_CHILD = "import sys; from scalequest.pipeline.look_ahead import parse_all; sys.exit(parse_all())"


@dataclass(frozen=True)
class Ahead:
    """What was found before the first stage runs.

    Attributes:
        faults: one line for each thing that would end a stage before it has done anything.
        fingerprints: of stages that an earlier run finished, by name: what they would have now. A stage whose
            fingerprint could not be worked out is left out.
    """

    faults: list[str]
    fingerprints: dict[str, str]


def look_ahead(steps: Sequence[Step], output: Path, *, fork: bool = False) -> Ahead:
    """Look for all that would end a stage at its start, and for the stages that have nothing to do.

    Settings are read as the stage would read them, by its own script, in one process for all; files and model
    folders that no stage makes have to be there, and inputs have to have the columns that the stage needs.
    Models and data on the hub are not looked at.

    Args:
        steps: of `pipeline.plan`.
        output: the pipeline's folder.
        fork: this process has no threads and no open device, so a fork of it may read the settings, which is
            done sooner than in an interpreter that has to start. Without effect outside of Linux.
    """
    made = {str(output), *(str(step.output_dir) for step in steps if step.output_dir is not None)}
    found, unset = [], set[str]()
    for step in steps:
        found += [f"stage '{step.spec.name}': {fault}" for fault in _overlaps(step)]
        for fault in _missing(_settings(step), made):
            variable = fault.partition(_UNSET)[2]
            if variable not in unset:  # once, for all the files that it would name
                found.append(f"stage '{step.spec.name}': {fault}")
            unset |= {variable} - {""}
    asked = [step for step in steps if step.spec.configs]
    answers = _forked if fork and sys.platform == "linux" else _started
    said = dict(zip((step.spec.name for step in asked), answers(requests(asked)), strict=True))
    found += [f"stage '{name}': {fault}" for name, one in said.items() for fault in one["faults"]]
    return Ahead(found, {name: one["fingerprint"] for name, one in said.items() if one["fingerprint"]})


def _started(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`read_all` in an interpreter of its own, which ends with all that the recipes import."""
    command, given = [sys.executable, "-c", _CHILD], json.dumps(asked)
    child = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    return _answers(child.returncode, child.stdout, child.stderr)


def _forked(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`read_all` in a fork of this process."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as wrong:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            for stream in (1, 2):
                os.dup2(wrong.fileno(), stream)
            with contextlib.redirect_stdout(wrong), contextlib.redirect_stderr(wrong):
                status = exit_status_of(lambda: said.write(json.dumps(read_all(asked))))
            said.flush()
            wrong.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        wrong.seek(0)
        return _answers(status, said.read(), wrong.read())


def _answers(status: int, said: str, wrong: str) -> list[dict[str, Any]]:
    if status:
        raise ConfigError(f"the stages' settings could not be read: {wrong.strip()[-500:]}")
    answers: list[dict[str, Any]] = json.loads(said.splitlines()[-1])
    return answers


def left_out(steps: Sequence[Step]) -> list[str]:
    """One line for each stage that goes without an optional benchmark, since its data are not there."""
    lines = []
    for step in steps:
        patterns = (_settings(step).get("contamination") or {}).get("optional") or []
        files = sorted({file for pattern in patterns for file in glob(pattern)})
        if absent := [Path(file).stem for file in files if any(_without_source(file))]:
            lines.append(f"stage '{step.spec.name}': benchmarks left out: {', '.join(absent)}")
    return lines


def _settings(step: Step) -> Mapping[str, Any]:
    return {**read_configs(*step.spec.configs), **step.settings}


def _overlaps(step: Step) -> Iterator[str]:
    """What the stage would refuse since it reads what it writes over."""
    if step.output_dir is not None:
        settings = {key: value for key, value in _settings(step).items() if key != "output_dir"}
        try:
            refuse_overlap(step.output_dir, "--fresh" in step.command, settings)
        except StageError as error:
            yield str(error)


def _missing(settings: Mapping[str, Any], made: set[str]) -> Iterator[str]:
    """The files that settings name and that are not there, and will not be."""
    for key, text in _texts(settings):
        if not text or any(space in text for space in " \n") or key == "output_dir":
            continue
        try:
            path = str(expand(whole_source(text)))
            if any(path == folder or path.startswith(f"{folder}/") for folder in made):
                continue
            if key in _MODELS:
                check_model_name(text)
            elif key in ("input", "source"):
                _check_source(text)
            elif path.endswith((".yaml", ".yml")) and not (files := sorted(glob(path))):
                yield f"{key}: {text}: no such file"
            elif path.endswith((".yaml", ".yml")) and not settings.get("hub"):
                found = (f"{key}: {fault}" for file in files for fault in _without_source(file))
                yield from (fault for fault in found if key != "optional" or _UNSET in fault)
        except ConfigError as error:
            yield f"{key}: {error}"


def _check_source(source: str) -> None:
    if not source.startswith("hub:") and not expand(whole_source(source)).exists():
        raise ConfigError(f"{source}: no such file or folder")


def _without_source(file: str) -> Iterator[str]:
    """What a benchmark's file lacks, if it is one."""
    content = read_yaml(file)
    source = content.get("source")
    if isinstance(source, str) and "sha256" in content:
        relative = not source.startswith(("hub:", "$", "/", "~"))
        try:
            _check_source(str(Path(file).parent / source) if relative else source)
        except ConfigError as error:
            yield f"{file}: {error}"


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _texts(item, key if key in _MODELS else str(inner))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)


# ------------------------------------------------------------------------------------------- the child's part


def requests(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """What is asked about each stage, as JSON can hold it."""
    return [
        {
            "words": step.command[step.command.index(step.spec.script) :],
            "finished": bool(read_receipt(step.output_dir).get("finished")),
            "fresh": "--fresh" in step.command,
            "output_dir": str(step.output_dir),
        }
        for step in steps
    ]


def parse_all() -> int:
    """Read the settings of each command on standard input, and print what is wrong and each fingerprint.

    Fingerprints are worked out for stages that are finished. Returns the exit status.
    """
    print(json.dumps(read_all(json.load(sys.stdin))))
    return 0


def read_all(asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answer `requests` in their order: what is wrong with a stage, and its fingerprint if it is finished."""
    made: dict[str, frozenset[str] | None] = {}
    seen: columns.Seen = {}
    said = []
    for one in asked:
        if one["fresh"] or not one["finished"]:  # else its rows are there to be looked at
            made[one["output_dir"]] = None
        done, folder = one["finished"], one["output_dir"]
        said.append(_read(*one["words"], finished=done, made=made, seen=seen, folder=folder))
    return said


def _function_faults(values: Sequence[Any]) -> Iterator[str]:
    """Return what is wrong with the functions that settings name."""
    for key in (key for value in values for key in functions_of(value)):
        try:
            key.load()
        except ConfigError as error:
            yield str(error)


def _read(
    script: str,
    *words: str,
    finished: bool,
    made: dict[str, frozenset[str] | None],
    seen: columns.Seen,
    folder: str,
) -> dict[str, Any]:
    said: dict[str, Any] = {"faults": [], "fingerprint": None}
    recipe = load_recipe(script)
    if recipe is None:  # a script that reads no settings as ours do
        return said
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            names = {item.name for one in recipe.configs() for item in dataclasses.fields(one)}
            # A login node has no GPU, and the stage will have.
            told = "use_cpu" not in names or "--use_cpu" in words or has_gpu()
            values = recipe.parse([*words, *([] if told else ["--use_cpu", "true"])])
        except SystemExit:
            said["faults"] = [error.getvalue().strip().rpartition("error: ")[2]]
        else:
            said["faults"] = [*_function_faults(values), *columns.faults(recipe.name, values, made, seen)]
            if folder in made:
                made[folder] = columns.written(recipe.name, values, made)
            if finished:
                with contextlib.suppress(Exception, SystemExit):  # the stage is started, and says so itself
                    said["fingerprint"] = recipe.fingerprint(*values)
    return said
