"""Settings of an evaluation."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from scalequest import atomic_files
from scalequest.config import ConfigError, option, required
from scalequest.config.ranges import COUNT
from scalequest.engines.base import EngineConfig, Sampling
from scalequest.engines.server import ServerConfig
from scalequest.functions import FunctionKey
from scalequest.grading.options import GraderOptions
from scalequest.records import expand

# Names in an evaluation's folder that cannot be used for a model's folder.
_OWN = ("config.yaml", "receipt.json", "metrics.jsonl", "readme.md", "data", "dropped", "parts", "wandb")


@dataclass(frozen=True)
class EvaluationConfig:
    """An evaluation: the models, the benchmarks, and how the models are asked."""

    models: dict[str, str] = required(
        "models by label: a model folder, the folder of a LoRA adapter, or a hub id; a "
        "folder with * is a sweep",
        fingerprint=False,
    )
    benchmarks: list[str] = required("YAML files of the benchmarks", fingerprint=False)
    chat_format: str | None = option(
        None,
        "chat format of the models: a family, a YAML file or auto; null: a server's own",
        fingerprint=False,
    )
    chat_formats: dict[str, str] = option(
        None,
        "chat formats by label, for models that use a different one",
        fingerprint=False,
        default_factory=dict,
    )
    revisions: dict[str, str] = option(
        None, "hub revisions by label", fingerprint=False, default_factory=dict
    )
    only: str | None = option(None, "label of a model; run only this model now", fingerprint=False)
    prompts: list[str] = option(
        None, "prompt files, used instead of the benchmarks' own", fingerprint=False, default_factory=list
    )
    samples: int = option(1, "outputs per problem and prompt", within=COUNT)
    patches: bool = option(False, "correct the references listed in a benchmark's patch file")
    hub: bool = option(False, "read benchmarks from the hub if they name a source there", fingerprint=False)
    truncated: Literal["wrong", "graded"] = option(
        "wrong", "whether outputs truncated at max_tokens are wrong (paper) or graded"
    )
    score: str | None = option(None, "score column for best@k; the rows come from `scores`")
    scores: dict[str, str] = option(
        None,
        "score files by label: rows with benchmark, id, prompt, sample and the score",
        fingerprint=False,
        default_factory=dict,
    )
    regrade: str | None = option(
        None,
        "folder of a finished evaluation: grade its outputs again without asking a model",
        fingerprint=False,
    )
    audit: bool = option(
        False,
        "write a page of the outputs for which math-verify's verdict differs from ours",
        fingerprint=False,
    )
    grading: GraderOptions = option(
        None, "rules for which answers count as equal, or a function of yours", default_factory=GraderOptions
    )
    graders: int = option(1, "number of grading processes", fingerprint=False, within=COUNT)
    sampling: Sampling = option(
        None, "sampling settings; greedy unless changed", default_factory=lambda: Sampling(0.0, 1.0, 2048)
    )
    engine: EngineConfig = option(None, "engine and its settings", default_factory=EngineConfig)
    server: ServerConfig = option(
        None,
        "if its url is set, models are names on this server, and no engine is started",
        default_factory=ServerConfig,
    )

    def __post_init__(self) -> None:
        """Check the labels, which become folder names, and settings that depend on each other."""
        files: dict[str, str] = {}
        for label in self.models:
            fault, file = atomic_files.name_fault(label), atomic_files.one_file(label)
            if fault is None and (file in _OWN or file.endswith(".tmp")):
                fault = "this name is reserved for the evaluation's own files"
            if fault is not None:
                raise ConfigError(f"models: label {label[:80]!r} cannot be used as a folder name: {fault}")
            if (other := files.setdefault(file, label)) != label:
                raise ConfigError(f"models: labels {other!r} and {label!r} differ only in case; rename one")
        given = (("chat_formats", self.chat_formats), ("revisions", self.revisions))
        for key, labels in given:
            if unknown := set(labels) - set(self.models):
                raise ConfigError(f"{key}: no model has the label '{min(unknown)}'")
        if self.chat_format is None and self.server.url is None:
            raise ConfigError("chat_format: missing; it can be omitted only if server.url is set")
        if self.only is not None and self.only not in self.models and not self._sweeps:
            raise ConfigError(
                f"only: no model has the label '{self.only}'; the labels are {', '.join(self.models)}"
            )
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ConfigError("samples: greedy outputs are all identical; set sampling.temperature")
        if self.scores and self.score is None:
            raise ConfigError("scores: name the score column with score")
        if self.score is not None and not self._sweeps and (missing := set(self.models) - set(self.scores)):
            raise ConfigError(f"scores: no file with '{self.score}' for '{min(missing)}'")

    @property
    def functions(self) -> list[FunctionKey]:
        """The functions of the user's that grade."""
        return [replace(key, key=f"grading.{key.key}") for key in self.grading.functions]

    @property
    def _sweeps(self) -> bool:
        return any("*" in path for path in self.models.values())

    def format_of(self, label: str) -> str:
        """The chat format of one model."""
        return self.chat_formats.get(label, self.chat_format or "")

    def swept(self) -> EvaluationConfig:
        """Expand `~` and `$NAME` in the paths of models, and replace every sweep by its folders.

        The folders of a sweep, e.g. `runs/sft/checkpoint-*`, are ordered by the numbers in their names.

        Raises:
            ConfigError: a folder does not exist, or a variable is not set.
        """
        models: dict[str, str] = {}
        formats: dict[str, str] = {}
        for label, path in self.models.items():
            # Hub ids, names on a server and paths such as `./x` are left unchanged.
            path = str(expand(path)) if path.startswith("~") or "$" in path else path
            found = {label: path}
            if "*" in path:
                parent, _, pattern = path.rpartition("/")
                folders = [folder for folder in Path(parent or ".").glob(pattern) if folder.is_dir()]
                if not folders:
                    raise ConfigError(f"models: {label}: no folder {path}")
                found = {f"{label} {folder.name}": str(folder) for folder in sorted(folders, key=_numbers_of)}
            if twice := models.keys() & found.keys():
                raise ConfigError(
                    f"models: duplicate label {min(twice)!r}, also produced by a sweep; rename one"
                )
            models |= found
            formats |= {name: self.chat_formats[label] for name in found if label in self.chat_formats}
        return replace(self, models=models, chat_formats=formats)


def _numbers_of(folder: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", folder.name)], folder.name
