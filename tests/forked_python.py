"""A Python whose processes start with torch, transformers and TRL imported, for tests of what a script does.

On two cores a script spends 10 to 30 seconds on these imports. `interpreter` gives the path of an
executable that takes a script (or `-c`, or `-m`) and its arguments as `python` does, in the same folder and
environment and on the same standard streams; the script runs in a fork of one process that has imported the
libraries, and ends with its starter. An evaluation forks the processes of its models, as in the demo. Tests
of what a script imports, of signals, kills and the processes below a script start `sys.executable` instead.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def interpreter(folder: Path) -> Iterator[str]:
    """The executable, in `folder`; plain Python where processes cannot be forked."""
    import multiprocessing.spawn  # it keeps the interpreter that it sees first  # noqa: F401

    from scalequest.pipeline.preload import possible

    if not possible():
        yield sys.executable
        return
    address, executable = folder / "socket", folder / "python"
    client = shlex.join([sys.executable, "-IS", __file__, str(address)])
    executable.write_text(f'#!/bin/sh\nexec {client} "$@"\n')
    executable.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(address)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        yield str(executable)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


# ---------------------------------------------------------------------- the executable: standard library only


def ask(address: str, words: Sequence[str]) -> int:
    """Have the server run it on the streams of this process; returns or dies of its exit status."""
    content = {"words": list(words), "folder": os.getcwd(), "environment": dict(os.environ)}
    request = json.dumps(content).encode()
    folder, name = os.path.split(address)
    os.chdir(folder)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(name)
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(request)
        status = int(connection.recv(16) or b"1")
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


# ------------------------------------------------------------------------------------------------- the server


def serve(address: str) -> None:
    """Import, then run what is asked for, each in a fork that a fork of its own waits for."""
    from scalequest.pipeline import preload
    from scalequest.pipeline.subreaper import die_with

    die_with(os.getppid())
    for name in (*preload._MODULES, "matplotlib.pyplot"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    folder, name = os.path.split(address)
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _attend(connection)
                os._exit(0)
            connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _attend(connection: socket.socket) -> None:
    from scalequest.pipeline.preload import leave
    from scalequest.pipeline.subreaper import die_with

    size, streams, *_ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        request = json.loads(file.read(int.from_bytes(size, "big")))
    own = os.getpid()
    script = os.fork()
    if script == 0:
        connection.close()
        die_with(own)
        leave(_become(request, streams))
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(script)
    if connection in select.select([connection, ended], [], [])[0]:  # its starter is gone
        os.kill(script, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(script, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(str(status).encode())


def _become(request: dict[str, Any], streams: Sequence[int]) -> int:
    """Be the script, as `preload` has it."""
    from scalequest.pipeline import preload

    preload._forked = True
    os.setpgid(0, 0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.modules["numpy"].random.seed()
    random.seed()
    first, *rest = request["words"]

    def run() -> None:
        if first == "-c":
            sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif first == "-m":
            sys.argv, sys.path[0] = rest, ""
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = request["words"], str(Path(first).resolve().parent)
            runpy.run_path(first, run_name="__main__")

    return preload.exit_status_of(run)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
