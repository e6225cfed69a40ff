"""Functions that users hand in by name: `my_rules.py:keep`, or `package.module:keep`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError


@dataclass(frozen=True)
class NamedFunction:
    """A function that a config names.

    Attributes:
        name: as the config gives it.
        sha256: of the file that defines it, for a stage's fingerprint; what that file imports is not in it.
        call: the function.
    """

    name: str
    sha256: str
    call: Callable[..., Any]

    @property
    def identity(self) -> dict[str, str]:
        """What of it can change a row."""
        return {"function": self.name.rpartition(":")[2], "sha256": self.sha256}


def load_function(name: str, key: str, *parameters: str) -> NamedFunction:
    """Import the function that a config names.

    Args:
        name: `FILE.py:FUNCTION`, the path being relative to the working directory, or `MODULE:FUNCTION`.
        key: of the config, for messages.
        parameters: what it is called with by position, for messages and a check of its signature.

    Raises:
        ConfigError: there is no such file, module or function, importing it raises, or it takes other
            arguments.
    """
    where, colon, function = name.rpartition(":")
    if not (colon and where and function.isidentifier()):
        raise ConfigError(f"{key}: expected FILE.py:FUNCTION or MODULE:FUNCTION, got '{name}'")
    module = _import_file(Path(where), key) if where.endswith(".py") else _import_module(where, key)
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f"{key}: {where} has no function '{function}'")
    try:
        inspect.signature(found).bind(*parameters)
    except TypeError:
        raise ConfigError(f"{key}: {name} must take the arguments ({', '.join(parameters)})") from None
    source = Path(str(module.__file__))
    return NamedFunction(name, hashlib.sha256(source.read_bytes()).hexdigest()[:16], found)


def _import_file(path: Path, key: str) -> Any:
    if not path.is_file():
        raise ConfigError(f"{key}: {path}: no such file")
    # Under a name of its own in sys.modules, where dataclasses and pickled functions look for their module.
    name = f"scalequest_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{key}: {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise ConfigError(f"{key}: {path}: {_first_line(error)}") from error
    return module


def _import_module(name: str, key: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"{key}: cannot import {name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
