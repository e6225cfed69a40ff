"""Remove secrets from everything that leaves the process: configs, receipts, cards, W&B, logs, errors.

A value counts as a secret if its name says so (`api_key`, `HF_TOKEN`, `password`), at any depth; if its form
says so (`hf_...`, the user part of a URL, a private key); or if an environment variable with such a name
contains it. Fingerprints only consider names and forms, so they do not depend on the machine, and a new key
does not make a stage look changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

SECRET = "<secret>"

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Names that contain one of these are secret whatever their value, numbers included.
_ALWAYS = re.compile(
    r"\w*passwords?|\w*passwd|passphrases?|pwd|secrets?|credentials?|authorization|cookies?|jwt|bearer"
    r"|api_?keys?|\w*(?:api|access|secret|private|auth)keys?"
)
# Names that end in one of these are secret if their value is text.
_TEXT = re.compile(r"key|\w*token|auth|signature|sig|pass|pat")
# Names for a token of a tokenizer's vocabulary, which is not a credential.
_ROLES = re.compile(
    r"(?:bos|eos|unk|sep|pad|cls|mask|stop|start|begin|end|eot|eom|special|image|audio|video|think|thinking"
    r"|positive|negative|yes|no|reward|step|next|first|last|max|min|num|per|text|turn|word)(?:token)?"
)
_HOLDERS = ("value", "string", "str", "header")  # a token's value is the secret
_HASHES = re.compile(r"revision|commit|sha|hash|digest|fingerprint|version|checksum|inputs", re.IGNORECASE)
_WANDB_KEY = re.compile(r"[0-9a-f]{40}")  # commits look the same, but their names say so

_SHAPES = re.compile(
    r"\b(?:hf|api_org|gh[pousr]|github_pat|gsk|r8|npm|dop_v1|wandb_v\d+|[sr]k_(?:live|test))_\w{12,}"
    r"|(?<![\w-])(?:sk|xox[a-z]|glpat|nvapi|pypi|pplx|xai)-(?=[\w-]*\d)[\w-]{8,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|(?<![\w-])AIza[\w-]{30,}|(?<![\w.-])ya29\.[\w.-]{16,}"
    r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
_SCHEME = re.compile(r"\b((?:[Bb]earer|[Bb]asic)\s+)(?=\S*[A-Z0-9._=-])(?!<)[\w.~+/=-]{6,}")
_USER = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#]*@")
_HEADER = re.compile(
    r"(?<![\w-])((?:Proxy-)?Authorization|(?:Set-)?Cookie|[\w-]*-(?:Key|Token|Secret))"
    r"(\s*:\s+)([^\s'\"][^'\"\n]*)",
    re.IGNORECASE,
)
# name=value; "name": value and {name: value}, however often they were quoted; --name value
_NAMED = (
    re.compile(
        r"(?<![\w.%~-])(?P<name>[\w.%~-]+)(?P<is>=)(?P<value>\\*\"[^\"]*\"|\\*'[^']*'|[^\s&;,\"'#()\[\]{}]+)"
    ),
    re.compile(
        r"(?<!\\)\\*[\"'](?P<name>[\w.%~-]+)(?P<is>\\*[\"']\s*:\s*)"
        r"(?P<value>\\*\"(?:[^\"\\]|\\.)*?\\*\"|\\*'[^']*'|[^\s,\[\]{}]+)"
    ),
    re.compile(r"(?<=[{,])\s*(?P<name>[\w.%~-]+)(?P<is>:\s+)(?P<value>\"[^\"]*\"|'[^']*'|[^\s,\[\]{}]+)"),
    re.compile(r"(?<![\w-])--(?P<name>[\w.-]+)(?P<is>\s+)(?P<value>\"[^\"]*\"|'[^']*'|(?!-)\S+)"),
)


def redacted(value: Any, *, environment: bool = True) -> Any:
    """Return the value with every secret replaced by `<secret>`, in mappings, lists and texts at any depth.

    Args:
        value: settings in JSON form, or a text that may quote some.
        environment: also hide the values of secret environment variables; not for fingerprints.
    """
    known = _of_environment() if environment else []
    return _redacted(value, "", lambda text: _hidden_in(text, known))


def is_secret(name: str) -> bool:
    """Return whether a value with this name may be a secret."""
    return _strength(name) > 0


def _strength(name: str) -> int:
    """Return 0 if a value with this name is no secret, 1 if it is one when it is text, 2 if it always is."""
    words = [word.lower() for word in _WORDS.findall(unquote(name)) if not word.isdigit()]
    while words and words[-1] in _HOLDERS:
        words.pop()
    if not words or "/" in name:  # a path names an input, not a setting
        return 0
    pair = "_".join(words[-2:])
    if _ALWAYS.fullmatch(pair) or any(_ALWAYS.fullmatch(word) for word in words):
        return 2
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if (last == "keys" and before) or (last == "tokens" and before in ("access", "api", "auth", "hub", "hf")):
        return 1
    if not _TEXT.fullmatch(last):
        return 0
    role = before if last == "token" else last
    return 0 if last.endswith("token") and _ROLES.fullmatch(role) else 1


def _redacted(value: Any, name: str, hide: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        named = value.get("name", value.get("key"))  # {name: HF_TOKEN, value: ...}
        return {
            hide(key) if isinstance(key, str) else key: _under(
                named if key == "value" and isinstance(named, str) else key, item, f"{name}.{key}", hide
            )
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        names = ["", *(_names_next(item, len(value)) for item in value)]
        items = [_under(before, item, name, hide) for before, item in zip(names, value, strict=False)]
        return tuple(items) if isinstance(value, tuple) else items
    if not isinstance(value, str):
        return value
    return SECRET if _WANDB_KEY.fullmatch(value) and not _HASHES.search(name) and name else hide(value)


def _names_next(item: Any, length: int) -> str:
    """Return the name that a list item gives to the next: a command-line word or the name of a pair."""
    if not isinstance(item, str):
        return ""
    return item if item.startswith("--") or (length == 2 and len(_WORDS.findall(item)) > 1) else ""


def _under(key: Any, value: Any, name: str, hide: Callable[[str], str]) -> Any:
    strength = _strength(key.rpartition(".")[2]) if isinstance(key, str) else 0
    return _covered(value, strength) if strength else _redacted(value, name, hide)


def _covered(value: Any, strength: int) -> Any:
    """Hide a value with a secret name: every text in it, and for passwords every number, too."""
    if isinstance(value, Mapping):
        return {key: _covered(item, strength) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_covered(item, strength) for item in value]
    if isinstance(value, str):
        return SECRET if value else value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return SECRET if number and strength > 1 else value


def _hidden_in(text: str, known: list[str]) -> str:
    for secret in known:
        text = text.replace(secret, SECRET)
    text = _SHAPES.sub(SECRET, text)
    text = _USER.sub(rf"\g<1>{SECRET}@", text)
    text = _HEADER.sub(rf"\g<1>\g<2>{SECRET}", text)
    text = _SCHEME.sub(rf"\g<1>{SECRET}", text)
    for pattern in _NAMED:
        text = pattern.sub(_named, text)
    return text


def _named(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"]
    strength = _strength(name.rpartition(".")[2])
    bare = name == "key" and match["is"].isspace()  # "--key value" is how help texts refer to any setting
    number = re.fullmatch(r"[-+.\d]+", value) is not None
    plain = value.strip("\\\"'") in ("", "null", "None", "true", "false", SECRET)
    if not strength or bare or plain or (number and strength == 1):
        return match[0]
    quote = re.match(r"\\*[\"']", value)
    covered = f"{quote[0]}{SECRET}{quote[0]}" if quote else SECRET
    start = match.start("value") - match.start()
    return f"{match[0][:start]}{covered}{match[0][start + len(value) :]}"


def _of_environment() -> list[str]:
    """Return the values of secret environment variables, longest first; no short words or paths."""
    values = {value.strip() for name, value in os.environ.items() if is_secret(name)}
    opaque = re.compile(r"(?=\D*\d)[^\s/]{12,}")
    return sorted(filter(opaque.fullmatch, values), key=len, reverse=True)
