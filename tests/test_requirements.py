"""What setup.cfg asks for: a floor and a ceiling for each package, and lock files that lie between them."""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def stated() -> Iterator[Requirement]:
    """All requirements of all extras, but for the package's own name."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    for line in "\n".join(texts).splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line.strip())
            if requirement.name != "scalequest":
                yield requirement


def pins(file: str) -> dict[str, Version]:
    lines = (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()
    named = (line.partition(";")[0].strip().split("==") for line in lines if "==" in line and line[0] != "#")
    return {canonicalize_name(name): Version(version) for name, version in named}


@pytest.mark.parametrize("requirement", stated(), ids=lambda one: one.name)
def test_a_requirement_has_a_floor_and_a_ceiling(requirement: Requirement) -> None:
    operators = {one.operator for one in requirement.specifier}
    assert operators in ({">=", "<"}, {"=="}), f"{requirement}: state >= and <, or =="


@pytest.mark.parametrize("file", ["cpu.txt", "dev.txt", "gpu.txt"])
def test_a_lock_file_lies_within_the_bounds(file: str) -> None:
    pinned, known = pins(file), {canonicalize_name(one.name): one for one in stated()}
    both = pinned.keys() & known.keys()
    assert len(both) >= 10
    for name in both:
        assert known[name].specifier.contains(pinned[name]), f"{file}: {name}=={pinned[name]}: {known[name]}"
