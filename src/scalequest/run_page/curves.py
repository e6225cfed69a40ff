"""Training curves, from the metrics that the trainers logged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_POINTS = 1_000
# The metrics that are shown first; the others follow in alphabetical order
FIRST = (
    "loss", "eval_loss", "rewards/accuracies", "rewards/margins", "mean_token_accuracy", "entropy",
    "grad_norm", "learning_rate", "rewards/chosen", "rewards/rejected", "tokens_per_second",
)  # fmt: skip
_COUNTERS = {"time", "step", "epoch", "num_tokens", "total_flos", "train_loss", "num_input_tokens_seen"}
_OF_THE_WHOLE = ("runtime", "_per_second")  # they describe an evaluation or the whole training, not a step


@dataclass(frozen=True)
class Curve:
    """A metric over steps; `of` is the number of logged points, of which some may be left out."""

    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    of: int


def read_curves(folder: Path) -> list[Curve]:
    """Return the curves of a training stage that have at least two points; a repeated step counts once."""
    points: dict[str, dict[int, float]] = {}
    for event in _events(folder / "metrics.jsonl"):
        step = event.get("step")
        if isinstance(step, int):
            for metric, value in event.items():
                if _is_curve(metric) and isinstance(value, int | float) and math.isfinite(value):
                    points.setdefault(metric, {})[step] = float(value)
    found = {metric: dict(sorted(of.items())) for metric, of in points.items() if len(of) > 1}
    order = sorted(found, key=lambda metric: (_place(metric), metric))
    return [_thinned(metric, found[metric]) for metric in order]


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the events of a file whose last line may be incomplete because its process was killed."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" not in event:
            yield event


def _is_curve(metric: str) -> bool:
    ours = metric == "tokens_per_second"
    return metric not in _COUNTERS and (ours or not metric.endswith(_OF_THE_WHOLE))


def _place(metric: str) -> int:
    return FIRST.index(metric) if metric in FIRST else len(FIRST)


def _thinned(metric: str, points: Mapping[int, float]) -> Curve:
    every = math.ceil(len(points) / MOST_POINTS)
    steps = list(points)
    shown = sorted({*steps[::every], steps[-1]})
    rounded = tuple(float(f"{points[step]:.6g}") for step in shown)
    return Curve(metric, tuple(shown), rounded, len(points))
