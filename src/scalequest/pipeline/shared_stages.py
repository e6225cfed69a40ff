"""Several pipelines in one folder that run their common stages once.

Two stages are the same if they run the same script with the same settings on the outputs of the same stages,
whatever the files that they come from call them. A stage is therefore named after its script and a hash of
all that: the runner then finds the folder of a stage that another pipeline has finished, and checks its
receipt as always. A change of the code or of a model does not change a name; the receipt's fingerprint does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, read_yaml
from scalequest.pipeline.includes import known_variables, resolved
from scalequest.pipeline.runner import PipelineSpec, StageSpec, Step

_FOLDER = re.compile(r"(\$\{output\}/)([A-Za-z0-9_.-]+)")
OUTPUT = "${output}"


@dataclass(frozen=True)
class Shared:
    """A pipeline whose stages are named after their content.

    Attributes:
        spec: the pipeline, without variables.
        names: the name of every stage, by the one that it has in its file.
    """

    spec: PipelineSpec
    names: dict[str, str]


def by_content(spec: PipelineSpec, source: str) -> Shared:
    """Return the pipeline with every variable filled in and every stage named after its content.

    Args:
        spec: from `runner.load`.
        source: what errors call the pipeline.

    Raises:
        ConfigError: a variable is not set, a config cannot be read, or a stage chooses its own folder.
    """
    known = known_variables(spec.vars) | {"output": OUTPUT}
    names: dict[str, str] = {}
    stages = []
    for stage in spec.stages:
        where = f"{source}: stage {stage.name!r}"
        if "output_dir" in stage.args:
            raise ConfigError(f"{where}: output_dir: a shared stage has the folder of its name; remove it")
        args = _renamed(resolved(stage.args, known, where), names)
        needs = [names[need] for need in stage.needs]
        configs = [read_yaml(path) for path in stage.configs]
        content = json.dumps([stage.script, stage.launch, configs, args, needs, spec.env], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:10]
        names[stage.name] = f"{Path(stage.script).stem}-{digest}"
        stages.append(replace(stage, name=names[stage.name], args=args, needs=needs))
    return Shared(replace(spec, stages=stages, vars={}), names)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return a value of `args` in which the folders of stages have their new names."""
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if not isinstance(value, str):
        return value
    return _FOLDER.sub(lambda found: found[1] + names.get(found[2], found[2]), value)


def union(name: str, specs: Iterable[PipelineSpec]) -> PipelineSpec:
    """Return one pipeline with the stages of all, each once, in the order in which they first occur.

    What one pipeline sets in the environment of its stages holds for all of them.
    """
    specs = list(specs)
    stages: dict[str, StageSpec] = {}
    for spec in specs:
        for stage in spec.stages:
            stages.setdefault(stage.name, stage)
    env = {key: value for spec in specs for key, value in spec.env.items()}
    return PipelineSpec(
        name=name,
        stages=list(stages.values()),
        hub=any(spec.hub for spec in specs),
        preload=any(spec.preload for spec in specs),
        env=env,
    )


def without(steps: Sequence[Step], failed: Iterable[str]) -> list[Step]:
    """Return the steps that can still run: neither failed ones nor what needs them, directly or not."""
    gone, left = set(failed), []
    for step in steps:
        if step.spec.name in gone or gone.intersection(step.needs):
            gone.add(step.spec.name)
        else:
            left.append(step)
    return left
