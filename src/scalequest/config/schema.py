"""The keys of dataclasses: dotted names with their types, defaults, help texts and ranges."""

from __future__ import annotations

import dataclasses
import types as pytypes
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from scalequest.config.ranges import FINITE, Range, range_of


@dataclass(frozen=True)
class Leaf:
    """A key that holds one value: a number, a string, or a list or mapping of them.

    Attributes:
        owner: the dataclass under which `--help` lists it.
        annotation: its type.
        default: the default; `MISSING` if the key is required.
        help: one line.
        within: the range of its numbers.
    """

    owner: type
    annotation: Any
    default: Any
    help: str
    within: Range = FINITE


@dataclass
class Schema:
    """All keys of several dataclasses, which share one flat namespace.

    Attributes:
        leaves: the keys that hold values, by dotted name.
        maps: the dotted keys of nested dataclasses.
    """

    leaves: dict[str, Leaf]
    maps: dict[str, type]

    @classmethod
    def of(cls, types: Sequence[type]) -> Schema:
        """Collect the keys of `types`.

        Raises:
            TypeError: a key occurs in two of them with different meanings.
        """
        schema = cls({}, {})
        for owner in types:
            schema._add(owner, owner, "", None)
        return schema

    def _add(self, owner: type, cls: type, prefix: str, base: Any) -> None:
        ours = is_ours(cls)
        for item, annotation in fields_of(cls):
            key = prefix + item.name
            default = default_of(item) if base is None else getattr(base, item.name)
            nested = nested_in(annotation)
            if nested is not None:
                self.maps[key] = nested
                self._add(owner, nested, key + ".", default if dataclasses.is_dataclass(default) else None)
                continue
            within = range_of(item, ours=ours)
            leaf = Leaf(owner, annotation, default, str(item.metadata.get("help", "")), within)
            known = self.leaves.setdefault(key, leaf)
            if (known.annotation, known.default) != (annotation, default):
                raise TypeError(
                    f"{key} is defined in {known.owner.__name__} and again, differently, in {owner.__name__}"
                )


def is_ours(cls: type) -> bool:
    """Return whether a dataclass is ours, made with `option` and `required`, and not a library's."""
    return any("fingerprint" in item.metadata for item in dataclasses.fields(cls))


@cache
def fields_of(cls: type) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    """Return the fields that can be set, with their types."""
    hints = typing.get_type_hints(cls)
    return tuple((item, hints[item.name]) for item in dataclasses.fields(cls) if item.init)


def default_of(item: dataclasses.Field[Any]) -> Any:
    """Return the default of a field, or `MISSING`."""
    return item.default_factory() if item.default_factory is not MISSING else item.default


def members_of(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union; for any other type, the type itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, pytypes.UnionType) else (annotation,)


def nested_in(annotation: Any) -> type | None:
    """Return the dataclass that a field of type `X` or `X | None` holds."""
    members = [member for member in members_of(annotation) if member is not type(None)]
    if len(members) != 1 or not isinstance(members[0], type) or not dataclasses.is_dataclass(members[0]):
        return None
    try:
        typing.get_type_hints(members[0])
    except NameError:  # a library's class with names that exist only for type checkers
        return None
    return members[0]


def type_name(annotation: Any) -> str:
    """Return a type in the words used by error messages and `--help`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if annotation is Any:
        return "anything"
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, pytypes.UnionType):
        names = [type_name(member) for member in strict_members(annotation)]
        return " | ".join([name for name in names if name != "null"] + ["null"] * ("null" in names))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    if annotation is dict or origin in (dict, Mapping):
        return "map"
    if origin is not None:
        return f"list of {type_name(args[0])}" if args else "list"
    return str(getattr(annotation, "__name__", annotation))


def strict_members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union; in `SomeEnum | str`, the string must be one of the enum's values."""
    members = members_of(annotation)
    if any(isinstance(member, type) and issubclass(member, Enum) for member in members):
        return tuple(member for member in members if member is not str)
    return members
