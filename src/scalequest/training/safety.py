"""What keeps a long run safe: sealed checkpoints, a stop where the loss is no number, a stop when told to.

A run that is told to stop (SIGTERM, as schedulers send it before they take a machine away) ends its step,
writes a whole checkpoint and leaves with status 75, `EX_TEMPFAIL` of sysexits.h: try again later. Launchers
of several processes put their own status in its place, so it also leaves `stopped.json`, for slurm/launch.py
to look for. Started again, the same command goes on from there.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from scalequest import durable
from scalequest.shards import StageError

if TYPE_CHECKING:
    from scalequest.training.context import Run

log = logging.getLogger(__name__)

SEAL = "complete.json"  # written into a checkpoint when all ranks have written the rest
STOPPED = "stopped.json"  # left by a run that was told to stop
NOT_FINITE = "not_finite"  # folder of batches whose loss was no number
REQUEUE = 75  # exit status: stopped, not failed; start me again


def is_whole(checkpoint: Path, fingerprint: str) -> bool:
    """Whether a checkpoint was sealed by a run of this fingerprint and its files still have their sizes."""
    try:
        seal = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        sizes = {name: (checkpoint / name).stat().st_size for name in seal["files"]}
    except (OSError, ValueError, LookupError):
        return False
    return bool(sizes == seal["files"] and seal["fingerprint"] == fingerprint)


class Seal(TrainerCallback):
    """Marks a checkpoint as whole once every rank has written its part, and only then removes older ones."""

    def __init__(self, run: Run, keep: int | None) -> None:
        self.run, self.keep = run, keep

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seal it; all ranks come here."""
        args.distributed_state.wait_for_everyone()
        if not self.run.main or self.run.stage is None:
            return
        folder = self.run.folder / f"checkpoint-{state.global_step}"
        files = {
            str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
        seal = {"fingerprint": self.run.stage.fingerprint, "seconds": self.run.seconds, "files": files}
        durable.write(folder / SEAL, durable.as_json(seal))
        best = state.best_model_checkpoint
        rotate_checkpoints(str(self.run.folder), self.keep, best, use_mtime=True)


class Guard(TrainerCallback):
    """Ends training on all ranks together, where a loss is no number or a rank was told to stop.

    Before each optimizer step the ranks tell each other, in one small reduction, so that none of them waits
    for one that has left. With a loss or a gradient that is no finite number nothing is saved any more, and
    no weight is changed, but under DeepSpeed, which steps before anyone can look. In fp16 only the loss
    counts: there, a gradient that is too large only lowers the scale.

    Attributes:
        stopped: whether the run was told to stop, and has saved.
    """

    def __init__(self, run: Run, trainer: Any) -> None:
        self.run = run
        self.stopped = False
        self._told = False
        self._bad: tuple[Any, dict[str, Any]] | None = None
        self._last = self._bad
        step, norm_of = trainer.training_step, trainer._get_grad_norm

        def watched(model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
            loss = step(model, inputs, *more, **named)
            self._last = loss, inputs
            if self._bad is None and not bool(torch.isfinite(loss)):
                self._bad = self._last
            return loss

        def measured(*more: Any, **named: Any) -> Any:
            norm = norm_of(*more, **named)
            if self._bad is None and not trainer.args.fp16 and not is_sound(norm):
                self._bad = self._last
            return norm

        trainer.training_step, trainer._get_grad_norm = watched, measured
        trainer.args.logging_nan_inf_filter = False  # it would put an average in the place of such a loss
        trainer.add_callback(self)
        self._before: Any = None

    def __enter__(self) -> Guard:
        """Take SIGTERM; only a process's main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        """Give SIGTERM back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: Any) -> None:
        self._told = True  # nothing else: a handler may interrupt anything

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Agree; stop where any rank's loss or gradient was no finite number.

        Raises:
            StageError: naming the step and where the batch is kept.
        """
        flags = torch.tensor([self._bad is not None, self._told], dtype=torch.int32, device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        bad, told = flags.tolist()
        self.stopped = self.stopped or bool(told)
        if not bad:
            return
        folder = self.run.folder / NOT_FINITE
        if self._bad is not None:
            self._keep(folder, state.global_step + 1, args.process_index)
        args.distributed_state.wait_for_everyone()
        raise StageError(
            f"{self.run.name}: the loss of step {state.global_step + 1} is no finite number, or its gradient "
            f"is none; nothing was saved since, and its batch is kept in {folder}: look at its rows, lower "
            "learning_rate or max_grad_norm, train in bf16 rather than fp16"
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop where that was agreed on; all ranks agreed in the same step."""
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
        rows = [self.run.tokenizer.decode(ids) for ids in tensors.get("input_ids", torch.empty(0))]
        said = {"step": step, "rank": rank, "loss": str(float(loss)), "rows": rows}
        (folder / f"step-{step}-rank-{rank}.json").write_text(json.dumps(said, ensure_ascii=False, indent=1))


def is_sound(norm: Any) -> bool:
    """Whether a gradient of this norm can be learnt from; DeepSpeed says -1 where it is no finite number."""
    return norm is None or (math.isfinite(norm) and float(norm) >= 0)


def whole_checkpoint(folder: Path, fingerprint: str, clean: bool) -> Path | None:
    """The newest checkpoint in `folder` that was written whole; with `clean`, remove those that were not."""
    found = sorted(folder.glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.partition("-")[2]))
    whole = [path for path in found if is_whole(path, fingerprint)]
    for path in set(found) - set(whole) if clean else ():
        log.warning("%s was not written to its end; removed", path)
        shutil.rmtree(path)
    return whole[-1] if whole else None
