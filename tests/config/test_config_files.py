"""Several files behind `--config`, and what a file says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import (
    ConfigError,
    build,
    fingerprint_fields,
    option,
    parse,
    read_configs,
    read_facts,
    required,
    to_dict,
)


@dataclass(frozen=True)
class Sampling:
    temperature: float = option(1.0)
    top_p: float = option(1.0)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    source: str = required("where")
    rows: int = option(1)


@dataclass(frozen=True)
class Demo:
    input: list[str] = required("sources")
    output_dir: str = option("out")
    models: dict[str, str] = option(default_factory=dict)
    parts: dict[str, Part] = option(default_factory=dict)
    sampling: Sampling = option(default_factory=lambda: Sampling(0.7))
    judge: Sampling | None = option(None)


class Files:
    """Writes a.yaml, b.yaml and so on, and reads them as a stage would."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def paths(self, *texts: str) -> list[str]:
        made = [self.folder / f"{name}.yaml" for name, _ in zip("abcd", texts, strict=False)]
        for path, text in zip(made, texts, strict=True):
            path.write_text(text)
        return [str(path) for path in made]

    def read(self, *texts: str, words: tuple[str, ...] = ()) -> Demo:
        (demo,) = parse(Demo, argv=["--config", *self.paths(*texts), *words])
        assert isinstance(demo, Demo)
        return demo

    def refused(self, *texts: str, words: tuple[str, ...] = ()) -> str:
        with pytest.raises(SystemExit):
            self.read(*texts, words=words)
        error = self.capsys.readouterr().err
        assert error.count("\n") == 1
        return error.strip().replace(f"{self.folder}/", "")


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    return Files(tmp_path, capsys)


# ---------------------------------------------------------------------------- which value wins


def test_the_later_file_wins_key_by_key(files: Files) -> None:
    below = "input: [a, b]\nmodels: {x: 1b, y: 1c}\nsampling: {temperature: 0.5, extra: {k: 1, l: {m: 1}}}\n"
    above = "input: [c]\nmodels: {y: 2c, z: 2d}\nsampling: {top_p: 0.9, extra: {l: {n: 2}}}\n"
    demo = files.read(below, above)
    assert demo.input == ["c"], "a list is replaced"
    assert demo.models == {"x": "1b", "y": "2c", "z": "2d"}
    assert demo.sampling == Sampling(0.5, 0.9, {"k": 1, "l": {"m": 1, "n": 2}})
    assert files.read(above, below).input == ["a", "b"]
    assert files.read(below, above, "input: [d]\n").input == ["d"]


def test_the_command_line_wins_over_all_and_gives_maps_whole(files: Files) -> None:
    words = ("--models", "{q: nine}", "--sampling.top_p", "0.1")
    demo = files.read("input: [a]\nmodels: {x: one}\n", "sampling: {top_p: 0.9}\n", words=words)
    assert demo.models == {"q": "nine"}
    assert demo.sampling == Sampling(0.7, 0.1)


def test_null_ends_what_stood_below(files: Files) -> None:
    below = "input: [a]\njudge: {temperature: 0.5}\n"
    assert files.read(below, "judge: null\n").judge is None
    assert files.read(below, "judge: null\n", "judge: {top_p: 0.5}\n").judge == Sampling(1.0, 0.5)
    assert files.read("input: [a]\njudge: null\n", "judge: {top_p: 0.5}\n").judge == Sampling(1.0, 0.5)


def test_a_part_of_a_map_of_dataclasses_may_stand_in_another_file(files: Files) -> None:
    demo = files.read("input: [a]\nparts: {p: {source: s, rows: 2}}\n", "parts: {p: {rows: 3}}\n")
    assert demo.parts == {"p": Part(source="s", rows=3)}


def test_one_record_of_what_was_read(files: Files) -> None:
    """The resolved config does not know of how many files it is."""
    whole = files.read("input: [b]\nmodels: {x: one}\nsampling: {top_p: 0.5}\n")
    apart = files.read("input: [a]\nsampling: {top_p: 0.5}\n", "input: [b]\nmodels: {x: one}\n")
    assert to_dict(whole) == to_dict(apart)
    assert fingerprint_fields(whole) == fingerprint_fields(apart)


# ---------------------------------------------------------------------------- what is named


def test_the_file_of_the_wrong_value_is_named(files: Files) -> None:
    good = "input: [a]\n"
    assert files.refused(good, "inptu: [b]\n") == "error: b.yaml: unknown key 'inptu'; did you mean 'input'?"
    assert files.refused("inptu: [b]\n", good).startswith("error: a.yaml: unknown key 'inptu'")
    assert files.refused(good, "sampling: {top_p: high}\n").startswith("error: b.yaml: sampling.top_p: ")
    assert files.refused(good + "output_dir: 3\n", "output_dir: x\n").startswith("error: a.yaml: output_dir")
    assert files.refused(good + "models: {x: y}\n", "models: {z: 1}\n").startswith("error: b.yaml: models: ")
    assert files.refused(good, "- 1\n").startswith("error: b.yaml: expected a map")
    assert files.refused(good, "a: 1\na: 2\n").startswith("error: b.yaml: line 2: duplicate key")


def test_all_files_are_named_where_a_key_is_missing(files: Files) -> None:
    said = files.refused("output_dir: x\n", "judge: null\n", words=("--models", "{}"))
    assert said.startswith("error: a.yaml and b.yaml and command line: required key 'input' is missing")


# ---------------------------------------------------------------------------- what a file says about itself


ABOUT = "preset: {launch: l.yaml, rows: 5, tokens: 2.5, source: {input: ours}}\n"


def test_what_a_file_says_about_itself_is_no_setting(files: Files) -> None:
    plain, told = files.read("input: [a]\n"), files.read(ABOUT + "input: [a]\n")
    assert told == plain
    assert to_dict(told) == to_dict(plain)
    assert build((Demo,), {"input": ["a"], "preset": {"rows": 5}}) == (plain,)
    assert read_configs(*files.paths(ABOUT + "input: [a]\n", ABOUT)) == {"input": ["a"]}


def test_it_is_laid_over_like_settings(files: Files) -> None:
    above = "preset: {launch: null, rows: 6, source: {models: paper 3}}\n"
    facts = read_facts(*files.paths(ABOUT + "input: [a]\n", above))
    assert (facts.launch, facts.rows, facts.tokens) == (None, 6, 2.5)
    assert facts.source == {"input": "ours", "models": "paper 3"}
    assert read_facts(*files.paths("input: [a]\n")).source == {}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("{rosw: 5}", "b.yaml: unknown key 'preset.rosw'; did you mean 'rows'?"),
        ("{rows: many}", "b.yaml: preset.rows: expected int | null, got 'many'"),
        ("{rows: 0}", "b.yaml: preset.rows: expected at least 1, got 0"),
        ("5", "b.yaml: preset: expected a mapping, got 5"),
        ("{source: {input: 3}}", "b.yaml: preset.source: expected map, got {'input': 3}"),
    ],
)
def test_it_is_checked(files: Files, said: str, error: str) -> None:
    assert files.refused("input: [a]\n", f"preset: {said}\n") == f"error: {error}"


def test_a_file_that_goes_over_another_is_not_taken_alone(files: Files) -> None:
    above = "preset: {base: [a.yaml, z.yaml]}\nsampling: {top_p: 0.5}\n"
    said = files.refused(above, "input: [a]\n")
    assert said.startswith(
        "error: a.yaml: contains only the differences from a.yaml or z.yaml; give both files: --config "
    )
    assert files.read("input: [a]\n", above).sampling.top_p == 0.5
    with pytest.raises(
        ConfigError, match=r"b\.yaml: contains only the differences from a\.yaml; .* a\.yaml b\.yaml"
    ):
        build((Demo,), {"preset": {"base": ["a.yaml"]}, "input": []}, "b.yaml")


def test_what_has_to_be_given_with_a_file(files: Files) -> None:
    below, above = "input: [a]\noutput_dir: x\n", "preset: {base: [a.yaml], needs: [output_dir]}\n"
    said = files.refused(below, above)
    assert said.startswith("error: b.yaml: set --output_dir on the command line or in a later file")
    assert files.read(below, above, words=("--output_dir", "y")).output_dir == "y"
    assert files.read(below, above, "output_dir: z\n").output_dir == "z"
