"""Download files, resuming interrupted downloads and explaining failures."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalequest.atomic_files import sync
from scalequest.heartbeat import Work

_LONGEST_WAIT = 30.0  # seconds between two attempts, whatever the server asks for
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # status codes of temporary errors


class FetchError(RuntimeError):
    """Why a file cannot be downloaded, in one line."""


class _Again(Exception):  # not an error yet: the same request may work in a moment
    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server."""

    timeout: float = 30.0  # seconds without receiving a byte
    retries: int = 5  # after the first attempt
    wait: float = 1.0  # seconds before the first retry, doubled for each further one


def fetch(
    url: str, part: Path, patience: Patience, *, what: str, sha256: str | None = None, resume: bool = True
) -> bytes:
    """Download a file, or resume the download that `part` holds the beginning of.

    The finished file stays in `part` with the suffix `.whole`, so it is not downloaded again before the
    caller is done with it; `discard` removes it.

    Args:
        url: the file's URL.
        part: the path for the incomplete download.
        patience: how long to wait for the server.
        what: the file's name in progress lines.
        sha256: the expected hash, if known.
        resume: whether the file at `url` never changes.

    Raises:
        FetchError: the file cannot be downloaded, or its content is not the expected one.
    """
    whole = part.with_suffix(".whole")
    if not resume:
        discard(part)
    if not whole.exists():
        _with_retries(url, part, patience, what)
        os.replace(part, whole)
        sync(whole.parent)
    data = whole.read_bytes()
    if sha256 and (found := hashlib.sha256(data).hexdigest()) != sha256:
        discard(part)
        raise FetchError(f"{url}: unexpected content: its sha256 is {found}, expected {sha256}")
    return data


def discard(part: Path) -> None:
    """Remove the files kept by `fetch`."""
    part.unlink(missing_ok=True)
    part.with_suffix(".whole").unlink(missing_ok=True)


def _with_retries(url: str, part: Path, patience: Patience, what: str) -> None:
    import httpx

    timeout = httpx.Timeout(patience.timeout)
    with httpx.Client(
        follow_redirects=True, timeout=timeout, headers={"Accept-Encoding": "identity"}
    ) as client:
        for left in range(patience.retries, -1, -1):
            try:
                return _receive(client, url, part, what)
            except _Again as again:
                if not left:
                    tries = patience.retries + 1
                    raise FetchError(f"{url}: {again} ({tries} {'try' if tries == 1 else 'tries'})") from None
                pause = max(again.wait, patience.wait * 2 ** (patience.retries - left))
                time.sleep(min(pause, _LONGEST_WAIT))


def _receive(client: Any, url: str, part: Path, what: str) -> None:
    """Request the missing part once."""
    import httpx

    have = part.stat().st_size if part.exists() else 0
    try:
        with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as response:
            if response.status_code == 416:  # nothing follows what we have: it may be complete, or too long
                part.unlink()
                raise _Again("the file on the server is shorter than what was downloaded before")
            _refuse(url, response)
            if response.status_code != 206:
                have = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink()
                raise _Again("the server sent a different part of the file than was requested")
            _save(response, part, have, what)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise FetchError(f"{url}: {error}") from None
    except httpx.TransportError as error:
        raise _Again(_why(error, client)) from None


def _refuse(url: str, response: Any) -> None:
    status = response.status_code
    said = f"status {status} {response.reason_phrase}".strip()
    if status in _PASSING:
        after = response.headers.get("Retry-After", "")
        raise _Again(said, float(after) if after.isdigit() else 0.0)
    if status not in (200, 206):
        raise FetchError(f"{url}: {said}")
    if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise FetchError(f"{url}: sent with encoding '{coding}', although no encoding was requested")


def _save(response: Any, part: Path, have: int, what: str) -> None:
    length = response.headers.get("Content-Length", "")
    work = Work(what, int(length) if length.isdigit() else None, "bytes")
    with part.open("ab" if have else "wb") as file, _Progress(work) as progress:
        try:
            for chunk in (
                response.iter_raw()
            ):  # as it arrives, because buffered data would be lost if the connection breaks
                file.write(chunk)
                work.done += len(chunk)
                progress.tell()
        finally:
            file.flush()
            os.fsync(file.fileno())


def _why(error: Exception, client: Any) -> str:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return f"no response within {client.timeout.read:g} s"
    return str(error).strip() or type(error).__name__


class _Progress(contextlib.AbstractContextManager["_Progress"]):
    """A progress line that overwrites itself in a terminal and appears now and then in a log."""

    def __init__(self, work: Work) -> None:
        self.work, self.terminal = work, sys.stderr.isatty()
        self.every = 0.2 if self.terminal else 10.0  # seconds
        self.last = time.monotonic()

    def tell(self) -> None:
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            line = self.work.line()
            print(
                f"\r{line}\x1b[K" if self.terminal else line,
                end="" if self.terminal else "\n",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
