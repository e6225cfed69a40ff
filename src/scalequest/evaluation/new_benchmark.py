"""Describe a file of problems as a benchmark, and look at it before anything is measured on it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalequest import atomic_files
from scalequest.column_names import guess, is_chat
from scalequest.config import ConfigError
from scalequest.evaluation.benchmarks import (
    LoadedBenchmark,
    load_benchmark,
    sha256_of_rows,
)
from scalequest.grading import Grader, extract
from scalequest.grading.latex.boxes import last_box
from scalequest.grading.latex.expressions import readings
from scalequest.grading.latex.forms import Form, read
from scalequest.grading.latex.normalise import LONGEST, normalise
from scalequest.grading.latex.tokens import Unreadable
from scalequest.pages.markup import one_line
from scalequest.questions.text import normalised
from scalequest.records import Row, require

_MARKER = "####"  # GSM8K's, which other sets of worked solutions have taken over


@dataclass(frozen=True)
class Unclear:
    """A reference that the grader cannot read as mathematics, or does not find in an output.

    Attributes:
        number: the problem's, from 1.
        reference: as it is compared.
        why: what is wrong with it.
    """

    number: int
    reference: str
    why: str


def draft(
    rows: Sequence[Row],
    source: str,
    *,
    name: str,
    question: Sequence[str] = (),
    answer: str | None = None,
    id: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of a benchmark's YAML file, with the number of rows and their hash.

    A column that is not given is guessed; so is where the reference stands in worked solutions: after `####`,
    or in the last box, if that is so in every row.

    Args:
        rows: all rows of the source.
        source: as the file names it.
        name: the name in results and tables.
        question: columns of the question, which are joined.
        answer: the column of the reference.
        id: the column of the id; None: the only column whose name ends in `id` and whose values differ.
        more: other keys of `BenchmarkFile`.

    Raises:
        ConfigError: a column is missing or unclear, or a row lacks a question or a reference.
    """
    columns = list(question) or [_column(rows, "question", source)]
    reference = answer or _column(rows, "answer", source)
    for index, row in enumerate(rows):
        require(row, *columns, reference, source=source, index=index, setting="question or answer")
        if blank := [column for column in (*columns, reference) if not str(row[column]).strip()]:
            raise ConfigError(f"{source}: row {index + 1}: '{blank[0]}' is blank; fix or remove the row")
    optional = {"id": id or _id_column(rows), **_place([row[reference] for row in rows]), **(more or {})}
    return {
        "name": name,
        "source": source,
        "rows": len(rows),
        "sha256": sha256_of_rows(rows, *columns, reference),
        "question": columns[0] if len(columns) == 1 else columns,
        "answer": reference,
        **{key: value for key, value in optional.items() if value is not None},
    }


def _column(rows: Sequence[Row], key: str, source: str) -> str:
    if any(key in row for row in rows):
        return key
    found = guess(rows, [key], source, key).columns.get(key)
    if found is None or any(is_chat(row.get(found)) for row in rows):
        there = ", ".join(dict.fromkeys(name for row in rows for name in row))
        raise ConfigError(
            f"{source}: no column of the {key} is recognised (it has {there}); say which: {key}"
        )
    return found


def _id_column(rows: Sequence[Row]) -> str | None:
    names = [name for name in rows[0] if re.split(r"[\W_]+", name.lower())[-1] == "id"]
    unique = [
        name
        for name in names
        if all(isinstance(row.get(name), str | int) for row in rows)
        and len({str(row[name]) for row in rows}) == len(rows)
    ]
    return unique[0] if len(unique) == 1 else "id" if "id" in unique else None


def _place(answers: Sequence[Any]) -> dict[str, Any]:
    """Return the keys that say where the reference stands in a longer text."""
    texts = [answer for answer in answers if isinstance(answer, str)]
    if len(texts) < len(answers):
        return {}
    if all(_MARKER in text for text in texts):
        return {"answer_after": _MARKER}
    return {"answer_box": True} if all(last_box(text) for text in texts) else {}


def write_benchmark(path: Path, content: Mapping[str, Any], *, force: bool = False) -> LoadedBenchmark:
    """Write a benchmark's file and read it as the harness does; nothing is left if that fails.

    Raises:
        ConfigError: the file exists and `force` is not set, or the harness does not accept it.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists; --force writes over it, --output chooses another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    trial = path.with_name(f".{path.stem}.trial.yaml")
    try:
        atomic_files.write(trial, atomic_files.as_yaml(content))
        loaded = load_benchmark(trial)
        os.replace(trial, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        trial.unlink(missing_ok=True)
    return loaded


# ------------------------------------------------------------------------------------------------- first look


def duplicates(benchmark: LoadedBenchmark) -> list[list[int]]:
    """Return the numbers, from 1, of problems that ask the same but for case and spaces."""
    places: dict[str, list[int]] = {}
    for number, problem in enumerate(benchmark.problems, 1):
        places.setdefault(normalised(problem.question), []).append(number)
    return [numbers for numbers in places.values() if len(numbers) > 1]


def unclear(benchmark: LoadedBenchmark, grader: Grader) -> Iterator[Unclear]:
    """Yield the references that the grader cannot read, each with the first reason."""
    for number, problem in enumerate(benchmark.problems, 1):
        for reference in (problem.answer, *problem.also):
            if (why := fault(reference, grader)) is not None:
                yield Unclear(number, reference, why)


def fault(reference: str, grader: Grader) -> str | None:
    """Return why an answer that is right may be graded wrong; None if nothing speaks for it.

    The reference itself, boxed in an output, has to be found and to be correct; and each part of it has to be
    a formula, because anything else is only compared as text.
    """
    if not reference.strip():
        return "it is empty"
    if len(reference) > LONGEST:
        return f"it is longer than {LONGEST} characters"
    found = extract(f"The answer is $\\boxed{{{reference}}}$.").answer
    if found is None or not grader.grade(found, reference).correct:
        return f"an output that boxes it is read as {found!r:.80}"
    for text in _leaves(read(normalise(reference))):
        try:
            readings(text)
        except Unreadable as error:
            return f"only the same text equals {text!r:.60}, which is not a formula that can be read: {error}"
    return None


def _leaves(form: Form) -> Iterator[str]:
    for part in form.parts:
        yield from _leaves(part)
    if not form.parts and form.tree is None:
        yield form.text


def first_look(
    benchmark: LoadedBenchmark, content: Mapping[str, Any], grader: Grader, samples: int
) -> list[str]:
    """Return the lines that tell a person what is in a benchmark.

    Args:
        benchmark: as the harness reads it.
        content: of its file.
        grader: for the references.
        samples: how many problems to show, spread evenly over all.
    """
    problems, twice, odd = benchmark.problems, duplicates(benchmark), list(unclear(benchmark, grader))
    place = {
        "after": f", after {content['answer_after']!r}" if "answer_after" in content else "",
        "box": ", the last box" if content.get("answer_box") else "",
    }
    lines = [
        f"{len(problems):,} problems; question: {content['question']}; reference: {content['answer']}"
        f"{place['after']}{place['box']}; id: {content.get('id', 'row number')}",
        f"duplicate questions: {sum(map(len, twice)) - len(twice)}",
    ]
    for numbers in twice[:5]:
        same = len({problems[number - 1].answer for number in numbers}) == 1
        shown = ", ".join(map(str, numbers[:8]))
        lines.append(f"  rows {shown}: {'the same reference' if same else 'different references'}")
    share = f"{len({one.number for one in odd}) / len(problems):.1%}" if problems else "0"
    lines.append(f"references that the grader cannot read: {len(odd)} ({share} of the problems)")
    for why, count in Counter(re.sub(r"'.*'", "...", one.why) for one in odd).most_common():
        example = next(one for one in odd if re.sub(r"'.*'", "...", one.why) == why)
        lines.append(f"  {count}: row {example.number}, {one_line(example.reference)[:80]!r}: {example.why}")
    step = max(1, len(problems) // max(1, samples))
    for problem in problems[::step][:samples]:
        also = f" (or {', '.join(problem.also)})" if problem.also else ""
        lines.append(f"{problem.id}: {one_line(problem.question)[:200]} => {problem.answer[:80]}{also}")
    return lines
