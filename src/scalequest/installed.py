"""Find the files that come with the package: recipes, presets, benchmarks, accelerate configs, tiny models.

In a checkout they are its top-level folders; a wheel carries copies of them in `scalequest/files/`. One rule
makes the relative paths in YAML files and on the command line work everywhere: a path that begins with one of
these folders, and that does not exist in the working directory, is looked up among the installed files. A
process that uses installed files says so in one line on standard error.
"""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import Any

FOLDERS = ("accelerate_configs", "eval", "recipes", "scripts", "slurm")

# What may follow a path: the number of rows to take (`file.jsonl[:100]`) or a function (`rules.py:keep`).
_PATH = re.compile(rf"(?P<path>(?:{'|'.join(FOLDERS)})(?:/\S+?)?)(?P<rest>\[:\d+\]|(?<=\.py):\w+)?")
_command: str | None = None


def files_root() -> Path:
    """Return the folder that contains the installed `FOLDERS`.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "files", here.parents[1]):
        if (folder / "recipes" / "run.py").is_file():
            return folder
    raise FileNotFoundError(f"{here}: installed without its recipes; install scalequest again")


def locate(path: str) -> str:
    """Return a path as given if it exists or is not one of ours, and otherwise the installed file's path.

    Args:
        path: a path, a pattern, or a path with a number of rows or a function after it.
    """
    match = _PATH.fullmatch(path)
    if match is None or ".." in path.split("/") or _exists(match["path"]):
        return path
    try:
        there = str(files_root() / match["path"])
    except FileNotFoundError:
        return path
    if not _exists(there):
        return path
    _report_once()
    return there + (match["rest"] or "")


def locate_all(value: Any) -> Any:
    """Apply `locate` to every text in a parsed YAML value, except to where output goes."""
    if isinstance(value, dict):
        return {key: item if is_output(key) else locate_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [locate_all(item) for item in value]
    return locate(value) if isinstance(value, str) else value


def is_output(key: object) -> bool:
    """Return whether a setting names a place to write to, which is never among the installed files."""
    return str(key).startswith("output")


def _exists(path: str) -> bool:
    return bool(glob(path)) if has_magic(path) else os.path.exists(path)


@cache
def _report_once() -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"note: files that are not in the working directory come from {files_root()}", file=sys.stderr)


def command_name() -> str:
    """Return how this process was started, for usage lines: `scalequest sft`, or the script's name."""
    return _command or Path(sys.argv[0]).name or "python"


def command_words() -> list[str]:
    """Return the words that start this process again, before its arguments."""
    return _command.split() if _command else ["python", sys.argv[0]]


def name_command(words: str) -> None:
    """Set what `command_name` returns."""
    global _command
    _command = words
