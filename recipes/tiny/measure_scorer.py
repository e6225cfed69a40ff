"""Measure a TinyMath difficulty scorer by the oracle's number of steps.

    python recipes/tiny/measure_scorer.py runs/tiny/difficulty

For the held-out questions that the oracle can parse, this prints the rank correlation of fail rates with the
scorer's predictions, and with the oracle's number of steps, which no stage may use, with 95 % intervals. It
takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, parse, required
from scalequest.pages.markup import table_lines
from scalequest.questions.difficulty import rank_correlation
from scalequest.receipts import finished_receipt
from scalequest.records import read_rows
from scalequest.stage.script import run_script
from tinymath.oracle import judge


@dataclass(frozen=True)
class MeasureConfig:
    """What to measure."""

    scorer: str = required("folder of the scorer; --scorer may be omitted")


def main(config: MeasureConfig) -> None:
    """Print the table."""
    folder = Path(config.scorer)
    if not (folder / "holdout.jsonl").exists():
        raise ConfigError(f"{folder}: no holdout.jsonl; train with recipes/difficulty.py and a holdout")
    rows, receipt = read_rows(folder / "holdout.jsonl"), finished_receipt(folder)
    found = measure_scorer(rows)
    shown = [(name, n, f"{rank:.3f}", f"{low:.3f} to {high:.3f}") for name, n, rank, low, high in found]
    print("\n".join(table_lines(("Spearman with held-out fail rates", "n", "value", "95 %"), shown)))
    ill = len(rows) - found[-1][1]
    print(f"\nTraining took {receipt['seconds']:.0f} s; {ill} of {len(rows)} questions are ill-posed.")


def measure_scorer(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int, float, float, float]]:
    """Return name, n, correlation and interval for the scorer's predictions and for the oracle's steps."""
    judged = [(row, judge(row["question"])) for row in rows]
    read = [(row, found.steps) for row, found in judged if found.well_posed]
    fail_rates = [row["fail_rate"] for row, _ in read]
    measures = {
        "scorer": [row["predicted"] for row, _ in read],
        "oracle's steps": [steps for _, steps in read],
    }
    return [(name, len(read), *rank_correlation(values, fail_rates)) for name, values in measures.items()]


if __name__ == "__main__":
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        words = ["--scorer", *words]
    sys.exit(run_script(main, *parse(MeasureConfig, argv=words, description=__doc__ or "")))
