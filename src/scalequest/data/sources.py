"""The table of sources: the data sets, their expected rows, and where upstream publishes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from scalequest.config import ConfigError, build, option, read_yaml, required
from scalequest.config.ranges import COUNT

TABLE = Path(__file__).with_name("sources.yaml")

Layout = Literal["json_lines", "json_list", "math", "math_prompts"]
Host = Literal["github", "hub", "hub_model"]


@dataclass(frozen=True)
class Source:
    """One upstream file."""

    host: Host = required("key in `hosts`")
    repository: str = required("owner/name on the host")
    revision: str = required("commit, or a branch if no commit is known")
    path: str = required("path of the file in the repository")
    layout: Layout = option("json_lines", "layout of the file, see convert.py")
    sha256: str | None = option(None, "sha256 of the file, if known")
    confirmed: bool = option(
        True, "whether the revision was found in the public history or in other projects' pins"
    )
    note: str | None = option(None, "further remarks")

    @property
    def label(self) -> str:
        """Return owner/name@revision, with the commit shortened to 12 digits."""
        shown = self.revision[:12] if len(self.revision) == 40 else self.revision
        return f"{self.repository}@{shown}{'' if self.confirmed else ' (not confirmed)'}"


@dataclass(frozen=True)
class DataSet:
    """One file of `SCALEQUEST_DATA`."""

    name: str = required("name; the file is NAME.jsonl.gz")
    rows: int = required("number of rows", within=COUNT)
    sha256: str = required("hash of the rows, see `rows_sha256`")
    licence: str = required("licence of the content")
    sources: list[Source] = required("sources, tried in order")
    note: str | None = option(None, "further remarks")

    @property
    def file(self) -> str:
        """Return the name of the file."""
        return f"{self.name}.jsonl.gz"

    @property
    def group(self) -> str:
        """Return the common name of the splits: `gsm8k` for gsm8k_train and gsm8k_test."""
        return self.name.removesuffix("_train").removesuffix("_test")

    @property
    def split(self) -> str:
        """Return `train` or `test`."""
        return self.name.rpartition("_")[2]


@dataclass(frozen=True)
class Extra:
    """An item that is only prepared if requested by name."""

    name: str = required("name used with --only")
    licence: str = required("licence of the content")
    sources: list[Source] = required("files that it consists of; all are needed")


@dataclass(frozen=True)
class Table:
    """The content of sources.yaml."""

    hosts: dict[str, str] = required("URL template per host, with {repository}, {revision} and {path}")
    sets: list[DataSet] = required("files of the folder SCALEQUEST_DATA")
    extras: list[Extra] = required("data prepared only on request")

    def url(self, source: Source, mirrors: Sequence[str] = ()) -> str:
        """Return the URL of a file, using the first mirror for its host.

        Args:
            source: the file.
            mirrors: `URL`, which applies to every host, or `HOST=URL`.
        """
        url = self.hosts[source.host].format(
            repository=source.repository, revision=source.revision, path=source.path
        )
        parts = urlsplit(url)
        for mirror in mirrors:
            name, equals, base = mirror.partition("=")
            if not equals or "://" in name:
                return mirror.rstrip("/") + parts.path
            if name == parts.netloc:
                return base.rstrip("/") + parts.path
        return url

    def chosen(self, names: Sequence[str]) -> tuple[list[DataSet], list[Extra]]:
        """Return data sets and extras by name or group; all sets, and no extras, if no name is given.

        Raises:
            ConfigError: a name is unknown.
        """
        known = [*(one.name for one in self.sets), *(one.group for one in self.sets)]
        known += [one.name for one in self.extras]
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = (
                    f"did you mean '{near[0]}'?" if near else f"known sets: {', '.join(dict.fromkeys(known))}"
                )
                raise ConfigError(f"--only: unknown set '{name}'; {hint}")
        sets = [one for one in self.sets if not names or {one.name, one.group} & {*names}]
        return sets, [one for one in self.extras if one.name in names]


def load_table(path: str | Path = TABLE) -> Table:
    """Read the table.

    Raises:
        ConfigError: a key is missing, unknown or of the wrong type.
    """
    table: Table = build((Table,), read_yaml(path), str(path))[0]
    return table
