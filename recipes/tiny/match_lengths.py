r"""Take as many pairs of each length as another source has: a control for filters that drop long questions.

    python recipes/tiny/match_lengths.py --input runs/controls/1/select_all \
        --like runs/tiny/select_solutions --output_dir runs/controls/1/match_lengths

The length of a question is its number of sentences. The first pairs of each length are taken, in the order of
the source. This takes seconds on one core and writes OUTPUT/pairs.jsonl.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalequest.atomic_files import write
from scalequest.config import ConfigError, required
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import Row, read_rows
from tinymath.world import count_sentences


@dataclass(frozen=True)
class MatchConfig:
    """What to take, and from where."""

    input: str = required("source of the pairs to take from")
    like: str = required("source of the pairs whose numbers of each length are wanted")
    output_dir: str = required("output folder for pairs.jsonl")


def main(args: MatchConfig) -> None:
    """Write the pairs taken, and print how many of each length there are."""
    taken = matched(read_pairs(args.input), read_pairs(args.like))
    file = Path(args.output_dir) / "pairs.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in taken).encode())
    counts = ", ".join(f"{count:,} of {length}" for length, count in sorted(lengths(taken).items()))
    print(f"{file}: {len(taken):,} pairs, by number of sentences: {counts}")


def read_pairs(source: str) -> list[Row]:
    """Return the pairs of a source.

    Raises:
        ConfigError: one has no query.
    """
    rows = read_rows(source)
    for number, row in enumerate(rows, start=1):
        if not row.get("query"):
            raise ConfigError(f"{source}: row {number}: no 'query'; name a folder of select_solutions")
    return rows


def matched(rows: Sequence[Row], like: Sequence[Row]) -> list[Row]:
    """Return the first rows of each length, as many as `like` has.

    Raises:
        ConfigError: `rows` has fewer of a length.
    """
    left, taken = lengths(like), list[Row]()
    for row in rows:
        length = length_of(row)
        if left[length] > 0:
            left[length] -= 1
            taken.append(row)
    for length, missing in sorted(left.items()):
        if missing:
            raise ConfigError(f"input: {missing} pairs of {length} sentences too few")
    return taken


def lengths(rows: Sequence[Row]) -> Counter[int]:
    """Return the number of rows of each length."""
    return Counter(map(length_of, rows))


def length_of(row: Row) -> int:
    """Return the number of sentences of a pair's question."""
    return count_sentences(row["query"])


RECIPE = Recipe("match_lengths", 1, "tool", lambda: (MatchConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
