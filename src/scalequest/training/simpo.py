"""SimPO on questions: preferences without a reference model (Meng et al., arXiv 2405.14734).

The reward of a question is the mean log-probability of its tokens, times `beta`; the chosen question's has to
exceed the rejected one's by `simpo_gamma`. TRL has it in its CPOTrainer, which reads strings in one method,
`tokenize_row`: its rows are ours already, and it adds nothing to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar

from transformers import AutoModelForCausalLM
from trl import get_peft_config
from trl.experimental.cpo import CPOConfig, CPOTrainer

from scalequest.chat import prepare_tokenizer_and_model
from scalequest.chat_template import generator_template
from scalequest.config import ConfigError
from scalequest.config.ranges import NOT_NEGATIVE, POSITIVE
from scalequest.estimate import Passes
from scalequest.precision import ByHardware
from scalequest.training import data
from scalequest.training.dpo import COLUMNS, QuestionPairs, render_pairs
from scalequest.training.loading import check_pad_token, load_model
from scalequest.training.preparation import Prepared
from scalequest.training.stage import TrainingStage

SIMPO_VERSION = 1  # raise by hand when the same settings give other weights


@dataclass
class SimPOConfig(ByHardware, CPOConfig):
    """TRL's CPOConfig, with the loss of SimPO and its paper's values for Llama-3-Base."""

    passes: ClassVar[Passes] = Passes(sides=2, whole_logits=True)
    loss_type: str = field(default="simpo", metadata={"help": "Loss; SimPO's unless you choose another."})
    beta: float = field(
        default=2.0, metadata={"help": "Factor of the mean log-probability.", "within": POSITIVE}
    )
    simpo_gamma: float = field(
        default=1.0, metadata={"help": "Margin between the rewards of the sides.", "within": NOT_NEGATIVE}
    )
    cpo_alpha: float = field(
        default=0.0, metadata={"help": "CPO's further loss, which is not offered: 0.", "within": NOT_NEGATIVE}
    )


class TokenCPOTrainer(CPOTrainer):
    """CPOTrainer over rows that are token ids already."""

    def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, Any]:
        """Add nothing to a row."""
        return {}


def labelled_sides(row: dict[str, Any]) -> dict[str, Any]:
    """Both sides of a pair with their prompt, which carries no loss, as TRL's collator reads them."""
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
        prepared: preference pairs.

    Raises:
        ConfigError: a setting is not offered, or the model has no pad token of its own.
    """
    identity, args = prepared.identity, prepared.identity.training_args
    if args.cpo_alpha or args.generate_during_eval:
        raise ConfigError(
            "cpo_alpha, generate_during_eval: not offered: the first is a mean over the tokens of a "
            "micro-batch, which the batch's spread would change, and for the second there is sample_every; "
            "leave both out"
        )
    check_pad_token(identity)
    model = load_model(AutoModelForCausalLM, identity, **(args.model_init_kwargs or {}))
    args.model_init_kwargs = None  # TRL's, for models that it loads itself
    prepare_tokenizer_and_model(model, identity.tokenizer, identity.format)
    train, holdout = (
        None if rows is None else rows.map(labelled_sides, remove_columns=list(COLUMNS))
        for rows in data.load(prepared.folder)
    )
    return TokenCPOTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=holdout,
        processing_class=identity.tokenizer,
        peft_config=get_peft_config(identity.model_args),
    )


SIMPO = TrainingStage(
    name="simpo",
    version=SIMPO_VERSION,
    data=QuestionPairs,
    config=SimPOConfig,
    rendering_of=render_pairs,
    trainer_of=simpo_trainer,
    note="Writes questions after the bare header of a user's turn (QFT, then SimPO); not for answering them.",
    stop_ids_of=attrgetter("question_stop_ids"),
    chat_template_of=generator_template,
)
