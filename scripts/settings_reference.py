"""Write docs/settings: every key of every stage, with its type, default, range and meaning.

    python scripts/settings_reference.py --write    # after changing a config dataclass
    python scripts/settings_reference.py            # says which pages are not current; exit status 1 if any

The keys are those that `python recipes/STAGE.py --help` prints, read from the same dataclasses. Keys that all
training stages inherit from transformers and TRL are listed once; what the libraries say about them is left
to their documentation. Needs the CPU environment; 20 seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from scalequest.config import RunOptions
from scalequest.config.fingerprints import as_json
from scalequest.config.ranges import FINITE
from scalequest.config.schema import Leaf, Schema, is_ours, type_name
from scalequest.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "settings"
STAGES = (
    *("qft", "generate_questions", "optimize_questions", "judge_questions", "qpo", "simpo"),
    *("filter_questions", "solve_questions", "score", "select_solutions", "assemble_dataset"),
    *("sft", "difficulty", "reward"),
)
EVALUATION = ("evaluate", "grade", "report")
COMMAND = "python scripts/settings_reference.py --write"
COMMON = "common"  # the page of the keys that all stages, or all trainers, share
MADE = f"<!-- written by `{COMMAND}` from the config dataclasses -->"
HEADS = {
    "data": "A data stage. Its other keys are those of [every data stage]({common}#every-data-stage).",
    "training": (
        "A training stage. Its other keys are those of [every training stage]({common}#every-training-stage)."
    ),
    "evaluation": "Its other keys are those of [every data stage]({common}#every-data-stage).",
    "tool": "A tool: it leaves no stage folder.",
}


def scripts() -> list[Path]:
    """Return the scripts with settings: the stages in the order of the loop, others, and `eval/`."""
    known = [ROOT / "recipes" / f"{name}.py" for name in STAGES]
    others = [path for path in sorted((ROOT / "recipes").glob("*.py")) if path not in known]
    found = [*known, *others, *(ROOT / "eval" / f"{name}.py" for name in EVALUATION)]
    return [path for path in found if path.is_file() and "\nRECIPE = " in path.read_text(encoding="utf-8")]


def load(script: Path) -> Recipe:
    """Import a script and return its recipe."""
    name = f"settings_of_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    if spec is None or spec.loader is None:
        raise ImportError(f"{script}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # types of a script's own dataclasses are looked up there
    spec.loader.exec_module(module)
    recipe: Recipe = module.RECIPE
    return recipe


def settings() -> dict[str, str]:
    """Return all pages by file name."""
    recipes = {script: load(script) for script in scripts()}
    schemas = {script: Schema.of(recipe.configs()) for script, recipe in recipes.items()}
    trainings = [schemas[script] for script, recipe in recipes.items() if recipe.kind == "training"]
    shared = shared_keys(trainings)
    made = {f"{COMMON}.md": common_page(shared, trainings[0])}
    for script, recipe in recipes.items():
        skip = set(shared) if recipe.kind == "training" else set(Schema.of([RunOptions]).leaves)
        made[f"{script.stem}.md"] = page(
            script, recipe, schemas[script], skip if recipe.kind != "tool" else set()
        )
    made["index.md"] = index(recipes)
    return made


def shared_keys(schemas: list[Schema]) -> dict[str, Leaf]:
    """Return the keys that all training stages have, with the same type, default and range."""
    first, *others = (schema.leaves for schema in schemas)
    return {
        key: leaf
        for key, leaf in first.items()
        if all(
            key in leaves
            and (leaves[key].annotation, leaves[key].default, leaves[key].within)
            == (leaf.annotation, leaf.default, leaf.within)
            for leaves in others
        )
    }


def page(script: Path, recipe: Recipe, schema: Schema, skip: set[str]) -> str:
    """Return the page of one script: its keys, except those to skip."""
    name = script.relative_to(ROOT).as_posix()
    intro = HEADS[recipe.kind].format(common=f"{COMMON}.md")
    lines = [MADE, "", f"# {recipe.name}", "", f"`{name}`. {intro}", ""]
    leaves = {key: leaf for key, leaf in schema.leaves.items() if key not in skip}
    ours = {key: leaf for key, leaf in leaves.items() if written_here(key, leaf)}
    lines += table({key: leaf for key, leaf in ours.items() if "." not in key}, schema)
    for group in dict.fromkeys(key.rpartition(".")[0] for key in ours if "." in key):
        members = {key: leaf for key, leaf in ours.items() if key.rpartition(".")[0] == group}
        lines += ["", f"## {group}", "", *table(members, schema)]
    if theirs := {key: leaf for key, leaf in leaves.items() if key not in ours}:
        lines += ["", "## Its trainer", "", "Keys that not all trainers have with this default.", ""]
        lines += table(theirs)
    return "\n".join(lines) + "\n"


def written_here(key: str, leaf: Leaf) -> bool:
    """Return whether we define a key, and not transformers or TRL."""
    if is_ours(leaf.owner):
        return True
    definers = [cls for cls in leaf.owner.__mro__ if key in vars(cls).get("__annotations__", {})]
    return bool(definers) and definers[0].__module__.startswith("scalequest")


def common_page(shared: dict[str, Leaf], schema: Schema) -> str:
    """Return the page of shared keys."""
    run = Schema.of([RunOptions])
    ours = {key: leaf for key, leaf in shared.items() if written_here(key, leaf)}
    libraries = {key: leaf for key, leaf in shared.items() if key not in ours}
    lines = [
        *(MADE, "", "# Shared settings", "", "## Every data stage", ""),
        *("Also every evaluation.", "", *table(run.leaves, run), ""),
        *("## Every training stage", "", *table(ours, schema), ""),
        *("### Of the trainers", ""),
        "From transformers and TRL, at the versions of `requirements/cpu.txt`; their documentation and "
        "`--help` of each stage explain them. A key that a preset does not set keeps this default. A "
        "value that would break a promise of ours (a row cut, a run that cannot be resumed exactly) is "
        "refused with a reason.",
        *("", *table(libraries)),
    ]
    return "\n".join(lines) + "\n"


def index(recipes: dict[Path, Recipe]) -> str:
    """Return the front page of the reference."""
    lines = [
        *(MADE, "", "# Settings", ""),
        "Every key can stand in a YAML file (`--config FILE ...`; later files override earlier ones key "
        "by key) or on the command line (`--key value`), which overrides all files. Nested keys are "
        "mappings in YAML and have dots on the command line. An unknown key, a wrong type or a number "
        "out of range stops the run with one line. ◦ marks a key whose value is not part of the stage's "
        "fingerprint: a finished folder stays valid if it changes. Of inputs, models, formats and prompt "
        "files, the contents are part of it, and only their names are not. [Stages and "
        "presets](../../recipes/README.md#presets) explains presets.",
        *("", "| page | script | kind |", "|---|---|---|"),
    ]
    for script, recipe in recipes.items():
        name = script.relative_to(ROOT).as_posix()
        lines.append(f"| [{recipe.name}]({script.stem}.md) | `{name}` | {recipe.kind} |")
    lines += [f"| [shared settings]({COMMON}.md) | | all stages, all trainers |"]
    return "\n".join(lines) + "\n"


def table(leaves: dict[str, Leaf], schema: Schema | None = None) -> list[str]:
    """Return a Markdown table of keys; with a schema, also what they mean."""
    if not leaves:
        return ["None."]
    columns = ["key", *(["meaning"] if schema else []), "type, range", "default"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for key, leaf in leaves.items():
        said = [meaning(leaf, key, schema)] if schema else []
        lines.append("| " + " | ".join([f"`{key}`", *said, type_of(leaf), default_of(leaf)]) + " |")
    return lines


def default_of(leaf: Leaf) -> str:
    """Return a default as it is written on the command line."""
    if leaf.default is MISSING:
        return "**required**"
    text = json.dumps(as_json(leaf.default), ensure_ascii=False).strip('"')
    return code(text.replace(str(ROOT) + "/", "")) if text else "empty"


def type_of(leaf: Leaf) -> str:
    """Return a key's type, and the range of its numbers if there is one."""
    types = ", ".join(code(name) for name in type_name(leaf.annotation).split(" | "))
    types = types.replace("`list of ", "list of `")
    types = re.sub(r", (`[^`]*`)$", r" or \1", types)  # the last of several
    return types if leaf.within == FINITE else f"{types}; {leaf.within}"


def meaning(leaf: Leaf, key: str, schema: Schema) -> str:
    """Return the help text, and a mark if the key is not part of the fingerprint."""
    text = escape(" ".join(leaf.help.split()))
    return text if in_fingerprint(leaf, key, schema) else f"{text} ◦"


def in_fingerprint(leaf: Leaf, key: str, schema: Schema) -> bool:
    """Return whether a key's value is part of the stage's fingerprint: the key and all that hold it."""
    owner, so_far = leaf.owner, ""
    for name in key.split("."):
        item = next(item for item in fields(owner) if item.name == name)
        if not item.metadata.get("fingerprint", True):
            return False
        so_far = f"{so_far}.{name}".lstrip(".")
        owner = schema.maps.get(so_far, owner)
    return True


def code(text: str) -> str:
    """Return code in a cell of a table."""
    return f"`{text}`"


def escape(text: str) -> str:
    """Escape what Markdown or HTML would read as markup, outside of code."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_\[])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")


def stale(made: dict[str, str]) -> Iterator[str]:
    """Return the pages that are missing, differ from what would be written, or belong to no script."""
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    yield from sorted(name for name in there.keys() | made.keys() if there.get(name) != made.get(name))


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--write", action="store_true", help="write the pages")
    return made


def main(asked: argparse.Namespace) -> int:
    """Write the pages, or name those that are not current; return the exit status."""
    write = asked.write
    made: dict[str, Any] = settings()
    changed = list(stale(made))
    if write:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name in changed:
            if name in made:
                (FOLDER / name).write_text(made[name], encoding="utf-8")
            else:
                (FOLDER / name).unlink()
    for name in changed:
        print(f"docs/settings/{name}: {'written' if write else f'not current: run {COMMAND}'}")
    return 0 if write or not changed else 1


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
