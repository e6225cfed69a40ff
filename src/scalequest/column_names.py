"""Find the columns that hold questions and responses under the names that people give them, and chat turns.

A stage asks for columns by our names. Where a source has other ones, the column is guessed from its name and
from what it holds; more than one that fits is an error, never a choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalequest.config import ConfigError
from scalequest.row_files import Row

_QUESTION = (("question", "problem", "prompt", "instruction", "query", "input"),)
_RESPONSE = (("response", "solution", "answer", "output", "completion", "generation"),)
_REFERENCE = (("answer", "reference", "target", "gold", "truth"), *_RESPONSE)
# Our names: the usual names of such a column, the sets before the first that fits being preferred.
_USUAL = {"question": _QUESTION, "query": _QUESTION, "response": _RESPONSE, "answer": _REFERENCE}
_SPEAKER = {"question": "user", "query": "user", "response": "assistant"}
TEXTS = ("question", "query", "response", "chosen", "rejected")  # columns that must hold text

_FORM = ("text", "statement", "content", "body", "str")  # `problem_statement` is a problem
_ROLES = {
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "model", "bot", "chatbot", "ai"),
    "system": ("system", "developer"),
}


@dataclass(frozen=True)
class Guess:
    """Where a source keeps our columns.

    Attributes:
        columns: mapping from our names to theirs, of those that had to be guessed.
        chats: their columns that hold chat turns.
    """

    columns: Mapping[str, str]
    chats: frozenset[str]


def guess(rows: Sequence[Row], keys: Iterable[str], source: str, setting: str = "columns") -> Guess:
    """Guess the columns that a source has under other names.

    A column that has one of the usual names is preferred to one whose name ends in it (`expected_answer`),
    and both to a column of chat turns. Columns that are blank in every row, or hold no text, are left aside.

    Args:
        rows: of the source.
        keys: the columns that are needed, by our names; those that any row has are not guessed.
        source: what messages call it.
        setting: the name of the setting that says which column it is; all but `columns` are of one column.

    Raises:
        ConfigError: several columns fit equally well; it names them.
    """
    first = _first_values(rows)
    chats = frozenset(name for name, value in first.items() if is_chat(value))
    found: dict[str, str] = {}
    for key in keys:
        if key in _USUAL and not any(key in row for row in rows):
            fits = next(filter(None, _candidates(key, first, chats)), [])
            if len(fits) > 1:
                named = " or ".join(map(repr, fits))
                said = f"{{{key}: {fits[0]}}}" if setting == "columns" else fits[0]
                raise ConfigError(f"{source}: '{key}' may be column {named}; say which: {setting}: {said}")
            if fits:
                found[key] = fits[0]
    return Guess(found, chats)


def _first_values(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the first value of each column that is neither null nor blank."""
    found: dict[str, Any] = {}
    for row in rows:
        for name, value in row.items():
            if name not in found and value is not None and value != [] and str(value).strip():
                found[name] = value
    return found


def _candidates(key: str, first: Mapping[str, Any], chats: frozenset[str]) -> Iterable[list[str]]:
    """Yield the columns that fit, from the closest fit to the loosest."""
    others = (int, float, list) if key == "answer" else ()
    held = [
        name
        for name, value in first.items()
        if name in chats or (isinstance(value, (str, *others)) and not isinstance(value, bool))
    ]
    words = {
        name: [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
        for name in held
    }
    for usual in _USUAL[key]:
        yield [name for name in held if "".join(words[name]) in usual]
        yield [name for name in held if _head(words[name]) in usual]
    if key in _SPEAKER:
        yield [name for name in held if name in chats]


def _head(words: Sequence[str]) -> str:
    """Return the noun that a name is about: the last word but for words that only say that it is text."""
    kept = [word for word in words if word not in _FORM]
    return kept[-1] if kept else ""


# ------------------------------------------------------------------------------------------------- chat turns


def is_chat(value: Any) -> bool:
    """Return whether a value is a list of turns, each with who speaks and what is said."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, Mapping) and _field(turn, *_WHO) and _field(turn, *_WHAT) for turn in value)
    )


_WHO, _WHAT = ("role", "from"), ("content", "value")


def _field(turn: Mapping[str, Any], *names: str) -> str:
    return next((name for name in names if name in turn), "")


def text_of(value: Any, key: str, where: str) -> Any:
    """Return what the user or the assistant says in a chat, by the column needed; else the value itself.

    Raises:
        ConfigError: the speaker has no turn, or there is more than one question and answer; it begins with
            `where`.
    """
    if not is_chat(value):
        return value
    speakers = [_speaker(turn) for turn in value]
    if None in speakers:
        known = ", ".join(name for names in _ROLES.values() for name in names)
        turn = value[speakers.index(None)]
        raise ConfigError(f"{where}: unknown role {turn[_field(turn, *_WHO)]!r}; known: {known}")
    for one in ("user", "assistant"):
        if speakers.count(one) > 1:
            raise ConfigError(
                f"{where}: {speakers.count(one)} turns of the {one}; only chats of one question and one "
                "response can be read: split or remove the row"
            )
    wanted = _SPEAKER.get(key, "assistant")
    if wanted not in speakers:
        raise ConfigError(f"{where}: no turn of the {wanted}")
    turn = value[speakers.index(wanted)]
    return _said(turn[_field(turn, *_WHAT)], where)


def has_system(value: Any) -> bool:
    """Return whether a chat has a system message."""
    return is_chat(value) and any(_speaker(turn) == "system" for turn in value)


def _speaker(turn: Mapping[str, Any]) -> str | None:
    role = str(turn[_field(turn, *_WHO)]).lower()
    return next((one for one, names in _ROLES.items() if role in names), None)


def _said(content: Any, where: str) -> Any:
    """Return the text of a turn, which some formats split into parts.

    Raises:
        ConfigError: a part is not text.
    """
    if not isinstance(content, list):
        return content
    for part in content:
        if not (isinstance(part, Mapping) and isinstance(part.get("text"), str)):
            raise ConfigError(f"{where}: a part of a turn is not text: {str(part)[:80]}")
    return "".join(part["text"] for part in content)
