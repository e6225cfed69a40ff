"""The table of sources: which sets there are, what they have to hold, and where upstream keeps them."""

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
    """One file upstream."""

    host: Host = required("which of `hosts`")
    repository: str = required("owner/name there")
    revision: str = required("its commit, or a branch if none is known")
    path: str = required("of the file in the repository")
    layout: Layout = option("json_lines", "what the file is like, see convert.py")
    sha256: str | None = option(None, "of the file, if it is known")
    confirmed: bool = option(
        True, "whether the revision was seen in public history or in other people's pins"
    )
    note: str | None = option(None, "what else is to be said")

    @property
    def label(self) -> str:
        """Owner/name@revision, the commit cut to 12 digits."""
        shown = self.revision[:12] if len(self.revision) == 40 else self.revision
        return f"{self.repository}@{shown}{'' if self.confirmed else ' (not confirmed)'}"


@dataclass(frozen=True)
class DataSet:
    """One file of `SCALEQUEST_DATA`."""

    name: str = required("its file is NAME.jsonl.gz")
    rows: int = required("how many it has", within=COUNT)
    sha256: str = required("of its rows, see `rows_sha256`")
    licence: str = required("of the content")
    sources: list[Source] = required("tried in order")
    note: str | None = option(None, "what else is to be said")

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"{self.name}.jsonl.gz"

    @property
    def group(self) -> str:
        """What its splits have in common: `gsm8k` for gsm8k_train and gsm8k_test."""
        return self.name.removesuffix("_train").removesuffix("_test")

    @property
    def split(self) -> str:
        """`train` or `test`."""
        return self.name.rpartition("_")[2]


@dataclass(frozen=True)
class Extra:
    """Something made only if it is asked for by name."""

    name: str = required("what --only calls it")
    licence: str = required("of the content")
    sources: list[Source] = required("the files that it is made of, all of them")


@dataclass(frozen=True)
class Table:
    """The keys of sources.yaml."""

    hosts: dict[str, str] = required("a URL for each host, with {repository}, {revision} and {path}")
    sets: list[DataSet] = required("the files of SCALEQUEST_DATA")
    extras: list[Extra] = required("what is made on request only")

    def url(self, source: Source, mirrors: Sequence[str] = ()) -> str:
        """Where a file is to be had, through the first mirror that is for its host.

        Args:
            source: the file.
            mirrors: `URL`, which stands for every host, or `HOST=URL`.
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
        """Sets and extras by name or group; all sets, and no extra, if no name is given.

        Raises:
            ConfigError: a name is none of them.
        """
        known = [*(one.name for one in self.sets), *(one.group for one in self.sets)]
        known += [one.name for one in self.extras]
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = (
                    f"did you mean '{near[0]}'?" if near else f"there are {', '.join(dict.fromkeys(known))}"
                )
                raise ConfigError(f"--only: no set '{name}'; {hint}")
        sets = [one for one in self.sets if not names or {one.name, one.group} & {*names}]
        return sets, [one for one in self.extras if one.name in names]


def load_table(path: str | Path = TABLE) -> Table:
    """Read the table.

    Raises:
        ConfigError: a key is missing, unknown or of another type.
    """
    table: Table = build((Table,), read_yaml(path), str(path))[0]
    return table
