"""Question preference optimisation: DPO between two versions of a question, given the generation prefix.

TRL's DPOTrainer reads strings in a single method, `_prepare_dataset`. With that method overridden, it trains
on our token ids (tests/training/test_dpo.py checks this for the installed TRL).
"""

from __future__ import annotations

import ast
import inspect
import logging
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from operator import attrgetter
from typing import Any, ClassVar
from unittest import mock

from transformers import TrainerCallback
from transformers.integrations import is_fsdp_enabled
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import create_model_from_path

from scalequest import heartbeat
from scalequest.chat import generator_template
from scalequest.config import ConfigError
from scalequest.estimate import Passes
from scalequest.precision import ByHardware
from scalequest.training import data
from scalequest.training.identity import Identity
from scalequest.training.loading import keep_outputs_exact, make_self_loading
from scalequest.training.preparation import Prepared
from scalequest.training.settings import PreferenceData
from scalequest.training.stage import Rendering, TrainingStage

log = logging.getLogger(__name__)

QPO_VERSION = 2  # increase by hand when the same settings give other weights
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")  # the columns that TRL's collator reads
# How much policy and reference may differ before the first step: in nats, and as a share of a completion's
# log-probability. Measured on tiny-base, as means over 4 pairs: 1e-5 nats in float32, and 0.04 of 426 nats in
# bfloat16, which rounds by at most 2^-9 (0.2 %). 2 % corresponds to ten such roundings in one direction. The
# zero-filled shards that FSDP2 once left in the reference gave a difference of 350 nats.
START_NATS, START_SHARE = 0.5, 0.02


@dataclass
class QPOConfig(ByHardware, DPOConfig):
    """TRL's DPOConfig; `precompute_ref_log_probs` is true unless a LoRA adapter is trained."""

    passes: ClassVar[Passes] = Passes(sides=2, reference=True)
    precompute_ref_log_probs: bool | None = field(
        default=None,
        metadata={
            "help": "Compute the reference's log-probabilities before training, so that no second "
            "model is kept in memory. Default: yes, except with LoRA, where the reference is "
            "the model with its adapter disabled."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_losses(DPOTrainer, self.loss_type)
        check_smoothing(DPOTrainer, self.loss_type, self.label_smoothing)


@cache
def known_losses(trainer: type) -> dict[str, str]:
    """Return the loss types that a trainer of TRL computes, with its code; none if that no longer says so.

    TRL keeps no list of them: they are what the method that refuses all others compares `loss_type` with.
    """
    for function in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(trainer)))):
        if isinstance(function, ast.FunctionDef) and "Unknown loss type" in ast.unparse(function):
            return {
                str(branch.test.comparators[0].value): "\n".join(map(ast.unparse, branch.body))
                for branch in ast.walk(function)
                if isinstance(branch, ast.If)
                and isinstance(branch.test, ast.Compare)
                and ast.unparse(branch.test.left).endswith("loss_type")
                and isinstance(branch.test.ops[0], ast.Eq)
                and isinstance(branch.test.comparators[0], ast.Constant)
            }
    return {}


def check_losses(trainer: type, given: Sequence[str]) -> None:
    """Refuse a loss that TRL's trainer would refuse too, but only at the first training step.

    Raises:
        ConfigError: naming the loss types that there are.
    """
    known = known_losses(trainer)
    for loss in given:
        if known and loss not in known:
            raise ConfigError(f"loss_type: {loss!r} is not one of {', '.join(sorted(known))}")


def check_smoothing(trainer: type, given: Sequence[str], label_smoothing: float) -> None:
    """Refuse label smoothing with losses whose code does not read it, which TRL would ignore.

    Raises:
        ConfigError: naming the loss types that read it.
    """
    readers = sorted(loss for loss, code in known_losses(trainer).items() if "label_smoothing" in code)
    if label_smoothing and readers and not set(readers) & set(given):
        raise ConfigError(
            f"label_smoothing: loss_type {', '.join(given)} does not use it, so it would change "
            "nothing; those that "
            f"do are {', '.join(readers)}"
        )


class WholeReference:
    """What DPOTrainer and KTOTrainer lack: a check that policy and reference are equal at the start.

    Under FSDP, TRL loads a reference model even if its log-probabilities are precomputed. With
    `fsdp_cpu_ram_efficient_loading`, transformers then gives weights to the first process of a node and zeros
    to the others, and only the policy's weights are broadcast. Here, each process therefore loads the
    complete reference, which takes one copy in host memory per process, and frees it once its
    log-probabilities are known.
    """

    _reference: heartbeat.Work | None = None  # the pass that computes the reference's log-probabilities

    def __init__(self, model: str, args: Any, peft_config: Any = None, **options: Any) -> None:
        reference = None
        if is_fsdp_enabled() and peft_config is None:  # as in TRL, except that the weights are loaded
            with mock.patch.dict(os.environ, FSDP_CPU_RAM_EFFICIENT_LOADING="false"):
                settings = {**(args.model_init_kwargs or {}), "device_map": None}
                settings.setdefault("trust_remote_code", args.trust_remote_code)
                reference = create_model_from_path(model, **settings)
        options |= {"model": model, "ref_model": reference, "args": args, "peft_config": peft_config}
        super().__init__(**options)
        if reference is not None and args.precompute_ref_log_probs:
            self.ref_model = None

    def create_accelerator_and_postprocess(self: Any) -> None:
        """Evaluate as TRL does, with log-probabilities kept in float32."""
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        keep_outputs_exact(self.accelerator)

    def compute_loss(
        self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute TRL's loss; before the first optimizer step, check that policy and reference agree.

        Raises:
            ConfigError: they do not. It is raised on all ranks, because TRL's metrics are means over all of
                them.
        """
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        # A resumed run starts at a later step. If dropout is on, it only affects the policy.
        if self.state.global_step == 0 and self.model.training and self.args.disable_dropout:
            check_start({key: found[-1] for key, found in self._metrics["train"].items()}, self.beta)
        return loss

    def _precompute_ref_logps(self: Any, dataset: Any, name: str, batch_size: int) -> Any:
        batches = -(-len(dataset) // (batch_size * self.accelerator.num_processes))
        what = f"computing the reference's log-probabilities of the {name} rows"
        with heartbeat.doing(what, total=batches, unit="batches") as self._reference:
            return super()._precompute_ref_logps(dataset, name, batch_size)  # type: ignore[misc]

    def compute_ref_log_probs(self: Any, model: Any, inputs: Any) -> Any:
        """Compute TRL's log-probabilities, counted for the progress lines."""
        found = super().compute_ref_log_probs(model, inputs)  # type: ignore[misc]
        if self._reference is not None:
            self._reference.done += 1
        return found


class TokenDPOTrainer(WholeReference, DPOTrainer):
    """DPOTrainer for rows of token ids."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        missing = set(COLUMNS) - set(dataset.column_names)
        if missing:
            raise ConfigError(f"{dataset_name} dataset: missing columns {', '.join(sorted(missing))}")
        return dataset


def check_start(metrics: Mapping[str, float], beta: float) -> None:
    """Refuse a reference that is not the model that training starts from.

    Until the first optimizer step they are the same model, so each completion has the same log-probability
    under both, whatever the loss consists of; TRL's rewards are `beta` times the difference.

    Args:
        metrics: TRL's metrics of one batch before the first step, as means over the batches of all ranks; a
            side that has no completion in it is missing.
        beta: the beta of the loss.

    Raises:
        ConfigError: the difference is larger than rounding can explain.
    """
    if not beta:
        return
    for side in [side for side in ("chosen", "rejected") if f"rewards/{side}" in metrics]:
        apart, known = metrics[f"rewards/{side}"] / beta, metrics[f"logps/{side}"]
        limit = START_NATS + START_SHARE * abs(known)
        if abs(apart) > limit:  # False for NaN, which `StopCallback` reports
            raise ConfigError(
                f"before the first step, the log-probability of {side} questions differs by "
                f"{apart:+.1f} nats between policy and reference (limit {limit:.1f}, "
                f"log-probability {known:.1f}): the reference is not the model that training "
                "starts from, so training would compare with the wrong model; start again with "
                "--fresh, which recomputes it (under FSDP, set fsdp_cpu_ram_efficient_loading: "
                "false)"
            )


def render_pairs(identity: Identity) -> Rendering:
    """Render preference pairs; pairs whose sides are equal or do not fit are dropped."""
    args = identity.training_args
    choices = {
        "max_length": args.max_length,
        "swap_seed": args.seed if identity.args.shuffle_pairs else None,
    }
    return Rendering(partial(data.preference, **choices), ("chosen", "rejected"), choices)


def set_precomputing(identity: Identity) -> None:
    """Let the reference's log-probabilities be computed before training unless an adapter is trained.

    Raises:
        ConfigError: they were asked for where they cannot be computed.
    """
    args, lora = identity.training_args, identity.model_args.use_peft
    if args.precompute_ref_log_probs and lora and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise ConfigError(
            "precompute_ref_log_probs: under FSDP, the model of a LoRA run has no weights on "
            "most processes before training starts; remove this setting, and the reference "
            "is computed in each step with the adapter disabled"
        )
    if args.precompute_ref_log_probs is None:
        args.precompute_ref_log_probs = not lora


def dpo_trainer(prepared: Prepared) -> DPOTrainer:
    """Make the trainer, which loads the policy itself and, if needed, a reference from the same place.

    Args:
        prepared: the preference pairs.

    Raises:
        ConfigError: the model has no pad token of its own, or the reference could not be computed.
    """
    identity, args = prepared.identity, prepared.identity.training_args
    set_precomputing(identity)
    trainer = make_self_loading(TokenDPOTrainer, identity, *data.load(prepared.folder))
    trainer.add_callback(WatchChosen(args.beta, identity.args.chosen_drop, identity.main))
    return trainer


class WatchChosen(TrainerCallback):
    """Warns if DPO makes the chosen questions less likely, and the rejected ones even more so.

    In that case, generated questions degenerate.

    `rewards/chosen` is beta times the gain in log-probability of the chosen questions since the start, on the
    very rows of the batch, so unlike for `logps/chosen`, a fall does not depend on which rows are logged.
    """

    def __init__(self, beta: float, limit: float, main: bool) -> None:
        self.beta, self.limit, self.main = beta, limit, main

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Log a warning in the main process."""
        for key in ("rewards/chosen", "eval_rewards/chosen"):
            if self.main and logs and key in logs and -logs[key] / self.beta > self.limit:
                log.warning(
                    "qpo: WARNING step %d: the log-probability of chosen questions fell by %.1f nats since "
                    "the start (limit %g); they may degenerate: lower learning_rate, raise beta, or set "
                    "loss_type: [sigmoid, sft]",
                    state.global_step, -logs[key] / self.beta, self.limit,
                )  # fmt: skip


QPO = TrainingStage(
    name="qpo",
    version=QPO_VERSION,
    data=PreferenceData,
    config=QPOConfig,
    rendering_of=render_pairs,
    trainer_of=dpo_trainer,
    note="Writes questions after the bare header of a user turn (QFT, then QPO); it is "
    "not meant for answering them.",
    stop_ids_of=attrgetter("question_stop_ids"),
    chat_template_of=generator_template,
)
