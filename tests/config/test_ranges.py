"""Every number of every config has a range, and what is outside is refused in one line."""

from __future__ import annotations

import ast
import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, build, option, parse, read_yaml
from scalequest.config.ranges import COUNT, OF_LIBRARIES, SHARE, Range
from scalequest.evaluation.published import PublishedTable
from scalequest.evaluation.settings import EvaluationConfig
from scalequest.questions.filters import FilterConfig
from scalequest.questions.generation import GenerationConfig
from scalequest.questions.rewriting import RewriteConfig
from scalequest.solutions.selection import SelectConfig
from scalequest.solutions.solving import SolveConfig

ROOT = Path(__file__).parents[2]


def numeric_fields() -> Iterator[tuple[str, ast.expr | None]]:
    """Place and value of every field that takes numbers in every dataclass made with `option` or `field`."""
    for path in sorted(
        file for part in ("src", "recipes", "scripts", "eval") for file in (ROOT / part).rglob("*.py")
    ):
        for cls in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(cls, ast.ClassDef):
                fields = [item for item in cls.body if isinstance(item, ast.AnnAssign)]
                if any(_is_setting(item.value) for item in fields):
                    for item in fields:
                        names = {node.id for node in ast.walk(item.annotation) if isinstance(node, ast.Name)}
                        if names & {"int", "float"}:
                            yield f"{path.relative_to(ROOT)}: {cls.name}.{item.target.id}", item.value  # type: ignore[union-attr]


def _is_setting(value: ast.expr | None) -> bool:
    """Whether a field is made with `option` or `required`, or with a line of help as TRL's are."""
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name):
        return False
    return value.func.id in ("option", "required") or (
        value.func.id == "field" and any(word.arg == "metadata" for word in value.keywords)
    )


def _has_range(value: ast.expr | None) -> bool:
    words = {word.arg: word.value for word in value.keywords} if isinstance(value, ast.Call) else {}
    metadata = words.get("metadata")
    keys = metadata.keys if isinstance(metadata, ast.Dict) else []
    return "within" in words or any(isinstance(key, ast.Constant) and key.value == "within" for key in keys)


def test_every_number_of_every_config_has_a_range() -> None:
    found = dict(numeric_fields())
    assert len(found) > 60
    assert not [place for place, value in found.items() if not _has_range(value)]


def test_every_number_of_the_trainers_configs_has_a_range() -> None:
    pytest.importorskip("trl")
    from trl import ModelConfig

    from scalequest.training.difficulty_scorer import ScorerConfig
    from scalequest.training.dpo import QPOConfig
    from scalequest.training.reward import RewardModelConfig
    from scalequest.training.sft import PackedSFTConfig

    def takes_numbers(annotation: Any) -> bool:
        return annotation in (int, float) or any(map(takes_numbers, typing.get_args(annotation)))

    for cls in (PackedSFTConfig, QPOConfig, RewardModelConfig, ScorerConfig, ModelConfig):
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            if item.init and takes_numbers(hints[item.name]):
                assert item.name in OF_LIBRARIES, f"{cls.__name__}.{item.name}"
                default = item.default
                if isinstance(default, int | float):
                    assert default in OF_LIBRARIES[item.name], f"{cls.__name__}.{item.name}"


def test_what_is_in_a_range() -> None:
    share = Range(above=0, most=1)
    assert [
        value in share for value in (0, 1e-300, 1, 1.0000001, math.nan, math.inf, -math.inf, 10**5000)
    ] == [
        *(False, True, True),
        *([False] * 5),
    ]
    assert str(share) == "above 0, at most 1"
    assert 10**300 in Range()


# ------------------------------------------------------------------------------------------------- refusals

SOLVE = {"input": ["a"], "model_name_or_path": "m", "chat_format": "tinymath"}
GENERATE = {"model_name_or_path": "m", "chat_format": "tinymath", "num_questions": 1}
FILTER = {"input": ["a"], "steps": ["language"]}
EVALUATE = {"models": {"a": "m"}, "benchmarks": [], "chat_format": "tinymath"}
REWRITE = {"input": ["a"], "rewriter": "function", "function": "tinymath.rewriter:rewrite"}
PUBLISHED = {
    **dict.fromkeys(("name", "title", "source", "tag", "protocol"), "x"),
    "benchmarks": ["g"],
}


@pytest.mark.parametrize(
    ("cls", "settings", "said"),
    [
        (FilterConfig, {**FILTER, "difficulty": {"min_fail_rate": math.nan}}, "difficulty.min_fail_rate: "),
        (FilterConfig, {**FILTER, "difficulty": {"max_fail_rate": math.nan}}, "difficulty.max_fail_rate: "),
        (FilterConfig, {**FILTER, "difficulty": {"target": [math.nan, 1]}}, "difficulty.target: "),
        (FilterConfig, {**FILTER, "difficulty": {"edges": [math.inf]}}, "difficulty.edges: "),
        (FilterConfig, {**FILTER, "difficulty": {"drop_easiest": -0.1}}, "difficulty.drop_easiest: "),
        (
            FilterConfig,
            {**FILTER, "difficulty": {"min_fail_rate": 0.9, "max_fail_rate": 0.1}},
            "min_fail_rate",
        ),
        (FilterConfig, {**FILTER, "solvability": {"min_agreement": math.nan}}, "solvability.min_agreement: "),
        (FilterConfig, {**FILTER, "solvability": {"min_agreement": 1.5}}, "solvability.min_agreement: "),
        (FilterConfig, {**FILTER, "solvability": {"votes": 0}}, "solvability.votes: "),
        (FilterConfig, {**FILTER, "language": {"max_accented": math.nan}}, "language.max_accented: "),
        (FilterConfig, {**FILTER, "duplicates": {"min_similarity": math.nan}}, "duplicates.min_similarity: "),
        (FilterConfig, {**FILTER, "duplicates": {"bands": 0}}, "duplicates.bands: "),
        (FilterConfig, {**FILTER, "contamination": {"overlap": math.nan}}, "contamination.overlap: "),
        (FilterConfig, {**FILTER, "contamination": {"ngram": 4}}, "contamination.ngram: expected at least 5"),
        (SolveConfig, {**SOLVE, "engine": {"tensor_parallel_size": 0}}, "engine.tensor_parallel_size: "),
        (SolveConfig, {**SOLVE, "engine": {"gpu_memory_utilization": 17}}, "engine.gpu_memory_utilization: "),
        (SolveConfig, {**SOLVE, "engine": {"gpu_memory_utilization": 0}}, "engine.gpu_memory_utilization: "),
        (
            SolveConfig,
            {**SOLVE, "engine": {"batch_size": -5}},
            "engine.batch_size: expected at least 1, got -5",
        ),
        (SolveConfig, {**SOLVE, "engine": {"max_model_len": 0}}, "engine.max_model_len: "),
        (SolveConfig, {**SOLVE, "engine": {"max_num_seqs": 0}}, "engine.max_num_seqs: "),
        (SolveConfig, {**SOLVE, "engine": {"extra": {"a": [{"b": math.nan}]}}}, "engine.extra: "),
        (SolveConfig, {**SOLVE, "sampling": {"temperature": -1}}, "sampling.temperature: "),
        (SolveConfig, {**SOLVE, "sampling": {"temperature": math.nan}}, "sampling.temperature: "),
        (
            SolveConfig,
            {**SOLVE, "sampling": {"top_p": 2}},
            "sampling.top_p: expected above 0, at most 1, got 2.0",
        ),
        (SolveConfig, {**SOLVE, "sampling": {"top_p": 0}}, "sampling.top_p: "),
        (SolveConfig, {**SOLVE, "sampling": {"max_tokens": 0}}, "sampling.max_tokens: "),
        (SolveConfig, {**SOLVE, "sampling": {"max_tokens": 10**5000}}, "sampling.max_tokens: expected"),
        (SolveConfig, {**SOLVE, "sampling": {"top_p": 10**5000}}, "sampling.top_p: expected"),
        (SolveConfig, {**SOLVE, "samples": 0}, "samples: "),
        (SolveConfig, {**SOLVE, "max_samples": 0}, "max_samples: "),
        (SolveConfig, {**SOLVE, "ray_workers": 0}, "ray_workers: "),
        (SolveConfig, {**SOLVE, "gates": {"junk": math.nan}}, "gates.junk: "),
        (GenerationConfig, {**GENERATE, "num_questions": -1}, "num_questions: "),
        (RewriteConfig, {**REWRITE, "solvability_share": math.nan}, "solvability_share: "),
        (RewriteConfig, {**REWRITE, "server": {"timeout": math.nan}}, "server.timeout: "),
        (RewriteConfig, {**REWRITE, "server": {"max_wait": -1}}, "server.max_wait: "),
        (RewriteConfig, {**REWRITE, "server": {"price_in": -1}}, "server.price_in: "),
        (RewriteConfig, {**REWRITE, "server": {"budget": math.nan, "price_in": 1}}, "server.budget: "),
        (SelectConfig, {"input": ["a"], "min_agreement": math.nan}, "min_agreement: "),
        (
            SelectConfig,
            {"input": ["a"], "min_reward": math.nan},
            "min_reward: expected a finite number, got nan",
        ),
        (EvaluationConfig, {**EVALUATE, "grading": {"cpu_seconds": math.nan}}, "grading.cpu_seconds: "),
        (EvaluationConfig, {**EVALUATE, "grading": {"rounding_digits": -1}}, "grading.rounding_digits: "),
        (EvaluationConfig, {**EVALUATE, "grading": {"memory_mib": 0}}, "grading.memory_mib: "),
        (EvaluationConfig, {**EVALUATE, "graders": 0}, "graders: "),
        (PublishedTable, {**PUBLISHED, "rows": [{"model": "m", "scores": {"g": 101}}]}, "rows[0].scores: "),
    ],
)
def test_what_is_outside_its_range_is_refused(cls: type, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build((cls,), settings, "a.yaml")
    assert str(caught.value).startswith(f"a.yaml: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", -1e-5),
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("num_train_epochs", -3),
        ("num_train_epochs", 0),
        ("warmup_steps", -1),
        ("max_steps", -2),
        ("max_length", 0),
        ("weight_decay", math.nan),
        ("max_grad_norm", -1),
        ("adam_beta1", 1),
        ("seed", -1),
        ("seed", 2**32),
        ("lora_r", 0),
        ("lora_dropout", 1.5),
        ("neftune_noise_alpha", math.nan),
        ("lr_scheduler_kwargs", {"num_cycles": math.nan}),
        ("beta", 0),
        ("beta", math.nan),
        ("label_smoothing", 0.5),
        ("loss_weights", [1, math.nan]),
        ("sample_tokens", 0),
        ("holdout", -1),
        ("draw", 0),
        ("limit", 0),
    ],
)
def test_what_a_trainer_would_take_is_refused(key: str, value: Any) -> None:
    trl = pytest.importorskip("trl")
    from scalequest.training.dpo import PreferenceData, QPOConfig

    given = {"output_dir": "o", "use_cpu": True, "input": ["a"], "chat_format": "tinymath"}
    with pytest.raises(ConfigError, match=rf"^qpo\.yaml: {key}: expected "):
        build((PreferenceData, QPOConfig, trl.ModelConfig), {**given, key: value}, "qpo.yaml")


@pytest.mark.parametrize("word", [".nan", ".inf", "-.inf", "1e999", "-1", "1.5"])
def test_the_command_line_is_checked_too(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Demo:
        share: float = option(0.5, within=SHARE)
        name: str = option("a")

    with pytest.raises(SystemExit):
        parse(Demo, argv=["--share", word])
    assert capsys.readouterr().err.startswith(
        "error: command line: share: expected at least 0, at most 1, got "
    )
    assert parse(Demo, argv=["--name", word])[0].name == word


def test_a_range_holds_for_every_number_of_a_field_and_stands_in_the_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclass(frozen=True)
    class Demo:
        sizes: dict[str, list[int]] = option(default_factory=dict, within=COUNT)
        flag: bool | int = option(False, within=COUNT)
        free: dict[str, Any] = field(default_factory=dict)

    (tmp_path / "a.yaml").write_text("sizes: {a: [1, 0]}\n")
    with pytest.raises(ConfigError, match="sizes: expected at least 1, got 0"):
        build((Demo,), read_yaml(tmp_path / "a.yaml"))
    assert build((Demo,), {"flag": False, "free": {"n": -3}}) == (Demo(free={"n": -3}),)
    with pytest.raises(SystemExit):
        parse(Demo, argv=["--help"])
    assert "--sizes  map  (default: {}; at least 1)" in capsys.readouterr().out
