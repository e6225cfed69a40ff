"""What the training recipes share: opening, preparing, resuming, reporting, saving.

A recipe calls `begin`, `Run.prepare`, `Run.open`, builds its trainer, and ends with `Run.train` and
`Run.save`. All ranks call all of them; what only one process may do is decided here. `output_dir` has to lie
where all nodes see it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.utils import broadcast_object_list
from datasets import disable_progress_bars
from transformers import AutoConfig, GenerationConfig, PrinterCallback, ProgressCallback, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.logging import disable_progress_bar

from scalequest import estimate
from scalequest.chat import BoundFormat, ChatFormat, bind, load_format, load_tokenizer
from scalequest.config import ConfigError, TrainRunOptions, fingerprint_fields, option, required, to_dict
from scalequest.records import Row, expand, model_fingerprint, read_inputs, source_fingerprint
from scalequest.shards import Stage, StageError
from scalequest.tracking import Tracker
from scalequest.training import data
from scalequest.training.cpu import keep_memory
from scalequest.training.safety import REQUEUE, SEAL, STOPPED, Guard, Seal, whole_checkpoint
from scalequest.training.samples import ShowSamples
from scalequest.training.saving import check_model, check_publishing, merge_adapter, model_card, publish

log = logging.getLogger(__name__)

PREPARED = "prepared"
# How a batch is spread over processes and steps, and what is computed twice to save memory, changes no
# weight; its whole size does, and stands in the fingerprint as `global_batch`.
_SPREAD = ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size",
           "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_offloading")  # fmt: skip


@dataclass(frozen=True)
class TrainingData(TrainRunOptions):
    """What a training stage learns from."""

    input: list[str] = required(
        "stage folders, files or hub:owner/name to train on, one after another", fingerprint=False
    )
    chat_format: str = required("chat format of the model: a family or a YAML file", fingerprint=False)
    columns: dict[str, str] = option(
        None, "our column names to theirs, where a row has theirs", default_factory=dict
    )
    draw: int | None = option(None, "train on this many rows, drawn with `seed` from all of them")
    holdout: int = option(0, "rows drawn with `seed`, kept apart and evaluated at the end")
    prepare_only: bool = option(
        False, "tokenise into output_dir and stop; without a GPU give use_cpu, too", fingerprint=False
    )
    prepare_processes: int = option(1, "processes that tokenise", fingerprint=False)
    sample_every: int = option(
        0,
        "steps between texts that the model writes for the log; 0: none; off under ZeRO-3",
        fingerprint=False,
    )
    sample_count: int = option(4, "texts each time", fingerprint=False)
    sample_tokens: int = option(256, "most tokens of each", fingerprint=False)


@dataclass
class Run:
    """One training stage on its way. Made by `begin`.

    Attributes:
        name: of the stage.
        version: of the stage, raised by hand when the same settings give other weights.
        args: what to learn from, a `TrainingData`.
        training_args: TRL's config.
        model_args: TRL's `ModelConfig`.
        model: path or hub id of the model to start from.
        tokenizer: its tokenizer.
        format: markup of its chat format.
        chat: that, bound to the tokenizer.
        inputs: source to fingerprint.
        identity: everything that can change a weight, as JSON can hold it.
        main: whether this is the one process that writes.
        scorer: it learns to give a number, not text.
    """

    name: str
    version: int
    args: Any
    training_args: Any
    model_args: Any
    model: str
    tokenizer: Any
    format: ChatFormat
    chat: BoundFormat
    inputs: dict[str, str]
    identity: dict[str, Any]
    main: bool
    scorer: bool = False
    stage: Stage | None = None
    tracker: Tracker | None = None
    counts: data.Counts | None = None
    prepared: Path | None = None
    publishes: bool = False
    started: float = field(default_factory=time.monotonic)
    earlier: float = 0.0  # seconds of the sessions that this one goes on from

    @property
    def folder(self) -> Path:
        """Where the model goes, with everything about it."""
        return Path(self.training_args.output_dir)

    @property
    def seconds(self) -> float:
        """Seconds spent, earlier sessions up to the checkpoint included."""
        return self.earlier + time.monotonic() - self.started

    def rows(self, needs: Sequence[str]) -> list[Row]:
        """The input's rows, all of them or as many as `draw` says, in order.

        Raises:
            ConfigError: a row lacks a column, or there are fewer rows than are to be drawn.
        """
        args = self.args
        rows = read_inputs(args.input, *needs, columns=args.columns, limit=args.limit)
        if args.draw is None:
            return rows
        if args.draw > len(rows):
            raise ConfigError(f"draw: {args.draw} rows are to be drawn from {len(rows)}")
        drawn = random.Random(self.training_args.seed).sample(range(len(rows)), args.draw)
        return [rows[number] for number in sorted(drawn)]

    def prepare(
        self,
        render: data.Render,
        needs: Sequence[str],
        *,
        rows: Callable[[], list[Row]] | None = None,
        **choices: Any,
    ) -> Path:
        """Tokenise the inputs, unless they lie there already, and return the folder for `data.load`.

        Args:
            render: one of `data`'s functions, everything but row and format bound.
            needs: columns that every row must have.
            rows: gives the rows, where they are not the input's as they are.
            choices: settings that change what `render` makes; with inputs, model and format they name it.
        """
        made_of = [
            self.name,
            self.version,
            list(self.inputs.values()),
            fingerprint_fields(self.args),
            choices,
        ]
        made_of += [self.identity["chat_format"], self.identity["model"], self.training_args.seed]
        key = json.dumps(made_of, sort_keys=True)
        folder = self.folder / PREPARED / hashlib.sha256(key.encode()).hexdigest()[:16]
        failed: list[Exception | None] = [None]
        with self.training_args.main_process_first(local=False, desc="tokenising"):
            if self.main and not (folder / "counts.json").is_file():
                try:
                    data.prepare(
                        folder,
                        rows() if rows else self.rows(needs),
                        render,
                        self.chat,
                        holdout=self.args.holdout,
                        seed=self.training_args.seed,
                        processes=self.args.prepare_processes,
                    )
                except (ConfigError, StageError) as error:
                    failed = [error]
        if self.training_args.world_size > 1:
            broadcast_object_list(failed, from_process=0)  # or the others would look for what is not there
        if failed[0] is not None:
            raise failed[0]
        self.prepared = folder
        self.counts = counts = data.counts_of(folder)
        if self.main:
            first = data.load(folder)[0][0]
            log.info(
                "%s: %d rows in, %d to train on (%d tokens, %d with loss), %d held out, dropped %s",
                self.name, counts.rows_in, counts.train, counts.tokens, counts.targets, counts.holdout,
                counts.dropped or "none",
            )  # fmt: skip
            log.info("%s: first row, ⟦no loss⟧:\n%s", self.name, data.shown(first, self.chat))
        return folder

    def open(self) -> bool:
        """Open the stage's folder; False where it is finished and there is nothing to do.

        Raises:
            StageError: the folder is another run's, or was made with other settings.
        """
        settings = {**to_dict(self.args), **to_dict(self.model_args), **to_dict(self.training_args)}
        if self.main:
            self.stage = Stage.open(
                self.folder,
                name=self.name,
                version=self.version,
                config=settings,
                fingerprint=self.identity,
                inputs=self.inputs,
                fresh=self.args.fresh,
            )
            if self.stage.finished:
                log.info("%s: %s is finished, nothing to do", self.name, self.folder)
                if self.publishes:
                    log.info("%s: published as %s", self.name, publish(self.folder, self.training_args))
            else:
                self.tracker = Tracker.start(
                    stage=self.name,
                    output_dir=self.folder,
                    config=settings,
                    group=self.args.group,
                    mode=self.args.track,
                    fingerprint=self.stage.fingerprint,
                    upstream={**self.inputs, "model": self.identity["model"]},
                )
                (self.folder / STOPPED).unlink(missing_ok=True)
                log.info("%s: %s", self.name, memory_check(self))
        todo = [self.stage is None or not self.stage.finished]
        if self.training_args.world_size > 1:
            broadcast_object_list(todo, from_process=0)
        return todo[0]

    def show(self, folder: Path, rows: int = 8) -> None:
        """Send the first rows, as the model will see them, to the tracker."""
        if self.tracker is not None:
            train = data.load(folder)[0]
            shown = [{"row": data.shown(train[n], self.chat)} for n in range(min(rows, len(train)))]
            self.tracker.table("training_rows", shown)

    def train(self, trainer: Any) -> None:
        """Train, from the last whole checkpoint of these settings if any; evaluate what is held out."""
        sealed = self._last_checkpoint()
        if sealed is not None:
            self.earlier = float(json.loads((sealed / SEAL).read_text())["seconds"])
            if self.main:
                log.info("%s: going on from %s", self.name, sealed)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        keep, trainer.args.save_total_limit = trainer.args.save_total_limit, None
        trainer.add_callback(Seal(self, keep))
        if self.main:
            trainer.add_callback(_Report(self))
        self._show_samples(trainer)
        with Guard(self, trainer) as guard:
            trainer.train(resume_from_checkpoint=str(sealed) if sealed else None)
        if guard.stopped:
            self._stop(trainer)
        if trainer.eval_dataset is not None:
            trainer.evaluate()

    def _show_samples(self, trainer: Any) -> None:
        if not self.args.sample_every or self.scorer or self.prepared is None:
            return
        if is_deepspeed_zero3_enabled():
            if self.main:
                log.info("%s: no samples under ZeRO-3, where each token would gather all weights", self.name)
            return
        stops = self.chat.solve_stop_ids if self.name == "sft" else self.chat.question_stop_ids
        trainer.add_callback(ShowSamples(self, data.load(self.prepared)[0], list(stops)))

    def _stop(self, trainer: Any) -> None:
        """Leave, saved, with the status that says: start me again."""
        step = trainer.state.global_step
        trainer.end()
        if self.main:
            (self.folder / STOPPED).write_text(json.dumps({"step": step, "time": time.time()}) + "\n")
            log.warning("%s: told to stop: checkpoint-%d is whole; start again to go on", self.name, step)
            if self.tracker is not None:
                self.tracker.finish(REQUEUE)
        raise SystemExit(REQUEUE)

    def save(self, trainer: Any, stop_ids: Sequence[int], note: str, section: str = "") -> None:
        """Save the model, prove that it loads, write card and receipt. The last thing a recipe does.

        Args:
            trainer: has trained.
            stop_ids: ids at which the model's generations end, into its generation_config; none for a scorer.
            note: one sentence for the card.
            section: what the card says of its evaluation.

        Raises:
            StageError: the saved model does not load whole, or gives values that are not finite.
        """
        adapter = self.folder / "adapter" if self.model_args.use_peft else None
        trainer.model.config.use_cache = True  # gradient checkpointing had turned it off
        if trainer.is_fsdp_enabled:
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(adapter or self.folder))
        dtype = trainer.model.dtype
        last = [entry for entry in trainer.state.log_history if "train_loss" in entry or "eval_loss" in entry]
        epochs = float(trainer.state.epoch or 0.0)
        # From here on one process works alone, and no launcher's setting may reach how it loads the model.
        trainer.end()
        if not self.main or self.stage is None or self.counts is None:
            return
        _forget_deepspeed()
        if adapter is not None:
            merge_adapter(
                self.model,
                adapter,
                self.folder,
                dtype=dtype,
                revision=self.model_args.model_revision,
                prepared=(self.tokenizer, self.format),
                scorer=self.scorer,
            )
        for folder in filter(None, (self.folder, adapter)):
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.yaml holds the same
        if not self.scorer:
            generation = GenerationConfig(
                bos_token_id=self.chat.bos_id,
                eos_token_id=list(stop_ids),
                pad_token_id=self.tokenizer.pad_token_id,
            )
            for folder in filter(None, (self.folder, adapter)):
                generation.save_pretrained(folder)
        check_model(self.folder, self.chat.question_prefix_ids, self.scorer)
        counts = self.counts
        dropped = {**counts.dropped, **({"held_out": counts.holdout} if counts.holdout else {})}
        tokens = round(counts.tokens * epochs)
        metrics = {
            key: value for entry in last for key, value in entry.items() if isinstance(value, (int, float))
        }
        receipt = self.stage.finish_model(
            rows_in=counts.rows_in,
            kept=counts.train,
            dropped=dropped,
            tokens=tokens,
            seconds=self.seconds,
            card=model_card(self, note, dropped, metrics, section),
            targets=round(counts.targets * epochs),
            **{key: metrics[key] for key in ("train_loss", "eval_loss") if key in metrics},
        )
        shutil.rmtree(self.folder / PREPARED, ignore_errors=True)
        log.info(
            "%s: %s is finished: %d tokens in %.0f s", self.name, self.folder, tokens, receipt["seconds"]
        )
        if self.tracker is not None:
            self.tracker.artifact(self.folder.name, "model", self.folder, {"tokens": tokens, **metrics})
            self.tracker.finish()
        if self.publishes:
            log.info("%s: published as %s", self.name, publish(self.folder, self.training_args))

    def _last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written whole, for these settings; what was not is removed."""
        fingerprint = [self.stage.fingerprint if self.stage else ""]
        if self.training_args.world_size > 1:
            broadcast_object_list(fingerprint, from_process=0)
        with self.training_args.main_process_first(local=False, desc="looking for a checkpoint"):
            return whole_checkpoint(self.folder, fingerprint[0], clean=self.main)


def begin(
    name: str, version: int, args: Any, training_args: Any, model_args: Any, *, scorer: bool = False
) -> Run:
    """Start a training stage: logging, tokenizer, chat format, and what makes up its fingerprint.

    Args:
        name: of the stage.
        version: of the stage.
        args: a `TrainingData`.
        training_args: the trainer's config.
        model_args: TRL's `ModelConfig`.
        scorer: it learns to give a number, not text.

    Raises:
        ConfigError: a setting or an input is wrong.
    """
    if not model_args.model_name_or_path:
        raise ConfigError(
            "required key 'model_name_or_path' is missing (folder or hub id of the model to start from)"
        )
    publishes, training_args.push_to_hub = training_args.push_to_hub, False  # once, when all is finished
    if publishes:
        check_publishing(training_args)
    check_settings(training_args, model_args)
    if training_args.device.type == "cpu":
        keep_memory()
    main = training_args.process_index == 0
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("scalequest").setLevel(logging.INFO if main else logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # DeepSpeed's, one a call
    if not sys.stderr.isatty():  # a log file is no place for bars
        disable_progress_bars()
        disable_progress_bar()
    where = expand(model_args.model_name_or_path)
    model = str(where) if where.is_dir() else model_args.model_name_or_path
    tokenizer = load_tokenizer(model, model_args.model_revision)
    format = load_format(args.chat_format)
    inputs = {source: source_fingerprint(source) for source in args.input}
    training = fingerprint_fields(training_args)
    spread = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    learning = {key: value for key, value in training.items() if key not in _SPREAD}
    starting = {
        key: value
        for key, value in fingerprint_fields(model_args).items()
        if key not in ("model_name_or_path", "model_revision", "attn_implementation")
    }
    identity = {
        **fingerprint_fields(args),
        "chat_format": dataclasses.asdict(format),
        "model": model_fingerprint(model, model_args.model_revision),
        "global_batch": spread * training_args.world_size,
        **starting,
        **learning,
    }
    if main:
        log.info(
            "%s: %d process(es) x batch %d x accumulation %d = %d sequences a step",
            name, training_args.world_size, training_args.per_device_train_batch_size,
            training_args.gradient_accumulation_steps, identity["global_batch"],
        )  # fmt: skip
    return Run(
        name=name,
        version=version,
        args=args,
        training_args=training_args,
        model_args=model_args,
        model=model,
        tokenizer=tokenizer,
        format=format,
        chat=bind(format, tokenizer),
        inputs=inputs,
        identity=identity,
        main=main,
        scorer=scorer,
        publishes=publishes,
    )


def check_settings(args: Any, model_args: Any) -> None:
    """Refuse settings that would do something else than they say; warn of weights too coarse to learn.

    Raises:
        ConfigError: one process sees several GPUs, or a checkpoint is named.
    """
    if args.n_gpu > 1:
        raise ConfigError(
            f"one process sees {args.n_gpu} GPUs: start with `accelerate launch --config_file "
            "accelerate_configs/…`, or choose one with CUDA_VISIBLE_DEVICES"
        )
    if args.resume_from_checkpoint:
        raise ConfigError(
            "resume_from_checkpoint: a run goes on from its own last whole checkpoint; leave it out, and to "
            "train a checkpoint further name it as model_name_or_path"
        )
    coarse = model_args.dtype in ("bfloat16", "float16") and not model_args.use_peft
    if coarse and getattr(args, "deepspeed_plugin", None) is None and args.process_index == 0:
        log.warning(
            "dtype %s: without DeepSpeed, which keeps float32 weights beside them, most updates at small "
            "learning rates round to nothing; set dtype: float32 (and bf16: true)",
            model_args.dtype,
        )


def memory_check(run: Run) -> str:
    """Say, before anything is loaded, whether a process's memory will do, and what to change where not."""
    args = run.training_args
    try:
        config = AutoConfig.from_pretrained(run.model, revision=run.model_args.model_revision)
        model = estimate.Architecture.of(config)
    except (AttributeError, ValueError):  # no decoder that transformers and the formula know
        return "memory: no estimate for this architecture"
    gpu = args.device.type == "cuda"
    if gpu:
        capacity = torch.cuda.get_device_properties(args.device).total_memory
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        capacity = psutil.virtual_memory().available / here
    work = estimate.Work.of(args, run.model_args)
    return estimate.verdict(model, work, estimate.Topology.launched(args.world_size), capacity, gpu)


def explained(main: Callable[..., None], *args: Any) -> int:
    """Run a recipe's `main`; a mistake of the user's becomes one line and exit status 2."""
    try:
        main(*args)
    except (ConfigError, StageError) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class _Report(TrainerCallback):
    """One line and one tracker record a log: loss, learning rate, tokens a second, time left."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.first = self.seen = (0, 0.0, time.monotonic())  # step, tokens, time

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.first = self.seen = (state.global_step, 0.0, time.monotonic())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        metrics = {key: value for key, value in (logs or {}).items() if isinstance(value, (int, float))}
        if state.num_input_tokens_seen:
            metrics["num_tokens"] = metrics.pop("num_input_tokens_seen", state.num_input_tokens_seen)
        now, tokens = time.monotonic(), metrics.get("num_tokens", self.seen[1])
        line = f"{self.run.name}: step {state.global_step}/{state.max_steps}"
        for key in (
            "loss",
            "eval_loss",
            "train_loss",
            "grad_norm",
            "learning_rate",
            "rewards/margins",
            "rewards/accuracies",
            "eval_rewards/accuracies",
        ):
            if key in metrics:
                line += f", {key.rpartition('/')[2]} {metrics[key]:.4g}"
        if "loss" in metrics and now > self.seen[2]:
            metrics["tokens_per_second"] = (tokens - self.seen[1]) / (now - self.seen[2])
            steps = state.global_step - self.first[0]
            left = (state.max_steps - state.global_step) * (now - self.first[2]) / max(steps, 1)
            line += f", {metrics['tokens_per_second']:,.0f} tokens/s, {_clock(left)} left"
            self.seen = (state.global_step, tokens, now)
        log.info(line)
        if self.run.tracker is not None:
            self.run.tracker.log(metrics, step=state.global_step)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _forget_deepspeed() -> None:
    """Let `from_pretrained` load whole models: under ZeRO-3 it would spread them over ranks that are gone."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
