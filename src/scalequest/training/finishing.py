"""From an open folder to a finished model: train, resume, save, verify, write the card and the receipt.

The order of the calls follows from their arguments: `open_run` returns the `OpenRun` that `train` needs in
addition to the result of `prepare`, and `train` returns the `Trained` that `save` needs. All ranks make all
of these calls; this module decides what only one process may do. `output_dir` must be visible to all nodes.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PrinterCallback, ProgressCallback
from transformers.integrations import is_deepspeed_zero3_enabled

from scalequest import heartbeat
from scalequest.chat import bind
from scalequest.pages.cards import base_model
from scalequest.stage.folder import Stage
from scalequest.stage.launch import check_world
from scalequest.tracking import Tracker
from scalequest.training import data
from scalequest.training.checks import memory_check
from scalequest.training.identity import Identity, identify
from scalequest.training.preparation import PREPARED, Prepared, prepare
from scalequest.training.progress import Report, last_metrics
from scalequest.training.ranks import once
from scalequest.training.safety import (
    NOT_FINITE,
    REQUEUE,
    SEAL,
    STOPPED,
    Seal,
    StopCallback,
    tell_stopped,
    whole_checkpoint,
)
from scalequest.training.samples import ShowSamples, prompt_of
from scalequest.training.saving import (
    SAVED,
    check_model,
    hardware,
    merge_adapter,
    model_card,
    publish,
    use_of,
)
from scalequest.training.stage import TrainingStage

log = logging.getLogger(__name__)

SHOWN_ROWS = 8  # training rows shown in the tracker


@dataclass(frozen=True)
class Records:
    """What the one process that writes needs.

    Attributes:
        folder: the stage's folder, for its receipt.
        tracker: receives the metrics, the tables and the model.
    """

    folder: Stage
    tracker: Tracker


@dataclass(frozen=True)
class OpenRun:
    """A run whose folder is open, made by `open_run`.

    Attributes:
        identity: the identity of the run.
        records: the records in the main process; None in the others.
        started: the start time of this session on the monotonic clock.
    """

    identity: Identity
    records: Records | None
    started: float

    @property
    def tracker(self) -> Tracker | None:
        """The tracker, in the main process."""
        return None if self.records is None else self.records.tracker


@dataclass(frozen=True)
class Clock:
    """Measures the seconds of work over all sessions of a run.

    Attributes:
        started: the start time of this session on the monotonic clock.
        earlier: the seconds of earlier sessions, up to the checkpoint that this session resumes from.
    """

    started: float
    earlier: float

    def seconds(self) -> float:
        """Return the seconds spent so far."""
        return self.earlier + time.monotonic() - self.started


@dataclass(frozen=True)
class Trained:
    """A run that has been trained, made by `train`.

    Attributes:
        run: the open run.
        prepared: the prepared rows.
        trainer: the trainer, after training and evaluating the held-out rows.
        clock: the clock over all sessions.
    """

    run: OpenRun
    prepared: Prepared
    trainer: Any
    clock: Clock

    @property
    def identity(self) -> Identity:
        """The identity of the run."""
        return self.run.identity


# ------------------------------------------------------------------------------------------------------- open


def run_training(stage: TrainingStage, args: Any, training_args: Any, model_args: Any) -> None:
    """Run a complete training stage; this is the `main` of every training recipe.

    See `open_run` for arguments and errors.
    """
    # 1. Tokenizer, chat format, the fingerprint of everything that can change a weight, and the output folder
    run = open_run(stage, args, training_args, model_args)
    if run is None:  # already finished with the same settings, or only to be tokenised
        return
    # 2. Rows as token ids; those that do not fit are dropped and counted
    prepared = prepare(run.identity)
    # 3. Train, from the last checkpoint if there is one
    trained = train(run, prepared)
    # 4. Save, reload as a check, evaluate the held-out rows, and write the card and the receipt
    save(trained)


def open_run(stage: TrainingStage, args: Any, training_args: Any, model_args: Any) -> OpenRun | None:
    """Identify the run and open its folder; return None if there is nothing to train.

    This is the case if the run has already finished with the same settings, and with `prepare_only`, which is
    then complete: the rows are tokenised, and the folder has no receipt yet.

    Args:
        stage: the kind of training.
        args: a `TrainingData`.
        training_args: the trainer's config.
        model_args: TRL's `ModelConfig`.

    Raises:
        ConfigError: a setting or an input is wrong.
        StageError: the folder belongs to another run, or was made with other settings.
    """
    check_world()  # all launched processes must train one model together
    identity = identify(stage, args, training_args, model_args)
    if args.prepare_only:
        prepare(identity)
        return None
    started = time.monotonic()
    opened: list[Records] = []  # cannot be sent to the other processes

    def open_folder() -> bool:
        opened.extend(_open_folder(identity))
        return bool(opened)

    if not once(training_args, open_folder):
        return None
    return OpenRun(identity, opened[0] if opened else None, started)


def _open_folder(identity: Identity) -> list[Records]:
    """Return the records of a run, or none if it has finished."""
    settings = identity.settings()
    folder = Stage.open(
        identity.folder,
        name=identity.name,
        version=identity.stage.version,
        config=settings,
        fingerprint=identity.fingerprint,
        inputs=identity.inputs,
        writes=(*SAVED, PREPARED, NOT_FINITE, STOPPED, *identity.stage.writes),
        fresh=identity.args.fresh,
    )
    if folder.finished:
        log.info("%s: %s is already finished", identity.name, identity.folder)
        _publish(identity)
        return []
    tracker = Tracker.start(
        stage=identity.name,
        output_dir=identity.folder,
        config=settings,
        group=identity.args.group,
        mode=identity.args.track,
        fingerprint=folder.fingerprint,
        upstream={**identity.inputs, "model": identity.fingerprint["model"]},
    )
    (identity.folder / STOPPED).unlink(missing_ok=True)
    needs = memory_check(identity.model, identity.training_args, identity.model_args)
    log.info("%s: %s", identity.name, needs)
    return [Records(folder, tracker)]


def _publish(identity: Identity) -> None:
    if identity.publishes:
        address = publish(identity.folder, identity.training_args)
        log.info("%s: published as %s", identity.name, address)


# ------------------------------------------------------------------------------------------------------ train


def train(run: OpenRun, prepared: Prepared) -> Trained:
    """Train from the last complete checkpoint of these settings, if any; evaluate the held-out rows.

    Raises:
        ConfigError: the model cannot be loaded, or settings contradict each other.
        StageError: a loss is not finite.
        SystemExit: the run was told to stop and has saved a checkpoint.
    """
    identity = run.identity
    _show_rows(run, prepared)
    trainer = identity.stage.trainer_of(prepared)
    _set_chat_template(identity)
    fingerprint, sealed = once(identity.training_args, lambda: _last_checkpoint(run))
    earlier = float(json.loads((sealed / SEAL).read_text())["seconds"]) if sealed else 0.0
    if sealed and identity.main:
        log.info("%s: resuming from %s", identity.name, sealed)
    clock = Clock(run.started, earlier)
    _add_callbacks(run, trainer, fingerprint, clock)
    _add_samples(run, prepared, trainer)
    heartbeat.now("starting the training")
    with StopCallback(identity.name, identity.folder, identity.tokenizer, trainer) as stop:
        trainer.train(resume_from_checkpoint=str(sealed) if sealed else None)
    if stop.stopped:
        _stop(run, trainer)
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    return Trained(run, prepared, trainer, clock)


def _set_chat_template(identity: Identity) -> None:
    """Give the tokenizer the template of what is trained; by now it has the pad token that was added."""
    template_of = identity.stage.chat_template_of
    chat = bind(identity.format, identity.tokenizer)
    identity.tokenizer.chat_template = template_of(chat) if template_of is not None else None


def _show_rows(run: OpenRun, prepared: Prepared) -> None:
    """Send the first rows to the tracker, in the form in which the model will see them."""
    if run.tracker is not None and not run.identity.stage.scorer:
        rows = data.load(prepared.folder)[0]
        chat = run.identity.chat
        shown = [{"row": data.shown(rows[n], chat)} for n in range(min(SHOWN_ROWS, len(rows)))]
        run.tracker.table("training_rows", shown)


def _last_checkpoint(run: OpenRun) -> tuple[str, Path | None]:
    """Return the fingerprint of these settings and the newest complete checkpoint made with it."""
    fingerprint = run.records.folder.fingerprint if run.records else ""
    return fingerprint, whole_checkpoint(run.identity.folder, fingerprint)


def _add_callbacks(run: OpenRun, trainer: Any, fingerprint: str, clock: Clock) -> None:
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    keep, trainer.args.save_total_limit = trainer.args.save_total_limit, None  # `Seal` removes old ones
    trainer.add_callback(Seal(run.identity.folder, keep, fingerprint, clock.seconds))
    if run.identity.main:
        # TRL counts tokens in every micro-batch, but reports them only when it logs.
        counted = partial(getattr, trainer, "_total_train_tokens", 0)
        trainer.add_callback(Report(run.identity.name, run.tracker, counted))


def _add_samples(run: OpenRun, prepared: Prepared, trainer: Any) -> None:
    """Let the model write sample texts during training, if requested."""
    identity, args = run.identity, run.identity.args
    if not args.sample_every or identity.stage.stop_ids_of is None:
        return
    if is_deepspeed_zero3_enabled():
        if identity.main:
            log.info(
                "%s: no sample texts under ZeRO-3, where each token would gather all weights", identity.name
            )
        return
    rows = data.load(prepared.folder)[0]
    header = identity.chat.question_prefix_ids
    shower = ShowSamples(
        identity.name,
        [prompt_of(rows[n], header) for n in range(min(args.sample_count, len(rows)))],
        identity.tokenizer,
        list(identity.stage.stop_ids_of(identity.chat)),
        every=args.sample_every,
        tokens=args.sample_tokens,
        seed=identity.training_args.seed,
        together=trainer.is_fsdp_enabled and identity.training_args.world_size > 1,
        tracker=run.tracker,
    )
    trainer.add_callback(shower)


def _stop(run: OpenRun, trainer: Any) -> None:
    """After a checkpoint was saved, exit with the status that asks for a restart."""
    step = trainer.state.global_step
    trainer.end()
    if run.identity.main:
        tell_stopped(run.identity.folder, step)
        log.warning(
            "%s: stopped as requested: checkpoint-%d is complete; start again to resume",
            run.identity.name,
            step,
        )
        if run.tracker is not None:
            run.tracker.finish(REQUEUE)
    raise SystemExit(REQUEUE)


# ------------------------------------------------------------------------------------------------------- save


def save(trained: Trained) -> None:
    """Evaluate and save the model, check that it loads, and write card and receipt: a recipe's last step.

    Raises:
        StageError: the saved model does not load completely, or its outputs are not finite.
    """
    identity, trainer = trained.identity, trained.trainer
    section = identity.stage.measure(trained) if identity.stage.measure is not None else ""
    heartbeat.now("saving the model")
    before = _files_in(identity.folder)
    dtype = _save_weights(identity, trainer)
    metrics = last_metrics(trainer.state.log_history, resumed=trained.clock.earlier > 0)
    epochs = float(trainer.state.epoch or 0.0)
    # From here on one process works alone, and the launcher's settings must not affect how it loads the
    # model.
    trainer.end()
    if trained.run.records is None:
        return
    _forget_deepspeed()
    _finish_folder(identity, dtype)
    saved = [name for name, state in _files_in(identity.folder).items() if before.get(name) != state]
    _write_receipt(trained, trained.run.records, metrics, epochs, saved, section)


def _adapter_of(identity: Identity) -> Path | None:
    """Return the folder of the LoRA adapter, if one is trained."""
    return identity.folder / "adapter" if identity.model_args.use_peft else None


def _save_weights(identity: Identity, trainer: Any) -> Any:
    """Save the trained weights, on all ranks; return their dtype."""
    trainer.model.config.use_cache = True  # gradient checkpointing had turned it off
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(_adapter_of(identity) or identity.folder))
    return trainer.model.dtype


def _finish_folder(identity: Identity, dtype: Any) -> None:
    """Turn the saved files into a model that loads and generates anywhere, and check that it does."""
    adapter, scorer, chat = _adapter_of(identity), identity.stage.scorer, identity.chat
    if adapter is not None:
        merge_adapter(
            identity.model,
            adapter,
            identity.folder,
            dtype=dtype,
            revision=identity.model_args.model_revision,
            prepared=(identity.tokenizer, identity.format),
            scorer=scorer,
        )
    folders = [folder for folder in (identity.folder, adapter) if folder is not None]
    for folder in folders:
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.yaml has the same content
    if identity.stage.stop_ids_of is not None:
        generation = GenerationConfig(
            bos_token_id=chat.bos_id,
            eos_token_id=list(identity.stage.stop_ids_of(chat)),
            pad_token_id=identity.tokenizer.pad_token_id,
        )
        for folder in folders:
            generation.save_pretrained(folder)
    trusted = getattr(identity.training_args, "trust_remote_code", False)  # only TRL's configs have it
    check_model(identity.folder, chat.question_prefix_ids, scorer, trusted)


def _write_receipt(
    trained: Trained,
    records: Records,
    metrics: Mapping[str, float],
    epochs: float,
    saved: list[str],
    section: str,
) -> None:
    """Finish the folder, remove the prepared rows, and report and publish the model."""
    identity, counts = trained.identity, trained.prepared.counts
    name, folder = identity.name, identity.folder
    dropped = {**counts.dropped, **({"held_out": counts.holdout} if counts.holdout else {})}
    seen = trained.trainer.state.num_input_tokens_seen if identity.stage.rollouts else counts.tokens * epochs
    tokens = round(seen)
    records.folder.receipt["starts_from"] = {identity.model: str(identity.fingerprint["model"])}
    receipt = records.folder.finish_model(
        rows_in=counts.rows_in,
        kept=counts.train,
        dropped=dropped,
        tokens=tokens,
        seconds=trained.clock.seconds(),
        saved=saved,
        card=_card(identity, counts, dropped, metrics, section),
        targets=round(counts.targets * epochs),
        **{key: metrics[key] for key in ("train_loss", "eval_loss") if key in metrics},
    )
    shutil.rmtree(folder / PREPARED, ignore_errors=True)
    log.info("%s: %s is finished: %d tokens in %.0f s", name, folder, tokens, receipt["seconds"])
    records.tracker.artifact(folder.name, "model", folder, {"tokens": tokens, **metrics})
    records.tracker.finish()
    _publish(identity)


def _card(
    identity: Identity,
    counts: data.Counts,
    dropped: Mapping[str, int],
    metrics: Mapping[str, float],
    section: str,
) -> str:
    read = str(identity.fingerprint["model"])
    base = base_model(identity.model, read)
    skipped = ("chat_format", "model")
    shown = ("train_loss", "eval_loss", "eval_rewards/accuracies")
    facts = [
        ("starts from", base if read.startswith("hub:") else f"{Path(identity.model).name} ({read[:16]})"),
        ("rows in", counts.rows_in),
        ("rows trained on", counts.train),
        *((f"rows dropped: {reason}", count) for reason, count in dropped.items()),
        ("tokens in these rows", counts.tokens),
        *((("tokens with loss", counts.targets),) if counts.targets else ()),
        ("hardware", hardware(identity.training_args.world_size)),
        *((key, value) for key, value in identity.fingerprint.items() if key not in skipped),
        *((key, metrics[key]) for key in shown if key in metrics),
    ]
    return model_card(
        identity.folder.name,
        identity.name,
        identity.stage.note,
        facts,
        base=base,
        data=[source.removeprefix("hub:") for source in identity.args.input if source.startswith("hub:")],
        use=use_of(identity.folder.name, identity.format.name, identity.tokenizer, identity.stage.scorer),
        scorer=identity.stage.scorer,
        section=section,
    )


def _files_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the files of a folder, each with what shows whether it was written again."""
    states = {path.name: path.stat() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}
    return {name: (state.st_mtime_ns, state.st_size) for name, state in states.items()}


def _forget_deepspeed() -> None:
    """Make `from_pretrained` load complete models; under ZeRO-3 it would shard them over absent ranks."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
