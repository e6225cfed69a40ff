"""What can be known of a pipeline's stages before the first of them runs: settings, and files that exist.

A stage late in a pipeline is days away: a key that it does not know, a variable that is not set, a file that
is not there are said at once, for every stage, while nothing has been spent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from scalequest import config
from scalequest.config import ConfigError, read_configs, read_yaml
from scalequest.durable import StageError
from scalequest.hardware import has_gpu
from scalequest.pipeline import Step
from scalequest.records import check_model_name, expand, whole_source
from scalequest.removal import refuse_overlap

_MODELS = ("model_name_or_path", "tokenizer", "models")
_UNSET = "the environment variable "
_CHILD = "import sys; from scalequest.preflight import parse_all; sys.exit(parse_all())"


def faults(steps: Sequence[Step], output: Path) -> list[str]:
    """One line for all that would end a stage before it has done anything.

    Settings are read as the stage would read them, by its own script, in one process for all; files and model
    folders that no stage makes have to be there. Models and data on the hub are not looked at.

    Args:
        steps: of `pipeline.plan`.
        output: the pipeline's folder.
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
    given = [step.command[step.command.index(step.spec.script) :] for step in asked]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD], input=json.dumps(given), capture_output=True, text=True, check=False
    )
    if child.returncode:
        raise ConfigError(f"the stages' settings could not be read: {child.stderr.strip()[-500:]}")
    said = json.loads(child.stdout.splitlines()[-1])
    return found + [
        f"stage '{step.spec.name}': {fault}" for step, fault in zip(asked, said, strict=True) if fault
    ]


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
            elif key == "input":
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


class _Read(Exception):  # no error: a script has read its settings, and need not go on
    pass


def parse_all() -> int:
    """Let each script on standard input read its settings and stop; print what is wrong with each, or null.

    Returns the exit status.
    """
    own = config.parse
    said: list[str | None] = []
    for script, *words in json.load(sys.stdin):
        sys.argv, error = [script, *words], io.StringIO()
        config.parse = _reading(own)
        try:
            with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
                runpy.run_path(script, run_name="__main__")
        except _Read:
            said.append(None)
        except SystemExit:
            said.append(error.getvalue().strip().rpartition("error: ")[2])
        finally:
            config.parse = own
    print(json.dumps(said))
    return 0


def _reading(own: Callable[..., Any]) -> Callable[..., Any]:
    def parse(*types: type, argv: Sequence[str] | None = None, description: str = "") -> Any:
        words = list(sys.argv[1:] if argv is None else argv)
        names = {item.name for one in types for item in dataclasses.fields(one)}
        if "use_cpu" in names and "--use_cpu" not in words and not has_gpu():
            words += ["--use_cpu", "true"]  # a login node has none, and the stage will have
        own(*types, argv=words, description=description)
        raise _Read

    return parse
