"""Make long runs safe: sealed checkpoints, a stop if the loss is not finite, a stop on request.

A run that is told to stop (by SIGTERM, which schedulers send before they reclaim a machine) finishes its
step, writes a complete checkpoint and exits with status 75, `EX_TEMPFAIL` in sysexits.h: try again later.
Launchers of several processes return their own status instead, so the run also writes `stopped.json`, which
slurm/launch.py looks for. The same command then resumes from the checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from scalequest import atomic_files
from scalequest.atomic_files import StageError

log = logging.getLogger(__name__)

SEAL = "complete.json"  # written into a checkpoint when all ranks have written the rest
STOPPED = "stopped.json"  # written by a run that was told to stop
NOT_FINITE = "not_finite"  # folder of batches whose loss was not finite
REQUEUE = 75  # exit status: stopped, not failed; start again


def is_whole(checkpoint: Path, fingerprint: str) -> bool:
    """Return whether a run with this fingerprint sealed a checkpoint and its files still have their sizes."""
    try:
        seal = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        sizes = {name: (checkpoint / name).stat().st_size for name in seal["files"]}
    except (OSError, ValueError, LookupError):
        return False
    return bool(sizes == seal["files"] and seal["fingerprint"] == fingerprint)


class Seal(TrainerCallback):
    """Marks a checkpoint as complete once every rank has written its part, and then removes older ones."""

    def __init__(
        self, folder: Path, keep: int | None, fingerprint: str, seconds: Callable[[], float]
    ) -> None:
        self.folder, self.keep, self.fingerprint, self.seconds = folder, keep, fingerprint, seconds

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seal it; all ranks call this."""
        args.distributed_state.wait_for_everyone()
        if args.process_index != 0:
            return
        folder = self.folder / f"checkpoint-{state.global_step}"
        files = {
            str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
        seal = {"fingerprint": self.fingerprint, "seconds": self.seconds(), "files": files}
        atomic_files.write(folder / SEAL, atomic_files.as_json(seal))
        best = state.best_model_checkpoint
        rotate_checkpoints(str(self.folder), self.keep, best, use_mtime=True)


class StopCallback(TrainerCallback):
    """Ends training on all ranks together if a loss is not finite or a rank was told to stop.

    Before each optimizer step, the ranks exchange their state in one small reduction, so none of them waits
    for one that has left. After a loss or gradient that is not finite, nothing is saved and no weight is
    changed, except under DeepSpeed, which steps before anyone can check. In fp16 only the loss counts,
    because a gradient that is too large merely lowers the loss scale.

    Attributes:
        stopped: whether the run was told to stop and has saved.
    """

    def __init__(self, name: str, folder: Path, tokenizer: Any, trainer: Any) -> None:
        self.name, self.folder, self.tokenizer = name, folder, tokenizer
        self.stopped = False
        self._told = False
        self._bad: tuple[Any, dict[str, Any]] | None = None
        self._last = self._bad
        step, norm_of = trainer.training_step, trainer._get_grad_norm
        # A trainer whose batches are prompts has a method that returns what became of them.
        batch_of = getattr(trainer, "batch_of", lambda inputs: inputs)

        def watched(model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
            loss = step(model, inputs, *more, **named)
            self._last = loss, batch_of(inputs)
            if self._bad is None and not bool(torch.isfinite(loss)):
                self._bad = self._last
            return loss

        def measured(*more: Any, **named: Any) -> Any:
            norm = norm_of(*more, **named)
            if self._bad is None and not trainer.args.fp16 and not is_sound(norm):
                self._bad = self._last
            return norm

        trainer.training_step, trainer._get_grad_norm = watched, measured
        trainer.args.logging_nan_inf_filter = False  # it would log an average instead of such a loss
        trainer.add_callback(self)
        self._before: Any = None

    def __enter__(self) -> StopCallback:
        """Install the SIGTERM handler; only possible in a process's main thread."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous SIGTERM handler."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: Any) -> None:
        self._told = True  # nothing else: a handler may interrupt anything

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Agree, and stop if any rank's loss or gradient was not finite.

        Raises:
            StageError: names the step and the folder with the batch.
        """
        flags = torch.tensor([self._bad is not None, self._told], dtype=torch.int32, device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        bad, told = flags.tolist()
        self.stopped = self.stopped or bool(told)
        if not bad:
            return
        folder = self.folder / NOT_FINITE
        if self._bad is not None:
            self._keep(folder, state.global_step + 1, args.process_index)
        args.distributed_state.wait_for_everyone()
        raise StageError(
            f"{self.name}: the loss of step {state.global_step + 1} or its gradient is not "
            f"finite; nothing was saved since, and the batch is kept in {folder}: inspect its "
            "rows, lower learning_rate or max_grad_norm, or train in bf16 instead of fp16"
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop if the ranks agreed to; all of them agreed in the same step."""
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def _keep(self, folder: Path, step: int, rank: int) -> None:
        assert self._bad is not None, "no batch to keep"
        loss, batch = self._bad
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }
        save_file(tensors, folder / f"step-{step}-rank-{rank}.safetensors")
        rows = [self.tokenizer.decode(ids) for ids in tensors.get("input_ids", torch.empty(0))]
        said = {"step": step, "rank": rank, "loss": str(float(loss)), "rows": rows}
        (folder / f"step-{step}-rank-{rank}.json").write_text(json.dumps(said, ensure_ascii=False, indent=1))


def is_sound(norm: Any) -> bool:
    """Return whether a gradient with this norm is usable; DeepSpeed reports -1 for one that is not finite."""
    return norm is None or (math.isfinite(norm) and float(norm) >= 0)


def whole_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """Return the newest complete checkpoint in `folder`; incomplete ones are removed.

    Folders whose names only start like a checkpoint's, such as a copy called `checkpoint-500-good`, are kept.
    """
    steps = {
        int(path.name.partition("-")[2]): path
        for path in folder.glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name)
    }
    whole = {step: path for step, path in steps.items() if is_whole(path, fingerprint)}
    for step in sorted(steps.keys() - whole.keys()):
        log.warning("%s is incomplete and was removed", steps[step])
        shutil.rmtree(steps[step])
    return whole[max(whole)] if whole else None


def tell_stopped(folder: Path, step: int | None = None) -> None:
    """Tell the scheduler that the run in `folder` was stopped and has not failed."""
    (folder / STOPPED).write_text(json.dumps({"step": step, "time": time.time()}) + "\n")


def leave_when_told(folder: Path) -> None:
    """Handle SIGTERM while there is nothing to save: rows are tokenised, or a model is loaded or checked.

    The next start repeats what was done since the last checkpoint, so the process exits at once. Only a
    process's main thread can handle the signal; during training, `StopCallback` does.
    """

    def leave(number: int, frame: Any) -> None:
        if (folder / "receipt.json").is_file() and not (folder / STOPPED).exists():  # the stage has started
            tell_stopped(folder)
        # No clean-up, because it would wait for ranks that are also leaving.
        os._exit(REQUEUE)

    signal.signal(signal.SIGTERM, leave)
