"""What several of these tests do."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(name: str) -> Any:
    """The module of a recipe script."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(folder: Path) -> dict[str, Any]:
    """All tensors of a saved model."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    """Whether two saved models are bit-equal."""
    import torch

    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def write_yaml(path: Path, settings: Mapping[str, Any]) -> Path:
    """Settings as a YAML file (JSON is YAML)."""
    path.write_text(json.dumps(settings))
    return path


def logged(out: Path) -> list[dict[str, Any]]:
    """Numbers that a run reported."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "step" in record]
