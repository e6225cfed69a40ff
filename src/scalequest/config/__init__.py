"""Strict configs: dataclasses from YAML files and the command line.

Nothing is guessed and nothing is ignored: an unknown, renamed, duplicate, abbreviated or wrongly typed key
raises a one-line `ConfigError` that names the file, the key, and the key that was probably meant. Importing
this package imports neither torch nor transformers, so `--help` is fast.
"""

from scalequest.config.command_line import build, parse
from scalequest.config.fingerprints import fingerprint_fields, to_dict
from scalequest.config.options import ConfigError, RunOptions, TrainRunOptions, option, required
from scalequest.config.presets import PresetFacts, read_configs, read_facts
from scalequest.config.reading import load_yaml, read_yaml

__all__ = [
    "ConfigError",
    "PresetFacts",
    "RunOptions",
    "TrainRunOptions",
    "build",
    "fingerprint_fields",
    "load_yaml",
    "option",
    "parse",
    "read_configs",
    "read_facts",
    "read_yaml",
    "required",
    "to_dict",
]
