"""ORPO on questions: likelihood of the chosen question and odds against the rejected one (arXiv 2403.07691).

The loss is the negative mean log-probability of the chosen question's tokens minus `beta` times the
log-sigmoid of the log odds ratio of the two sides (Hong et al., equations 6 and 7). There is no reference
model. TRL implements it in its ORPOTrainer, which averages the first term over the tokens of a micro-batch,
prompts included, so that splitting the batch would change the loss. Here, it is the mean over pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from scalequest.chat import generator_template
from scalequest.config import ConfigError
from scalequest.estimate import Passes
from scalequest.precision import ByHardware
from scalequest.training.dpo import render_pairs
from scalequest.training.preparation import Prepared
from scalequest.training.settings import QuestionPairs
from scalequest.training.simpo import without_reference
from scalequest.training.stage import TrainingStage

ORPO_VERSION = 1  # increase by hand when the same settings give other weights


@dataclass
class OddsRatioConfig(ByHardware, ORPOConfig):
    """TRL's ORPOConfig; `beta` is the paper's lambda."""

    passes: ClassVar[Passes] = Passes(sides=2, whole_logits=True)


class TokenORPOTrainer(ORPOTrainer):
    """ORPOTrainer for rows that already are token ids."""

    def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, Any]:
        """Return the row unchanged."""
        return {}

    def concatenated_forward(self, model: Any, batch: Any) -> tuple[Any, ...]:
        """Compute TRL's outputs, with the first term of the loss as a mean over pairs."""
        chosen, *others = super().concatenated_forward(model, batch)
        others[3] = -chosen.mean()
        return chosen, *others


def orpo_trainer(prepared: Prepared) -> ORPOTrainer:
    """Load the model and make its trainer.

    Args:
        prepared: the preference pairs.

    Raises:
        ConfigError: a setting is not supported, or the model has no pad token of its own.
    """
    if prepared.identity.training_args.generate_during_eval:
        raise ConfigError(
            "generate_during_eval: not supported, sample_every replaces it; remove this setting"
        )
    return without_reference(TokenORPOTrainer, prepared)


ORPO = TrainingStage(
    name="orpo",
    version=ORPO_VERSION,
    data=QuestionPairs,
    config=OddsRatioConfig,
    rendering_of=render_pairs,
    trainer_of=orpo_trainer,
    note="Writes questions after the bare header of a user turn (ORPO); it is not meant for answering them.",
    stop_ids_of=attrgetter("question_stop_ids"),
    chat_template_of=generator_template,
)
