"""The command `scalequest`, which runs the scripts of recipes/, eval/ and scripts/ by name.

    scalequest run recipes/tiny/pipeline.yaml --output runs/tiny
    scalequest sft --config recipes/tiny/sft.yaml --output_dir runs/sft
    accelerate launch -m scalequest sft --config recipes/mistral_7b/sft.yaml    # one process per GPU

It works in a checkout and outside of one: see `scalequest.installed` for how files are found. Only the first
words are read here; the script reads the others, as if it had been started with python.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from scalequest import __version__
from scalequest.installed import files_root, name_command

# Every other script in recipes/ is a command, too, with its stem as its name.
GROUPS: Mapping[str, Mapping[str, str]] = {
    "a whole run": {
        "run": "recipes/run.py",
        "plan": "scripts/plan.py",
        "report": "eval/report.py",
        "page": "scripts/run_page.py",
        "slurm": "slurm/launch.py",
    },
    "models and answers": {
        "evaluate": "eval/evaluate.py",
        "grade": "eval/grade.py",
        "merge-adapter": "scripts/merge_adapter.py",
    },
    "data sets": {
        "prepare-data": "scripts/prepare_data.py",
        "benchmark add": "scripts/add_benchmark.py",
        "dataset-statistics": "scripts/dataset_statistics.py",
        "export-rl": "scripts/export_rl.py",
    },
}
DATA_STAGES, TRAINING_STAGES = "data stages", "training stages"
_OWN = {
    "doctor": "Check this machine: what works, what is missing, what that costs, and how to fix it.",
    "files": "Print where the installed recipes, presets and benchmarks are; `files PATH`: one of them.",
}
_WIDTH = 110


@dataclass(frozen=True)
class Command:
    """A script that can be run by name.

    Attributes:
        name: its name; `benchmark add` is two words.
        script: the Python file.
        group: the heading under which `--help` lists it.
        line: the first line of its docstring.
    """

    name: str
    script: Path
    group: str
    line: str


def commands() -> list[Command]:
    """Return all commands that run scripts, in the order in which `--help` lists them."""
    root = files_root()
    named = [(name, root / file, group) for group, part in GROUPS.items() for name, file in part.items()]
    scripts = {script for _, script, _ in named}
    stages = [path for path in sorted((root / "recipes").glob("*.py")) if path not in scripts]
    found = [_command(*one) for one in named if one[1].is_file()]
    found += [_command(path.stem.replace("_", "-"), path) for path in stages]
    order = [*GROUPS, DATA_STAGES, TRAINING_STAGES]
    return sorted(found, key=lambda one: order.index(one.group))


def _command(name: str, script: Path, group: str = "") -> Command:
    """Read a script's docstring and, for a stage, its kind, without importing it."""
    text = script.read_text(encoding="utf-8")
    line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    training = re.search(r'^RECIPE = Recipe\(\s*"\w+",\s*\w+,\s*"training"', text, re.MULTILINE)
    return Command(name, script, group or (TRAINING_STAGES if training else DATA_STAGES), line)


def main(words: Sequence[str]) -> int:
    """Run a command; returns the exit status, unless the script ends this process itself."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] == "doctor":
        from scalequest.doctor import main as doctor

        name_command("scalequest doctor")
        return doctor(words[1:])
    if words[0] == "files":
        return _print_files(words[1:])
    known = {command.name: command for command in commands()}
    for length in (2, 1):
        command = known.get(" ".join(words[:length]).replace("_", "-"))
        if command is not None:
            return _run(command, words[length:])
    print(f"error: {_unknown(words, [*known, *_OWN])}", file=sys.stderr)
    return 2


def _run(command: Command, words: Sequence[str]) -> int:
    """Run a script as `python SCRIPT WORDS` would."""
    sys.argv = [str(command.script), *words]
    sys.path.insert(0, str(command.script.parent))
    name_command(f"scalequest {command.name}")
    try:
        runpy.run_path(str(command.script), run_name="__main__")
    except ModuleNotFoundError as error:
        from scalequest.doctor import how_to_install

        line = how_to_install(error.name or "")
        if line is None:  # a fault of ours, or of a library
            raise
        print(f"error: {command.name} needs {line}", file=sys.stderr)
        return 2
    return 0


def _unknown(words: Sequence[str], names: Sequence[str]) -> str:
    first = words[0].replace("_", "-")
    begun = [name for name in names if name.startswith((f"{first} ", f"{first}-"))]
    near = (
        begun or get_close_matches(" ".join([first, *words[1:2]]), names) or get_close_matches(first, names)
    )
    hint = f"did you mean '{near[0]}'?" if near else "`scalequest --help` lists them"
    return f"no command is called '{words[0]}'; {hint}"


def _print_files(words: Sequence[str]) -> int:
    if len(words) > 1 or (words and words[0] in ("-h", "--help")):
        print(f"usage: scalequest files [PATH]\n\n{_OWN['files']}\nPATH is relative, as in the presets: "
              "recipes/sft.py, accelerate_configs/zero3.yaml.")  # fmt: skip
        return 0 if words[0] in ("-h", "--help") else 2
    place = Path(os.path.normpath(files_root() / (words[0] if words else "")))
    if not place.exists():
        print(f"error: {words[0]}: not among the installed files in {files_root()}", file=sys.stderr)
        return 2
    print(place)
    return 0


def usage() -> str:
    """Return the text of `scalequest --help`."""
    lines = ["usage: scalequest COMMAND ...", ""]
    lines += textwrap.wrap(
        "Turn problem solvers into question generators, and train models on their questions. Each command is "
        "a script; `scalequest COMMAND --help` prints what it does and every setting. Paths such as "
        "recipes/tiny/sft.yaml that are not in the working directory are those that came with the package.",
        _WIDTH,
    )
    group = ""
    for command in commands():
        if command.group != group:
            group = command.group
            lines += ["", f"{group}:"]
        lines.append(_entry(command.name, command.line))
    lines += ["", "this installation:", *(_entry(name, line) for name, line in _OWN.items())]
    return "\n".join(lines)


def _entry(name: str, line: str) -> str:
    room = _WIDTH - 24
    if len(line) > room:  # what comes after a colon explains what comes before
        line = line.partition(": ")[0]
    return f"  {name:<20}  {textwrap.shorten(line, room, placeholder=' …')}"


def run() -> None:
    """The entry point that pip installs as `scalequest`."""
    sys.exit(main(sys.argv[1:]))
