"""Pipeline files that include others, and variables, so that one file can be used several times.

    stages:
      - include: recipes/paper/${profile:-7b}.yaml     # its vars, and its stages if it has any
      - include: recipes/paper/parts/answers.yaml       # its stages, with these texts for its ${name}s
        vars: {name: metamath, questions: "hub:meta-math/MetaMathQA"}

The stages of an included file take the place of the `include`. A file that is included twice with the same
`vars`, their own variables replaced, is used once, so that experiments share their common stages. `vars` of
the including file override those of the included files, and the command line overrides both.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, read_yaml
from scalequest.installed import locate

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^${}]*))?\}")
_MOST_CHARACTERS = 100_000  # maximum total length of the variables in one text


def read_pipeline(path: str | Path, given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the content of a pipeline file together with the files that it includes.

    Args:
        path: the file.
        given: variables that override all `vars`.

    Raises:
        ConfigError: a file is missing or is not a pipeline file, or files include each other in a circle.
    """
    given = dict(given or {})
    whole: dict[str, Any] = {"vars": {}, "stages": [], "env": {}}
    _take_in(locate(str(path)), {}, given, whole, seen=set(), within=())
    whole["vars"] |= given
    return whole


def _take_in(
    path: str,
    own: Mapping[str, Any],
    given: Mapping[str, str],
    whole: dict[str, Any],
    *,
    seen: set[str],
    within: tuple[str, ...],
) -> None:
    """Add a file and the files that it includes to `whole`; `own` holds variables of this file only."""
    file = os.path.realpath(path)
    if file in within:
        raise ConfigError(f"{path}: include: it includes itself, or a file that includes it")
    key = json.dumps([file, own], sort_keys=True)
    if key in seen:
        return
    seen.add(key)
    content = _filled(read_yaml(path), own)
    variables = _map(content.pop("vars", None), f"{path}: vars")
    for one in _list(content.pop("stages", None), f"{path}: stages"):
        if not isinstance(one, dict) or "include" not in one:
            whole["stages"].append(one)
            continue
        if one.keys() - {"include", "vars"} or not isinstance(one["include"], str):
            raise ConfigError(f"{path}: stages: {one}: expected `include: FILE` and optionally `vars`")
        over = {**variables, **given}  # these override the variables of the included file
        known = known_variables({**whole["vars"], **over}) | {"output": "${output}"}
        part = substitute(one["include"], known, f"{path}: include")
        texts = _filled(_map(one.get("vars"), path), known)  # two ways to write one text are one inclusion
        _take_in(part, texts, over, whole, seen=seen, within=(*within, file))
    whole["vars"] |= variables
    whole["env"] |= _map(content.pop("env", None), f"{path}: env")
    for flag in ("hub", "preload"):
        if content.pop(flag, False):
            whole[flag] = True
    if within:
        content.pop("name", None)
        if content:
            raise ConfigError(f"{path}: unknown key '{next(iter(content))}' in an included file")
    whole |= content


def _map(value: Any, where: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a map")
    return dict(value or {})


def _list(value: Any, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ConfigError(f"{where}: expected a list")
    return list(value or [])


def _filled(value: Any, own: Mapping[str, Any]) -> Any:
    """Replace the variables of `own` in a file's content, and leave all others unchanged."""
    if isinstance(value, dict):
        return {key: _filled(item, own) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, own) for item in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda match: str(own.get(match[1], match[0])), value)


def known_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the values of all variables: these, and the non-empty ones of the environment."""
    return {**{name: value for name, value in os.environ.items() if value}, **variables}


def resolved(value: Any, known: Mapping[str, str], where: str) -> Any:
    """Replace the variables in every text of a value.

    Raises:
        ConfigError: a variable is not set, or refers to itself; the message starts with `where`.
    """
    if isinstance(value, Mapping):
        return {key: resolved(item, known, where) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item, known, where) for item in value]
    return substitute(value, known, where) if isinstance(value, str) else value


def substitute(text: str, known: Mapping[str, str], where: str) -> str:
    """Replace the variables in a text; see `resolved`."""
    room = _MOST_CHARACTERS

    def replace(match: re.Match[str]) -> str:
        nonlocal room
        name, default = match.groups()
        value = known.get(name)
        if not value and default is not None:
            value = default
        if value is None:
            raise ConfigError(f"{where}: ${{{name}}}: the environment variable {name} is not set; export it")
        room -= len(value)
        if room < 0:
            raise ConfigError(f"{where}: ${{{name}}}: variables grow beyond {_MOST_CHARACTERS:,} characters")
        return value

    for _ in range(10):  # a value may itself contain variables
        changed = _VARIABLE.sub(replace, text)
        if changed == text:
            return locate(text)
        text = changed
    raise ConfigError(f"{where}: {text[:80]}: a variable refers to itself")
