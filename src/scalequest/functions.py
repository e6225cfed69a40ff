"""Functions that users name in a config, as `my_rules.py:keep` or `package.module:keep`.

Every stage names them in the same way. A key with several choices has the choice `function`, and the key
`function` beside it names the function; in a list of steps, a function's name stands among the other names.
The stage's fingerprint holds the content of the function's file, and the look-ahead of a pipeline loads every
function before the first stage runs.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import numbers
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from scalequest.config import ConfigError, option

MOST_REASONS = 50  # different ones per function: they are counted in receipts and shown in reports
_REASON_LENGTH = 60
_SHOWN = 80  # characters of a value in a message


def function_option(key: str, what: str) -> Any:
    """Return the config field that names a function, with the same help text in every stage.

    Args:
        key: the setting for which the function is used, e.g. `rule function`.
        what: with which arguments the function is called, and what it returns.
    """
    # The path is not part of the fingerprint: the recipe adds the hash of the code
    return option(None, f"{key}: FILE.py:NAME or MODULE:NAME, {what}", fingerprint=False)


def needs_function(key: str) -> str:
    """Return the message for a choice `function` without a function."""
    return f"{key}: function needs function: FILE.py:NAME or MODULE:NAME"


def is_function_name(name: str) -> bool:
    """Return whether a name has the form FILE.py:NAME or MODULE:NAME."""
    where, colon, function = name.rpartition(":")
    return bool(colon and where) and function.isidentifier()


@dataclass(frozen=True)
class FunctionKey:
    """A key of a config that names a function.

    Attributes:
        key: the key, for error messages.
        name: the function's name.
        parameters: names of the arguments with which it is called.
    """

    key: str
    name: str
    parameters: tuple[str, ...]

    def load(self) -> NamedFunction:
        """Import the function; see `load_function`."""
        return load_function(self.name, self.key, *self.parameters)


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

    @property
    def label(self) -> str:
        """The name without the folder of its file, for rows and pages."""
        return self.name.rpartition("/")[2]

    def __call__(self, where: str, *arguments: Any) -> Any:
        """Call the function on the row that `where` names; see `called`."""
        return called(self.name, self.call, where, *arguments)

    def fault(self, where: str, what: str) -> ConfigError:
        """Return the error for a result that cannot be used; `where` names the row."""
        return ConfigError(f"{self.name}: {where}: {what}")


def called(name: str, function: Callable[..., Any], where: str, *arguments: Any) -> Any:
    """Call a user's function.

    Raises:
        ConfigError: the function raises; one line with its name, the row and the line of its file.
    """
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name}: {where}: {_first_line(error)}{_line_of(error, function)}") from error


def shown(value: Any) -> str:
    """Return a value for an error message."""
    try:
        text = repr(value)
    except Exception:  # a user's class
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 4] + " ..."


def as_number(value: Any) -> float | None:
    """Return a finite number, also of numpy or torch, as a float; None for anything else."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer that is too large for a float
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Reasons:
    """The reasons for which one function drops rows, in the form in which receipts count them.

    Attributes:
        function: the function.
        known: the different reasons so far.
    """

    function: NamedFunction
    known: set[str] = field(default_factory=set)

    def read(self, said: Any, where: str) -> str | None:
        """Return a reason in lower case, with `_` for everything but letters and digits, and not too long.

        Args:
            said: what the function returned: None, which remains None, or a reason.
            where: names the row.

        Raises:
            ConfigError: it is no string or cannot be used as a name, or there are too many different reasons.
        """
        if said is None:
            return None
        if not isinstance(said, str):
            what = f"returned {shown(said)}; return None to keep the row or, as a string, a reason to drop it"
            raise self.function.fault(where, what)
        reason = re.sub(r"[\W_]+", "_", said.lower()).strip("_")[:_REASON_LENGTH].rstrip("_")
        if reason == "kept":  # the name of all other rows in counts and reports
            raise self.function.fault(where, f"returned {shown(said)}; return None to keep the row")
        if not reason:
            raise self.function.fault(where, f"returned {shown(said)}, a reason without letters or digits")
        self.known.add(reason)
        if len(self.known) > MOST_REASONS:
            raise self.function.fault(
                where,
                f"returned {shown(said)}, one of more than {MOST_REASONS} different reasons; leave out what "
                "differs from row to row",
            )
        return reason


def functions_of(config: Any) -> Sequence[FunctionKey]:
    """Return the keys of a config that name functions: its property `functions`, if it has one."""
    return tuple(getattr(config, "functions", ()))


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
    if not is_function_name(name):
        raise ConfigError(f"{key}: expected FILE.py:FUNCTION or MODULE:FUNCTION, got '{name}'")
    where, _, function = name.rpartition(":")
    module, source = _import_file(Path(where), key) if where.endswith(".py") else _import_module(where, key)
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f"{key}: {where} has no function '{function}'")
    try:
        inspect.signature(found).bind(*parameters)
    except TypeError:
        raise ConfigError(f"{key}: {name} must take the arguments ({', '.join(parameters)})") from None
    except ValueError:  # some functions written in C do not say what they take
        pass
    return NamedFunction(name, _hash_of(source, found), found)


def _hash_of(source: bytes, found: Any) -> str:
    """Hash the file that was named and, if another file of the package defines the function, that one too."""
    file = _file_of(found)
    defined = b"" if file is None or not Path(file).is_file() else Path(file).read_bytes()
    return hashlib.sha256(source if defined in (b"", source) else source + defined).hexdigest()[:16]


def _file_of(found: Any) -> str | None:
    function = inspect.unwrap(found)
    for one in (function, type(function)):
        try:
            return inspect.getsourcefile(one)
        except TypeError:  # an object, a function written in C
            continue
    return None


def _import_file(path: Path, key: str) -> tuple[ModuleType, bytes]:
    """Return the module of a file, and the bytes that were executed."""
    if not path.is_file():
        raise ConfigError(f"{key}: {path}: no such file")
    source = path.read_bytes()
    # Registered in sys.modules under its own name, where dataclasses and pickle look up a function's module.
    # A file that was edited meanwhile is another module, so that what runs is what the fingerprint covers.
    digest = hashlib.sha256(str(path.resolve()).encode() + b"\0" + source).hexdigest()[:12]
    name = f"scalequest_user_{digest}"
    if name in sys.modules:
        return sys.modules[name], source
    module = ModuleType(name)
    module.__file__ = str(path.resolve())
    sys.modules[name] = module
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ConfigError(f"{key}: {path}: {_first_line(error)}") from error
    return module, source


def _import_module(name: str, key: str) -> tuple[ModuleType, bytes]:
    """Return a module, and the bytes of its file."""
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        beside = Path(f"{name}.py")
        hint = f"; the file is named as {beside}:NAME" if beside.is_file() else ""
        raise ConfigError(f"{key}: cannot import {name}: {_first_line(error)}{hint}") from error
    if not (file := getattr(module, "__file__", None)):
        raise ConfigError(f"{key}: {name} has no file to fingerprint; call it from a function of yours")
    return module, Path(file).read_bytes()


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _line_of(error: BaseException, function: Callable[..., Any]) -> str:
    """Return the line of the function's own file that raised, if it is known."""
    file = _file_of(function)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
