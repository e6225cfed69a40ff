"""What the training recipes share: a `Run` that is begun, prepared, opened, trained and saved.

A recipe calls `begin`, `Run.prepare`, `Run.open`, builds its trainer, and ends with `Run.train` and
`Run.save`. All ranks call all of them; what only one process may do is decided here. `output_dir` has to lie
where all nodes see it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import random
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from transformers import GenerationConfig, PrinterCallback, ProgressCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.logging import disable_progress_bar

from scalequest import heartbeat, stages
from scalequest.chat import BoundFormat, ChatFormat, bind, load_format, load_tokenizer
from scalequest.config import ConfigError, TrainRunOptions, fingerprint_fields, option, required, to_dict
from scalequest.precision import say_training
from scalequest.ranges import COUNT, NOT_NEGATIVE
from scalequest.records import Row, expand, model_fingerprint, read_inputs, source_fingerprint
from scalequest.removal import refuse_overlap
from scalequest.shards import Stage
from scalequest.tracking import Tracker
from scalequest.training import data
from scalequest.training.checks import check_publishing, check_settings, memory_check
from scalequest.training.cpu import keep_memory
from scalequest.training.progress import Report, last_metrics
from scalequest.training.ranks import once
from scalequest.training.safety import (
    NOT_FINITE,
    REQUEUE,
    SEAL,
    STOPPED,
    Guard,
    Seal,
    leave_when_told,
    tell_stopped,
    whole_checkpoint,
)
from scalequest.training.samples import ShowSamples, prompt_of
from scalequest.training.saving import SAVED, check_model, hardware, merge_adapter, model_card, publish

log = logging.getLogger(__name__)

PREPARED = "prepared"
# How a batch is spread over processes and steps, and what is computed twice to save memory, changes no
# weight; its whole size does, and stands in the fingerprint as `global_batch`.
_SPREAD = ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size",
           "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_offloading")  # fmt: skip

_OUTPUT = ("output_dir", "run_name", "logging_dir")  # of the trainer's settings: what is written, not read


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
    draw: int | None = option(
        None, "train on this many rows, drawn with `seed` from all of them", within=COUNT
    )
    holdout: int = option(
        0, "rows drawn with `seed`, kept apart and evaluated at the end", within=NOT_NEGATIVE
    )
    prepare_only: bool = option(
        False, "tokenise into output_dir and stop; without a GPU give use_cpu, too", fingerprint=False
    )
    sample_every: int = option(
        0,
        "steps between texts that the model writes for the log; 0: none; off under ZeRO-3",
        fingerprint=False,
        within=NOT_NEGATIVE,
    )
    sample_count: int = option(4, "texts each time", fingerprint=False, within=COUNT)
    sample_tokens: int = option(256, "most tokens of each", fingerprint=False, within=COUNT)


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
        writes: names of what this stage alone leaves in its folder.
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
    writes: tuple[str, ...] = ()
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
        return self.drawn(read_inputs(args.input, *needs, columns=args.columns, limit=args.limit))

    def drawn(self, rows: list[Row]) -> list[Row]:
        """As many of these rows as `draw` says, in order; all where it says nothing.

        Raises:
            ConfigError: there are fewer.
        """
        draw = self.args.draw
        if draw is None:
            return rows
        if draw > len(rows):
            raise ConfigError(f"draw: {draw} rows are to be drawn from {len(rows)}")
        numbers = random.Random(self.training_args.seed).sample(range(len(rows)), draw)
        return [rows[number] for number in sorted(numbers)]

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

        def make() -> None:
            if not (folder / "counts.json").is_file():
                data.prepare(
                    folder,
                    rows() if rows else self.rows(needs),
                    render,
                    self.chat,
                    holdout=self.args.holdout,
                    seed=self.training_args.seed,
                )

        once(self.training_args, make)
        self.prepared = folder
        self.counts = counts = data.counts_of(folder)
        heartbeat.now(f"loading {self.model}")
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
        return once(self.training_args, self._open)

    def _open(self) -> bool:
        settings = {**to_dict(self.args), **to_dict(self.model_args), **to_dict(self.training_args)}
        self.stage = Stage.open(
            self.folder,
            name=self.name,
            version=self.version,
            config=settings,
            fingerprint=self.identity,
            inputs=self.inputs,
            writes=(*SAVED, PREPARED, NOT_FINITE, STOPPED, *self.writes),
            fresh=self.args.fresh,
        )
        if self.stage.finished:
            log.info("%s: %s is finished, nothing to do", self.name, self.folder)
            if self.publishes:
                log.info("%s: published as %s", self.name, publish(self.folder, self.training_args))
            return False
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
        log.info("%s: %s", self.name, memory_check(self.model, self.training_args, self.model_args))
        return True

    def show(self, folder: Path, rows: int = 8) -> None:
        """Send the first rows, as the model will see them, to the tracker."""
        if self.tracker is not None:
            train = data.load(folder)[0]
            shown = [{"row": data.shown(train[n], self.chat)} for n in range(min(rows, len(train)))]
            self.tracker.table("training_rows", shown)

    def train(self, trainer: Any) -> None:
        """Train, from the last whole checkpoint of these settings if any; evaluate what is held out."""
        fingerprint, sealed = once(self.training_args, self._last_checkpoint)
        if sealed is not None:
            self.earlier = float(json.loads((sealed / SEAL).read_text())["seconds"])
            if self.main:
                log.info("%s: going on from %s", self.name, sealed)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        keep, trainer.args.save_total_limit = trainer.args.save_total_limit, None
        trainer.add_callback(Seal(self.folder, keep, fingerprint, lambda: self.seconds))
        if self.main:
            # TRL counts at every micro-batch, but tells it only where it logs.
            counted = partial(getattr, trainer, "_total_train_tokens", 0)
            trainer.add_callback(Report(self.name, self.tracker, counted))
        self._show_samples(trainer)
        heartbeat.now("starting to train")
        with Guard(self.name, self.folder, self.tokenizer, trainer) as guard:
            trainer.train(resume_from_checkpoint=str(sealed) if sealed else None)
        if guard.stopped:
            self._stop(trainer)
        if trainer.eval_dataset is not None:
            trainer.evaluate()

    def _last_checkpoint(self) -> tuple[str, Path | None]:
        """Fingerprint of these settings, and the newest checkpoint that was written whole under it."""
        fingerprint = self.stage.fingerprint if self.stage else ""
        return fingerprint, whole_checkpoint(self.folder, fingerprint)

    def _show_samples(self, trainer: Any) -> None:
        args = self.args
        if not args.sample_every or self.scorer or self.prepared is None:
            return
        if is_deepspeed_zero3_enabled():
            if self.main:
                log.info("%s: no samples under ZeRO-3, where each token would gather all weights", self.name)
            return
        rows = data.load(self.prepared)[0]
        header = self.chat.question_prefix_ids
        shower = ShowSamples(
            self.name,
            [prompt_of(rows[n], header) for n in range(min(args.sample_count, len(rows)))],
            self.tokenizer,
            self.chat.solve_stop_ids if self.name == "sft" else self.chat.question_stop_ids,
            every=args.sample_every,
            tokens=args.sample_tokens,
            seed=self.training_args.seed,
            together=trainer.is_fsdp_enabled and self.training_args.world_size > 1,
            tracker=self.tracker,
        )
        trainer.add_callback(shower)

    def _stop(self, trainer: Any) -> None:
        """Leave, saved, with the status that says: start me again."""
        step = trainer.state.global_step
        trainer.end()
        if self.main:
            tell_stopped(self.folder, step)
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
        heartbeat.now("saving the model")
        before = _files(self.folder)
        adapter = self.folder / "adapter" if self.model_args.use_peft else None
        trainer.model.config.use_cache = True  # gradient checkpointing had turned it off
        if trainer.is_fsdp_enabled:
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(adapter or self.folder))
        dtype = trainer.model.dtype
        metrics = last_metrics(trainer.state.log_history, resumed=self.earlier > 0)
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
        trusted = getattr(self.training_args, "trust_remote_code", False)  # of TRL's configs
        check_model(self.folder, self.chat.question_prefix_ids, self.scorer, trusted)
        counts = self.counts
        dropped = {**counts.dropped, **({"held_out": counts.holdout} if counts.holdout else {})}
        tokens = round(counts.tokens * epochs)
        receipt = self.stage.finish_model(
            rows_in=counts.rows_in,
            kept=counts.train,
            dropped=dropped,
            tokens=tokens,
            seconds=self.seconds,
            saved=[name for name, state in _files(self.folder).items() if before.get(name) != state],
            card=self._card(note, dropped, metrics, section),
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

    def _card(self, note: str, dropped: Mapping[str, int], metrics: Mapping[str, float], section: str) -> str:
        assert self.counts is not None, "nothing was prepared"
        base = self.model if self.identity["model"].startswith("hub:") else None
        skipped = ("chat_format", "model")
        shown = ("train_loss", "eval_loss", "eval_rewards/accuracies")
        facts = [
            ("starts from", base or f"{Path(self.model).name} ({self.identity['model'][:16]})"),
            ("rows in", self.counts.rows_in),
            ("rows trained on", self.counts.train),
            *((f"rows dropped: {reason}", count) for reason, count in dropped.items()),
            ("tokens in them", self.counts.tokens),
            ("tokens that carry loss", self.counts.targets),
            ("hardware", hardware(self.training_args.world_size)),
            *((key, value) for key, value in self.identity.items() if key not in skipped),
            *((key, metrics[key]) for key in shown if key in metrics),
        ]
        return model_card(
            self.folder.name,
            self.name,
            note,
            facts,
            base=base,
            chat_format=self.format.name,
            scorer=self.scorer,
            section=section,
        )


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """The files of a folder, each with what tells whether it has been written again."""
    states = {path.name: path.stat() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}
    return {name: (state.st_mtime_ns, state.st_size) for name, state in states.items()}


def begin(
    name: str,
    version: int,
    args: Any,
    training_args: Any,
    model_args: Any,
    *,
    scorer: bool = False,
    writes: Sequence[str] = (),
) -> Run:
    """Start a training stage: logging, tokenizer, chat format, and what makes up its fingerprint.

    Args:
        name: of the stage.
        version: of the stage.
        args: a `TrainingData`.
        training_args: the trainer's config.
        model_args: TRL's `ModelConfig`.
        scorer: it learns to give a number, not text.
        writes: names of what this stage alone leaves in its folder.

    Raises:
        ConfigError: a setting or an input is wrong.
        StageError: `output_dir` is, or with `fresh` meets, something that is read.
    """
    if not model_args.model_name_or_path:
        raise ConfigError(
            "required key 'model_name_or_path' is missing (folder or hub id of the model to start from)"
        )
    heartbeat.named(name)
    heartbeat.now("reading the inputs")
    publishes, training_args.push_to_hub = training_args.push_to_hub, False  # once, when all is finished
    if training_args.hub_token:  # to where the hub looks: the trainer would pickle it into every checkpoint
        os.environ["HF_TOKEN"], training_args.hub_token = training_args.hub_token, None
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

    def identify() -> tuple[dict[str, str], str]:
        trainer = {key: value for key, value in to_dict(training_args).items() if key not in _OUTPUT}
        refuse_overlap(training_args.output_dir, args.fresh, to_dict(args), to_dict(model_args), trainer)
        started = model_fingerprint(model, model_args.model_revision)
        return {source: source_fingerprint(source) for source in args.input}, started

    inputs, started_from = once(training_args, identify)
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
        "model": started_from,
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
        say_training(name, training_args)
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
        writes=tuple(writes),
        publishes=publishes,
    )


def explained(main: Callable[..., None], args: Any, training_args: Any, model_args: Any) -> int:
    """Run a recipe's `main`; a mistake of the user's becomes one line and status 2, SIGTERM status 75."""
    if threading.current_thread() is threading.main_thread():
        leave_when_told(Path(training_args.output_dir))
    return stages.explained(main, args, training_args, model_args)


def _forget_deepspeed() -> None:
    """Let `from_pretrained` load whole models: under ZeRO-3 it would spread them over ranks that are gone."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
