r"""Grade a file of answers, or of whole outputs: was each the same as its reference?

    python eval/grade.py answers.jsonl --prediction prediction --reference reference --output graded.jsonl
    python eval/grade.py outputs.jsonl.gz --completion output --reference reference --output graded.jsonl

Hardware: one CPU core a worker; about ten thousand answers a minute that need algebra, far more that do not.
Each comparison that needs more than text and fractions runs in a process with limits of time and memory;
what overran them counts as wrong and is listed. Nothing that a model wrote is executed.

Result: every row of the file with `correct`, `layer` (what decided) and `seconds`, and with --completion also
`extracted` and `extraction_rule`; a summary. `--label COLUMN` compares the verdicts with known ones.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, option, parse, required
from scalequest.grading import Extracted, Grader, GraderOptions, Verdict, extract
from scalequest.records import read_rows, require
from scalequest.stages import explained


@dataclass(frozen=True)
class GradeConfig:
    """What is graded."""

    input: str = required("the file: .jsonl or .jsonl.gz; may stand first, without --input")
    output: str = required("the graded rows, .jsonl")
    prediction: str = option("prediction", "column of the answers")
    reference: str = option("reference", "column of the reference answers")
    completion: str | None = option(None, "column of whole outputs, in which the answer is found first")
    label: str | None = option(None, "column of known verdicts, true or false, to compare with")
    workers: int = option(1, "processes that compare")


def main(config: GradeConfig, options: GraderOptions) -> None:
    """Grade, write, summarise."""
    rows = read_rows(config.input)
    asked = config.completion or config.prediction
    columns = [config.reference, *([config.label] if config.label else [])]
    for index, row in enumerate(rows):
        # An answer may be null, since none may have been found; its column has to be there
        require(row, *columns, *([] if asked in row else [asked]), source=config.input, index=index)
    if config.workers < 1:
        raise ConfigError(f"workers: expected at least 1, got {config.workers}")
    texts = ["" if row[asked] is None else str(row[asked]) for row in rows]
    found = [extract(text) for text in texts] if config.completion else None
    answers = [one.answer or "" for one in found] if found else texts
    references = [str(row[config.reference]) for row in rows]

    with Grader(options, config.workers) as grader:
        verdicts = list(grader.grade_all(zip(answers, references, strict=True)))

    path = Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for index, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
            graded = {**row, **columns_of(verdict, found[index] if found else None)}
            file.write(json.dumps(graded, ensure_ascii=False) + "\n")
    summarise(rows, verdicts, found, config.label)
    for prediction, reference in grader.timeouts:
        print(f"timeout: {prediction[:200]!r} for {reference[:200]!r}")


def columns_of(verdict: Verdict, found: Extracted | None) -> dict[str, Any]:
    """What is added to a row."""
    added: dict[str, Any] = {
        "correct": verdict.correct,
        "layer": verdict.layer,
        "seconds": round(verdict.seconds, 6),
    }
    return added if found is None else {**added, "extracted": found.answer, "extraction_rule": found.rule}


def summarise(
    rows: Sequence[Mapping[str, Any]],
    verdicts: Sequence[Verdict],
    found: Sequence[Extracted] | None,
    label: str | None,
) -> None:
    """Print counts by layer and by rule, and the agreement with known verdicts."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{sum(v.correct for v in verdicts):,} of {len(verdicts):,} right")
    for name in ("decided by", "rows", "right", "seconds"):
        table.add_column(name, justify="left" if name == "decided by" else "right")
    for layer, count in Counter(v.layer for v in verdicts).most_common():
        mine = [v for v in verdicts if v.layer == layer]
        table.add_row(
            layer, f"{count:,}", f"{sum(v.correct for v in mine):,}", f"{sum(v.seconds for v in mine):.2f}"
        )
    for rule, count in Counter(one.rule for one in found or ()).most_common():
        right = sum(v.correct for v, one in zip(verdicts, found or (), strict=True) if one.rule == rule)
        table.add_row(f"answer by {rule}", f"{count:,}", f"{right:,}", "")
    Console().print(table)
    if label is not None:
        known = [bool(row[label]) for row in rows]
        wrong = Counter(v.correct for v, truth in zip(verdicts, known, strict=True) if v.correct != truth)
        agreement = 1 - wrong.total() / max(1, len(rows))
        print(f"agreement {agreement:.2%}: {wrong[True]} false positives, {wrong[False]} false negatives")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        words = ["--input", *words]
    sys.exit(explained(main, *parse(GradeConfig, GraderOptions, argv=words, description=__doc__ or "")))
