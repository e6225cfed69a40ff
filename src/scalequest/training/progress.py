"""Report the progress of training: a line in the terminal and a record in the tracker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from transformers import TrainerCallback

from scalequest import heartbeat
from scalequest.tracking import Tracker

log = logging.getLogger(__name__)

_SHOWN = (
    *("loss", "eval_loss", "train_loss", "grad_norm", "learning_rate"),
    *("rewards/margins", "rewards/accuracies", "eval_rewards/accuracies"),
    *("reward", "eval_reward", "frac_reward_zero_std", "kl"),
    *("completions/mean_length", "completions/clipped_ratio"),
)


class Report(TrainerCallback):
    """Writes one line and one tracker record per log event: loss, learning rate, tokens/s, time left.

    In between, it reports the progress to `heartbeat`: steps, micro-batches, tokens, evaluated batches.
    """

    def __init__(
        self, name: str, tracker: Tracker | None, counted: Callable[[], float] = lambda: 0.0
    ) -> None:
        """Set it up for one run.

        Args:
            name: the stage's name.
            tracker: receives the records.
            counted: returns the trainer's token count, for runs whose state has none.
        """
        self.name, self.tracker, self.counted = name, tracker, counted
        self.first = self.seen = (0, 0.0, time.monotonic())  # step, tokens, time
        self.tokens_before = 0.0  # in this session
        self.accumulated, self.micro = 1, 0  # micro-batches per step, and how many of this step's are done
        self.loss = ""
        self.evaluation: heartbeat.Work | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start counting here, because earlier sessions took no time of this one."""
        self.first = self.seen = (state.global_step, state.num_input_tokens_seen, time.monotonic())
        self.tokens_before = self._tokens(state)
        heartbeat.now("training", told=partial(self.line, state))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record the number of micro-batches of the step."""
        self.accumulated = args.gradient_accumulation_steps

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count a micro-batch."""
        self.micro += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the next step's micro-batches."""
        self.micro = 0

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any
    ) -> None:
        """Count an evaluated batch."""
        if self.evaluation is None:
            total = len(eval_dataloader) if hasattr(eval_dataloader, "__len__") else None
            self.evaluation = heartbeat.Work("evaluating", total, "batches")
        self.evaluation.done += 1

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Return to training."""
        self.evaluation = None

    def line(self, state: Any, _: float) -> str:
        """Return the progress of the run, also within a step; rates and time left refer to this session."""
        if (evaluation := self.evaluation) is not None:
            return evaluation.line()
        text = f"step {state.global_step}/{state.max_steps}"
        if self.accumulated > 1:
            text += f", micro-batch {self.micro}/{self.accumulated}"
        text += self.loss
        passed = max(time.monotonic() - self.first[2], 1e-9)
        steps = state.global_step - self.first[0] + self.micro / self.accumulated
        if steps <= 0:
            return f"{text}, {passed:.0f} s"
        tokens = self._tokens(state) - self.tokens_before
        speed = f"{tokens / passed:,.0f} tokens/s" if tokens > 0 else heartbeat.rate(steps / passed, "steps")
        left = (state.max_steps - self.first[0] - steps) * passed / steps
        return f"{text}, {speed}, {heartbeat.clock(left)} left"

    def _tokens(self, state: Any) -> float:
        return float(state.num_input_tokens_seen or self.counted())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Report the logged values."""
        metrics = {key: value for key, value in (logs or {}).items() if isinstance(value, (int, float))}
        if state.num_input_tokens_seen:
            metrics["num_tokens"] = metrics.pop("num_input_tokens_seen", state.num_input_tokens_seen)
        now, tokens = time.monotonic(), metrics.get("num_tokens", self.seen[1])
        line = f"{self.name}: step {state.global_step}/{state.max_steps}"
        for key in _SHOWN:
            if key in metrics:
                line += f", {key.rpartition('/')[2]} {metrics[key]:.4g}"
        if "loss" in metrics:
            self.loss = f", loss {metrics['loss']:.4g}"
        if "loss" in metrics and now > self.seen[2]:
            metrics["tokens_per_second"] = (tokens - self.seen[1]) / (now - self.seen[2])
            steps = state.global_step - self.first[0]
            left = (state.max_steps - state.global_step) * (now - self.first[2]) / max(steps, 1)
            line += f", {metrics['tokens_per_second']:,.0f} tokens/s, {heartbeat.clock(left)} left"
            self.seen = (state.global_step, tokens, now)
        log.info(line)
        heartbeat.heard()
        if self.tracker is not None:
            self.tracker.log(metrics, step=state.global_step)


def last_metrics(history: Sequence[Mapping[str, Any]], resumed: bool) -> dict[str, float]:
    """Return the final numbers of a run: the trainer's summary, and the evaluation's if there was one.

    The trainer's `train_loss` is the mean over the steps of its own session. If the run was resumed from a
    checkpoint, the mean of all logged losses replaces it.

    Args:
        history: what the trainer logged in this session, and in earlier ones up to their checkpoints.
        resumed: whether there were earlier sessions.
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
