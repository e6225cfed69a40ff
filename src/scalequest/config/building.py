"""Build dataclasses from mappings and command-line words, checking every key, type and range."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from functools import cache
from typing import Any, Union, get_args, get_origin

from scalequest.config import bounded_yaml
from scalequest.config.hints import hint_for
from scalequest.config.options import ConfigError
from scalequest.config.ranges import FINITE, outside
from scalequest.config.reading import over, shown
from scalequest.config.schema import (
    Leaf,
    Schema,
    default_of,
    fields_of,
    members_of,
    nested_in,
    strict_members,
    type_name,
)
from scalequest.installed import locate_all

COMMAND_LINE = "command line"


class _OutOfRange(ConfigError):
    """A number of the right type that is outside the range of its setting."""


def _in_range(leaf: Leaf, value: Any, key: str, source: str) -> Any:
    """Return a value of the right type, after checking that every number in it is in the leaf's range.

    Raises:
        ConfigError: names the range.
    """
    valid = _validated(leaf.annotation, value, key, source)
    for number in outside(valid, leaf.within):
        raise _OutOfRange(f"{source}: {key}: expected {leaf.within}, got {shown(number, key)}")
    return valid


def _validated(annotation: Any, value: Any, key: str, source: str) -> Any:
    """Check a value parsed from YAML against an annotation, building dataclasses in lists and mappings."""
    members = [member for member in members_of(annotation) if member is not type(None)]
    origin, args = get_origin(members[0]), get_args(members[0])
    inner = nested_in(args[0 if origin in (list, tuple) else -1]) if len(members) == 1 and args else None
    if inner is not None and origin in (list, tuple) and isinstance(value, list):
        built = [assemble((inner,), {}, [(source, one)], f"{key}[{i}].")[0] for i, one in enumerate(value)]
        return tuple(built) if origin is tuple else built
    if inner is not None and origin is dict and isinstance(value, dict):
        return {
            name: assemble((inner,), {}, [(source, one)], f"{key}.{name}.")[0] for name, one in value.items()
        }
    from pydantic import ValidationError  # takes a third of a second, which --help does not need
    from pydantic.errors import PydanticUserError

    try:
        # Strict JSON validation is what YAML values need: 1 is accepted as a float, and enums and paths are
        # given as strings, but "1" does not count as a number, nor 1 as a boolean.
        return _adapter(strict_members(annotation)).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError:
        expected = type_name(annotation)
        raise ConfigError(f"{source}: {key}: expected {expected}, got {shown(value, key)}") from None
    except (PydanticUserError, TypeError):
        raise ConfigError(f"{source}: {key}: cannot be set from a config") from None
    except ValueError:  # JSON cannot represent integers of more than 4,300 digits
        raise ConfigError(f"{source}: {key}: expected {FINITE}, got {shown(value, key)}") from None


@cache
def _adapter(members: tuple[Any, ...]) -> Any:
    """What validates a value of any of these types; making one takes pydantic about half a millisecond."""
    from pydantic import TypeAdapter

    union: Any = Union[members]  # noqa: UP007
    return TypeAdapter(union)


def _from_words(leaf: Leaf, words: Sequence[str], key: str) -> Any:
    """Parse the words after `--key` according to its type.

    Each word is parsed as YAML if the type accepts the result (numbers, true, null, `[a, b]`, `{a: 1}`), and
    is otherwise taken as a string; several words are a list; no word means true.
    """
    if not words:
        try:
            return _in_range(leaf, True, key, COMMAND_LINE)
        except ConfigError:
            raise ConfigError(f"{COMMAND_LINE}: {key}: needs a value, {type_name(leaf.annotation)}") from None
    read = [_word(word) for word in words]
    tries: list[Any] = [read, list(words)]
    if len(words) == 1:
        tries = [read[0], words[0]] + ([] if words[0].startswith("[") else tries)
    for value in tries:
        try:
            return _in_range(leaf, value, key, COMMAND_LINE)
        except _OutOfRange:
            raise
        except ConfigError:
            continue
    expected = type_name(leaf.annotation)
    raise ConfigError(f"{COMMAND_LINE}: {key}: expected {expected}, got {shown(' '.join(words), key)}")


def _word(word: str) -> Any:
    try:
        value = bounded_yaml.load(word)
    except Exception:  # invalid YAML, which fails in many ways, or too much of it
        return word
    # YAML would strip quotes and comments from a plain string.
    plain = isinstance(value, str) or (value is None and word not in ("null", "~"))
    return word if plain else locate_all(value)


@dataclass
class _Given:
    """The values given by files and the command line, checked, by dotted key, and their sources.

    Attributes:
        values: the values by dotted key; None for a nested dataclass.
        unchecked: mappings that are a single value, as given by the files, so that the next file can be
            merged into them.
        maps: the dotted keys of nested dataclasses that were given.
        sources: the files and the command line.
    """

    values: dict[str, Any] = field(default_factory=dict)
    unchecked: dict[str, Any] = field(default_factory=dict)
    maps: set[str] = field(default_factory=set)
    sources: list[str] = field(default_factory=list)


def _take_map(
    given: _Given, schema: Schema, mapping: Mapping[Any, Any], source: str, prefix: str = "", at: str = ""
) -> None:
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if not isinstance(name, str) or "." in name or key not in {*schema.leaves, *schema.maps}:
            raise ConfigError(f"{source}: unknown key '{at}{key}'; {hint_for(key, schema)}")
        if key in schema.leaves:
            value = given.unchecked[key] = over(given.unchecked.get(key), value)
            given.values[key] = _in_range(schema.leaves[key], value, at + key, source)
        elif value is None:
            _forget(given, key + ".")
            given.values[key] = None
        elif isinstance(value, Mapping):
            given.maps.add(key)
            given.values.pop(key, None)
            _take_map(given, schema, value, source, key + ".", at)
        else:
            raise ConfigError(f"{source}: {at}{key}: expected a mapping, got {shown(value, key)}")


def _forget(given: _Given, prefix: str) -> None:
    """Remove what was given inside a mapping that is now null."""
    for held in (given.values, given.unchecked):
        for key in [key for key in held if key.startswith(prefix)]:
            del held[key]
    given.maps = {key for key in given.maps if not f"{key}.".startswith(prefix)}


def _take_words(given: _Given, schema: Schema, key: str, words: Sequence[str]) -> None:
    if key in schema.leaves:
        given.values[key] = _from_words(schema.leaves[key], words, key)
        parent = key.rpartition(".")[0]
        while parent:
            given.values.pop(parent, None)
            parent = parent.rpartition(".")[0]
    elif key in schema.maps:
        value = _word(" ".join(words))
        nested = {key.rpartition(".")[2]: value}
        _take_map(given, schema, nested, COMMAND_LINE, key[: -len(key.rpartition(".")[2])])
    else:
        raise ConfigError(f"{COMMAND_LINE}: unknown key '--{key}'; {hint_for(key, schema)}")


def _make(cls: type, given: _Given, schema: Schema, prefix: str, base: Any, at: str = "") -> Any:
    """Build one dataclass from the given values, on top of its defaults or the default of its field."""
    arguments: dict[str, Any] = {}
    for item, annotation in fields_of(cls):
        key = prefix + item.name
        default = default_of(item) if base is None else getattr(base, item.name)
        nested = nested_in(annotation)
        started = key in given.maps or any(name.startswith(key + ".") for name in given.values)
        if key in given.values:
            if given.values[key] is None and nested is not None and type(None) not in members_of(annotation):
                raise ConfigError(f"{_where(given)}: {at}{key}: expected a mapping, got null")
            arguments[item.name] = given.values[key]
        elif nested is not None and (started or default is MISSING):
            inner = default if dataclasses.is_dataclass(default) else None
            arguments[item.name] = _make(nested, given, schema, key + ".", inner, at)
        elif default is MISSING:
            raise ConfigError(
                f"{_where(given)}: required key '{at}{key}' is missing ({item.metadata.get('help', '')})"
            )
    try:
        return cls(**arguments) if base is None else dataclasses.replace(base, **arguments)
    except Exception as error:  # any exception of a library's __post_init__ concerns these settings
        said = str(error) if isinstance(error, ConfigError) else f"{cls.__name__}: {error}"
        raise ConfigError(f"{_where(given)}: {said}") from error


def _where(given: _Given) -> str:
    return " and ".join(given.sources) or COMMAND_LINE


def assemble(
    types: Sequence[type], words: Mapping[str, Sequence[str]], files: Sequence[tuple[str, Any]], at: str = ""
) -> tuple[Any, ...]:
    """Build the dataclasses of `types` from files, later ones overriding earlier ones, and words.

    Args:
        types: dataclasses of ours or of a library.
        words: the words after each `--key`.
        files: the name and content of each file.
        at: a prefix for keys in error messages, for a part of a file.

    Raises:
        ConfigError: the first error, with the file that it comes from.
    """
    schema = Schema.of(types)
    given = _Given(sources=[*(source for source, _ in files), *([COMMAND_LINE] if words else [])])
    for source, mapping in files:
        if not isinstance(mapping, Mapping):
            raise ConfigError(f"{source}: {at.rstrip('.')}: expected a mapping, got {shown(mapping)}")
    for key in words:  # typos first, because they explain other errors
        if key not in schema.leaves and key not in schema.maps:
            _take_words(given, schema, key, ())
    for source, mapping in files:
        _take_map(given, schema, mapping, source, at=at)
    given.unchecked.clear()  # the command line replaces whole mappings
    for key, value in words.items():
        _take_words(given, schema, key, value)
    return tuple(_make(cls, given, schema, "", None, at) for cls in types)
