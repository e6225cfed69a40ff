"""The identity of a training run: settings, model, data, and the fingerprint of what can change it."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from transformers.utils.logging import disable_progress_bar

from scalequest import heartbeat
from scalequest.chat import BoundFormat, ChatFormat, bind, load_format, load_tokenizer
from scalequest.config import ConfigError, fingerprint_fields, to_dict
from scalequest.precision import say_training
from scalequest.records import expand, model_fingerprint, source_fingerprint
from scalequest.stage.removal import refuse_overlap
from scalequest.training.checks import check_publishing, check_settings
from scalequest.training.cpu import keep_memory
from scalequest.training.ranks import once
from scalequest.training.stage import TrainingStage

log = logging.getLogger(__name__)

# How a batch is divided into processes and steps, and what is recomputed to save memory, changes no weight.
# The total batch size does; it is in the fingerprint as `global_batch`.
_SPREAD = ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size",
           "steps_per_generation",  # follows from the batch; generation_batch_size is in the fingerprint
           "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_offloading")  # fmt: skip
_START = ("model_name_or_path", "model_revision", "attn_implementation")  # the model has its own fingerprint
_OUTPUT = ("output_dir", "run_name", "logging_dir")  # trainer settings that are output paths


@dataclass(frozen=True)
class Identity:
    """Everything that can change a weight, made by `identify`.

    Attributes:
        stage: the kind of training.
        args: the training data settings, a `TrainingData`.
        training_args: the trainer's config.
        model_args: TRL's `ModelConfig`.
        model: the path or hub id of the model to start from.
        tokenizer: the model's tokenizer.
        format: the markup of the chat format.
        chat: the format, bound to the tokenizer before a trainer may add a pad token to it.
        inputs: the fingerprint of each source.
        fingerprint: the settings, inputs and model, in JSON form.
        publishes: whether the finished model is uploaded to the hub.
    """

    stage: TrainingStage
    args: Any
    training_args: Any
    model_args: Any
    model: str
    tokenizer: Any
    format: ChatFormat
    chat: BoundFormat
    inputs: Mapping[str, str]
    fingerprint: Mapping[str, Any]
    publishes: bool

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.stage.name

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.training_args.output_dir)

    @property
    def main(self) -> bool:
        """Whether this is the one process that writes."""
        return bool(self.training_args.process_index == 0)

    def settings(self) -> dict[str, Any]:
        """All settings in one dictionary."""
        return {**to_dict(self.args), **to_dict(self.model_args), **to_dict(self.training_args)}


def identify(stage: TrainingStage, args: Any, training_args: Any, model_args: Any) -> Identity:
    """Check the settings, set up logging, load the tokenizer, and fingerprint what can change a weight.

    All ranks must call this.

    Args:
        stage: the kind of training.
        args: a `TrainingData`.
        training_args: the trainer's config.
        model_args: TRL's `ModelConfig`.

    Raises:
        ConfigError: a setting or an input is wrong.
        StageError: `output_dir` is an input, or with `fresh` overlaps one.
    """
    if not model_args.model_name_or_path:
        raise ConfigError(
            "required key 'model_name_or_path' is missing (folder or hub id of the model to start from)"
        )
    # Settings and logging
    heartbeat.named(stage.name)
    heartbeat.now("reading the inputs")
    publishes = _take_publishing(training_args)
    check_settings(training_args, model_args)
    if training_args.device.type == "cpu":
        keep_memory()
    _set_up_logging(training_args.process_index == 0)
    # Model and data
    folder = expand(model_args.model_name_or_path)
    model = str(folder) if folder.is_dir() else model_args.model_name_or_path
    tokenizer = load_tokenizer(model, model_args.model_revision)
    chat_format = load_format(args.chat_format, model, model_args.model_revision)
    inputs, model_read = once(training_args, lambda: _read_sources(args, training_args, model_args, model))
    more_of = stage.identity_of or (lambda *_: {})
    more = once(training_args, lambda: dict(more_of(args, training_args)))
    # The fingerprint
    identity = Identity(
        stage=stage,
        args=args,
        training_args=training_args,
        model_args=model_args,
        model=model,
        tokenizer=tokenizer,
        format=chat_format,
        chat=bind(chat_format, tokenizer),
        inputs=inputs,
        fingerprint=_fingerprint_of(args, training_args, model_args, chat_format, model_read) | more,
        publishes=publishes,
    )
    if identity.main:
        _say_batch(identity)
        say_training(stage.name, training_args)
    return identity


def _take_publishing(training_args: Any) -> bool:
    """Take `push_to_hub` and the token away from the trainer; return whether to publish the model."""
    publishes: bool = training_args.push_to_hub
    training_args.push_to_hub = False  # the trainer would push each checkpoint; we push once, at the end
    if training_args.hub_token:  # the hub client reads it; the trainer would pickle it
        os.environ["HF_TOKEN"], training_args.hub_token = training_args.hub_token, None
    if publishes:
        check_publishing(training_args)
    return publishes


def _set_up_logging(main: bool) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("scalequest").setLevel(logging.INFO if main else logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # DeepSpeed's, one per call
    if not sys.stderr.isatty():  # progress bars would fill a log file
        disable_progress_bars()
        disable_progress_bar()


def _read_sources(args: Any, training_args: Any, model_args: Any, model: str) -> tuple[dict[str, str], str]:
    """Return the fingerprints of the inputs and the model, after checking that none would be overwritten."""
    trainer = {key: value for key, value in to_dict(training_args).items() if key not in _OUTPUT}
    refuse_overlap(training_args.output_dir, args.fresh, to_dict(args), to_dict(model_args), trainer)
    model_read = model_fingerprint(model, model_args.model_revision)
    return {source: source_fingerprint(source) for source in args.input}, model_read


def _fingerprint_of(
    args: Any, training_args: Any, model_args: Any, chat_format: ChatFormat, model_read: str
) -> dict[str, Any]:
    batch = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    start, trainer = fingerprint_fields(model_args), fingerprint_fields(training_args)
    return {
        **fingerprint_fields(args),
        "chat_format": dataclasses.asdict(chat_format),
        "model": model_read,
        "global_batch": batch * training_args.world_size,
        **{key: value for key, value in start.items() if key not in _START},
        **{key: value for key, value in trainer.items() if key not in _SPREAD},
    }


def _say_batch(identity: Identity) -> None:
    args = identity.training_args
    log.info(
        "%s: %d process(es) x batch %d x accumulation %d = %d sequences per step",
        identity.name, args.world_size, args.per_device_train_batch_size, args.gradient_accumulation_steps,
        identity.fingerprint["global_batch"],
    )  # fmt: skip
