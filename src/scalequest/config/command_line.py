"""Build dataclasses from `--config FILE ...` and `--key value`, or from one mapping."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from scalequest.config.building import COMMAND_LINE, assemble
from scalequest.config.help import help_text
from scalequest.config.options import ConfigError
from scalequest.config.presets import settings_of
from scalequest.config.reading import read_yaml
from scalequest.installed import is_output, locate


def build(types: Sequence[type], mapping: Mapping[str, Any], source: str = "config") -> tuple[Any, ...]:
    """Build the dataclasses of `types` from one mapping, as `parse` does from a file.

    Raises:
        ConfigError: the first error.
    """
    return assemble(types, {}, settings_of([(source, mapping)]))


def parse(*types: type, argv: Sequence[str] | None = None, description: str = "") -> tuple[Any, ...]:
    """Build the dataclasses of `types` from `--config FILE ...` and `--key value`.

    Later files override earlier ones, and the command line overrides all files, key by key: nested mappings
    are merged, lists are replaced.

    The keys of all types share one flat namespace; nested dataclasses are mappings in YAML and dotted keys on
    the command line. On an error, this prints `error: ...` (on local rank 0 only) and exits with status 2; on
    `--help`, it prints all keys and exits.

    Args:
        types: dataclasses of ours or of TRL; a key may occur in two of them only if it means the same in
            both.
        argv: the words after the script's name.
        description: the first lines of `--help`, usually the script's docstring.

    Returns:
        One instance of each type, in their order.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        words = _split(argv)
        if "help" in words:
            print(help_text(types, description))
            raise SystemExit(0)
        paths = words.pop("config", None)
        if paths == []:
            raise ConfigError(f"{COMMAND_LINE}: --config: expected one or more YAML files")
        files = settings_of([(path, read_yaml(path)) for path in paths or ()], words)
        return assemble(types, words, files)
    except ConfigError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _split(argv: Sequence[str]) -> dict[str, list[str]]:
    """Group words by the `--key` that they follow; `--key=value` takes exactly one word."""
    words: dict[str, list[str]] = {}
    key: str | None = None
    for word in argv:
        if word == "-h":
            words["help"] = []
        elif word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            if key in words:
                raise ConfigError(f"{COMMAND_LINE}: duplicate key '--{key}'")
            words[key] = [_located(key, value)] if equals else []
            key = None if equals else key
        elif key is None:
            raise ConfigError(f"{COMMAND_LINE}: unexpected '{word}': give settings as --key value")
        else:
            words[key].append(_located(key, word))
    return words


def _located(key: str, word: str) -> str:
    return word if is_output(key) else locate(word)
