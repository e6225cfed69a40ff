"""Pipeline files that are made of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scalequest.config import ConfigError
from scalequest.pipeline.runner import load, plan

SCRIPT = "eval/report.py"


def write(path: Path, **content: object) -> str:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def stage(name: str, **args: object) -> dict[str, object]:
    return {"name": name, "script": SCRIPT, "args": args}


def test_an_included_file_gives_its_stages_once_for_each_set_of_texts(tmp_path: Path) -> None:
    part = write(tmp_path / "part.yaml", stages=[stage("make_${x}", title="${y}", run="${output}/a_${x}")])
    top = write(
        tmp_path / "top.yaml",
        name="top",
        vars={"y": "why"},
        stages=[
            {"include": part, "vars": {"x": "one"}},
            stage("between", run="${output}/make_one"),
            {"include": part, "vars": {"x": "two"}},
            {"include": part, "vars": {"x": "one"}},
        ],
    )
    steps = plan(load(top), tmp_path / "out")
    assert [step.spec.name for step in steps] == ["make_one", "between", "make_two"]
    assert steps[2].settings == {"title": "why", "run": f"{tmp_path}/out/a_two"}
    assert steps[1].needs == ("make_one",)


def test_the_command_line_goes_over_the_file_and_the_file_over_what_it_includes(tmp_path: Path) -> None:
    write(tmp_path / "large.yaml", hub=True, vars={"size": "large", "rows": "9", "launch": "x"})
    write(tmp_path / "small.yaml", vars={"size": "small", "rows": "3", "launch": ""})
    write(
        tmp_path / "top.yaml",
        name="top",
        vars={"rows": "5"},
        stages=[
            {"include": f"{tmp_path}/${{profile:-large}}.yaml"},
            {**stage("one", title="${size} ${rows}"), "launch": "${launch}"},
        ],
    )
    spec = load(tmp_path / "top.yaml", {"profile": "small"})
    assert (spec.hub, spec.stages[0].launch) == (False, None)
    assert plan(spec, tmp_path)[0].settings["title"] == "small 5"
    (step,) = plan(load(tmp_path / "top.yaml", {"profile": "small", "rows": "7"}), tmp_path)
    assert step.settings["title"] == "small 7"
    with pytest.raises(ConfigError, match="launch: no file x"):
        load(tmp_path / "top.yaml")


def test_two_ways_to_write_one_text_include_a_file_once(tmp_path: Path) -> None:
    """Whoever sets the variable: the file itself, one that it includes, or one that includes it."""
    part = write(tmp_path / "part.yaml", stages=[stage("by_${who}", title="${who}")])
    middle = write(
        tmp_path / "middle.yaml",
        vars={"helper": "solver", "rewriter": "server"},
        stages=[{"include": part, "vars": {"who": "${rewriter}"}}],
    )
    both = {"include": part, "vars": {"who": "${helper}"}}
    same = write(
        tmp_path / "same.yaml", name="p", vars={"rewriter": "solver"}, stages=[{"include": middle}, both]
    )
    other = write(tmp_path / "other.yaml", name="p", stages=[{"include": middle}, both])
    assert [step.spec.name for step in plan(load(same), tmp_path)] == ["by_solver"]
    assert [step.spec.name for step in plan(load(other), tmp_path)] == ["by_server", "by_solver"]
    given = plan(load(same, {"rewriter": "rules"}), tmp_path)
    assert [step.spec.name for step in given] == ["by_rules", "by_solver"]


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{"include": "HERE/none.yaml"}], "none.yaml: no such file"),
        ([{"include": "HERE/top.yaml"}], "top.yaml: include: it includes itself"),
        ([{"include": "HERE/part.yaml", "with": {}}], "expected `include: FILE` and optionally `vars`"),
        ([{"include": "HERE/odd.yaml"}], "odd.yaml: unknown key 'limit' in an included file"),
        ([{"include": "HERE/${which}.yaml"}], "which is not set"),
    ],
)
def test_what_cannot_be_included_is_one_line(tmp_path: Path, stages: list, said: str) -> None:
    write(tmp_path / "part.yaml", stages=[stage("one")])
    write(tmp_path / "odd.yaml", stages=[stage("one")], limit=3)
    text = yaml.safe_dump({"name": "top", "stages": [stage("own"), *stages]}).replace("HERE", str(tmp_path))
    (tmp_path / "top.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        load(tmp_path / "top.yaml")
    assert "\n" not in str(refused.value)


def test_what_is_set_has_a_name_and_a_text() -> None:
    words = [
        sys.executable,
        "recipes/run.py",
        "recipes/tiny/pipeline.yaml",
        "--output",
        "x",
        "--set",
        "profile",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'profile': expected NAME=TEXT" in done.stderr
