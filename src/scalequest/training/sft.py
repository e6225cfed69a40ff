"""Training on whole questions (QFT) and on solutions (SFT): two ways to render rows, one trainer.

TRL's SFTTrainer gets `input_ids` and `labels` and nothing else: everything that it would guess from text
(BOS, eos, where the prompt ends) is decided in `chat.py`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

from scalequest.chat import prepare_tokenizer_and_model
from scalequest.config import ConfigError, option
from scalequest.models import load_whole
from scalequest.precision import ByHardware
from scalequest.training import attention, data
from scalequest.training.context import Run, TrainingData
from scalequest.training.cpu import plain_head

log = logging.getLogger(__name__)

QFT_VERSION = SFT_VERSION = 1  # raise by hand when the same settings give other weights
PAPER_MAX_LENGTH = 256  # docs/method.md 1


@dataclass(frozen=True)
class SolutionData(TrainingData):
    """What SFT learns from: rows of `query` and `response`."""


@dataclass(frozen=True)
class QuestionData(TrainingData):
    """What QFT learns from: rows of `question`."""

    paper_exact: bool = option(
        False,
        f"as the authors' code: cut anywhere into chunks of {PAPER_MAX_LENGTH} tokens, two eos a question",
    )


@dataclass
class PackedSFTConfig(ByHardware, SFTConfig):
    """TRL's SFTConfig, with packing on, over shuffled rows, in the precision of the hardware."""

    packing: bool = field(
        default=True, metadata={"help": "Join rows into sequences of max_length; loss is unchanged."}
    )
    shuffle_dataset: bool = field(
        default=True, metadata={"help": "Shuffle rows, by `seed`, before they are packed."}
    )


def prepare_questions(run: Run) -> Path:
    """Render questions, every token a target. With `paper_exact`, also set packing as the authors had it."""
    exact: bool = run.args.paper_exact
    args = run.training_args
    if exact:
        if run.main:
            log.info(
                "qft: paper_exact: questions are cut into chunks of %d tokens (wrapped)", PAPER_MAX_LENGTH
            )
        args.packing, args.packing_strategy, args.max_length = True, "wrapped", PAPER_MAX_LENGTH
    limit = None if exact else args.max_length
    render = partial(data.question, max_length=limit, repeat_eos=exact)
    return run.prepare(render, ["question"], max_length=limit, repeat_eos=exact)


def prepare_solutions(run: Run) -> Path:
    """Render solutions; prompts carry no loss."""
    limit = run.training_args.max_length
    return run.prepare(partial(data.solution, max_length=limit), ["query", "response"], max_length=limit)


def sft_trainer(run: Run, folder: Path) -> SFTTrainer:
    """Load the model and make its trainer; the pad token and the stop tokens are those of the chat format.

    Args:
        run: begun and opened.
        folder: as `prepare_questions` or `prepare_solutions` left it.

    Raises:
        ConfigError: the settings would cut or re-tokenise what was prepared.
    """
    args, model_args = run.training_args, run.model_args
    exact = getattr(run.args, "paper_exact", False)
    if args.packing_strategy != "bfd" and not exact:
        raise ConfigError(
            f"packing_strategy: '{args.packing_strategy}' cuts rows; only 'bfd' keeps them whole"
        )
    for key in ("eos_token", "chat_template_path", "pad_token"):
        if getattr(args, key) is not None:
            raise ConfigError(
                f"{key}: the chat format says this; make a format file of your own and name it in chat_format"
            )
    if args.completion_only_loss is not None or args.assistant_only_loss:
        raise ConfigError(
            "completion_only_loss, assistant_only_loss: rows come with their labels, the solution's in "
            "sft.py and all of them in qft.py; leave both out"
        )
    quantization = get_quantization_config(model_args)
    extra: dict[str, Any] = args.model_init_kwargs or {}
    if quantization is not None:  # cannot be moved once it is loaded, so each rank loads it where it belongs
        extra = {"quantization_config": quantization, "device_map": {"": args.device}, **extra}
    args.model_init_kwargs = None  # TRL's, for models that it loads itself
    attention.register()
    model = load_whole(
        AutoModelForCausalLM,
        run.model,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        trust_remote_code=args.trust_remote_code,
        **extra,
    )
    run.chat = prepare_tokenizer_and_model(model, run.tokenizer, run.format)
    packed = _attention(run, model) if args.packing and not exact else None
    train, holdout = data.load(folder)
    with plain_head(args.device.type == "cpu"):
        trainer = SFTTrainer(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=holdout,
            processing_class=run.tokenizer,
            peft_config=get_peft_config(model_args),
        )
    if packed is not None and not packed.joins_batch:
        trainer.data_collator = PackedRows(run.tokenizer.pad_token_id, packed.name == attention.VARLEN)
        args.include_num_input_tokens_seen = "non_padding"  # TRL's own count takes a batch for one row
    return trainer


def _attention(run: Run, model: Any) -> attention.Attention:
    """Choose what computes attention over packed rows, and log it."""
    args = run.training_args
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
    chosen = attention.choose(
        model,
        run.model_args.attn_implementation,
        max_length=args.max_length,
        dtype=dtype,
        device=args.device,
    )
    if run.main:
        log.info("%s: attention: %s over packed rows (%s)", run.name, chosen.name, chosen.why)
    return chosen


@dataclass(frozen=True)
class PackedRows:
    """Collate packed rows, one sequence each.

    TRL's own collator joins a batch into one sequence, which only kernels for variable lengths can use: under
    a mask the cost of attention grows with the square of batch x length, here with batch x square of length.
    transformers derives the block-diagonal mask from where `position_ids` start again.

    Attributes:
        pad_token_id: fills the rows up, with no loss.
        boundaries: also tell where documents begin and end, for attention without a mask (`varlen`).
    """

    pad_token_id: int
    boundaries: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor | int]:
        """Three tensors (batch, longest row): `input_ids`, `labels`, `position_ids`; and the boundaries."""
        ids, labels = ([torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
        lengths = [row.get("seq_lengths", [len(row["input_ids"])]) for row in rows]  # eval_packing: false
        positions = [torch.cat([torch.arange(length) for length in each]) for each in lengths]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=data.IGNORED),
            "position_ids": pad_sequence(positions, batch_first=True),
        }
        batch["labels"][batch["position_ids"] == 0] = data.IGNORED  # nothing before it predicts a first token
        if not self.boundaries:
            return {**batch}
        return {**batch, **attention.boundaries(lengths, batch["input_ids"].shape[1])}
