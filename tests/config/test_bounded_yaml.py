"""A few hundred bytes cannot take gigabytes or a traceback, wherever YAML is read."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from scalequest.config import ConfigError, bounded_yaml, load_yaml, option, parse, read_yaml
from scalequest.evaluation.benchmarks import load_benchmark
from scalequest.evaluation.prompts import load_eval_prompt
from scalequest.evaluation.published import load_published
from scalequest.pipeline.runner import load, plan
from scalequest.questions.prompts import load_prompt
from tinymath.report import read_cases

ROOT = Path(__file__).parents[2]


def aliases(first: str, each: str, lines: int = 9) -> str:
    """Lines of which each stands for several of the one before."""
    return "\n".join(
        [f"a0: &a0 {first}", *(f"a{n}: &a{n} {each.replace('@', f'*a{n - 1}')}" for n in range(1, lines))]
    )


BOMB = aliases("[ha, ha]", f"[{', '.join('@' * 9)}]")
TOO_MANY = "more than 50,000 keys and values"
INSIDE = "an alias refers to a node that contains it"
DEEP = "more than 50 levels deep"
TEXTS = {
    "lists": (BOMB, TOO_MANY),
    "maps": (aliases("{x: 1}", "{a: @, b: @, c: @, d: @, e: @, f: @, g: @, h: @, i: @}"), TOO_MANY),
    "keys": (aliases("[ha, ha]", "{? @ : @, b: @, c: @, d: @, e: @, f: @, g: @}"), TOO_MANY),
    "merges of lists": (aliases("{x: 1}", f"{{<<: [{', '.join('@' * 9)}]}}"), TOO_MANY),
    "merges of maps": (aliases("{x: 1}", "{<<: @, y: @}", 30), TOO_MANY),
    "a long text": (f"a: &a '{'x' * 200_000}'\nb: [{', '.join(['*a'] * 40)}]", "characters"),
    "many keys": (f"[{'a,' * 50_001}]", TOO_MANY),
    "a list in itself": ("a: &a [*a]", INSIDE),
    "a map in itself": ("a: &a {b: *a}", INSIDE),
    "a merge of itself": ("a: &a\n  <<: *a\n", INSIDE),
    "a key of itself": ("? &a [*a]\n: 1", INSIDE),
    "two in each other": ("a: &a [&b [*a], *b]", INSIDE),
    "brackets": ("a: " + "[" * 2000, DEEP),
    "closed brackets": ("a: " + "[" * 2000 + "]" * 2000, DEEP),
    "braces": ("a: " + "{a: " * 2000, DEEP),
    "dashes": ("- " * 2000, DEEP),
    "question marks": ("? " * 2000, DEEP),
    "indentation": ("\n".join(" " * n + "a:" for n in range(300)), DEEP),
    "digits": ("a: " + "1" * 5000, "a number of more than 400 digits"),
    "hex digits": ("a: 0x" + "F" * 100_000, "a number of more than 400 digits"),
    "a number as a key": ("0x" + "F" * 6000 + ": 1", "a number of more than 400 digits"),
    "an exponent": ("a: 1e" + "9" * 5000, "a number of more than 400 digits"),
    "bytes": ("a" * (bounded_yaml.MOST_BYTES + 1), "larger than 1,048,576 bytes"),
    "no boolean": ("a: !!bool xyz", "not YAML: KeyError"),
    "no number": ("a: !!int xyz", "not YAML: ValueError"),
}


@pytest.fixture(autouse=True)
def _bounded() -> object:
    """Five seconds and 4 GiB of address space beyond what the tests hold already."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", TEXTS)
def test_too_much_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    text, said = TEXTS[name]
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_aliases_and_merges_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\nd: " + "[" * 48 + "]" * 48 + "\n")
    assert (found := read_yaml(path))["b"] == {"x": 1, "y": 3}
    assert found["c"] == [{"x": 1, "y": 2}] * 2
    path.write_text("- 1\n")
    assert load_yaml(path) == [1]


def test_a_file_without_an_end(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match="larger than"):
        read_yaml("/dev/zero")
    assert time.monotonic() - began < 5
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml("a\0.yaml")


@pytest.mark.parametrize(
    "read",
    [load_benchmark, load_eval_prompt, load_published, load_prompt, load, read_cases],
    ids=lambda f: f.__name__,
)
def test_every_reader_is_bounded(read: object, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BOMB)
    with pytest.raises(ConfigError, match=TOO_MANY):
        read(tmp_path / "a.yaml")  # type: ignore[operator]


def test_no_other_module_reads_yaml() -> None:
    for path in [
        file
        for part in ("src", "recipes", "scripts", "eval", "slurm")
        for file in (ROOT / part).rglob("*.py")
    ]:
        if path.name not in ("bounded_yaml.py", "atomic_files.py"):  # which only writes
            text = path.read_text(encoding="utf-8")
            assert "YAML(" not in text, path
            assert "import yaml" not in text, path


@pytest.mark.parametrize("word", ["[" * 2000, "{a: &a [*a]}", "!!bool xyz", "0x" + "F" * 6000])
def test_words_of_the_command_line_are_bounded(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Demo:
        name: str = option("a")
        sizes: list[int] = option(default_factory=list)
        extra: dict[str, int] = option(default_factory=dict)

    assert parse(Demo, argv=["--name", word])[0].name == word
    for key in ("sizes", "extra"):
        with pytest.raises(SystemExit):
            parse(Demo, argv=[f"--{key}", word])
        assert capsys.readouterr().err.count("\n") == 1


def test_variables_of_a_pipeline_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "s.py").touch()
    names = "abcdefghi"
    values = [f"{one}: '{f'${{{other}}}' * 9}'" for one, other in pairwise(names)]
    path = tmp_path / "p.yaml"
    path.write_text(
        f"name: p\nvars: {{{', '.join(values)}, i: xxxxxxxxxx}}\n"
        f"stages:\n  - name: a\n    script: {tmp_path}/s.py\n    args: {{x: '${{a}}'}}\n"
    )
    with pytest.raises(ConfigError, match="variables grow beyond") as caught:
        plan(load(path), tmp_path)
    assert len(str(caught.value)) < 300


def test_a_recipe_says_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BOMB)
    done = subprocess.run(
        [sys.executable, ROOT / "recipes/select_solutions.py", "--config", tmp_path / "a.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ")
