"""A training stage as a value: everything in which it differs from other training stages.

A recipe is `finishing.run_training` on a `TrainingStage`, so a new trainer needs one module with such a value
and one recipe. Nothing in this package decides what to do by the name of a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scalequest.chat import BoundFormat
from scalequest.records import Row
from scalequest.training.data import Render
from scalequest.training.settings import TrainingData

if TYPE_CHECKING:
    from scalequest.training.finishing import Trained
    from scalequest.training.identity import Identity
    from scalequest.training.preparation import Prepared


@dataclass(frozen=True)
class Rendering:
    """How a stage turns rows into token ids.

    Attributes:
        render: one of `data`'s functions, or a similar one, with all arguments except row and format bound.
        needs: the columns that every input row must have.
        choices: the settings that change what `render` returns, in JSON form.
        rows: returns the rows, if they are not the unchanged input rows.
    """

    render: Render
    needs: tuple[str, ...]
    choices: Mapping[str, Any] = field(default_factory=dict)
    rows: Callable[[], list[Row]] | None = None


@dataclass(frozen=True)
class TrainingStage:
    """One kind of training.

    Attributes:
        name: the stage's name, for its receipt, log lines and card.
        version: increased by hand when the same settings give other weights.
        data: its `TrainingData`, the first of the dataclasses whose fields are the recipe's keys.
        config: the trainer's config class, the second of them; its `passes` is used for the memory estimate.
        rendering_of: returns how rows become token ids.
        trainer_of: loads the model and makes the trainer for the prepared rows.
        note: one sentence for the model's card.
        stop_ids_of: returns the ids that end the trained model's texts; None for a scorer, which returns a
            number and writes no text.
        chat_template_of: returns the chat template of the saved model, which renders the ids that it was
            trained on; None, or one that returns None, if there can be none.
        measure: evaluates the trained model on the held-out rows and returns a section for the card. All
            ranks call it.
        writes: the names of files that only this stage leaves in its folder.
        identity_of: returns what can change a weight in addition to the settings, the inputs and the model,
            from the stage's `TrainingData` and the trainer's config, in JSON form.
        rollouts: whether the model is trained on texts that it writes itself, so that the input rows do not
            tell how many tokens that takes.
    """

    name: str
    version: int
    data: type[TrainingData]
    config: type
    rendering_of: Callable[[Identity], Rendering]
    trainer_of: Callable[[Prepared], Any]
    note: str
    stop_ids_of: Callable[[BoundFormat], Sequence[int]] | None = None
    chat_template_of: Callable[[BoundFormat], str | None] | None = None
    measure: Callable[[Trained], str] | None = None
    writes: tuple[str, ...] = ()
    identity_of: Callable[[Any, Any], Mapping[str, Any]] | None = None
    rollouts: bool = False

    @property
    def scorer(self) -> bool:
        """Return whether the model learns to return a number instead of text."""
        return self.stop_ids_of is None

    def configs(self) -> tuple[type, ...]:
        """Return the dataclasses whose fields are the recipe's keys."""
        from trl import ModelConfig

        return self.data, self.config, ModelConfig
