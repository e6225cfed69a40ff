"""A hint leads somewhere: every key that it names is one of the recipe's."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from scalequest.config import ConfigError, RunOptions, build
from scalequest.config.hints import REMOVED, RENAMED, hint_for
from scalequest.config.schema import Schema

ROOT = Path(__file__).parents[1]
TRAINING = ("qft", "qpo", "sft", "difficulty", "reward")
DATA = {
    "recipes.generate_questions": "scalequest.questions.generation:GenerationConfig",
    "recipes.optimize_questions": "scalequest.questions.rewriting:RewriteConfig",
    "recipes.filter_questions": "scalequest.questions.filters:FilterConfig",
    "recipes.solve_questions": "scalequest.solutions.solving:SolveConfig",
    "recipes.score": "scalequest.solutions.rewards:ScoreConfig",
    "recipes.select_solutions": "scalequest.solutions.selection:SelectConfig",
    "recipes.assemble_dataset": "scalequest.solutions.assembly:AssembleConfig",
    "eval.evaluate": "scalequest.evaluation.settings:EvaluationConfig",
}
SCRIPTS = [*(f"recipes.{name}" for name in TRAINING), *DATA]


def types_of(script: str) -> tuple[type, ...]:
    if script in DATA:
        module, _, name = DATA[script].partition(":")
        return RunOptions, getattr(import_module(module), name)
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        made: tuple[type, ...] = import_module(script.rpartition(".")[2]).types()
    finally:
        sys.path.remove(str(ROOT / "recipes"))
    return made


@pytest.fixture(scope="module")
def schemas() -> dict[str, Schema]:
    return {script: Schema.of(types_of(script)) for script in SCRIPTS}


def test_every_stage_of_a_pipeline_is_looked_at() -> None:
    """A new recipe whose `--config` makes a stage has to stand above."""
    scripts = {f"{path.parent.name}.{path.stem}" for path in ROOT.glob("recipes/*.py")}
    told = {"run", "table", "plan", "prepare_data", "dataset_statistics", "merge_adapter"}  # no stages
    assert scripts - {f"recipes.{name}" for name in told} == set(SCRIPTS) - {"eval.evaluate"}


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
    assert hint("recipes.solve_questions", "swap_space") == "no longer a setting: vLLM no longer has it"
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
        build(types_of("recipes.solve_questions"), {"output_dir": "o", "torch_dtype": "bfloat16"}, "s.yaml")
    assert str(caught.value) == "s.yaml: unknown key 'torch_dtype'; renamed: use 'engine.dtype'"
