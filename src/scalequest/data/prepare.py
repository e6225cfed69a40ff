"""Build the files of `SCALEQUEST_DATA` one after the other and report the outcome of each."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scalequest.atomic_files import write
from scalequest.config import ConfigError
from scalequest.data.convert import check, check_file, to_file, to_rows
from scalequest.data.fetch import FetchError, Patience, discard, fetch
from scalequest.data.sources import DataSet, Source, Table

DOWNLOADS = ".downloads"  # folder for unfinished downloads, in the output folder


@dataclass(frozen=True)
class Places:
    """Where to look for upstream's files, and where to write."""

    table: Table
    output: Path
    local: Path | None = None
    mirrors: Sequence[str] = ()
    patience: Patience = field(default_factory=Patience)

    def read(self, source: Source, what: str) -> bytes:
        """Return an upstream file, from the local copy if there is one, otherwise from the network.

        Raises:
            ConfigError: the local copy does not contain it.
            FetchError: it cannot be downloaded.
        """
        if self.local is not None:
            path = self.local / source.repository / source.path
            try:
                return path.read_bytes()
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}") from None
        part = self.part(source)
        part.parent.mkdir(parents=True, exist_ok=True)
        url = self.table.url(source, self.mirrors)
        return fetch(url, part, self.patience, what=what, sha256=source.sha256, resume=source.confirmed)

    def part(self, source: Source) -> Path:
        """Return where the download is kept until the resulting file is complete."""
        url = self.table.url(source, self.mirrors)
        name = f"{Path(source.path).stem}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        return self.output / DOWNLOADS / f"{name}.part"


@dataclass(frozen=True)
class Outcome:
    """The outcome for one requested item."""

    name: str
    rows: int | None
    licence: str
    source: str
    status: str
    done: bool = True


@contextlib.contextmanager
def alone(output: Path) -> Iterator[None]:
    """Lock the folder against a second command; remove it afterwards if it is empty.

    Raises:
        ConfigError: another command is already using it.
    """
    folder = output / DOWNLOADS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{output}: another prepare_data.py is writing to this folder; wait until it has finished"
            ) from None
        yield
        if [*folder.iterdir()] == [folder / "lock"]:
            (folder / "lock").unlink()
            folder.rmdir()
            with contextlib.suppress(OSError):  # the folder contains files, unless only an extra was built
                output.rmdir()


def there(one: DataSet, output: Path) -> str | None:
    """Return what is wrong with a data set's file; "" if it is missing, None if it is correct."""
    path = output / one.file
    if not path.exists():
        return ""
    try:
        check_file(path, one)
    except ConfigError as error:
        return str(error)
    return None


def make(one: DataSet, places: Places, what: str, say: Callable[[str], None]) -> Outcome:
    """Build the file of one data set, unless it exists and is correct.

    An existing file with other content is kept next to the new one, with the suffix `.before`.

    Args:
        one: the data set.
        places: where to look and where to write.
        what: the set's name in progress lines.
        say: called with a line for each source that fails.
    """
    path = places.output / one.file
    wrong = there(one, places.output)
    if wrong is None:
        return Outcome(one.name, one.rows, one.licence, one.sources[0].label, "there already")
    if places.local is not None and (places.local / one.file).exists():
        candidates: list[Source | None] = [None, *one.sources]
    else:
        candidates = [*one.sources]
    for source in candidates:
        label = source.label if source else f"{places.local}"
        try:
            data = _file(one, source, places, what)
        except (ConfigError, FetchError) as error:
            say(f"{one.name}: {error}")
            continue
        if wrong:
            say(f"{one.name}: {wrong}; the old file is kept as {path.name}.before")
            os.replace(path, path.with_name(f"{path.name}.before"))
        write(path, data)
        if source:
            discard(places.part(source))
        return Outcome(one.name, one.rows, one.licence, label, "made")
    return Outcome(one.name, one.rows, one.licence, one.sources[0].label, "MISSING", done=False)


def _file(one: DataSet, source: Source | None, places: Places, what: str) -> bytes:
    """Return the content of a data set's file, after checking it."""
    if source is None:
        assert places.local is not None
        check_file(places.local / one.file, one)
        return (places.local / one.file).read_bytes()
    data = places.read(source, what)
    try:
        rows = to_rows(data, source.layout, one.split)
        check(rows, one)
    except ConfigError as error:
        discard(places.part(source))  # the cached download would fail again
        raise ConfigError(f"{source.label}: {source.path}: {error}") from None
    return to_file(rows)


def table_of(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as an aligned table."""
    head = ("set", "rows", "licence", "source", "status")
    rows = [
        (one.name, "" if one.rows is None else f"{one.rows:,}", one.licence, one.source, one.status)
        for one in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if number == 1 else text.ljust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join(lines)
