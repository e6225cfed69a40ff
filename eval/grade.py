r"""Grade a file of answers or of complete outputs: is each answer equal to its reference?

    python eval/grade.py answers.jsonl --prediction prediction --reference reference --output_dir graded
    python eval/grade.py outputs.jsonl.gz --completion output --reference reference --output_dir graded

Hardware: one CPU core per worker, for about ten thousand answers per minute that need algebra, and far more
that do not. A cell may be text, a number, a list as in OlympiadBench, or such a list converted to text
(`"['2', '3']"`): a single element is the answer, several are the elements of a list. Null and NaN count as
missing: rows without a reference are not graded, rows without an answer are wrong, and both are counted and
listed. Comparisons that need more than text and fractions run in a process with time and memory limits; an
answer that exceeds them counts as wrong and is listed. Nothing written by a model is executed.

With a grader of your own, e.g. this my_grader.py; the response is the output, or else the answer:

    def right(response, reference):
        return response.strip().endswith(reference)

    python eval/grade.py outputs.jsonl --completion output --output_dir graded --function my_grader.py:right

Result: graded.jsonl in the output folder, which has every row of the file with `correct` (null: not graded),
`layer` (the rule that decided) and `seconds`, and with --completion also `extracted` and `extraction_rule`;
and a summary. `--label COLUMN` compares the verdicts with known ones.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EISDIR
from pathlib import Path
from typing import Any

from scalequest import atomic_files
from scalequest.config import ConfigError, option, required
from scalequest.config.ranges import COUNT
from scalequest.grading import Extracted, Grader, GraderOptions, Verdict
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import Row, read_rows, require

WRITTEN = ("correct", "layer", "seconds", "extracted", "extraction_rule")  # columns that are added


@dataclass(frozen=True)
class GradeConfig:
    """What to grade."""

    input: str = required(
        "input file: JSON lines, JSON, CSV, TSV or parquet; --input may be omitted before it"
    )
    output_dir: str = required(
        "output folder for graded.jsonl, or graded.jsonl.gz if the input is a .gz file"
    )
    prediction: str = option("prediction", "column of the answers")
    reference: str = option("reference", "column of the reference answers")
    completion: str | None = option(None, "column of complete outputs, from which the answer is extracted")
    label: str | None = option(None, "column of known verdicts, true or false (or 1 or 0), for comparison")
    workers: int = option(1, "number of processes that compare", within=COUNT)


@dataclass(frozen=True)
class Cells:
    """The columns read, with one entry per row.

    Attributes:
        rows: the complete rows.
        responses: the complete outputs, or else the answers; "" if there is none.
        answers: the answers, "" if there is none.
        references: the references; None if missing.
        found: how the answers were found in complete outputs, if those are given.
        known: the known verdicts, if they are given.
    """

    rows: Sequence[Row]
    responses: Sequence[str]
    answers: Sequence[str]
    references: Sequence[str | None]
    found: Sequence[Extracted] | None
    known: Sequence[bool] | None


def main(config: GradeConfig, options: GraderOptions) -> None:
    """Grade, write, summarise."""
    path = prepare_output(config)  # before hours of work
    if options.extraction and not config.completion:
        raise ConfigError("extraction: is for complete outputs; name their column with --completion")
    with Grader(options, config.workers) as grader:
        cells = read_cells(config, grader)
        verdicts = grade_cells(config, cells, grader)
    write_rows(path, cells, verdicts)
    given = list(verdicts)
    summarise(
        list(verdicts.values()),
        [cells.found[index] for index in given] if cells.found else None,
        [cells.known[index] for index in given] if cells.known else None,
    )
    for prediction, reference in grader.timeouts:
        print(f"timeout: {prediction[:200]!r} for {reference[:200]!r}")


def grade_cells(config: GradeConfig, cells: Cells, grader: Grader) -> dict[int, Verdict]:
    """Return the verdicts of the rows that have a reference, by their index.

    Raises:
        ConfigError: no row has a reference, or a function of the user's fails; names the row.
    """
    given = [index for index, reference in enumerate(cells.references) if reference is not None]
    if cells.rows and not given:
        raise ConfigError(
            f"{config.input}: '{config.reference}' is missing in every row; set --reference "
            "to the right column"
        )

    def verdict(index: int) -> Verdict:
        reference = cells.references[index] or ""
        if grader.options.function is None:
            return grader.grade(cells.answers[index], reference)
        return grader.judge(cells.responses[index], reference, f"row {index + 1}")

    return dict(zip(given, grader.each(verdict, given), strict=True))


def read_cells(config: GradeConfig, grader: Grader) -> Cells:
    """Read the input, and report what is missing.

    Raises:
        ConfigError: the input lacks a column, a cell has the wrong type, or the user's extraction fails.
    """
    if config.label in WRITTEN:
        raise ConfigError(
            f"label: '{config.label}' is the name of a column that grading writes; rename the "
            "column in the input"
        )
    rows = read_rows(config.input)
    asked, label = config.completion or config.prediction, config.label
    for index, row in enumerate(rows):
        # Answers and references may be null, but their columns must exist.
        absent = [name for name in (config.reference, asked) if name not in row]
        require(row, *absent, *([label] if label else []), source=config.input, index=index)
    known = [parse_verdict(row[label], config, n) for n, row in enumerate(rows, 1)] if label else None
    texts, references = (
        [text_of_cell(row[column], config, column, n) for n, row in enumerate(rows, 1)]
        for column in (asked, config.reference)
    )
    report_missing(references, config.reference, "they are not graded")
    report_missing(texts, asked, "they are wrong")
    responses = [text or "" for text in texts]
    found = None
    if config.completion:
        pairs = enumerate(responses, 1)
        found = list(grader.each(lambda pair: grader.find(pair[1], f"row {pair[0]}"), pairs))
    answers = [one.answer or "" for one in found] if found else responses
    return Cells(rows, responses, answers, references, found, known)


def prepare_output(config: GradeConfig) -> Path:
    """Create the folder, and check that the output file can be written.

    Raises:
        ConfigError: the file cannot be written.
    """
    folder = Path(config.output_dir)
    path = folder / ("graded.jsonl.gz" if config.input.endswith(".gz") else "graded.jsonl")
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "is a folder; choose another output_dir", str(path))
        atomic_files.write(trial := path.with_name(f".{path.name}.trial"), b"")
        trial.unlink()
    return path


def write_rows(path: Path, cells: Cells, verdicts: Mapping[int, Verdict]) -> None:
    """Write every row with its verdict."""
    lines = (
        {**row, **columns_of(verdicts.get(index), cells.found[index] if cells.found else None)}
        for index, row in enumerate(cells.rows)
    )
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    with writing(path):
        atomic_files.write(path, gzip.compress(data) if path.suffix == ".gz" else data)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error in writing a file into one line."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"output_dir: {error.filename or path}: {error.strerror or error}") from None


# A list converted to text: elements in quotes, separated by commas or, if numpy wrote it, by spaces.
_WRITTEN_ELEMENT = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
_WRITTEN_LIST = re.compile(
    rf"(?:array\()?[\[(]\s*(?:(?:{_WRITTEN_ELEMENT})[\s,]*)+[\])](?:,\s*dtype=[^()]*\))?", re.S
)


def text_of_cell(value: Any, config: GradeConfig, column: str, row: int) -> str | None:
    """Return the content of a cell: its text, a number, or the elements of a list; None if it is missing.

    Raises:
        ConfigError: it is a mapping, or several complete outputs.
    """
    value = None if value == "[]" else value
    if (
        isinstance(value, str)
        and value.lstrip()[:1] in ("[", "(", "a")
        and _WRITTEN_LIST.fullmatch(value.strip())
    ):
        value = [unquote(element) for element in re.findall(_WRITTEN_ELEMENT, value)]
    if hasattr(value, "tolist"):  # a numpy value
        value = value.tolist()
    if isinstance(value, (list, tuple, set)):
        parts = [text_of_cell(one, config, column, row) for one in value]
        if column == config.completion and len(parts) > 1:
            raise ConfigError(
                f"{config.input}: row {row}: {column}: {len(parts)} outputs; write one row per output"
            )
        return ", ".join(part for part in parts if part is not None) or None
    if isinstance(value, dict):
        raise ConfigError(
            f"{config.input}: row {row}: {column}: expected text, a number or a list, got a mapping"
        )
    if (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or str(value).strip().lower() in ("nan", "<na>", "")
    ):
        return None
    return str(value)


def unquote(element: str) -> str:
    """Remove the quotes of an element; a doubled backslash, as Python writes it, becomes one."""
    return re.sub(r"\\([\\'\"])", r"\1", element[1:-1])


def report_missing(values: Sequence[str | None], column: str, what: str) -> None:
    """Print how many cells are missing, and the rows of the first ones."""
    rows = [number for number, value in enumerate(values, 1) if value is None]
    if rows:
        named = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        print(f"'{column}' is missing in {len(rows):,} of {len(values):,} rows, and {what}: row {named}")


def parse_verdict(value: Any, config: GradeConfig, row: int) -> bool:
    """Return a known verdict: true, false, 1 or 0, also as text.

    Raises:
        ConfigError: it is anything else, e.g. a score.
    """
    known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    found = known.get(str(value).strip().lower())
    if found is None:
        raise ConfigError(f"{config.input}: row {row}: {config.label}: expected true or false, got {value!r}")
    return found


def columns_of(verdict: Verdict | None, found: Extracted | None) -> dict[str, Any]:
    """Return the columns that are added to a row; a row without a verdict was not graded."""
    added: dict[str, Any] = {
        "correct": verdict.correct if verdict else None,
        "layer": verdict.layer if verdict else "missing",
        "seconds": round(verdict.seconds, 6) if verdict else 0.0,
    }
    return added if found is None else {**added, "extracted": found.answer, "extraction_rule": found.rule}


def summarise(
    verdicts: Sequence[Verdict],
    found: Sequence[Extracted] | None,
    known: Sequence[bool] | None,
) -> None:
    """Print counts by layer and by rule, and the agreement with known verdicts."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{sum(v.correct for v in verdicts):,} of {len(verdicts):,} correct")
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
    if known is not None:
        wrong = Counter(v.correct for v, truth in zip(verdicts, known, strict=True) if v.correct != truth)
        agreement = 1 - wrong.total() / max(1, len(known))
        print(f"agreement {agreement:.2%}: {wrong[True]} false positives, {wrong[False]} false negatives")


def with_input(words: Sequence[str]) -> list[str]:
    """Return the command line with `--input` before files that come first."""
    return ["--input", *words] if words and not words[0].startswith("-") else list(words)


RECIPE = Recipe("grade", 1, "tool", lambda: (GradeConfig, GraderOptions), main, with_input)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
