"""Combine several config files, and read what they say about themselves.

    preset:                                   # of any config; no stage gets it, no fingerprint sees it
      launch: accelerate_configs/zero3.yaml   # the topology that its values are meant for
      rows: 14973                             # and so on: the fields of `PresetFacts`
      source: {learning_rate: authors' code}

A file whose `base` names other files contains only the differences from one of them and is given after it:
`--config recipes/mistral_7b/sft.yaml recipes/variants/lora.yaml`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from scalequest.config.building import assemble
from scalequest.config.options import ConfigError, option
from scalequest.config.ranges import COUNT, POSITIVE
from scalequest.config.reading import over, read_yaml

KEY = "preset"


@dataclass(frozen=True)
class PresetFacts:
    """What a preset says about itself, for scripts/table.py and for people."""

    launch: str | None = option(None, "accelerate config file of the launch command; null: one process")
    base: list[str] = option(default_factory=list, help="preset files that this file extends")
    needs: list[str] = option(
        default_factory=list,
        help="keys that must be given along with this file, because its base does not have them",
    )
    rows: int | None = option(None, "paper run that the preset reproduces", within=COUNT)
    tokens: float | None = option(None, "mean number of tokens per row", within=POSITIVE)
    gpu_memory: float | None = option(
        None, "GPU memory in GB that the run needs on each GPU", within=POSITIVE
    )
    a100_hours: float | None = option(None, "GPU-hours on A100-40G reported by the paper", within=POSITIVE)
    source: dict[str, str] = option(default_factory=dict, help="source of each value, by key")


def read_configs(*paths: str | Path) -> dict[str, Any]:
    """Merge the settings of several files, later ones over earlier ones: mappings by key, lists as a whole.

    Raises:
        ConfigError: names the file and the line.
    """
    settings: dict[str, Any] = reduce(over, (read_yaml(path) for path in paths), {})
    return {key: value for key, value in settings.items() if key != KEY}


def read_facts(*paths: str | Path) -> PresetFacts:
    """Merge what several files say about themselves, later ones over earlier ones.

    Raises:
        ConfigError: names the file and the key.
    """
    files = [(str(path), read_yaml(path)) for path in paths]
    found: PresetFacts = _facts([(name, content[KEY]) for name, content in files if KEY in content])
    return found


def settings_of(
    files: Sequence[tuple[str, Mapping[str, Any]]], words: Container[str] = ()
) -> list[tuple[str, dict[str, Any]]]:
    """Return the files without their `preset` sections, which are checked.

    Args:
        files: the name and content of each file, in the given order.
        words: the keys given on the command line.

    Raises:
        ConfigError: a key or a value is wrong, or the base of a file or a key required with it is missing.
    """
    for number, (name, content) in enumerate(files):
        facts = _facts([(name, content[KEY])] if KEY in content else [])
        if facts.base and number == 0:
            raise ConfigError(
                f"{name}: contains only the differences from {' or '.join(facts.base)}; give both "
                f"files: --config {facts.base[0]} {name}"
            )
        for key in facts.needs:
            if key not in words and not any(key in later for _, later in files[number + 1 :]):
                raise ConfigError(
                    f"{name}: set --{key} on the command line or in a later file; the value in "
                    f"{files[number - 1][0]} belongs to its own run"
                )
    return [(name, {key: item for key, item in content.items() if key != KEY}) for name, content in files]


def _facts(parts: Sequence[tuple[str, Any]]) -> Any:
    return assemble((PresetFacts,), {}, parts, f"{KEY}.")[0]
