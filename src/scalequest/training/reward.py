"""A reward model that learns from sampled solutions which of two is correct (TRL's RewardTrainer).

The pairs come from the output of solve_questions.py: a correct and a wrong solution of the same question,
distinguished by a reference answer, or by the majority answer if that is clear. The pipeline therefore needs
no published reward model: the solver's own samples train the scorer that then chooses among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, ClassVar

from trl import RewardConfig, RewardTrainer

from scalequest.chat import BoundFormat, FormatError, solver_template
from scalequest.config import ConfigError
from scalequest.estimate import Passes
from scalequest.precision import ByHardware
from scalequest.records import Row
from scalequest.training import data
from scalequest.training.finishing import Trained
from scalequest.training.identity import Identity
from scalequest.training.loading import make_self_loading
from scalequest.training.preparation import Prepared, read_rows
from scalequest.training.settings import MAJORITY, SolutionPairs
from scalequest.training.stage import Rendering, TrainingStage

REWARD_VERSION = 1  # increase by hand when the same settings give other weights


@dataclass
class RewardModelConfig(ByHardware, RewardConfig):
    """TRL's RewardConfig, with the precision chosen by the hardware."""

    passes: ClassVar[Passes] = Passes(sides=2, head=False)


def pairs_of(row: Row, args: SolutionPairs) -> list[Row]:
    """Pair correct with wrong solutions of a question; one row without `chosen` if there are no pairs.

    Raises:
        ConfigError: the row has no reference.
    """
    from scalequest.grading import equivalent, majority  # imports math-verify and sympy, which takes seconds
    from scalequest.grading.extraction import reference_in

    nothing = [{"id": row["id"], "question": row["question"], "chosen": None, "rejected": None}]
    samples = list(zip(row["responses"], row["answers"], row["finish_reasons"], strict=True))
    if args.reference == MAJORITY:
        wanted, agreement = majority(row["answers"])
        if wanted is None or agreement < args.min_agreement:
            return nothing
    elif row.get(args.reference) is None:
        raise ConfigError(
            f"row {row['id']}: no '{args.reference}'; set `reference` to the column of the reference answers"
        )
    else:
        wanted = reference_in(str(row[args.reference]), args.answer_after)
    sides: tuple[list[str], list[str]] = ([], [])
    for response, answer, end in samples:
        if end == "stop":
            sides[answer is None or not equivalent(answer, wanted)].append(response)
    made = [
        {"id": f"{row['id']}/{n}", "question": row["question"], "chosen": right, "rejected": wrong}
        for n, (right, wrong) in enumerate(product(dict.fromkeys(sides[0]), dict.fromkeys(sides[1])))
    ]
    return made[: args.pairs_per_question] or nothing


def render_pair(row: Row, chat: BoundFormat, *, max_length: int | None) -> dict[str, Any]:
    """Render a pair: the prompt, and the completion of each side.

    Raises:
        FormatError: there is no pair, or the chat format cannot represent a text.
        DoesNotFit: a side is longer than `max_length`.
    """
    if row["chosen"] is None:
        raise FormatError("no_pair")
    prompt, chosen = chat.solve_ids(row["question"], row["chosen"])
    _, rejected = chat.solve_ids(row["question"], row["rejected"])
    if max_length is not None and len(prompt) + max(len(chosen), len(rejected)) > max_length:
        raise data.DoesNotFit
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def render_solution_pairs(identity: Identity) -> Rendering:
    """Make the pairs and render them."""
    choices = {"max_length": identity.training_args.max_length}
    needs = ("question", "responses", "answers", "finish_reasons")

    def rows() -> list[Row]:
        return [pair for row in read_rows(identity, needs) for pair in pairs_of(row, identity.args)]

    return Rendering(partial(render_pair, **choices), needs, choices, rows)


def sides_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return both sides with their prompt, in the form that TRL's collator reads."""
    return {side: [*row["prompt_ids"], *row[side]] for side in ("chosen_ids", "rejected_ids")}


def reward_trainer(prepared: Prepared) -> RewardTrainer:
    """Make the trainer, which loads the model itself, with a head of one output.

    Args:
        prepared: the pairs of solutions.

    Raises:
        ConfigError: the model has no pad token of its own.
    """
    train, holdout = (
        None if rows is None else rows.map(sides_of, remove_columns=["prompt_ids"])
        for rows in data.load(prepared.folder)
    )
    return make_self_loading(RewardTrainer, prepared.identity, train, holdout)


def measure_pairs(trained: Trained) -> str:
    """Return accuracy and margin on the held-out pairs, as evaluated by `train`, for the card."""
    trainer = trained.trainer
    if trainer.eval_dataset is None:
        return ""
    found = trainer.state.log_history[-1]
    return (
        f"On {len(trainer.eval_dataset)} held-out pairs, the correct solution has the "
        f"higher reward in {100 * found['eval_accuracy']:.1f} %, by "
        f"{found['eval_margin']:.3f} on average."
    )


REWARD = TrainingStage(
    name="reward",
    version=REWARD_VERSION,
    data=SolutionPairs,
    config=RewardModelConfig,
    rendering_of=render_solution_pairs,
    trainer_of=reward_trainer,
    note="Scores solutions: of two solutions to a question, the one with the higher score "
    "is more likely to be correct.",
    chat_template_of=solver_template,
    measure=measure_pairs,
)
