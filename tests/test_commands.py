"""The commands and YAML blocks of README.md, the docs and the other pages are parsed as if they were run."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from scalequest import cli
from scalequest.config import ConfigError
from scalequest.config.bounded_yaml import load as load_yaml
from scalequest.config.schema import Schema
from scalequest.evaluation.benchmarks import BenchmarkFile
from scalequest.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in (
        *ROOT.glob("*.md"),
        *(found for part in ("bench", "docs", "eval", "recipes") for found in (ROOT / part).rglob("*.md")),
    )
    if path.name != "CHANGELOG.md"
]
# What stands for something of the reader's: a stage, a folder, settings that the text is not about.
PLACEHOLDERS = re.compile(r"\.\.\.|\b[A-Z]{4,}\b(?!_)|<\w+>")
PYTHONS = ("python", "python3.11", ".venv/bin/python")
OTHERS = ("break", "export", "pip", ".venv/bin/pip", "vllm", "wandb", "pre-commit", "for", "do", "done")


def commands(path: Path) -> Iterator[str]:
    """The commands of a page: the lines of its bash blocks, and code in its text that starts like one."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"^    ((?:python|accelerate) .*(?:\n {4,}--.*)*)", text, re.MULTILINE)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            yield from (part for part in re.split(r"\s&&\s|\s\|\|\s|;\s", uncommented(line)) if part.strip())
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", prose):
        programs = (*map(re.escape, PYTHONS), "accelerate launch", "make", "sbatch", "scalequest")
        if re.match(rf"({'|'.join(programs)}) \S", code):
            yield code


def uncommented(line: str) -> str:
    """A line without its comment."""
    lexer = shlex.shlex(line, posix=False, punctuation_chars=False)
    lexer.commenters, lexer.whitespace_split = "#", True
    return line if "#" not in line else " ".join(lexer)


def test_commands_are_found() -> None:
    found = {path.relative_to(ROOT).as_posix(): list(commands(path)) for path in PAGES}
    assert "make demo" in found["README.md"]
    assert any("--launch ray" in command for command in found["docs/launch.md"])
    assert sum(map(len, found.values())) > 80


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_can_be_parsed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for command in commands(path):
        try:
            check(words_of(command))
        except (AssertionError, ConfigError, ValueError, FileNotFoundError, SystemExit) as error:
            raise AssertionError(f"{command}: {error}") from error


def words_of(command: str) -> list[str]:
    """The words of a command; the shell's variables are given a value."""
    command = re.sub(r"\$[a-z]\w*", "VARIABLE", command)  # of a loop
    command = re.sub(r"\$\{?\w+\}?", "1", command)
    words = shlex.split(command)
    while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] in ("do", "nohup")):
        del words[0]
    return words


def check(words: Sequence[str]) -> None:
    """Parse a command as the program that it starts would.

    Raises:
        AssertionError: the program, a file or a target does not exist, or the words are wrong.
        ConfigError: a setting is wrong.
    """
    if not words:  # `do` or `done`
        return
    program, rest = words[0], list(words[1:])
    if program in PYTHONS:
        if rest[0] != "-m":
            check_script(rest[0], rest[1:])
    elif program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert rest[0] == "launch", "only `accelerate launch` is expected"
        parsed = quietly(launch_command_parser(), rest[1:])
        assert Path(parsed.config_file).is_file(), f"no file {parsed.config_file}"
        if parsed.module:
            assert parsed.training_script == "scalequest", "only our own module is expected"
            check_command(parsed.training_script_args)
        else:
            check_script(parsed.training_script, parsed.training_script_args)
    elif program == "scalequest":
        check_command(rest)
    elif program == "sbatch":
        batch = next(word for word in rest if word.endswith(".sbatch"))
        assert Path(batch).is_file(), f"no file {batch}"
        script, *settings = rest[rest.index(batch) + 1 :]
        check_script(script, settings)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", Path("Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets), f"no such target among {targets}"
    else:
        assert program in OTHERS, f"'{program}' is not a program that the pages may name"
        for word in rest:
            assert not word.endswith(".txt") or Path(word).is_file(), f"no file {word}"


def check_command(words: list[str]) -> None:
    """Parse the words after `scalequest`, as the script that they name would."""
    scripts = {one.name: one.script.relative_to(ROOT).as_posix() for one in cli.commands()}
    name = next((name for length in (2, 1) if (name := " ".join(words[:length])) in scripts), words[0])
    rest = words[len(name.split()) :]
    if name in scripts:
        check_script(scripts[name], rest)
    elif name == "doctor":
        assert set(rest) <= {"--json"}, rest
    elif name == "files":
        assert all(Path(word).exists() for word in rest), rest
    else:
        assert name in ("--help", "--version") or PLACEHOLDERS.fullmatch(name), f"no command {name}"


def test_every_command_has_an_example() -> None:
    page = ROOT / "docs/commands.md"
    shown = {words_of(command)[1] for command in commands(page) if command.startswith("scalequest ")}
    described = re.findall(
        r"^\| `([\w-]+)` \| [^|]+ \|(?: `([\w/.]+)`)? \|", page.read_text("utf-8"), re.MULTILINE
    )
    scripts = {one.name: one.script.relative_to(ROOT).as_posix() for one in cli.commands()}
    assert {name for name, _ in described} <= shown
    assert {name: script for name, script in described if script}.items() <= scripts.items()
    assert {"run", "plan", "evaluate", "grade", "report", "doctor", "prepare-data"} <= dict(described).keys()


def check_script(script: str, words: list[str]) -> None:
    """Parse the words that a script of ours gets."""
    if PLACEHOLDERS.search(script):
        return
    assert Path(script).is_file(), f"no script {script}"
    words = [word for word in words if word not in ("[", "]")]
    if any(PLACEHOLDERS.fullmatch(word) for word in words):
        words = [word for word in words if not PLACEHOLDERS.fullmatch(word)]
        check_keys(script, words)
        return
    module = imported(script)
    if isinstance(recipe := getattr(module, "RECIPE", None), Recipe):
        check_files(words)
        check_keys(script, words)
        if recipe.kind != "training" and "--regrade" not in words:  # which reads the folder that it names
            recipe.parse(words)  # the types of a training are torch's, and tests/training parses every preset
    elif hasattr(module, "parser"):
        parsed = quietly(module.parser(), words)
        if script.endswith("slurm/launch.py"):
            assert Path(parsed.launch).is_file(), f"no file {parsed.launch}"
            check_script(parsed.recipe, parsed.settings)
        pipeline = getattr(parsed, "pipeline", None)
        assert pipeline is None or Path(pipeline).is_file(), f"no file {pipeline}"
    else:
        check_keys(script, words)


def quietly(parser: argparse.ArgumentParser, words: Sequence[str]) -> Any:
    """What argparse makes of the words; its complaint as an error."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parser.parse_args(list(words))
    except SystemExit as error:
        if error.code:
            raise AssertionError(said.getvalue().strip().splitlines()[-1]) from None
        raise


def check_files(words: Sequence[str]) -> None:
    """Every file after --config has to exist."""
    if "--config" in words:
        for word in words[words.index("--config") + 1 :]:
            if word.startswith("--"):
                return
            assert Path(word).is_file(), f"no file {word}"


def check_keys(script: str, words: Sequence[str]) -> None:
    """Every --key has to be one of the script's."""
    module = imported(script)
    recipe = getattr(module, "RECIPE", None)
    if isinstance(recipe, Recipe):
        known = {"config", "help", *keys_of(script)}
    else:
        known = set(re.findall(r'"--([\w-]+)"', Path(script).read_text(encoding="utf-8"))) | {"help"}
    for word in words:
        if re.match(r"--[a-z]", word):
            assert word[2:].partition("=")[0] in known, f"{script} has no {word}"


@cache
def imported(script: str) -> Any:
    """A script as a module, which `sys.modules` has so that its types can be looked up."""
    path = (ROOT / script).resolve()
    name = f"script_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@cache
def keys_of(script: str) -> frozenset[str]:
    """All keys of a script; those of a training stage from docs/settings, which needs no import of torch."""
    recipe: Recipe = imported(script).RECIPE
    if recipe.kind == "training":
        names = (recipe.name, "common")
        text = "".join((ROOT / f"docs/settings/{name}.md").read_text(encoding="utf-8") for name in names)
        return frozenset(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))
    return keys_in(recipe.configs())


def keys_in(types: Sequence[type]) -> frozenset[str]:
    """All keys of dataclasses, those of nested ones with dots, and the names of nested ones."""
    schema = Schema.of(types)
    return frozenset((*schema.leaves, *schema.maps))


# ------------------------------------------------------------------------------------------------------ YAML


def yaml_blocks() -> Iterator[Any]:
    for path in PAGES:
        for number, block in enumerate(
            re.findall(r"^```yaml\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        ):
            yield pytest.param(block, id=f"{path.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize("block", yaml_blocks())
def test_yaml_names_existing_keys(block: str) -> None:
    found = load_yaml(block)
    assert isinstance(found, dict)
    stages = [
        ROOT / folder / f"{path.stem}.py"
        for path in ROOT.glob("docs/settings/*.md")
        for folder in ("recipes", "eval")
    ]
    known = [keys_of(str(path.relative_to(ROOT))) for path in stages if path.is_file()]
    known.append(keys_in([BenchmarkFile]))
    assert any(set(keys_written(found, keys)) <= keys for keys in known), (
        f"no stage has all of these keys: {block}"
    )


def keys_written(settings: dict[str, Any], known: frozenset[str], prefix: str = "") -> Iterator[str]:
    """The keys of settings; those of a nested dataclass with dots, and not those of a mapping."""
    for key, value in settings.items():
        name = prefix + key
        if isinstance(value, dict) and any(other.startswith(f"{name}.") for other in known):
            yield from keys_written(value, known, f"{name}.")
        else:
            yield name


# ------------------------------------------------------------------------------------------------ by running


@pytest.mark.slow
def test_the_first_hours_own_questions(tmp_path: Path) -> None:
    """The commands of the page's fourth section, as they are written there."""
    import os
    import subprocess

    page = (ROOT / "docs/first_hour.md").read_text(encoding="utf-8")
    section = page.partition("## 4.")[2].partition("## 5.")[0]
    rows, script = re.findall(r"^```(?:bash)?\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_questions.jsonl").write_text(rows, encoding="utf-8")
    for old, new in {
        ".venv/bin/python": sys.executable, "my_questions.jsonl": f"{tmp_path}/my_questions.jsonl",
        "runs/own": f"{tmp_path}/own",
    }.items():  # fmt: skip
        script = script.replace(old, new)
    environment = {**os.environ, "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
    subprocess.run(["bash", "-euc", script], cwd=ROOT, env=environment, check=True, timeout=500)
    assert (tmp_path / "own/sft/model.safetensors").is_file()
    assert (tmp_path / "own/index.html").is_file()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("make nothing", "no such target"),
        ("python recipes/nothing.py --config recipes/tiny/sft.yaml", "no script recipes/nothing.py"),
        (
            "python recipes/run.py recipes/tiny/nothing.yaml --output runs/x",
            "no file recipes/tiny/nothing.yaml",
        ),
        ("python recipes/run.py recipes/tiny/pipeline.yaml --ouput runs/x", "required: --output"),
        (
            "python recipes/solve_questions.py --config recipes/tiny/solve_questions.yaml --sample 4",
            "no --sample",
        ),
        ("SEED=1 python recipes/sft.py --config recipes/tiny/sft.yaml --max_lenght 64", "no --max_lenght"),
        ("nothing --at all", "not a program"),
        ("scalequest sftt --config recipes/tiny/sft.yaml", "no command sftt"),
        ("scalequest run nothing.yaml --output x", "no file nothing.yaml"),
        ("scalequest sft --learning_rat 1", "has no --learning_rat"),
        ("scalequest doctor --jsn", "--jsn"),
    ],
)
def test_a_wrong_command_is_found(command: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(AssertionError, match=re.escape(said)):
        check(words_of(command))
