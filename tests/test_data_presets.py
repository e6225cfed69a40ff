"""Every YAML of a data stage is parsed by the dataclasses of its recipe, and what it names is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scalequest.chat import load_format
from scalequest.config import RunOptions, build, parse, read_facts, read_yaml
from scalequest.functions import load_function
from scalequest.pipeline.runner import load, plan
from scalequest.questions.filters import FilterConfig
from scalequest.questions.generation import GenerationConfig
from scalequest.questions.judging import JudgeConfig
from scalequest.questions.prompts import load_prompt
from scalequest.questions.rewriting import RewriteConfig
from scalequest.solutions.assembly import AssembleConfig
from scalequest.solutions.rewards import ScoreConfig
from scalequest.solutions.selection import SelectConfig
from scalequest.solutions.solving import SolveConfig

RECIPES = Path(__file__).parents[1] / "recipes"
STAGES = {
    "generate_questions": GenerationConfig,
    "optimize_questions": RewriteConfig,
    "filter_questions": FilterConfig,
    "filter_difficulty": FilterConfig,
    "filter_by_difficulty": FilterConfig,
    "solve_questions": SolveConfig,
    "score_": ScoreConfig,
    "judge_responses": ScoreConfig,
    "judge_questions": JudgeConfig,
    "select_solutions": SelectConfig,
    "assemble_dataset": AssembleConfig,
}
PRESETS = [path for stage in STAGES for path in sorted(RECIPES.glob(f"*/{stage}*.yaml"))]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_preset_parses_and_names_what_is_there(path: Path) -> None:
    stage = next(stage for stage in STAGES if path.stem.startswith(stage))
    run, config = build((RunOptions, STAGES[stage]), read_yaml(path), str(path))
    assert run.output_dir
    if getattr(config, "chat_format", None):
        load_format(config.chat_format)
    if isinstance(config, RewriteConfig) and config.rewriter == "local":
        assert load_prompt(config.prompts.solvability).markers
        assert load_prompt(config.prompts.difficulty).markers
    if isinstance(config, FilterConfig | ScoreConfig) and config.prompt:
        load_prompt(config.prompt, getattr(config, "places", ("question",)))
    if isinstance(config, JudgeConfig) and config.judge == "function":
        load_function(config.function, "function", "question")


VARIANTS = [path for path in sorted(RECIPES.glob("*/*.yaml")) if read_facts(path).base]
OVER_DATA = [(base, path) for path in VARIANTS for base in read_facts(path).base if Path(base).stem in STAGES]


@pytest.mark.parametrize(("base", "path"), OVER_DATA, ids=lambda one: Path(one).stem)
def test_a_variant_parses_over_each_of_its_bases(base: str, path: Path) -> None:
    needs = [word for key in read_facts(path).needs for word in (f"--{key}", "runs/x")]
    argv = ["--config", str(RECIPES.parent / base), str(path), *needs]
    parse(RunOptions, STAGES[Path(base).stem], argv=argv)


def test_the_papers_rule_of_selection_is_a_variant() -> None:
    files = [RECIPES / "qwen2_math_7b/select_solutions.yaml", RECIPES / "variants/select_by_reward.yaml"]
    argv = ["--config", *map(str, files), "--input", "runs/scored"]
    run, config = parse(RunOptions, SelectConfig, argv=argv)
    assert (config.rule, config.input, config.answer_phrase) == ("reward", ["runs/scored"], True)
    assert run.output_dir == "runs/qwen2_math_7b/select_solutions"


def test_the_papers_count_of_hard_questions_is_kept_and_not_a_share() -> None:
    path = RECIPES / "deepseek_math_7b/filter_by_difficulty.yaml"
    _, config = build((RunOptions, FilterConfig), read_yaml(path), str(path))
    parts = read_yaml(RECIPES / "qwen2_math_7b/assemble_dataset.yaml")["parts"]
    assert config.difficulty.keep >= next(part["rows"] for part in parts if "deepseek" in part["source"])


PIPELINES = [
    path
    for pattern in ("*/pipeline.yaml", "*/smoke.yaml", "*/from_generators.yaml", "*/from_questions.yaml")
    for path in sorted(RECIPES.glob(pattern))
]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_trained_on_is_the_set_that_is_assembled(path: Path, tmp_path: Path) -> None:
    """So that its card, report and upload describe it."""
    steps = {step.spec.name: step for step in plan(load(path), tmp_path)}
    assert steps["sft"].settings["input"] == [str(steps["assemble_dataset"].output_dir)]
    assert str(tmp_path / "select_solutions") in str(steps["assemble_dataset"].settings["parts"])


@pytest.mark.parametrize(("given", "column"), [({}, "question"), ({"column": "problem"}, "problem")])
def test_questions_of_ones_own_may_have_any_column(
    given: dict[str, str], column: str, tmp_path: Path
) -> None:
    steps = plan(load(RECIPES / "qwen2_math_7b/from_questions.yaml", given), tmp_path)
    assert yaml.safe_load(steps[0].settings["columns"]) == {"question": column}


def test_the_published_datasets_card_tells_of_both_generators() -> None:
    path = RECIPES / "qwen2_math_7b/assemble_dataset.yaml"
    _, config = build((RunOptions, AssembleConfig), read_yaml(path), str(path))
    assert config.run
    assert all(Path(part.source).is_relative_to(config.run) for part in config.parts)


@pytest.mark.parametrize("profile", ["qwen2_math_7b", "deepseek_math_7b"])
def test_the_papers_values(profile: str) -> None:
    def preset(stage: str):
        path = RECIPES / profile / f"{stage}.yaml"
        return build((RunOptions, STAGES[stage]), read_yaml(path), str(path))[1]

    def sampling(stage: str) -> tuple[float, float, int]:
        how = preset(stage).sampling
        return how.temperature, how.top_p, how.max_tokens

    assert preset("generate_questions").num_questions == 1_000_000
    assert sampling("generate_questions") == (1.0, 0.99, 512)
    assert sampling("filter_questions") == (0.0, 1.0, 2048)
    assert sampling("solve_questions") == (0.7, 0.95, 2048)
    assert preset("solve_questions").samples == 5
