"""What is said while a run trains: a line in the terminal and a record in the tracker."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from scalequest.tracking import Tracker

log = logging.getLogger(__name__)

_SHOWN = (
    *("loss", "eval_loss", "train_loss", "grad_norm", "learning_rate"),
    *("rewards/margins", "rewards/accuracies", "eval_rewards/accuracies"),
)


class Report(TrainerCallback):
    """One line and one tracker record a log: loss, learning rate, tokens a second, time left."""

    def __init__(self, name: str, tracker: Tracker | None) -> None:
        self.name, self.tracker = name, tracker
        self.first = self.seen = (0, 0.0, time.monotonic())  # step, tokens, time

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count from here on: what earlier sessions did took none of this one's time."""
        self.first = self.seen = (state.global_step, state.num_input_tokens_seen, time.monotonic())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Report."""
        metrics = {key: value for key, value in (logs or {}).items() if isinstance(value, (int, float))}
        if state.num_input_tokens_seen:
            metrics["num_tokens"] = metrics.pop("num_input_tokens_seen", state.num_input_tokens_seen)
        now, tokens = time.monotonic(), metrics.get("num_tokens", self.seen[1])
        line = f"{self.name}: step {state.global_step}/{state.max_steps}"
        for key in _SHOWN:
            if key in metrics:
                line += f", {key.rpartition('/')[2]} {metrics[key]:.4g}"
        if "loss" in metrics and now > self.seen[2]:
            metrics["tokens_per_second"] = (tokens - self.seen[1]) / (now - self.seen[2])
            steps = state.global_step - self.first[0]
            left = (state.max_steps - state.global_step) * (now - self.first[2]) / max(steps, 1)
            line += f", {metrics['tokens_per_second']:,.0f} tokens/s, {_clock(left)} left"
            self.seen = (state.global_step, tokens, now)
        log.info(line)
        if self.tracker is not None:
            self.tracker.log(metrics, step=state.global_step)


def last_metrics(history: Sequence[Mapping[str, Any]], resumed: bool) -> dict[str, float]:
    """What a run ended with: the trainer's summary, and the evaluation's where there was one.

    The trainer's `train_loss` is the mean of the steps of its own session: of a run that went on from a
    checkpoint it leaves out the rest. There, it is the mean of all losses that were logged.

    Args:
        history: what the trainer logged, in all sessions up to the checkpoints that were gone on from.
        resumed: whether there were several.
    """
    found = {
        key: float(value)
        for entry in history
        if "train_loss" in entry or "eval_loss" in entry
        for key, value in entry.items()
        if isinstance(value, (int, float))
    }
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    if resumed and losses:
        starts = [0, *(step for step, _ in losses)]
        total = sum((step - start) * loss for (step, loss), start in zip(losses, starts, strict=False))
        found["train_loss"] = total / losses[-1][0]
    return found


def _clock(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
