"""Training on whole questions (QFT) and on solutions (SFT): two ways to render rows, one trainer.

TRL's SFTTrainer only gets `input_ids` and `labels`: everything that it would derive from text (BOS, EOS, the
end of the prompt) is decided in `chat/formats.py`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer, get_peft_config

from scalequest.chat import generator_template, prepare_tokenizer_and_model, solver_template
from scalequest.config import ConfigError
from scalequest.estimate import Passes
from scalequest.precision import ByHardware
from scalequest.training import attention, data
from scalequest.training.cpu import plain_head
from scalequest.training.identity import Identity
from scalequest.training.loading import load_model
from scalequest.training.preparation import Prepared
from scalequest.training.settings import PAPER_MAX_LENGTH, QuestionData, SolutionData
from scalequest.training.stage import Rendering, TrainingStage

log = logging.getLogger(__name__)

QFT_VERSION = SFT_VERSION = 1  # increase by hand when the same settings give other weights


@dataclass
class PackedSFTConfig(ByHardware, SFTConfig):
    """TRL's SFTConfig with packing over shuffled rows and the precision chosen by the hardware."""

    passes: ClassVar[Passes] = Passes()
    packing: bool = field(
        default=True,
        metadata={"help": "Pack rows into sequences of max_length tokens; the loss does not change."},
    )
    shuffle_dataset: bool = field(
        default=True, metadata={"help": "Shuffle the rows with `seed` before packing."}
    )


def render_questions(identity: Identity) -> Rendering:
    """Render questions with every token as a target; with `paper_exact`, as the authors' code did."""
    exact: bool = identity.args.paper_exact
    if exact and identity.main:
        log.info("qft: paper_exact: questions are cut into chunks of %d tokens (wrapped)", PAPER_MAX_LENGTH)
    choices: dict[str, Any] = {
        "max_length": None if exact else identity.training_args.max_length,
        "repeat_eos": exact,
    }
    return Rendering(partial(data.question, **choices), ("question",), choices)


def render_solutions(identity: Identity) -> Rendering:
    """Render solutions; prompts have no loss."""
    choices = {
        "max_length": identity.training_args.max_length,
        "strip_thoughts": identity.args.thinking == "strip",
    }
    return Rendering(partial(data.solution, **choices), ("query", "response"), choices)


def qft_trainer(prepared: Prepared) -> SFTTrainer:
    """Make an `sft_trainer`; with `paper_exact`, packing works as in the authors' code, cutting questions."""
    identity = prepared.identity
    if not identity.args.paper_exact:
        return sft_trainer(prepared)
    args = identity.training_args
    args.packing, args.packing_strategy, args.max_length = True, "wrapped", PAPER_MAX_LENGTH
    _check_settings(args)
    return _trainer(prepared, _load(identity))


def sft_trainer(prepared: Prepared) -> SFTTrainer:
    """Load the model and make its trainer, with the pad token and stop tokens of the chat format.

    Args:
        prepared: rows of `input_ids` and `labels`.

    Raises:
        ConfigError: the settings would cut or re-tokenise the prepared rows.
    """
    identity, args = prepared.identity, prepared.identity.training_args
    if args.packing_strategy != "bfd":
        raise ConfigError(
            f"packing_strategy: '{args.packing_strategy}' cuts rows; only 'bfd' keeps them whole"
        )
    _check_settings(args)
    model = _load(identity)
    packed = _choose_attention(identity, model) if args.packing else None
    trainer = _trainer(prepared, model)
    if packed is not None and not packed.joins_batch:
        pad = identity.tokenizer.pad_token_id
        trainer.data_collator = PackedRows(pad, packed.name == attention.VARLEN)
        args.include_num_input_tokens_seen = "non_padding"  # TRL's own count takes a batch for one row
    return trainer


def _check_settings(args: Any) -> None:
    for key in ("eos_token", "chat_template_path", "pad_token"):
        if getattr(args, key) is not None:
            raise ConfigError(
                f"{key}: the chat format determines this; write your own format file and set "
                "chat_format to it"
            )
    if args.completion_only_loss is not None or args.assistant_only_loss:
        raise ConfigError(
            "completion_only_loss, assistant_only_loss: rows already have labels (the "
            "solution's tokens in sft.py, all tokens in qft.py); remove both settings"
        )


def _load(identity: Identity) -> Any:
    args = identity.training_args
    more = args.model_init_kwargs or {}
    args.model_init_kwargs = None  # TRL uses it for models that it loads itself
    attention.register()
    trusted = args.trust_remote_code
    model = load_model(AutoModelForCausalLM, identity, **{"trust_remote_code": trusted, **more})
    prepare_tokenizer_and_model(model, identity.tokenizer, identity.format)
    return model


def _trainer(prepared: Prepared, model: Any) -> SFTTrainer:
    identity = prepared.identity
    train, holdout = data.load(prepared.folder)
    with plain_head(identity.training_args.device.type == "cpu"):
        return SFTTrainer(
            model=model,
            args=identity.training_args,
            train_dataset=train,
            eval_dataset=holdout,
            processing_class=identity.tokenizer,
            peft_config=get_peft_config(identity.model_args),
        )


def _choose_attention(identity: Identity, model: Any) -> attention.Attention:
    """Choose the attention implementation for packed rows, and log it."""
    args = identity.training_args
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
    chosen = attention.choose(
        model,
        identity.model_args.attn_implementation,
        max_length=args.max_length,
        dtype=dtype,
        device=args.device,
    )
    if identity.main:
        log.info("%s: attention: %s over packed rows (%s)", identity.name, chosen.name, chosen.why)
    return chosen


@dataclass(frozen=True)
class PackedRows:
    """Collates packed rows into a batch with one sequence each.

    TRL's own collator joins a batch into one sequence, which only kernels for variable lengths can use: with
    a mask, the cost of attention grows with the square of batch x length, but here only with batch x length
    squared. transformers derives the block-diagonal mask from the positions at which `position_ids` restart.

    Attributes:
        pad_token_id: the id that pads rows, without loss.
        boundaries: also return the boundaries of documents, for attention without a mask (`varlen`).
    """

    pad_token_id: int
    boundaries: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor | int]:
        """Return tensors (batch, longest row): `input_ids`, `labels`, `position_ids`, and boundaries."""
        ids, labels = ([torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
        lengths = [row.get("seq_lengths", [len(row["input_ids"])]) for row in rows]  # eval_packing: false
        positions = [torch.cat([torch.arange(length) for length in each]) for each in lengths]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=data.IGNORED),
            "position_ids": pad_sequence(positions, batch_first=True),
        }
        batch["labels"][batch["position_ids"] == 0] = data.IGNORED  # no context predicts a first token
        if not self.boundaries:
            return {**batch}
        return {**batch, **attention.boundaries(lengths, batch["input_ids"].shape[1])}


QFT = TrainingStage(
    name="qft",
    version=QFT_VERSION,
    data=QuestionData,
    config=PackedSFTConfig,
    rendering_of=render_questions,
    trainer_of=qft_trainer,
    note="Writes questions after the bare header of a user turn (QFT); it is not meant for answering them.",
    stop_ids_of=attrgetter("question_stop_ids"),
    chat_template_of=generator_template,
)

SFT = TrainingStage(
    name="sft",
    version=SFT_VERSION,
    data=SolutionData,
    config=PackedSFTConfig,
    rendering_of=render_solutions,
    trainer_of=sft_trainer,
    note="Solves problems step by step (SFT on synthetic questions).",
    stop_ids_of=attrgetter("solve_stop_ids"),
    chat_template_of=solver_template,
)
