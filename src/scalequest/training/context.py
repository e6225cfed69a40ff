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
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import disable_progress_bars
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils.logging import disable_progress_bar

from scalequest.cards import markdown_table
from scalequest.chat import (
    BoundFormat,
    ChatFormat,
    bind,
    load_format,
    load_tokenizer,
    prepare_tokenizer_and_model,
)
from scalequest.config import ConfigError, TrainRunOptions, fingerprint_fields, option, required, to_dict
from scalequest.records import expand, model_fingerprint, source_fingerprint
from scalequest.shards import Stage, StageError
from scalequest.tracking import Tracker
from scalequest.training import data

log = logging.getLogger(__name__)

SEAL = "complete.json"  # written into a checkpoint when all ranks have written the rest
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
    holdout: int = option(0, "rows drawn with `seed`, kept apart and evaluated at the end")
    prepare_only: bool = option(False, "tokenise into output_dir and stop; needs no GPU", fingerprint=False)
    prepare_processes: int = option(1, "processes that tokenise", fingerprint=False)


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
    stage: Stage | None = None
    tracker: Tracker | None = None
    counts: data.Counts | None = None
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

    def prepare(self, render: data.Render, needs: Sequence[str], **choices: Any) -> Path:
        """Tokenise the inputs, unless they lie there already, and return the folder for `data.load`.

        Args:
            render: one of `data`'s functions, everything but row and format bound.
            needs: columns that every row must have.
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
        with self.training_args.main_process_first(local=False, desc="tokenising"):
            if self.main and not (folder / "counts.json").is_file():
                rows = data.read_inputs(self.args.input, self.args.columns, self.args.limit)
                data.prepare(
                    folder,
                    rows,
                    render,
                    self.chat,
                    needs=needs,
                    holdout=self.args.holdout,
                    seed=self.training_args.seed,
                    processes=self.args.prepare_processes,
                )
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
        trainer.add_callback(_Seal(self, keep))
        if self.main:
            trainer.add_callback(_Report(self))
        trainer.train(resume_from_checkpoint=str(sealed) if sealed else None)
        if trainer.eval_dataset is not None:
            trainer.evaluate()

    def save(self, trainer: Any, stop_ids: Sequence[int], note: str) -> None:
        """Save the model, prove that it loads, write card and receipt. The last thing a recipe does.

        Args:
            trainer: has trained.
            stop_ids: ids at which the model's generations end, into its generation_config.
            note: one sentence for the card.

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
            _merge(self, adapter, dtype)
        for folder in filter(None, (self.folder, adapter)):
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.yaml holds the same
        GenerationConfig(
            bos_token_id=self.chat.bos_id,
            eos_token_id=list(stop_ids),
            pad_token_id=self.tokenizer.pad_token_id,
        ).save_pretrained(self.folder)
        check_model(self.folder, self.chat.question_prefix_ids)
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
            card=model_card(self, note, dropped, metrics),
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

    def _last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written whole, for these settings; what was not is removed."""
        fingerprint = [self.stage.fingerprint if self.stage else ""]
        if self.training_args.world_size > 1:
            broadcast_object_list(fingerprint, from_process=0)
        with self.training_args.main_process_first(local=False, desc="looking for a checkpoint"):
            found = sorted(
                self.folder.glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.partition("-")[2])
            )
            whole = [path for path in found if is_whole(path, fingerprint[0])]
            if self.main:
                for path in set(found) - set(whole):
                    log.warning("%s: %s was not written to its end; removed", self.name, path)
                    shutil.rmtree(path)
        return whole[-1] if whole else None


def begin(name: str, version: int, args: Any, training_args: Any, model_args: Any) -> Run:
    """Start a training stage: logging, tokenizer, chat format, and what makes up its fingerprint.

    Raises:
        ConfigError: a setting or an input is wrong.
    """
    if not model_args.model_name_or_path:
        raise ConfigError(
            "required key 'model_name_or_path' is missing (folder or hub id of the model to start from)"
        )
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
    )


def explained(main: Callable[..., None], *args: Any) -> int:
    """Run a recipe's `main`; a mistake of the user's becomes one line and exit status 2."""
    try:
        main(*args)
    except (ConfigError, StageError) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def is_whole(checkpoint: Path, fingerprint: str) -> bool:
    """Whether a checkpoint was sealed by a run of this fingerprint and its files still have their sizes."""
    try:
        seal = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        sizes = {name: (checkpoint / name).stat().st_size for name in seal["files"]}
    except (OSError, ValueError, LookupError):
        return False
    return bool(sizes == seal["files"] and seal["fingerprint"] == fingerprint)


def check_model(folder: Path, prompt_ids: Sequence[int]) -> None:
    """Load a saved model as anyone would, run a prompt through it and let it generate.

    Raises:
        StageError: weights are missing or empty, or what it computes is not finite.
    """
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    faults = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if faults:
        raise StageError(
            f"{folder}: the saved model is not whole: {', '.join(faults[:3])} ({len(faults)} weights)"
        )
    prompt = torch.tensor([list(prompt_ids)])
    with torch.no_grad():
        logits = model(prompt).logits
    if not bool(torch.isfinite(logits).all()):
        raise StageError(
            f"{folder}: the saved model computes values that are not finite: training has diverged"
        )
    model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)


def model_card(run: Run, note: str, dropped: Mapping[str, int], metrics: Mapping[str, float]) -> str:
    """README.md of a model folder: what it is, from what, on what, with which settings, how to load it."""
    hub = run.identity["model"].startswith("hub:")
    base = [f"base_model: {json.dumps(run.model)}"] if hub else []
    counts = run.counts
    if counts is None:
        raise ValueError("the data is not prepared")
    settings = {key: value for key, value in run.identity.items() if key not in ("chat_format", "model")}
    facts = [
        ("starts from", run.model if hub else f"{Path(run.model).name} ({run.identity['model'][:16]})"),
        ("rows in", counts.rows_in),
        ("rows trained on", counts.train),
        *((f"rows dropped: {reason}", count) for reason, count in dropped.items()),
        ("tokens in them", counts.tokens),
        ("tokens that carry loss", counts.targets),
        *settings.items(),
        *(
            (key, metrics[key])
            for key in ("train_loss", "eval_loss", "eval_rewards/accuracies")
            if key in metrics
        ),
    ]
    return "\n".join(
        [
            "---", "library_name: transformers", "pipeline_tag: text-generation",
            f"tags: [scalequest, {run.name}]", *base, "---", "",
            f"# {run.folder.name}", "", note, "",
            *markdown_table([{"what": key, "value": value} for key, value in facts], "what", "value"), "",
            f"Chat format: `{run.format.name}`.", "",
            "```python", "from transformers import AutoModelForCausalLM, AutoTokenizer",
            'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")',
            "tokenizer = AutoTokenizer.from_pretrained(folder)", "```", "",
        ]
    )  # fmt: skip


class _Seal(TrainerCallback):
    """Marks a checkpoint as whole once every rank has written its part, and only then removes older ones."""

    def __init__(self, run: Run, keep: int | None) -> None:
        self.run, self.keep = run, keep

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        args.distributed_state.wait_for_everyone()
        if not self.run.main or self.run.stage is None:
            return
        folder = self.run.folder / f"checkpoint-{state.global_step}"
        files = {
            str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
        seal = {"fingerprint": self.run.stage.fingerprint, "seconds": self.run.seconds, "files": files}
        temporary = folder / f".{SEAL}.tmp"
        temporary.write_text(json.dumps(seal), encoding="utf-8")
        os.replace(temporary, folder / SEAL)
        best = state.best_model_checkpoint
        rotate_checkpoints(str(self.run.folder), self.keep, best, use_mtime=True)


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
            "learning_rate",
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


def _merge(run: Run, adapter: Path, dtype: torch.dtype) -> None:
    """Add a LoRA adapter to its base and save the sum, which every engine loads as any other model."""
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(
        run.model, revision=run.model_args.model_revision, dtype=dtype
    )
    prepare_tokenizer_and_model(base, run.tokenizer, run.format)
    PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().save_pretrained(run.folder)
    run.tokenizer.save_pretrained(run.folder)
