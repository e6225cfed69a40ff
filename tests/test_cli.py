"""The command `scalequest`: its commands, its help, and the files it finds outside of a checkout."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scalequest import cli, installed
from scalequest.config import read_yaml
from scalequest.pipeline.runner import load

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "trl", "vllm", "datasets", "wandb", "ray"}
COMMANDS = [one.name for one in cli.commands()]


def run(*words: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scalequest", *map(str, words)],
        capture_output=True, text=True, timeout=300, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "100", **environment},
    )  # fmt: skip


def test_every_recipe_is_a_command() -> None:
    assert {path.stem.replace("_", "-") for path in (ROOT / "recipes").glob("*.py")} <= set(COMMANDS)
    assert {"run", "plan", "evaluate", "grade", "report", "prepare-data"} <= set(COMMANDS)
    assert len(set(COMMANDS)) == len(COMMANDS)


def test_help_lists_every_command_in_its_group() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 110
    for command in cli.commands():
        assert command.line, command.script
        after = done.stdout.partition(f"\n{command.group}:\n")[2].partition("\n\n")[0]
        assert f"  {command.name} " in after, command
    stages = {one.name: one.group for one in cli.commands()}
    assert (stages["sft"], stages["solve-questions"]) == (cli.TRAINING_STAGES, cli.DATA_STAGES)


@pytest.mark.parametrize("name", [*COMMANDS, "doctor", "files"])
def test_help_of_a_command_is_quick(name: str) -> None:
    """Nothing heavy is imported, which is what takes seconds; the time itself depends on the machine."""
    code = (
        "import sys\nfrom scalequest.cli import main\n"
        "try:\n    status = main(sys.argv[1:])\n"
        "except SystemExit as end:\n    status = end.code\n"
        f"print('STATUS', status or 0, 'LOADED', sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *name.split(), "--help"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.endswith("STATUS 0 LOADED []\n"), done.stdout[-300:] + done.stderr
    assert "usage: " in done.stdout


def test_help_of_a_training_stage_shows_its_own_settings_and_where_the_others_are() -> None:
    done = run("sft", "-h")
    assert "  --thinking  keep | strip  (default: keep)\n" in done.stdout
    assert "--help all" in done.stdout
    assert "--learning_rate  " not in done.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["evalute"], "did you mean 'evaluate'?"),
        (["generate"], "did you mean 'generate-questions'?"),
        (["solve_question"], "did you mean 'solve-questions'?"),
        (["zzz"], "`scalequest --help` lists them"),
    ],
)
def test_an_unknown_command_is_one_line(words: list[str], hint: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: no command is called '{words[0]}'; {hint}\n"


def test_a_command_runs_its_script_with_the_words_that_follow(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prediction": "1/2", "reference": "0.5"}\n')
    done = run("grade", "rows.jsonl", "--output_dir", "graded", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "graded/graded.jsonl").read_text())["correct"] is True
    wrong = run("grade", "rows.jsonl", "--output", "graded", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: command line: unknown key '--output'; ")


def test_what_is_not_installed_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "trl.py").write_text("raise ModuleNotFoundError(\"No module named 'trl'\", name='trl')\n")
    done = run("sft", "--config", "recipes/tiny/sft.yaml", PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}")
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: sft needs trl, which is not installed: pip install ")


def test_a_usage_line_names_the_command() -> None:
    for name in ("run", "prepare-data", "doctor", "grade"):
        assert run(name, "--help").stdout.startswith(f"usage: scalequest {name} ")


def test_files_prints_where_they_are(tmp_path: Path) -> None:
    done = run("files", "accelerate_configs/zero3.yaml", cwd=tmp_path)
    assert done.stdout == f"{ROOT / 'accelerate_configs/zero3.yaml'}\n"
    missing = run("files", "recipes/none.yaml", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("error: recipes/none.yaml: not among the installed files in ")


# ----------------------------------------------------------------------------------------- outside a checkout


def test_a_path_that_is_not_here_is_an_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    installed._report_once.cache_clear()
    model = "recipes/tiny/models/tiny-base"
    assert installed.locate(model) == str(ROOT / model)
    assert installed.locate("eval/benchmarks/*.yaml") == str(ROOT / "eval/benchmarks/*.yaml")
    data = "eval/benchmarks/data/tinymath_dev.jsonl.gz[:10]"
    assert installed.locate(data) == str(ROOT / data)
    function = "recipes/tiny/oracle_judge.py:verdicts"
    assert installed.locate(function) == str(ROOT / function)
    assert capsys.readouterr().err.count("\n") == 1, "one line for the whole process"
    # Your own files go first, and nothing else is looked up
    for mine in ("recipes/none.yaml", "recipes/../setup.cfg", "data/gsm8k.jsonl", "runs/x", "eval is a word"):
        assert installed.locate(mine) == mine
    (tmp_path / model).mkdir(parents=True)
    assert installed.locate(model) == model


def test_outputs_are_never_among_the_installed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("output_dir: recipes/tiny\nmodels: {base: recipes/tiny/models/tiny-base}\n")
    given = read_yaml("mine.yaml")
    assert given["output_dir"] == "recipes/tiny"
    assert given["models"]["base"] == str(ROOT / "recipes/tiny/models/tiny-base")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes").glob("*/pipeline.yaml")), ids=lambda path: path.parent.name
)
def test_a_pipeline_is_read_the_same_elsewhere(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(path.relative_to(ROOT))
    monkeypatch.setenv("SCALEQUEST_DATA", str(tmp_path))
    here = load(name)
    monkeypatch.chdir(tmp_path)
    there = load(name)
    for stage, same in zip(there.stages, here.stages, strict=True):
        assert stage.script == str(ROOT / same.script)
        assert stage.configs == tuple(str(ROOT / file) for file in same.configs)


def test_setup_copies_the_folders_that_are_looked_up() -> None:
    names = {
        node.id for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Name)
    }
    assert "FOLDERS" in names
    for folder in installed.FOLDERS:
        assert (ROOT / folder).is_dir()
        assert f"graft {folder}\n" in (ROOT / "MANIFEST.in").read_text()


def test_the_grader_alone_needs_no_torch() -> None:
    code = (
        "import sys, scalequest.grading as grading\n"
        "assert grading.equivalent('1/2', '0.5')\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
