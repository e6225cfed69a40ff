"""The folder of a stage: durable blocks while it runs, parquet and a receipt when it is done.

    config.yaml   what it was asked          data/*.parquet      its rows         README.md      its card
    receipt.json  what came of it            dropped/*.parquet   rows and why     metrics.jsonl  (tracking's)

While a stage runs, `parts/` holds its blocks (`blocks.py`). `finish` merges them under temporary names, and
writes the finished receipt last: whatever is killed whenever, the next run goes on from the parts that are
there. The idea is that of datatrove's completion markers.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scalequest.atomic_files import StageError as StageError
from scalequest.atomic_files import as_json, as_yaml, one_line, sync, write
from scalequest.pages.cards import dataset_metadata, lineage
from scalequest.pages.markup import front_matter
from scalequest.receipts import FileRecord
from scalequest.records import digest_model, model_files
from scalequest.redaction import redacted
from scalequest.stage.block_files import Tally
from scalequest.stage.blocks import Blocks
from scalequest.stage.opening import identify, join_run, mark_ready, new_receipt, set_up, take_lock
from scalequest.stage.removal import refuse_overlap

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
        blocks: those that are written while it runs.
    """

    def __init__(
        self, output_dir: Path, receipt: dict[str, Any], worker: int, workers: int, lock: int | None
    ) -> None:
        """Take what `open` has set up."""
        self.output_dir = output_dir
        self.receipt = receipt
        self.blocks = Blocks(output_dir, str(receipt.get("session")), worker, workers)
        self._worker = worker
        self._lock = lock
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
        fields, identity, digest = identify(name, version, fingerprint, inputs or {})
        if _asking.get():
            raise Asked(digest)
        if worker:
            return cls(folder, join_run(folder, identity, digest, fresh), worker, workers, None)
        with one_line(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = take_lock(folder)
            try:
                receipt = set_up(folder, identity, digest, fresh)
                if receipt is None or not receipt["finished"]:
                    started = {"started": receipt["started"] if receipt else _now()}
                    receipt = new_receipt(name, version, digest, fields, inputs or {}, writes) | started
                    write(folder / "receipt.json", as_json(receipt))
                    write(folder / "config.yaml", as_yaml(redacted(config)))
                    (folder / "parts").mkdir(exist_ok=True)
                mark_ready(lock)
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
                self.blocks.mark_done()
            return {}
        parts = self.blocks.wait()
        tally = Tally()
        with one_line(self.output_dir):
            for path in parts:
                tally.add(path)
            if tally.kept + sum(tally.dropped.values()) != rows_in:
                raise StageError(
                    f"{self.output_dir}: rows are lost: {rows_in} in, but {tally.kept} kept + "
                    f"{sum(tally.dropped.values())} dropped {tally.dropped}"
                )
            files, output = self.blocks.merge(parts, tally, columns)
            about_rows = front_matter(dataset_metadata(self.receipt["stage"], tally.kept))
            header = f"configs:\n- config_name: default\n  data_files: data/*.parquet\n{about_rows}---\n\n"
            header = f"---\n{front_matter({'license': license}) if license else ''}{header}"
            counts = tally.counts
            about = (tokens, seconds, header + card, output, files, counts, beside)
            return self._seal(rows_in, tally.kept, tally.dropped, *about)

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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
