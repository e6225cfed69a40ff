"""Load functions that users name in a config: `my_rules.py:keep` or `package.module:keep`."""

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
    """A function named in a config.

    Attributes:
        name: the name as given in the config.
        sha256: hash of the file that defines it, for a stage's fingerprint; files that it imports are not
            covered.
        call: the function.
    """

    name: str
    sha256: str
    call: Callable[..., Any]

    @property
    def identity(self) -> dict[str, str]:
        """The part of it that can change a row."""
        return {"function": self.name.rpartition(":")[2], "sha256": self.sha256}


def load_function(name: str, key: str, *parameters: str) -> NamedFunction:
    """Import a function named in a config.

    Args:
        name: `FILE.py:FUNCTION`, with a path relative to the working directory, or `MODULE:FUNCTION`.
        key: the config key, for error messages.
        parameters: names of its positional arguments, for error messages and a check of its signature.

    Raises:
        ConfigError: the file, module or function does not exist, importing it fails, or it takes other
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
    # Registered in sys.modules under its own name, where dataclasses and pickle look up a function's module.
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
