"""Format `--help`: every key with its type, default, range and one line of text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from typing import Any

from scalequest.config.fingerprints import as_json
from scalequest.config.ranges import FINITE
from scalequest.config.schema import Leaf, Schema, type_name
from scalequest.installed import command_name

_HEAD = (
    "--config FILE is a YAML file with the keys below; nested keys are mappings. If "
    "you give several files, later ones override earlier ones key by key, and the "
    "command line overrides all of them. Write a list as --key a b, a mapping as "
    "--key '{a: 1}', and true as --key or --key true. Keys cannot be abbreviated."
)


def help_text(types: Sequence[type], description: str, more: str = "") -> str:
    """Return all keys of `types`, below the description; `more` says what else can be set."""
    schema = Schema.of(types)
    lines = [f"usage: {command_name()} [--config FILE ...] [--key value ...]", ""]
    if description:
        for text in description.strip().splitlines():
            lines += textwrap.wrap(text, 110) or [""]
        lines.append("")
    lines += textwrap.wrap(_HEAD, 110)
    for owner in types:
        lines += ["", f"{owner.__name__}:"]
        for key, leaf in schema.leaves.items():
            if leaf.owner is owner:
                lines += _entry(key, leaf)
    return "\n".join([*lines, "", *textwrap.wrap(more, 110)] if more else lines)


def _entry(key: str, leaf: Leaf) -> Iterator[str]:
    default = "required" if leaf.default is MISSING else f"default: {_plain(leaf.default)}"
    bounds = "" if leaf.within == FINITE else f"; {leaf.within}"
    yield f"  --{key}  {type_name(leaf.annotation)}  ({default}{bounds})"
    if leaf.help:
        text = textwrap.shorten(" ".join(leaf.help.split()), 300, placeholder=" …")
        yield from textwrap.wrap(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _plain(value: Any) -> str:
    return json.dumps(as_json(value), ensure_ascii=False).strip('"')
