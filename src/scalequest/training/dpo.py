"""Question preference optimisation: DPO between two wordings of a question, given the generation prefix.

TRL's DPOTrainer reads strings in one method, `_prepare_dataset`; overriding it is the whole of what makes the
ids that it trains on ours (tests/training/test_dpo.py watches the installed TRL for that).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from scalequest.config import ConfigError, option
from scalequest.training import data
from scalequest.training.context import Run, TrainingData
from scalequest.training.loading import self_loading

log = logging.getLogger(__name__)

QPO_VERSION = 1  # raise by hand when the same settings give other weights
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")  # what TRL's collator reads


@dataclass(frozen=True)
class PreferenceData(TrainingData):
    """What QPO learns from: rows of `chosen` and `rejected`, both bare questions."""

    shuffle_pairs: bool = option(
        False, "swap the sides of about half the pairs: a control that must show no gain"
    )
    chosen_drop: float = option(
        10.0, "warn where chosen questions lose more than this many nats against the start", fingerprint=False
    )


@dataclass
class QPOConfig(DPOConfig):
    """TRL's DPOConfig, with `precompute_ref_log_probs` true unless a LoRA adapter is trained."""

    precompute_ref_log_probs: bool | None = field(
        default=None,
        metadata={
            "help": "Compute the reference's log-probabilities before training, and hold no second model. "
            "Default: yes, except with LoRA, where the adapter is turned off for the reference."
        },
    )


class TokenDPOTrainer(DPOTrainer):
    """DPOTrainer over rows that are token ids already."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        missing = set(COLUMNS) - set(dataset.column_names)
        if missing:
            raise ConfigError(f"{dataset_name} dataset: no column {', '.join(sorted(missing))}")
        return dataset


def prepare_pairs(run: Run) -> Path:
    """Render preference pairs."""
    limit, swap = run.training_args.max_length, run.training_args.seed if run.args.shuffle_pairs else None
    render = partial(data.preference, max_length=limit, swap_seed=swap)
    return run.prepare(render, ["chosen", "rejected"], max_length=limit, swap_seed=swap)


def dpo_trainer(run: Run, folder: Path) -> DPOTrainer:
    """Make the trainer; it loads the policy itself, and a reference, if it needs one, from the same place.

    Args:
        run: begun and opened.
        folder: as `prepare_pairs` left it.

    Raises:
        ConfigError: the model has no pad token of its own.
    """
    args = run.training_args
    if args.precompute_ref_log_probs is None:
        args.precompute_ref_log_probs = not run.model_args.use_peft
    trainer = self_loading(TokenDPOTrainer, run, *data.load(folder))
    trainer.add_callback(WatchChosen(args.beta, run.args.chosen_drop, run.main))
    return trainer


class WatchChosen(TrainerCallback):
    """Warns where DPO pushes the chosen questions down too (the rejected only further): junk comes of it.

    `rewards/chosen` is beta times what the chosen questions' log-probabilities gained since the start, on the
    very rows of the batch, so its fall is no accident of which rows are logged, as that of `logps/chosen`
    would be.
    """

    def __init__(self, beta: float, limit: float, main: bool) -> None:
        self.beta, self.limit, self.main = beta, limit, main

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Warn, on the main process."""
        for key in ("rewards/chosen", "eval_rewards/chosen"):
            if self.main and logs and key in logs and -logs[key] / self.beta > self.limit:
                log.warning(
                    "qpo: WARNING step %d: chosen questions lost %.1f nats since the start (limit %g); "
                    "they may degenerate: lower learning_rate, raise beta, or loss_type: [sigmoid, sft]",
                    state.global_step, -logs[key] / self.beta, self.limit,
                )  # fmt: skip
