"""The difficulty scorer: a regression head that predicts fail rates from the question alone.

The method is that of ScaleQuest, section 2.4, following DART-Math (Tong et al., arXiv 2407.13690): the fail
rate of a question is the share of wrong answers among a solver's samples. A base model with one output learns
it by mean squared error and then scores millions of questions without sampling. The authors published the
initial model, the loss and the input; everything else is our choice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from trl import get_peft_config

from scalequest.chat import FormatError, bare_template, prepare_tokenizer_and_model
from scalequest.config import ConfigError
from scalequest.config.ranges import COUNT
from scalequest.estimate import Passes
from scalequest.pages.cards import markdown_table
from scalequest.precision import ByHardware
from scalequest.records import Row, read_dropped, read_inputs
from scalequest.training import data
from scalequest.training.finishing import Trained
from scalequest.training.identity import Identity
from scalequest.training.loading import load_model
from scalequest.training.preparation import Prepared, draw_rows
from scalequest.training.settings import MAJORITY, FailRates
from scalequest.training.stage import Rendering, TrainingStage

log = logging.getLogger(__name__)

DIFFICULTY_VERSION = 2  # increase by hand when the same settings give other weights
BINS = 10
PLOT, PREDICTIONS = "calibration.png", "holdout.jsonl"


@dataclass
class ScorerConfig(ByHardware, TrainingArguments):
    """transformers' TrainingArguments plus a maximum question length in tokens; longer ones are dropped."""

    passes: ClassVar[Passes] = Passes(head=False)
    max_length: int = field(
        default=1024, metadata={"help": "Maximum length of a question, in tokens.", "within": COUNT}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Mixed precision; null: chosen by the hardware."}
    )


@dataclass(frozen=True)
class Calibration:
    """How well the scorer predicts held-out fail rates.

    Attributes:
        n: the number of questions.
        mse: mean squared error.
        mse_of_mean: the mean squared error of always predicting the mean, for comparison.
        spearman: rank correlation.
        bins: bins with equal numbers of predictions: count, mean prediction, mean fail rate.
    """

    n: int
    mse: float
    mse_of_mean: float
    spearman: float
    bins: list[dict[str, float]]


def fail_rate_of(row: Row, reference: str, answer_after: str) -> float:
    """Return the share of a row's samples that are wrong, or its own `fail_rate` if it has one.

    Raises:
        ConfigError: the row has neither, or its rate is outside [0, 1].
    """
    if row.get("fail_rate") is not None:
        rate = float(row["fail_rate"])
    elif reference == MAJORITY and row.get("agreement") is not None:
        rate = 1 - float(row["agreement"])
    elif row.get("answers") and row.get(reference) is not None:
        from scalequest.grading import equivalent  # imports math-verify and sympy, which takes seconds
        from scalequest.grading.extraction import reference_in

        wanted = reference_in(str(row[reference]), answer_after)
        right = [answer is not None and equivalent(answer, wanted) for answer in row["answers"]]
        rate = 1 - sum(right) / len(right)
    else:
        raise ConfigError(
            f"row {row.get('id')}: no fail_rate, and no '{reference}' to grade its answers "
            "by; sample with solve_questions.py and set `reference` to the column of the "
            "reference answers"
        )
    if not 0 <= rate <= 1:
        raise ConfigError(f"row {row.get('id')}: fail_rate {rate} is not between 0 and 1")
    return rate


def render_question(row: Row, chat: Any, *, max_length: int | None) -> dict[str, Any]:
    """Render a question for the scorer, encoded by the saved tokenizer without markup, with its fail rate.

    Raises:
        DoesNotFit: it is longer than `max_length`.
    """
    if not row["question"].strip():
        raise FormatError("empty")
    ids = list(chat.tokenizer(row["question"].strip(), truncation=False, verbose=False)["input_ids"])
    if max_length is not None and len(ids) > max_length:
        raise data.DoesNotFit
    return {"input_ids": ids, "labels": row["fail_rate"]}


def render_rates(identity: Identity) -> Rendering:
    """Grade and render rows; a question that solve_questions dropped for lack of answers has fail rate 1."""
    choices = {"max_length": identity.training_args.max_length}
    args = identity.args

    def rows() -> list[Row]:
        answered = read_inputs(args.input, "question", columns=args.columns, limit=args.limit)
        found = draw_rows(identity, [*answered, *unanswered_rows(args.input)][: args.limit])
        return [{**row, "fail_rate": fail_rate_of(row, args.reference, args.answer_after)} for row in found]

    return Rendering(partial(render_question, **choices), ("question",), choices, rows)


def unanswered_rows(sources: Sequence[str]) -> Iterator[Row]:
    """Yield the rows that a solve stage dropped because no sample had an answer: the most difficult ones."""
    for source in sources:
        for row in read_dropped(source) if ":" not in source else ():
            if row["reason"] in ("all_truncated", "no_answer"):
                yield {**row, "fail_rate": 1.0}


def scorer_trainer(prepared: Prepared) -> Trainer:
    """Load the model with a head of one output and make its trainer.

    Args:
        prepared: the questions with their fail rates.
    """
    identity, args = prepared.identity, prepared.identity.training_args
    torch.manual_seed(args.seed)  # for the weights of the new head
    head = {"num_labels": 1, "problem_type": "regression"}
    model = load_model(AutoModelForSequenceClassification, identity, new="score", **head)
    prepare_tokenizer_and_model(model, identity.tokenizer, identity.format)
    adapter = get_peft_config(identity.model_args)
    if adapter is not None:
        from peft import get_peft_model

        adapter.task_type = "SEQ_CLS"  # also trains and saves the head
        model = get_peft_model(model, adapter)
    args.include_num_input_tokens_seen = "non_padding"
    train, holdout = data.load(prepared.folder)
    return Trainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=holdout,
        data_collator=DataCollatorWithPadding(identity.tokenizer),
        processing_class=identity.tokenizer,
        compute_loss_func=squared_error,
    )


def squared_error(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Return the mean squared error over all questions of a step, however they are distributed.

    The model's own loss is a mean over one forward pass on one rank, but transformers adds it up as if it
    were a share of the step's loss, so it would be too large by the number of passes and ranks.

    Args:
        outputs: the model's outputs, with `logits` (batch, 1).
        labels: the fail rates (batch,).
        num_items_in_batch: the number of questions in the step, on all ranks.
    """
    squares = (outputs.logits.squeeze(-1).float() - labels.float()) ** 2
    return squares.mean() if num_items_in_batch is None else squares.sum() / num_items_in_batch


def measure_rates(trained: Trained) -> str:
    """Predict the held-out questions, write the predictions and the plot, and return the card's section.

    All ranks must call this. Nothing is measured if nothing was held out.
    """
    identity, trainer = trained.identity, trained.trainer
    if trainer.eval_dataset is None:
        return ""
    predicted = np.asarray(trainer.predict(trainer.eval_dataset).predictions, dtype=float).reshape(-1)
    if not identity.main:
        return ""
    held = np.asarray(trainer.eval_dataset["labels"], dtype=float)
    found = calibrate(predicted, held)
    with (identity.folder / PREDICTIONS).open("w", encoding="utf-8") as file:
        for ids, one, other in zip(trainer.eval_dataset["input_ids"], predicted, held, strict=True):
            row = {"question": identity.chat.decode(ids), "fail_rate": float(other), "predicted": float(one)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    draw(found, predicted, held, identity.folder / PLOT)
    log.info(
        "difficulty: %d held out: MSE %.4f (predicting the mean: %.4f), Spearman %.3f",
        found.n, found.mse, found.mse_of_mean, found.spearman,
    )  # fmt: skip
    if (tracker := trained.run.tracker) is not None:
        tracker.log({f"holdout/{key}": value for key, value in asdict(found).items() if key != "bins"})
    return section_of(found)


def section_of(found: Calibration) -> str:
    """Return the card's section on a calibration."""
    return "\n".join(
        [
            f"On {found.n} held-out questions: mean squared error {found.mse:.4f} (always predicting the "
            f"mean: {found.mse_of_mean:.4f}), Spearman {found.spearman:.3f}.",
            "", f"![calibration]({PLOT})", "",
            *markdown_table(found.bins, "questions", "predicted", "fail rate"),
        ]
    )  # fmt: skip


def calibrate(predicted: Any, held: Any) -> Calibration:
    """Compare predictions with fail rates, given as two arrays of equal length."""
    order = np.argsort(predicted, kind="stable")
    bins = [
        {
            "questions": len(part),
            "predicted": float(predicted[part].mean()),
            "fail rate": float(held[part].mean()),
        }
        for part in np.array_split(order, min(BINS, len(order)))
    ]
    rank = spearmanr(predicted, held).statistic if len(set(held)) > 1 and len(set(predicted)) > 1 else 0.0
    return Calibration(
        len(held), float(((predicted - held) ** 2).mean()), float(held.var()), float(rank), bins
    )


def draw(found: Calibration, predicted: Any, held: Any, path: Path) -> None:
    """Plot fail rates against predictions: a dot per question, a circle per tenth of the questions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot(predicted, held, ".", color="0.6", markersize=3, alpha=0.5)
    axes.plot([one["predicted"] for one in found.bins], [one["fail rate"] for one in found.bins], "o-")
    axes.set(xlabel="predicted", ylabel="fail rate", title=f"{found.n} held-out questions")
    figure.savefig(path, dpi=120, metadata={"Software": None})


DIFFICULTY = TrainingStage(
    name="difficulty",
    version=DIFFICULTY_VERSION,
    data=FailRates,
    config=ScorerConfig,
    rendering_of=render_rates,
    trainer_of=scorer_trainer,
    note=(
        "Predicts how often a solver fails at a question: near 0 for easy questions, "
        "near 1 for difficult ones."
    ),
    chat_template_of=bare_template,
    measure=measure_rates,
    writes=(PLOT, PREDICTIONS),
)
