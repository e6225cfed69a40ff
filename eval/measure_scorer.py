"""Measure a TinyMath difficulty scorer from outside, beside the oracle's number of steps.

    python eval/measure_scorer.py runs/tiny/difficulty

Over the held-out questions that the oracle can read: the rank correlation of fail rates with what the scorer
predicts, and with how many steps the question takes by the oracle, which no stage may ask; with 95 %
intervals. Seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError
from scalequest.markup import table_lines
from scalequest.questions.difficulty import rank_correlation
from scalequest.receipts import finished_receipt
from scalequest.records import read_rows
from scalequest.tinymath.oracle import judge


def measure(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int, float, float, float]]:
    """Name, n, correlation and interval of the scorer and of the oracle's steps."""
    judged = [(row, judge(row["question"])) for row in rows]
    read = [(row, found.steps) for row, found in judged if found.well_posed]
    held = [row["fail_rate"] for row, _ in read]
    found = []
    for name, values in (
        ("scorer", [row["predicted"] for row, _ in read]),
        ("oracle's steps", [s for _, s in read]),
    ):
        found.append((name, len(read), *rank_correlation(values, held)))
    return found


def main(args: argparse.Namespace) -> int:
    """Print the table. Returns the exit status."""
    folder = Path(args.scorer)
    try:
        if not (folder / "holdout.jsonl").exists():
            raise ConfigError(f"{folder}: no holdout.jsonl; train with recipes/difficulty.py and a holdout")
        rows, receipt = read_rows(folder / "holdout.jsonl"), finished_receipt(folder)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = measure(rows)
    shown = [(name, n, f"{rank:.3f}", f"{low:.3f} to {high:.3f}") for name, n, rank, low, high in found]
    print("\n".join(table_lines(("Spearman with held-out fail rates", "n", "value", "95 %"), shown)))
    ill = len(rows) - found[-1][1]
    print(f"\nTraining took {receipt['seconds']:.0f} s; {ill} of {len(rows)} questions are ill posed.")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("scorer", help="folder of the scorer")
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
