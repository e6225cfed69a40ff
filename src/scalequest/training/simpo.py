"""SimPO on questions: preferences without a reference model (Meng et al., arXiv 2405.14734).

The reward of a question is the mean log-probability of its tokens times `beta`; the reward of the chosen
question should exceed that of the rejected one by `simpo_gamma`. TRL implements this in its CPOTrainer, which
reads strings in a single method, `tokenize_row`. Our rows already have token ids, so this method adds
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar, TypeVar

from transformers import AutoModelForCausalLM
from trl import get_peft_config
from trl.experimental.cpo import CPOConfig, CPOTrainer

from scalequest.chat import generator_template, prepare_tokenizer_and_model
from scalequest.config import ConfigError
from scalequest.config.ranges import NOT_NEGATIVE, POSITIVE
from scalequest.estimate import Passes
from scalequest.precision import ByHardware
from scalequest.training import data
from scalequest.training.dpo import COLUMNS, check_losses, render_pairs
from scalequest.training.loading import check_pad_token, load_model
from scalequest.training.preparation import Prepared
from scalequest.training.settings import QuestionPairs
from scalequest.training.stage import TrainingStage

T = TypeVar("T")
SIMPO_VERSION = 1  # increase by hand when the same settings give other weights


@dataclass
class SimPOConfig(ByHardware, CPOConfig):
    """TRL's CPOConfig with SimPO's loss and its paper's values for Llama-3-Base."""

    passes: ClassVar[Passes] = Passes(sides=2, whole_logits=True)
    loss_type: str = field(default="simpo", metadata={"help": "Loss function; SimPO's by default."})
    beta: float = field(
        default=2.0, metadata={"help": "Factor of the mean log-probability.", "within": POSITIVE}
    )
    simpo_gamma: float = field(
        default=1.0,
        metadata={"help": "Target margin between the rewards of the two sides.", "within": NOT_NEGATIVE},
    )
    cpo_alpha: float = field(
        default=0.0,
        metadata={
            "help": "Weight of CPO's additional loss; must be 0, because it is not supported.",
            "within": NOT_NEGATIVE,
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_losses(CPOTrainer, [self.loss_type])


class TokenCPOTrainer(CPOTrainer):
    """CPOTrainer for rows that already are token ids."""

    def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, Any]:
        """Return the row unchanged."""
        return {}


def labelled_sides(row: dict[str, Any]) -> dict[str, Any]:
    """Return both sides of a pair with their prompt, which has no loss, as TRL's collator reads them."""
    made: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        completion = row[f"{side}_ids"]
        made[f"{side}_input_ids"] = ids = [*row["prompt_ids"], *completion]
        made[f"{side}_attention_mask"] = [1] * len(ids)
        made[f"{side}_labels"] = [data.IGNORED] * len(row["prompt_ids"]) + completion
    return made


def simpo_trainer(prepared: Prepared) -> CPOTrainer:
    """Load the model and make its trainer.

    Args:
        prepared: the preference pairs.

    Raises:
        ConfigError: a setting is not supported, or the model has no pad token of its own.
    """
    args = prepared.identity.training_args
    if args.cpo_alpha or args.generate_during_eval:
        raise ConfigError(
            "cpo_alpha, generate_during_eval: not supported: the former averages over the "
            "tokens of a micro-batch, so splitting the batch would change it, and "
            "sample_every replaces the latter; remove both settings"
        )
    return without_reference(TokenCPOTrainer, prepared)


def without_reference(trainer: type[T], prepared: Prepared) -> T:
    """Load the model and make a trainer of TRL's that reads both sides of a pair and has no reference.

    Args:
        trainer: `CPOTrainer` or `ORPOTrainer` for rows that already are token ids.
        prepared: the preference pairs.

    Raises:
        ConfigError: the model has no pad token of its own, or cannot be loaded.
    """
    identity, args = prepared.identity, prepared.identity.training_args
    check_pad_token(identity)
    model = load_model(AutoModelForCausalLM, identity, **(args.model_init_kwargs or {}))
    args.model_init_kwargs = None  # TRL uses it for models that it loads itself
    prepare_tokenizer_and_model(model, identity.tokenizer, identity.format)
    train, holdout = (
        None if rows is None else rows.map(labelled_sides, remove_columns=list(COLUMNS))
        for rows in data.load(prepared.folder)
    )
    options: dict[str, Any] = {
        "model": model,
        "args": args,
        "train_dataset": train,
        "eval_dataset": holdout,
        "processing_class": identity.tokenizer,
        "peft_config": get_peft_config(identity.model_args),
    }
    return trainer(**options)


SIMPO = TrainingStage(
    name="simpo",
    version=SIMPO_VERSION,
    data=QuestionPairs,
    config=SimPOConfig,
    rendering_of=render_pairs,
    trainer_of=simpo_trainer,
    note="Writes questions after the bare header of a user turn (QFT, then SimPO); it is "
    "not meant for answering them.",
    stop_ids_of=attrgetter("question_stop_ids"),
    chat_template_of=generator_template,
)
