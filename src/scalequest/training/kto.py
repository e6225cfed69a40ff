"""KTO on questions: each question counts by itself as good or bad (Ethayarajh et al., arXiv 2402.01306).

Pairs are taken apart: the chosen questions are desirable and the rejected ones are not. What a question gains
is compared with the mean gain in its batch (the KL term), so that, unlike with DPO, the two sides of a pair
need not belong together. TRL reads strings in a single method, `_prepare_dataset`, which here only adds the
questions for the KL term: in each batch, the completions moved on by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar, Literal

from trl import KTOConfig, KTOTrainer

from scalequest.chat import generator_template
from scalequest.config import ConfigError
from scalequest.config.ranges import POSITIVE
from scalequest.estimate import Passes
from scalequest.precision import ByHardware
from scalequest.training import data
from scalequest.training.dpo import COLUMNS, WholeReference, render_pairs, set_precomputing
from scalequest.training.loading import make_self_loading
from scalequest.training.preparation import Prepared
from scalequest.training.settings import QuestionPairs
from scalequest.training.stage import TrainingStage

KTO_VERSION = 1  # increase by hand when the same settings give other weights
WITHOUT_KL = ("apo_zero_unpaired",)  # of TRL's losses, those without a KL term


@dataclass
class UnpairedConfig(ByHardware, KTOConfig):
    """TRL's KTOConfig; `precompute_ref_log_probs` is true unless a LoRA adapter is trained."""

    passes: ClassVar[Passes] = Passes(reference=True)
    loss_type: Literal["kto", "apo_zero_unpaired"] = field(
        default="kto", metadata={"help": "Loss function; the second is without a KL term."}
    )
    desirable_weight: float = field(
        default=1.0, metadata={"help": "Weight of the chosen questions.", "within": POSITIVE}
    )
    undesirable_weight: float = field(
        default=1.0, metadata={"help": "Weight of the rejected questions.", "within": POSITIVE}
    )
    precompute_ref_log_probs: bool | None = field(
        default=None,
        metadata={
            "help": "Compute the reference's log-probabilities before training, so that no second "
            "model is kept in "
            "memory. Default: yes, except with LoRA, where the reference is the model with its "
            "adapter disabled."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_type not in WITHOUT_KL and self.per_device_train_batch_size < 2:
            raise ConfigError(
                "per_device_train_batch_size: KTO compares a question with others of its batch, so "
                "it needs 2 or more"
            )


class TokenKTOTrainer(WholeReference, KTOTrainer):
    """KTOTrainer for rows of token ids."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        if not self.calculate_KL:
            return dataset
        return dataset.map(moved_on, batched=True, batch_size=args.per_device_train_batch_size)


def moved_on(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the completions of a batch, each in the place of the next one."""
    completions = rows["completion_ids"]
    return {"KL_completion_ids": [completions[-1], *completions[:-1]]}


def unpaired(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return both sides of each pair as rows of their own, the chosen one first."""
    pairs = list(zip(*(rows[name] for name in COLUMNS), strict=True))
    return {
        "prompt_ids": [prompt for prompt, _, _ in pairs for _ in range(2)],
        "completion_ids": [side for _, chosen, rejected in pairs for side in (chosen, rejected)],
        "label": [label for _ in pairs for label in (True, False)],
    }


def kto_trainer(prepared: Prepared) -> KTOTrainer:
    """Make the trainer, which loads the policy itself and, if needed, a reference from the same place.

    Args:
        prepared: the preference pairs; they are shuffled with `seed` once, since TRL reads rows in order.

    Raises:
        ConfigError: the model has no pad token of its own, or the reference could not be computed.
    """
    identity = prepared.identity
    set_precomputing(identity)
    train, holdout = data.load(prepared.folder)
    train = train.shuffle(seed=identity.training_args.seed)
    sides = [
        None if pairs is None else pairs.map(unpaired, batched=True, remove_columns=list(COLUMNS))
        for pairs in (train, holdout)
    ]
    return make_self_loading(TokenKTOTrainer, identity, *sides)


def batch_identity(_: Any, training_args: Any) -> dict[str, Any]:
    """Return the size of a batch of one process, over which the KL term is computed."""
    if training_args.loss_type in WITHOUT_KL:
        return {}
    return {"kl_batch": [training_args.per_device_train_batch_size, training_args.world_size]}


KTO = TrainingStage(
    name="kto",
    version=KTO_VERSION,
    data=QuestionPairs,
    config=UnpairedConfig,
    rendering_of=render_pairs,
    trainer_of=kto_trainer,
    note="Writes questions after the bare header of a user turn (QFT, then KTO); it is "
    "not meant for answering them.",
    stop_ids_of=attrgetter("question_stop_ids"),
    chat_template_of=generator_template,
    identity_of=batch_identity,
)
