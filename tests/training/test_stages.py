"""What a training stage hands in is all that tells it from the others."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from training_support import recipe

from scalequest import estimate
from scalequest.config import build
from scalequest.training.difficulty_scorer import DIFFICULTY
from scalequest.training.dpo import QPO
from scalequest.training.grpo import GRPO
from scalequest.training.kto import KTO
from scalequest.training.orpo import ORPO
from scalequest.training.reward import REWARD
from scalequest.training.sft import QFT, SFT
from scalequest.training.simpo import SIMPO
from scalequest.training.stage import TrainingStage

STAGES = (QFT, SFT, QPO, SIMPO, KTO, ORPO, GRPO["solve"], REWARD, DIFFICULTY)
SOURCES = sorted(
    path for name in ("training/*.py", "estimate.py") for path in Path(estimate.__file__).parent.glob(name)
)
PAIRS = ("qpo", "simpo", "orpo", "reward")


@pytest.fixture(params=STAGES, ids=lambda stage: stage.name)
def stage(request: pytest.FixtureRequest) -> Any:
    """One stage after the other."""
    return request.param


def test_a_recipe_reads_the_keys_of_its_stage(stage: TrainingStage) -> None:
    described = recipe(stage.name).RECIPE
    assert described.configs() == stage.configs()
    assert (described.name, described.version, described.kind) == (stage.name, stage.version, "training")


def test_memory_is_estimated_from_what_its_config_declares(stage: TrainingStage, tmp_path: Path) -> None:
    given = {"model_name_or_path": "m", "chat_format": "tinymath", "input": ["rows"], "use_cpu": True}
    given |= {"output_dir": str(tmp_path), "per_device_train_batch_size": 3}
    if stage.rollouts:
        given |= {"num_generations": 3, "reward": ["grader"]}
    work = estimate.Work.of(*build(stage.configs(), given)[1:])
    assert work.rows == (6 if stage.name in PAIRS else 3)
    assert work.reference == (stage.name in ("qpo", "kto"))
    assert work.head != stage.scorer
    assert not work.second, "the reference is computed beforehand"


def test_a_config_without_such_a_declaration_is_no_guess() -> None:
    from types import SimpleNamespace

    with pytest.raises(AttributeError, match="passes"):
        estimate.Work.of(SimpleNamespace(beta=0.1, loss_type="dpo"), SimpleNamespace(use_peft=False))


def test_whole_logits_are_counted() -> None:
    model = estimate.Architecture(2, 64, 128, 2, 2, vocab_size=1000)
    fused, whole = (
        estimate.memory(model, estimate.Work(rows=2, length=10, whole_logits=given), estimate.Topology())
        for given in (False, True)
    )
    assert whole.activations - fused.activations == 3 * 2 * 20 * 1000
    assert fused.gathered - whole.gathered == 4 * model.embedding, "the fused head's sum of gradients"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_decided_by_a_stages_name(path: Path) -> None:
    """Nor by which fields its trainer's config happens to have."""
    names = {stage.name for stage in STAGES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            constants = {
                one.value
                for side in (node.left, *node.comparators)
                for one in ast.walk(side)
                if isinstance(one, ast.Constant)
            }
            assert not constants & names, f"{path}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            assert ast.unparse(node.args[0]) not in ("args", "training_args"), f"{path}:{node.lineno}"
