"""Question preference optimisation: DPO between two wordings of a question, given the generation prefix.

TRL's DPOTrainer reads strings in one method, `_prepare_dataset`. With that one overridden, it trains on our
ids (tests/training/test_dpo.py checks that the installed TRL still works so).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar
from unittest import mock

from transformers import TrainerCallback
from transformers.integrations import is_fsdp_enabled
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import create_model_from_path

from scalequest import heartbeat
from scalequest.chat_template import generator_template
from scalequest.config import ConfigError, option
from scalequest.config.ranges import NOT_NEGATIVE
from scalequest.estimate import Passes
from scalequest.precision import ByHardware
from scalequest.training import data
from scalequest.training.identity import Identity
from scalequest.training.loading import keep_outputs_exact, make_self_loading
from scalequest.training.preparation import Prepared
from scalequest.training.stage import Rendering, TrainingData, TrainingStage

log = logging.getLogger(__name__)

QPO_VERSION = 2  # raise by hand when the same settings give other weights
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")  # what TRL's collator reads
# How far policy and reference may be apart before the first step: in nats, and as a share of a completion's
# log-probability. Measured on tiny-base, means of 4 pairs: 1e-5 nats in float32; 0.04 of 426 in bfloat16,
# which rounds by at most 2^-9 (0.2 %). 2 % are ten such roundings in one direction. The shards of zeros that
# FSDP2 once left in the reference put it 350 nats off.
START_NATS, START_SHARE = 0.5, 0.02


@dataclass(frozen=True)
class QuestionPairs(TrainingData):
    """What a preference loss learns from: rows of `chosen` and `rejected`, both bare questions."""

    shuffle_pairs: bool = option(
        False, "swap the sides of about half the pairs: a control that must show no gain"
    )


@dataclass(frozen=True)
class PreferenceData(QuestionPairs):
    """What QPO learns from."""

    chosen_drop: float = option(
        10.0,
        "warn if chosen questions lose more than this many nats since the start",
        fingerprint=False,
        within=NOT_NEGATIVE,
    )


@dataclass
class QPOConfig(ByHardware, DPOConfig):
    """TRL's DPOConfig, with `precompute_ref_log_probs` true unless a LoRA adapter is trained."""

    passes: ClassVar[Passes] = Passes(sides=2, reference=True)
    precompute_ref_log_probs: bool | None = field(
        default=None,
        metadata={
            "help": "Compute the reference's log-probabilities before training, and hold no second model. "
            "Default: yes, except with LoRA, whose adapter is turned off for the reference."
        },
    )


class TokenDPOTrainer(DPOTrainer):
    """DPOTrainer over rows that are token ids already, and that starts with policy and reference equal.

    Under FSDP, TRL loads a reference model even if its log-probabilities are computed beforehand. With
    `fsdp_cpu_ram_efficient_loading`, transformers then gives weights to the first process of a node and zeros
    to the others, and only the policy's weights are broadcast. So each process loads the whole reference
    here, which takes a copy of it in host memory per process, and forgets it once its log-probabilities are
    known.
    """

    _reference: heartbeat.Work | None = None  # the pass that computes the reference's log-probabilities

    def __init__(self, model: str, args: DPOConfig, peft_config: Any = None, **options: Any) -> None:
        reference = None
        if is_fsdp_enabled() and peft_config is None:  # as TRL, except that the weights are there
            with mock.patch.dict(os.environ, FSDP_CPU_RAM_EFFICIENT_LOADING="false"):
                settings = {**(args.model_init_kwargs or {}), "device_map": None}
                settings.setdefault("trust_remote_code", args.trust_remote_code)
                reference = create_model_from_path(model, **settings)
        super().__init__(model=model, ref_model=reference, args=args, peft_config=peft_config, **options)
        if reference is not None and args.precompute_ref_log_probs:
            self.ref_model = None

    def create_accelerator_and_postprocess(self) -> None:
        """As always; log-probabilities stay in float32."""
        super().create_accelerator_and_postprocess()
        keep_outputs_exact(self.accelerator)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss; before the first optimizer step, check that policy and reference agree.

        Raises:
            ConfigError: they do not. On all ranks, because TRL's metrics are means over all of them.
        """
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # A run that goes on starts at a later step. Dropout, if it was left on, is in the policy only.
        if self.state.global_step == 0 and self.model.training and self.args.disable_dropout:
            check_start({key: found[-1] for key, found in self._metrics["train"].items()}, self.beta)
        return loss

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        missing = set(COLUMNS) - set(dataset.column_names)
        if missing:
            raise ConfigError(f"{dataset_name} dataset: no column {', '.join(sorted(missing))}")
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        batches = -(-len(dataset) // (batch_size * self.accelerator.num_processes))
        what = f"the reference's log-probabilities of the {name} rows"
        with heartbeat.doing(what, total=batches, unit="batches") as self._reference:
            return super()._precompute_ref_logps(dataset, name, batch_size)

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """TRL's, counted for the signs of life."""
        found = super().compute_ref_log_probs(model, inputs)
        if self._reference is not None:
            self._reference.done += 1
        return found


def check_start(metrics: Mapping[str, float], beta: float) -> None:
    """Refuse a reference that is not the model that training starts from.

    Until the first optimizer step they are one model, so each completion has the same log-probability under
    both, whatever the loss is made of; TRL's rewards are `beta` times the difference.

    Args:
        metrics: TRL's, of one batch before the first step: means over the batches of all ranks.
        beta: of DPO.

    Raises:
        ConfigError: the difference is more than rounding can explain.
    """
    if not beta:
        return
    for side in ("chosen", "rejected"):
        apart, known = metrics[f"rewards/{side}"] / beta, metrics[f"logps/{side}"]
        limit = START_NATS + START_SHARE * abs(known)
        if abs(apart) > limit:  # False for NaN, which `Guard` reports
            raise ConfigError(
                f"qpo: before the first step the {side} questions differ by {apart:+.1f} nats between policy "
                f"and reference (limit {limit:.1f}, log-probability {known:.1f}): the reference is not the "
                "model that training starts from, and DPO would train against something else; start again "
                "with --fresh, which computes it anew (under FSDP, set fsdp_cpu_ram_efficient_loading: false)"
            )


def render_pairs(identity: Identity) -> Rendering:
    """Render preference pairs; a pair whose sides are equal or do not fit is dropped."""
    args = identity.training_args
    choices = {
        "max_length": args.max_length,
        "swap_seed": args.seed if identity.args.shuffle_pairs else None,
    }
    return Rendering(partial(data.preference, **choices), ("chosen", "rejected"), choices)


def dpo_trainer(prepared: Prepared) -> DPOTrainer:
    """Make the trainer; it loads the policy itself, and a reference, if it needs one, from the same place.

    Args:
        prepared: preference pairs.

    Raises:
        ConfigError: the model has no pad token of its own, or the reference could not be computed.
    """
    identity, args = prepared.identity, prepared.identity.training_args
    lora = identity.model_args.use_peft
    if args.precompute_ref_log_probs and lora and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise ConfigError(
            "precompute_ref_log_probs: under FSDP a LoRA run's model has no weights on most processes before "
            "training starts; leave it out, and the adapter is turned off for the reference at each step"
        )
    if args.precompute_ref_log_probs is None:
        args.precompute_ref_log_probs = not lora
    trainer = make_self_loading(TokenDPOTrainer, identity, *data.load(prepared.folder))
    trainer.add_callback(WatchChosen(args.beta, identity.args.chosen_drop, identity.main))
    return trainer


class WatchChosen(TrainerCallback):
    """Warns if DPO makes the chosen questions less likely, too, and the rejected ones even more so.

    Generated questions degenerate then.

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


QPO = TrainingStage(
    name="qpo",
    version=QPO_VERSION,
    data=PreferenceData,
    config=QPOConfig,
    rendering_of=render_pairs,
    trainer_of=dpo_trainer,
    note="Writes questions after the bare header of a user's turn (QFT, then QPO); not for answering them.",
    stop_ids_of=attrgetter("question_stop_ids"),
    chat_template_of=generator_template,
)
