"""Extract the authors' prompts from their code into our prompt files; their code is parsed, never run."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

from scalequest.atomic_files import as_yaml, write
from scalequest.config import ConfigError
from scalequest.data.fetch import FetchError, discard
from scalequest.data.prepare import Outcome, Places
from scalequest.data.sources import Extra

# By our file name: the authors' variable and the markers of their scripts. In their code, the names of the
# two rewriting prompts are swapped: the one called "difficulty" asks for a solvable question (paper, Fig.
# 10).
_SOLVABILITY_MARKERS = (
    "**FINAL QUESTION**:", "**FINAL QUESTION:**", "FINAL QUESTION:", "### FINAL QUESTION:",
    "### FINAL QUESTION",
)  # fmt: skip
_DIFFICULTY_MARKERS = (
    "#Finally Rewritten Problem#:", "**Finally Rewritten Problem**:", "**Finally Rewritten Problem:**",
    "Finally Rewritten Problem:", "### Finally Rewritten Problem:", "### Finally Rewritten Problem",
)  # fmt: skip
PROMPTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "solvability_rewrite": ("difficulty_optimization_prompt", _SOLVABILITY_MARKERS),
    "difficulty_rewrite": ("solvability_optimization_prompt", _DIFFICULTY_MARKERS),
    "solvability_judge": ("instruction", ()),
}


def write_prompts(extra: Extra, places: Places, folder: Path, say: Callable[[str], None]) -> Outcome:
    """Write one prompt file per prompt of the authors.

    Args:
        extra: the entry in the table of sources.
        places: where to look for their code.
        folder: the output folder; existing files are overwritten.
        say: called with a line if the prompts are not available.
    """
    label = extra.sources[0].label
    try:
        code = [places.read(source, Path(source.path).name).decode() for source in extra.sources]
        prompts = authors_prompts(*code)
    except (ConfigError, FetchError, UnicodeDecodeError) as error:
        say(f"{extra.name}: {error}")
        return Outcome(extra.name, None, extra.licence, label, "MISSING", done=False)
    folder.mkdir(parents=True, exist_ok=True)
    head = f"# The ScaleQuest authors' prompt, from {label}, {extra.licence}.\n"
    for name, content in prompts.items():
        write(folder / f"{name}.yaml", head.encode() + as_yaml(content))
    for source in extra.sources:
        discard(places.part(source))
    return Outcome(extra.name, None, extra.licence, label, f"made: {folder}")


def authors_prompts(*code: str) -> dict[str, dict[str, object]]:
    """Return the three prompts by our file names: `template` and, if the reply is parsed, `markers`.

    Args:
        code: the authors' Python files.

    Raises:
        ConfigError: a prompt is missing or has changed.
    """
    texts = {name: text for one in code for name, text in _texts(one)}
    made: dict[str, dict[str, object]] = {}
    for name, (variable, markers) in PROMPTS.items():
        text = texts.get(variable, "")
        if text.count("{problem}") != 1 or (markers and not any(marker in text for marker in markers)):
            raise ConfigError(
                f"the authors' code has no prompt '{variable}' that contains {{problem}} and its marker"
            )
        template = text.strip().format(problem="{question}")
        made[name] = {"markers": [*markers], "template": template} if markers else {"template": template}
    return made


def _texts(code: str) -> list[tuple[str, str]]:
    """Return the names and strings of a module's assignments `name = "..."` and `name = "...".strip()`."""
    try:
        body = ast.parse(code).body
    except SyntaxError as error:
        raise ConfigError(f"the authors' code cannot be parsed: {error}") from None
    found = []
    for one in body:
        if not isinstance(one, ast.Assign) or not isinstance(one.targets[0], ast.Name):
            continue
        value = one.value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            value = value.func.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found.append((one.targets[0].id, value.value))
    return found
