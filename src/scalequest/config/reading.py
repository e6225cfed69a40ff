"""Read YAML files strictly and merge them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from scalequest.config import bounded_yaml
from scalequest.config.options import ConfigError
from scalequest.installed import locate, locate_all
from scalequest.redaction import SECRET, is_secret, redacted


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping: `2e-5` is a number, `no` is a string, and duplicate keys are errors.

    Raises:
        ConfigError: names the file and the line.
    """
    loaded = load_yaml(path)
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping at the top level, got {shown(loaded)}")
    return loaded


def load_yaml(path: str | Path) -> Any:
    """Read any YAML 1.2 like `read_yaml`, with limits on size, depth and expanded aliases.

    The file itself, and the files that its values name, may be installed ones: see `scalequest.installed`.

    Raises:
        ConfigError: names the file and the line.
    """
    try:
        with Path(locate(str(path))).open("rb") as file:
            data = file.read(bounded_yaml.MOST_BYTES + 1)
        text = data.decode("utf-8") if len(data) <= bounded_yaml.MOST_BYTES else None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if text is None:
        raise ConfigError(
            f"{path}: larger than {bounded_yaml.MOST_BYTES:,} bytes; check that it is a config file"
        )
    try:
        return locate_all(bounded_yaml.load(text))
    except DuplicateKeyError as error:
        key = str(error.problem).partition('"')[2].partition('"')[0]
        raise ConfigError(f"{path}: line {_line(error)}: duplicate key '{key}'") from None
    except bounded_yaml.TooMuch as error:
        raise ConfigError(f"{path}: line {_line(error)}: {error.problem}") from None
    except MarkedYAMLError as error:
        raise ConfigError(f"{path}: line {_line(error)}: not YAML: {error.problem}") from None
    except Exception as error:  # converting a value with a wrong tag fails in many ways
        raise ConfigError(f"{path}: not YAML: {type(error).__name__}: {error}") from None


def _line(error: MarkedYAMLError) -> int:
    return int(error.problem_mark.line) + 1 if error.problem_mark is not None else 1


def over(below: Any, above: Any) -> Any:
    """Merge one value into another: mappings key by key; anything else, including lists, is replaced."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: over(below.get(key), value) for key, value in above.items()}}


def shown(value: Any, key: str = "") -> str:
    """Return a value in the form in which an error message may show it: short and without secrets."""
    if is_secret(key.rpartition(".")[2]):
        return SECRET
    try:
        text = repr(redacted(value))
    except ValueError:  # Python does not print integers of more than 4,300 digits
        text = "a number with thousands of digits"
    return text if len(text) <= 80 else text[:79] + "…"
