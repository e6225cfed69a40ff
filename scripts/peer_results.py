"""Write the table of docs/peers.md, between markers, from bench/peer_results.jsonl.

    python scripts/peer_results.py            # is the page current? Exit status 1 if not
    python scripts/peer_results.py --write    # write it; bench/run_all.py does this at its end

`<!-- peers: NAME -->` starts a part, and `<!-- end of peers -->` ends it; what is between them is replaced.
Comparisons that bench/run_all.py would make, but that nobody has measured, appear as not measured. A second.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "bench"))

from run_all import JOBS, RESULTS, read  # noqa: E402

PAGE = ROOT / "docs/peers.md"
PART = re.compile(r"(<!-- peers: (\w+) -->\n)(.*?)(<!-- end of peers -->)", re.DOTALL)
COMMAND = "python scripts/peer_results.py --write"
EQUAL = 0.05  # without an interval, a ratio this close to 1 counts as equal
COLUMNS = ("", "compared", "other tool", "ours", "theirs", "ours / theirs, or difference", "better", "run")
Found = Mapping[str, Any]


def better(one: Found) -> str:
    """Return which side is better: ours, theirs or neither; a dash for the accuracy of the same model.

    Neither, if the interval contains equality; without an interval, if a ratio is within 5 % of it.
    """
    if one["kind"] == "accuracy":
        return "–"
    equality = 1.0 if one["kind"] == "ratio" else 0.0
    room = EQUAL if one["kind"] == "ratio" else 0.0
    low, high = (
        one[end] if one[end] is not None else one["value"] + side * room
        for end, side in (("low", -1), ("high", 1))
    )
    if low <= equality <= high:
        return "neither"
    return "ours" if one["value"] > equality else "theirs"


def number(value: float) -> str:
    """Return a figure with about three significant digits, or all of its whole ones."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def result(one: Found) -> str:
    """Return a ratio or a difference with its interval and count."""
    if one["kind"] == "ratio":
        count = f"{one['count']} repeats" if one["count"] > 1 else "1 run"
        between = "" if one["low"] is None else f"{number(one['low'])} to {number(one['high'])}; "
        return f"{number(one['value'])} times ({between}{count})"
    between = "" if one["low"] is None else f"{one['low']:+.1f} to {one['high']:+.1f}; "
    return f"{one['value']:+.1f} points ({between}n = {one['count']:,})"


def cells(one: Found, runs: Sequence[str]) -> list[str]:
    """Return a row of the table."""
    peer = f"{one['peer']} {one['version']}".strip()
    percent = one["unit"] == "%"
    ours, theirs = (
        "" if one[side] is None else f"{one[side]:.1f} %" if percent else f"{number(one[side])} {one['unit']}"
        for side in ("ours", "theirs")
    )
    place = str(runs.index(run_of(one)) + 1) + (", quick" if one["quick"] else "")
    return [one["key"].partition("/")[0], one["what"], peer, ours, theirs, result(one), better(one), place]


def run_of(one: Found) -> str:
    """Return when, where and by which command a comparison was made."""
    machine = f"{one['machine']['cores']} cores, {one['machine']['cpu']}"
    return f"{day(one['date'])}, {machine}: `{one['command']}`"


def not_measured(key: str) -> list[str]:
    """Return the row of a comparison without a result."""
    area, what, peer = key.split("/")
    return [area, what, peer, "", "", "not measured", "", ""]


def wanted() -> list[str]:
    """Return the keys of all comparisons that bench/run_all.py makes."""
    return [key for job in JOBS for key in job.keys]


def table(found: Sequence[Found]) -> str:
    """Return the table of all comparisons, and below it the runs that it numbers."""
    known = {one["key"]: one for one in found}
    runs = list(dict.fromkeys(map(run_of, found)))
    unsorted = list(dict.fromkeys([*wanted(), *known]))
    areas = list(dict.fromkeys(key.partition("/")[0] for key in unsorted))
    keys = sorted(unsorted, key=lambda key: areas.index(key.partition("/")[0]))
    rows = [cells(known[key], runs) if key in known else not_measured(key) for key in keys]
    lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    listed = [f"{place}. {run}" for place, run in enumerate(runs, 1)]
    return "\n".join([*lines, "", "Runs:", "", *listed])


def theirs(found: Sequence[Found]) -> str:
    """Return in which comparisons the other tool is better, and in how many neither is."""
    found = [one for one in found if one["kind"] != "accuracy"]
    verdicts = [better(one) for one in found]
    lost = [one for one, verdict in zip(found, verdicts, strict=True) if verdict == "theirs"]
    count = f"Of {len(found)} comparisons, the other tool is better in {len(lost)} and neither in "
    lines = [f"{count}{verdicts.count('neither')}."]
    if lost:
        lines += ["", *(f"- {one['peer']}: {one['what']}: {result(one)}" for one in lost)]
    return "\n".join(lines)


def day(date: str) -> str:
    """Return an ISO date, or only a year and a month, as it is written in prose."""
    if len(date) == 7:
        return f"{datetime.strptime(date, '%Y-%m'):%B %Y}"
    read_date = datetime.strptime(date, "%Y-%m-%d")
    return f"{read_date.day} {read_date:%B %Y}"


PARTS: Mapping[str, Callable[[Sequence[Found]], str]] = {"table": table, "theirs": theirs}


def filled(text: str, found: Sequence[Found] | None = None) -> str:
    """Return the page's text with every part written anew; by default from bench/peer_results.jsonl."""
    known = read(RESULTS) if found is None else found
    return PART.sub(lambda part: f"{part[1]}{PARTS[part[2]](known)}\n{part[4]}", text)


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--write", action="store_true", help="write the page")
    return made


def main(asked: argparse.Namespace) -> int:
    """Write the page, or say that it is not current; return the exit status."""
    text = PAGE.read_text(encoding="utf-8")
    if (new := filled(text)) == text:
        return 0
    if asked.write:
        PAGE.write_text(new, encoding="utf-8")
    print(f"docs/peers.md: {'written' if asked.write else 'not current: ' + COMMAND}")
    return int(not asked.write)


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
