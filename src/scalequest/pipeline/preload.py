"""A pipeline's stages without their imports: one process imports everything, and each stage is forked off it.

On two CPU cores a stage spends 10 to 30 seconds on importing torch, transformers, TRL and vLLM; the demo has
13 stages, some with one second of work. Here they are imported once. A stage is still a process of its own,
with its own environment, log and memory. Only on Linux and without a GPU: a fork must not meet threads or an
open device.

`Preloaded` is the pipeline's side. The process itself (`python -m scalequest.pipeline.preload`) reads one
request per line, runs it, ends whatever it left behind, and answers with its exit status. When its standard
input ends, because the pipeline is gone, everything that it has started ends, too: it is the subreaper of
what it forks.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from scalequest.pipeline.subreaper import (
    GRACE_SECONDS,
    GRACE_STOPPED_SECONDS,
    adopt_orphans,
    die_with,
    end_descendants,
    find_descendants,
    forward_signals,
    outlive_parent,
    shell_status_of,
)

# What the stages of pipelines import, in an order that works; what is not installed is left out.
_MODULES = (
    *("torch", "transformers", "datasets", "trl", "wandb.sdk.launch", "scalequest.grading.grader"),
    *("scalequest.evaluation.harness", "scalequest.training.sft", "scalequest.training.dpo"),
    "transformers.models.llama.modeling_llama",
)
_VLLM = ("vllm", "vllm.entrypoints.llm", "vllm.v1.worker.cpu_worker", "vllm.model_executor.models.llama")
_POLL = 0.05  # seconds

_forked = False


def possible() -> bool:
    """Whether stages can be forked on this machine."""
    from scalequest.hardware import has_gpu

    return sys.platform == "linux" and not has_gpu()


def preloaded() -> bool:
    """Whether this process was forked off the one that has imported everything, and so may fork itself."""
    return _forked


class Preloaded:
    """The process that has imported everything, seen from the pipeline; use as a context manager.

    The first stage that needs it starts it.
    """

    def __init__(self, environment: Mapping[str, str], lock: int, log: Path) -> None:
        """Take what all stages share.

        Args:
            environment: its variables.
            lock: descriptor that its processes hold open.
            log: file for what the imports say, and for what ends the process itself.
        """
        self._environment, self._lock, self._log = environment, lock, log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Preloaded:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process and all that it has started."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()

    def cpu_seconds(self) -> float:
        """CPU seconds of all stages that it has forked and that have ended; what it imports is not in it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._process is not None:
                times = psutil.Process(self._process.pid).cpu_times()
                return float(times.children_user + times.children_system)
        return 0.0

    def start(self, words: Sequence[str], log: Path, more: Mapping[str, str]) -> Forked:
        """Run a stage.

        Args:
            words: the script and its arguments.
            log: file that its output is added to.
            more: variables over the environment of all stages.
        """
        if self._process is None or self._process.poll() is not None:
            adopt_orphans()
            self._before = find_descendants()
            with self._log.open("ab") as file:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "scalequest.pipeline.preload", str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    env=self._environment,
                    start_new_session=True,
                    pass_fds=[self._lock],
                )
        request = {"words": list(words), "log": str(log), "environment": dict(more)}
        return Forked(self._process, self._before, request)


class Forked:
    """A stage that was forked, with the methods of a `SupervisedProcess` that the pipeline uses."""

    def __init__(
        self, server: subprocess.Popen[bytes], before: Collection[psutil.Process], request: Mapping[str, Any]
    ) -> None:
        """Ask for it."""
        assert server.stdin is not None
        self._server, self._before = server, before
        self.returncode: int | None = None
        with contextlib.suppress(BrokenPipeError):  # it is gone already: `wait` says how
            server.stdin.write(json.dumps(request).encode() + b"\n")
            server.stdin.flush()

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status.

        Raises:
            TimeoutExpired: it still runs.
        """
        assert self._server.stdout is not None
        if self.returncode is None:
            if not select.select([self._server.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("stage", timeout or 0.0)
            answer = self._server.stdout.readline()
            self.returncode = int(answer) if answer else self._server.wait()  # killed, with the stage
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it on to the stage."""
        self._server.send_signal(number)

    def end(self) -> None:
        """End the stage, if it still runs."""
        if self.returncode is None and self._server.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._server.stdin.close()

    def finish(self) -> int:
        """Wait until nothing of it is left; returns its exit status, as a shell gives it."""
        status = self.wait()
        if status < 0:  # the process that forks was killed, and what it forked was handed to this one
            end_descendants(0, but=self._before)
        return shell_status_of(status)


# --------------------------------------------------------------------------------------------- the process


def main() -> int:
    """Import, then fork a stage per request, until there are no more; returns the exit status."""
    pipeline, server = int(sys.argv[1]), os.getpid()
    adopt_orphans()
    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    # Whatever a library prints while it is imported goes to the log, not among the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    ready, waiting = False, b""
    while True:
        while b"\n" not in waiting:
            received = os.read(0, 1 << 16)
            if not received:
                return 0
            waiting += received
        line, _, waiting = waiting.partition(b"\n")
        request = json.loads(line)
        if not ready:
            die_with(pipeline)  # nothing looks at the input meanwhile
            _import()
            outlive_parent()
            ready = True
        stage = os.fork()
        if stage == 0:
            die_with(server)
            os.close(answers)
            leave(_run(request))
        with contextlib.suppress(OSError):  # both sides do it, so that no signal comes too early
            os.setpgid(stage, stage)
        status = _watch(stage, told)
        os.write(answers, f"{status}\n".encode())


def _import() -> None:
    for name in _MODULES:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    with contextlib.suppress(Exception):
        from scalequest.engines.vllm_engine import import_vllm

        import_vllm()
        for name in _VLLM:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a stage's collections need not look at what it did not make


def _run(request: Mapping[str, Any]) -> int:
    """Become the stage, in the process that was forked."""
    global _forked
    _forked = True
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(request["environment"])
    _own_temporary_folder()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # as a process that has just started
    script, *_ = sys.argv = request["words"]
    sys.path[0] = str(Path(script).parent)
    return exit_status_of(lambda: runpy.run_path(script, run_name="__main__"))


def _own_temporary_folder() -> None:
    """Give this fork a folder of its own for W&B's tables, which it removes at its end, as W&B does."""
    if media := getattr(sys.modules.get("wandb.sdk.data_types._private"), "MEDIA_TMP", None):
        media._finalizer.detach()  # the folder there was belongs to the process that was forked
        media.__init__("wandb-media")


def exit_status_of(run: Callable[[], object]) -> int:
    """Run a script's code and return its exit status; print what the interpreter would on standard error."""
    try:
        run()
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(status: int) -> None:
    """End a forked process as the interpreter does, but before libraries report what they leak at its end."""
    with contextlib.suppress(Exception):
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


class _Child:
    """A fork, in a process group of its own, of a process that was itself forked."""

    def __init__(self, number: int) -> None:
        self.number = number

    def send_signal(self, number: int, /) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.number, number)

    def end(self) -> None:
        self.send_signal(signal.SIGKILL)


def forked(work: Callable[[], int]) -> int:
    """Do `work`, which gives an exit status, in a fork of this process; returns the status as a shell's.

    The fork ends with this process, and so does what it has started: see `main`.
    """
    parent, child = os.getpid(), os.fork()
    if child == 0:
        os.setpgid(0, 0)
        die_with(parent)
        _own_temporary_folder()
        leave(work())
    with contextlib.suppress(OSError):  # both sides do it, so that no signal comes too early
        os.setpgid(child, child)
    with forward_signals(_Child(child)) as came:
        status = shell_status_of(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return 128 + came[0] if came else status


def _watch(stage: int, told: list[int]) -> int:
    """Wait for a stage, pass signals on to it, end it if the pipeline is gone; its status as a shell's."""
    stopped = False
    while True:
        done, status = os.waitpid(stage, os.WNOHANG)
        if done:
            break
        while told:
            stopped = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(stage, told.pop(0))
        if select.select([0], [], [], _POLL)[0] and not os.read(0, 1):  # no request comes while one runs
            end_descendants(0)
            os._exit(1)
    code = os.waitstatus_to_exitcode(status)
    # A stage that was told to stop, or was killed, left nothing that is worth a long wait.
    end_descendants(GRACE_STOPPED_SECONDS if stopped or code < 0 else GRACE_SECONDS)
    while True:  # what it left behind was handed to this process
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        break
    return shell_status_of(code)


if __name__ == "__main__":
    from scalequest.pipeline import preload  # not this copy of it: stages look there

    sys.exit(preload.main())
