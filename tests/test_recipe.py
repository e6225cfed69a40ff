"""What is asked of a recipe without running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.recipe import Recipe, load_recipe
from scalequest.stage.folder import Stage


def refuse(*_: Any) -> None:
    raise AssertionError("it was run")


def test_what_opens_no_folder_is_not_run_for_its_fingerprint() -> None:
    assert Recipe("report", 1, "tool", tuple, refuse).fingerprint(None) is None
    tokenise = SimpleNamespace(prepare_only=True)
    assert Recipe("sft", 1, "training", tuple, refuse).fingerprint(tokenise, None, None) is None


def test_a_fingerprint_is_that_of_the_folder_and_asking_touches_nothing(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Settings:
        seed: int

    def main(settings: Settings) -> None:
        arguments = {"name": "numbers", "version": 1, "config": {}, "fingerprint": {"seed": settings.seed}}
        opened.append(Stage.open(tmp_path / "out", **arguments))

    opened: list[Stage] = []
    recipe = Recipe("numbers", 1, "evaluation", lambda: (Settings,), main)
    first, other = recipe.fingerprint(Settings(1)), recipe.fingerprint(Settings(2))
    assert first != other
    assert not opened
    assert not (tmp_path / "out").exists()
    recipe(Settings(1))
    assert opened[0].fingerprint == first
    opened[0].close()


def test_a_script_without_a_recipe_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit('it was run')\n")
    assert load_recipe(tmp_path / "script.py") is None
    with pytest.raises(ConfigError, match=r"gone\.py: no such file"):
        load_recipe(tmp_path / "gone.py")
