"""A hint leads somewhere: every key that it names is one of the recipe's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scalequest.config import ConfigError, build
from scalequest.config.hints import REMOVED, RENAMED, hint_for
from scalequest.config.schema import Schema
from scalequest.recipe import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = {
    f"{path.parent.name}.{path.stem}": recipe
    for path in [*sorted(ROOT.glob("recipes/*.py")), ROOT / "eval/evaluate.py"]
    if (recipe := load_recipe(path)) is not None and recipe.kind != "tool"
}


@pytest.fixture(scope="module")
def schemas() -> dict[str, Schema]:
    return {script: Schema.of(recipe.configs()) for script, recipe in RECIPES.items()}


@pytest.mark.parametrize("old", [*RENAMED, *REMOVED])
def test_no_hint_names_a_key_that_the_recipe_has_not(old: str, schemas: dict[str, Schema]) -> None:
    for script, schema in schemas.items():
        if old in schema.leaves or old in schema.maps:
            continue
        hint = hint_for(old, schema)
        keys = re.findall(r"'([^']+)'", hint)
        assert set(keys) <= {*schema.leaves, *schema.maps}, (script, hint)
        assert keys or hint.startswith("no longer a setting: ") or hint == "see --help for all keys", hint


@pytest.mark.parametrize("old", [*RENAMED, *REMOVED])
def test_every_entry_is_of_use_to_some_recipe(old: str, schemas: dict[str, Schema]) -> None:
    hints = [hint_for(old, schema) for schema in schemas.values() if old not in schema.leaves]
    assert any(hint.startswith(("renamed: ", "no longer a setting: ")) for hint in hints), hints


def test_the_same_old_key_leads_to_each_recipes_own(schemas: dict[str, Schema]) -> None:
    def hint(script: str, key: str) -> str:
        return hint_for(key, schemas[script])

    assert hint("recipes.sft", "chat_template") == "renamed: use 'chat_format' or 'chat_template_path'"
    assert hint("recipes.solve_questions", "chat_template") == "renamed: use 'chat_format'"
    assert hint("recipes.sft", "torch_dtype") == "renamed: use 'dtype'"
    assert hint("recipes.solve_questions", "torch_dtype") == "renamed: use 'engine.dtype'"
    assert hint("recipes.sft", "overwrite_output_dir").startswith("renamed: use 'fresh' (")
    assert hint("recipes.solve_questions", "swap_space") == "no longer a setting: vLLM removed it"
    assert "swap_space" not in hint("recipes.sft", "swap_space")
    for script in ("recipes.sft", "recipes.solve_questions"):
        for nowhere in ("task", "build_llm_processor", "fsdp_sharding_strategy"):
            assert not hint(script, nowhere).startswith("renamed"), "nothing of ours has that key"


def test_a_hint_falls_back_to_the_closest_key(schemas: dict[str, Schema]) -> None:
    assert hint_for("evaluation_strategy", schemas["recipes.score"]).startswith(
        ("did you mean", "see --help")
    )


def test_the_hint_stands_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        build(
            RECIPES["recipes.solve_questions"].configs(),
            {"output_dir": "o", "torch_dtype": "bfloat16"},
            "s.yaml",
        )
    assert str(caught.value) == "s.yaml: unknown key 'torch_dtype'; renamed: use 'engine.dtype'"
