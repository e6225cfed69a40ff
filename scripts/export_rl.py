r"""Questions with checkable answers, in the columns that RL trainers read (TRL's GRPO, verl, OpenRLHF).

    python scripts/export_rl.py --input runs/tiny/solve_questions --output_dir runs/tiny/rl
    python scripts/export_rl.py --input runs/x/solve_questions --reference answer --output_dir runs/x/rl

One process on any machine; seconds a hundred thousand rows.

Result: OUTPUT/train.parquet and OUTPUT/train.jsonl, the same rows. `prompt` is a list with one user message;
`answer` is the reference, or the most frequent answer of the samples; `agreement` is the share of the samples
that give the most frequent answer; `pass_rate` is the share of them that equal `answer`. A rate is null
for rows that were not sampled. Rows without an answer are left out and counted. Usual names of the columns of
questions and answers are recognised, as by the recipes, and one log line says which were taken.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, option, required
from scalequest.config.ranges import COUNT
from scalequest.recipe import Recipe, run_recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportConfig:
    """What is exported, and where to."""

    input: list[str] = required(
        "stage folders of solve_questions or select_solutions, files, or hub:owner/name"
    )
    output_dir: str = required("folder of the two files")
    columns: dict[str, str] = option(
        help="our column names to the input's: {question: problem}", default_factory=dict
    )
    reference: str | None = option(
        None, "column of the reference answer; null: a row's `answer`, or the most frequent of its `answers`"
    )
    limit: int | None = option(None, "only the first N rows", within=COUNT)


def exported(row: dict[str, Any], reference: str | None) -> dict[str, Any] | None:
    """One row for an RL trainer; None if it has no answer.

    Raises:
        ConfigError: it lacks the column that `reference` names.
    """
    from scalequest.grading import equivalent, majority
    from scalequest.grading.extraction import reference_in

    if reference is not None and reference not in row:
        raise ConfigError(f"reference: row {row['id']} has no column '{reference}'")
    samples = row.get("answers") or []
    agreed, agreement = majority(samples) if samples else (None, row.get("agreement"))
    answer = row[reference] if reference is not None else row.get("answer") or agreed
    # GSM8K's mark; a text without it is the answer itself
    answer = reference_in("" if answer is None else str(answer), "####")
    if not answer:
        return None
    right = [sample is not None and (sample == answer or equivalent(sample, answer)) for sample in samples]
    return {
        "id": row["id"],
        "prompt": [{"role": "user", "content": row["question"]}],
        "answer": answer,
        "pass_rate": sum(right) / len(right) if right else None,
        "agreement": agreement,
    }


def questions(config: ExportConfig) -> list[dict[str, Any]]:
    """Read the rows, with `question`, and with `answer` if a column has a usual name for it.

    Raises:
        ConfigError: a row lacks the question, or several columns may be meant.
    """
    from scalequest.column_names import guess
    from scalequest.records import read_inputs

    given: dict[str, Any] = {"columns": config.columns, "limit": config.limit}
    rows = read_inputs(config.input, **given)
    if not all(row.get("question") or row.get("query") for row in rows):  # pairs have a query
        rows = read_inputs(config.input, "question", **given)
    rows = [{**row, "question": row.get("question") or row["query"]} for row in rows]
    if config.reference is not None or any(row.get("answers") for row in rows):
        return rows
    found = guess(rows, ["answer"], ", ".join(config.input)).columns
    for ours, theirs in found.items():
        log.info("'%s' is read from column '%s'", ours, theirs)
    return [{**row, **{ours: row.get(theirs) for ours, theirs in found.items()}} for row in rows]


def main(config: ExportConfig) -> None:
    """Read, export, write."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from scalequest.atomic_files import write

    rows = questions(config)
    found = [made for row in rows if (made := exported(row, config.reference)) is not None]
    if not found:
        raise ConfigError(f"input: none of {len(rows)} rows has an answer")
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [("id", pa.string()), ("prompt", pa.list_(message)), ("answer", pa.string()),
         ("pass_rate", pa.float64()), ("agreement", pa.float64())]
    )  # fmt: skip
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(found, schema=schema), buffer)
    write(folder / "train.parquet", buffer.getvalue().to_pybytes())
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in found)
    write(folder / "train.jsonl", lines.encode())
    print(f"{len(found):,} of {len(rows):,} rows in {folder}; {len(rows) - len(found):,} without an answer")


RECIPE = Recipe("export_rl", 1, "tool", lambda: (ExportConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
