"""How much of each benchmark a data set contains: clean ratios, read from the report of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalequest import atomic_files
from scalequest.config import ConfigError
from scalequest.evaluation.statistics import Estimate, share_of
from scalequest.evaluation.tables import Table, format_percent

REPORT = "report.json"


@dataclass(frozen=True)
class CleanRatios:
    """Of one set: by benchmark, the share of its problems that have no 13-gram in common with the set.

    Attributes:
        label: the set's name.
        source: the file of the numbers, for a note.
        shares: the clean ratio by benchmark, with Wilson's interval over its problems.
        left_out: benchmarks that were not compared, since their data are missing.
    """

    label: str
    source: str
    shares: Mapping[str, Estimate]
    left_out: tuple[str, ...] = ()


def read_clean_ratios(label: str, folder: str | Path) -> CleanRatios:
    """Read the clean ratios that scripts/dataset_statistics.py or an assembled set left in a folder.

    Raises:
        ConfigError: there is no report there, or it compares with no benchmark.
    """
    path = Path(folder) / REPORT
    if not path.is_file():
        raise ConfigError(
            f"leakage: {path}: no such file; give the output folder of scripts/dataset_statistics.py"
        )
    found = atomic_files.read_object(path).get("contamination")
    found = found if isinstance(found, dict) else {}
    clean = found.get("clean")
    if not clean:
        raise ConfigError(
            f"leakage: {path}: no benchmark was compared with the set; set contamination.benchmarks there"
        )
    try:
        shares = {str(one["benchmark"]): _share(one) for one in clean}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"leakage: {path}: contamination.clean cannot be read: {error!r}") from None
    return CleanRatios(label, str(path), shares, tuple(map(str, found.get("left_out") or ())))


def _share(one: Mapping[str, Any]) -> Estimate:
    questions, met = int(one["questions"]), int(one["met"])
    return share_of(questions - met, questions)


def table_of_leakage(sets: Sequence[CleanRatios]) -> Table:
    """Return a table of sets by benchmarks."""
    names = list(dict.fromkeys(name for one in sets for name in one.shares))
    rows = tuple(
        (one.label, *(format_percent(one.shares[name]) if name in one.shares else "–" for name in names))
        for one in sets
    )
    notes = [
        "Clean ratio: share in % of a benchmark's problems that have no 13 words in a row in common with the "
        "set, with Wilson's 95 % interval.",
        *(
            f"{one.label}: not compared, since the data are missing: {', '.join(one.left_out)}."
            for one in sets
            if one.left_out
        ),
    ]
    return Table("leakage", "Leakage of benchmarks into data sets", ("set", *names), rows, tuple(notes))
