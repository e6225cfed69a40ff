"""Opening the folder of a stage: its lock, and whether what is there was made with the same settings."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalequest.atomic_files import StageError, one_line
from scalequest.config import ConfigError
from scalequest.pages.markup import shorten
from scalequest.precision import SETTINGS as PRECISION
from scalequest.receipts import read_receipt
from scalequest.redaction import redacted
from scalequest.stage.provenance import code_versions
from scalequest.stage.removal import remove, strange

# Options of ours that were added, null by default, after folders had been written: a folder without one was
# made with null. That is no rule for all options: a library's null may differ from its default, and what is
# equal to a library's default is not written.
ADDED = ("diversity.keep", "draw_tokens", "shots.number")
SESSION = "SCALEQUEST_SESSION"  # variable by which a launcher tells one launch's workers, restarted ones too
_RUNNING, _READY = 0, 1  # bytes of `.lock` that worker 0 holds: while it runs, and once the folder is set up

log = logging.getLogger(__name__)


def take_lock(folder: Path) -> int:
    """Lock the folder for this process, until it closes the file or ends; return the open file.

    POSIX record locks: they work over NFS, and a child that outlives a killed parent does not inherit them.

    Raises:
        StageError: another run holds the lock, or the file system has no locks.
    """
    path = folder / ".lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _RUNNING)
    except (BlockingIOError, PermissionError):
        holder = os.pread(file, 200, 0).decode(errors="replace").strip()
        os.close(file)
        raise StageError(
            f"{folder}: another run is writing here ({holder or 'unknown process'}); wait for it, or end it"
        ) from None
    except OSError as error:
        os.close(file)
        raise StageError(
            f"{folder}: this file system has no locks ({error.strerror}); put output_dir elsewhere"
        ) from None
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
    return file


def set_up(folder: Path, identity: Mapping[str, Any], digest: str, fresh: bool) -> dict[str, Any] | None:
    """Return the receipt to continue from, or None for a new run; with `fresh`, remove what is there.

    Raises:
        StageError: the folder is not a stage's, or was made with other settings.
    """
    receipt = _receipt_to_go_on_from(folder)
    if receipt is None:
        if (found := strange(folder)) is not None:
            raise StageError(
                f"{folder}: holds {found} but no receipt.json, so it is not a stage's; choose another"
            )
        return None
    if fresh or receipt.get("removing"):
        remove(folder, receipt)
        return None
    check_settings(folder, receipt, identity, digest)
    return receipt


def clear(output_dir: str | Path, keep: Collection[str] = ()) -> None:
    """Remove what a stage has written into its folder, as `fresh` does, before any worker is started.

    Args:
        output_dir: the folder.
        keep: names of files that are not removed.

    Raises:
        StageError: another run is on it, or it is no stage's.
    """
    folder = Path(output_dir)
    if folder.is_dir():
        with one_line(folder):
            lock = take_lock(folder)
            try:
                if (receipt := _receipt_to_go_on_from(folder)) is not None:
                    remove(folder, receipt, keep)
            finally:
                os.close(lock)


def mark_ready(lock: int) -> None:
    """Tell the other workers, who wait in `join_run`, that the folder is set up."""
    fcntl.lockf(lock, fcntl.LOCK_EX, 1, _READY)


def join_run(folder: Path, identity: Mapping[str, Any], digest: str, fresh: bool) -> dict[str, Any]:
    """Wait until worker 0 of the same launch has set up the folder, and return the receipt that it began.

    Raises:
        StageError: the folder was made with other settings.
    """
    told = time.monotonic()
    while True:
        receipt = None if fresh else _receipt_to_go_on_from(folder)
        if receipt is not None and not receipt.get("removing"):
            check_settings(folder, receipt, identity, digest)
            if receipt["finished"]:
                return receipt
        if _is_ready(folder):
            receipt = _receipt_to_go_on_from(folder)
            if receipt is not None:
                check_settings(folder, receipt, identity, digest)
                return receipt
        if time.monotonic() - told > 60:
            log.warning("%s: waiting for worker 0", folder)
            told = time.monotonic()
        time.sleep(0.1)


def _is_ready(folder: Path) -> bool:
    try:
        file = os.open(folder / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _READY)
        return False
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(file)


def _receipt_to_go_on_from(folder: Path) -> dict[str, Any] | None:
    """The receipt of a folder that a run is to go on with; None if there is none.

    Raises:
        StageError: it cannot be read, or is not a stage's.
    """
    try:
        receipt = read_receipt(folder)
        if receipt is not None and not receipt.get("removing"):
            needed = ("stage", "version", "fingerprint", "fingerprint_fields", "finished", "started")
            if lacking := [key for key in needed if key not in receipt]:
                raise ConfigError(f"{folder}/receipt.json: not a stage's receipt (no '{lacking[0]}')")
    except ConfigError as error:
        raise StageError(f"{error}; or choose another output_dir") from None
    return receipt


def check_settings(
    folder: Path, receipt: Mapping[str, Any], identity: Mapping[str, Any], digest: str
) -> None:
    """Check that a folder was made with these settings; warn if other code made it.

    A release that adds an option of `ADDED` leaves the folders of earlier ones as they are.

    Raises:
        StageError: it was not; the message names every setting that differs.
    """
    if receipt["fingerprint"] != digest:
        before = {
            "stage": receipt["stage"],
            "version": receipt["version"],
            **_flat(redacted(receipt["fingerprint_fields"])),  # an older release wrote keys, too
        }
        identity = redacted(identity)
        changed = [
            f"{key}: {_value_of(before, key)} -> {_value_of(identity, key)}"
            for key in {**before, **identity}
            if key not in ADDED or before.get(key) is not None or identity.get(key) is not None
            if _value_of(before, key, None) != _value_of(identity, key, None)
        ]
        state = "finished" if receipt["finished"] else "begun"
        ways = "Give --fresh to start again, or another output_dir"
        moved = [key for key in PRECISION if _value_of(before, key, None) != _value_of(identity, key, None)]
        if moved and len(moved) == len(changed):
            given = " ".join(f"--{key} {_value_of(before, key).strip(chr(34))}" for key in moved)
            ways = (
                f"This machine computes in another precision: give {given} to go on as it was {state}. {ways}"
            )
        if changed:
            raise StageError(f"{folder}: was {state} with other settings: {'; '.join(changed)}. {ways}")
    now = code_versions()
    old = {**receipt.get("versions", {}), "commit": receipt.get("commit")}
    new = {**now["versions"], "commit": now["commit"]}
    differing = [
        f"{key} {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)
    ]
    if differing:
        log.warning(
            "%s: was %s with other code: %s",
            folder,
            "made" if receipt["finished"] else "begun",
            "; ".join(differing),
        )


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _value_of(values: Mapping[str, Any], key: str, width: int | None = 60) -> str:
    """A setting as JSON, shortened unless `width` is None."""
    text = json.dumps(values[key], ensure_ascii=False, sort_keys=True) if key in values else "(absent)"
    return text if width is None else shorten(text, width)


def identify(
    name: str, version: int, fingerprint: Mapping[str, Any], inputs: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return what can change a row as the receipt holds it, as it is compared, and its digest."""
    fields = {**fingerprint, **({"inputs": list(inputs.values())} if inputs else {})}
    fields = redacted(json.loads(json.dumps(fields, sort_keys=True)), environment=False)
    identity = {"stage": name, "version": version, **_flat(fields)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return fields, identity, digest


def new_receipt(
    name: str,
    version: int,
    digest: str,
    fields: Mapping[str, Any],
    inputs: Mapping[str, str],
    writes: Sequence[str],
) -> dict[str, Any]:
    """The receipt of a stage that has just begun."""
    return {
        "stage": name,
        "version": version,
        "fingerprint": digest,
        "fingerprint_fields": redacted(fields),
        "inputs": {redacted(source): of for source, of in inputs.items()},
        "writes": list(writes),
        **code_versions(),
        "session": os.environ.get(SESSION) or secrets.token_hex(8),
        "finished": False,
    }
