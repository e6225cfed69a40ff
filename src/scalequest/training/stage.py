"""What one training stage is: everything in which it differs from the others, handed in as one value.

A recipe is `finishing.run_training` on a `TrainingStage`, so a new trainer needs one module with such a value
and one recipe. Nothing in this package asks for a stage's name to decide what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scalequest.chat import BoundFormat
from scalequest.config import TrainRunOptions, option, required
from scalequest.config.ranges import COUNT, NOT_NEGATIVE
from scalequest.records import Row
from scalequest.training.data import Render

if TYPE_CHECKING:
    from scalequest.training.finishing import Trained
    from scalequest.training.identity import Identity
    from scalequest.training.preparation import Prepared


@dataclass(frozen=True)
class TrainingData(TrainRunOptions):
    """What a training stage learns from."""

    input: list[str] = required(
        "stage folders, files or hub:owner/name to train on, one after another", fingerprint=False
    )
    chat_format: str = required("chat format of the model: a family, a YAML file or auto", fingerprint=False)
    columns: dict[str, str] = option(
        None, "our column names to the input's, if its rows use other names", default_factory=dict
    )
    draw: int | None = option(
        None, "train on this many rows, drawn with `seed` from all of them", within=COUNT
    )
    holdout: int = option(
        0, "rows drawn with `seed`, kept apart and evaluated at the end", within=NOT_NEGATIVE
    )
    prepare_only: bool = option(
        False, "tokenise into output_dir and stop; without a GPU, also set use_cpu", fingerprint=False
    )
    sample_every: int = option(
        0,
        "steps between sample texts that the model writes to the log; 0: none; off under ZeRO-3",
        fingerprint=False,
        within=NOT_NEGATIVE,
    )
    sample_count: int = option(4, "number of sample texts each time", fingerprint=False, within=COUNT)
    sample_tokens: int = option(
        256, "largest number of tokens of a sample text", fingerprint=False, within=COUNT
    )


@dataclass(frozen=True)
class Rendering:
    """How a stage turns rows into token ids.

    Attributes:
        render: one of `data`'s functions or one like them, with everything but row and format bound.
        needs: columns that every input row must have.
        choices: settings that change what `render` returns, as JSON can hold them.
        rows: returns the rows, if they are not the input's rows as they are.
    """

    render: Render
    needs: tuple[str, ...]
    choices: Mapping[str, Any] = field(default_factory=dict)
    rows: Callable[[], list[Row]] | None = None


@dataclass(frozen=True)
class TrainingStage:
    """One kind of training.

    Attributes:
        name: of the stage, for its receipt, log lines and card.
        version: raised by hand when the same settings give other weights.
        data: its `TrainingData`: the first of the dataclasses whose fields are the recipe's keys.
        config: the trainer's config class, the second of them; it declares `passes` for the memory estimate.
        rendering_of: says how rows become token ids.
        trainer_of: loads the model and makes the trainer of the prepared rows.
        note: one sentence for the model's card.
        stop_ids_of: ids at which the trained model's texts end; None for a scorer, which returns one number
            and writes no text.
        chat_template_of: makes the chat template that the saved model carries, which renders the ids that it
            was trained on; None, or one that returns None, if there can be none.
        measure: measures the trained model on what was held out; returns the section of the card. All ranks
            call it.
        writes: names of files that this stage alone leaves in its folder.
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

    @property
    def scorer(self) -> bool:
        """Whether it learns to give a number instead of text."""
        return self.stop_ids_of is None

    def configs(self) -> tuple[type, ...]:
        """The dataclasses whose fields are the recipe's keys."""
        from trl import ModelConfig

        return self.data, self.config, ModelConfig
