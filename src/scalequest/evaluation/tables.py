"""Tables of results, and their output formats: terminal, Markdown, LaTeX, CSV.

Every number comes from a file with its protocol fingerprint, n and interval. Published numbers have their own
columns or tables, marked as not ours, with their source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scalequest.evaluation.results import EXPLAINS, Result
from scalequest.evaluation.statistics import Estimate
from scalequest.pages.markup import csv_text, inline, one_line, paragraph, table_lines, tex

LOG_WIDTH = 240  # fits the paper's table with our numbers next to it
NOTABLE = 0.05  # minimum share of truncated or answerless outputs for a note
_NUMBER = re.compile(r"[-+.,\d\[\]() –n]*(e-\d+)?( \[[a-z]\])?")  # with interval, n and mark
WARNING = "Warning: "  # starts a note that must be read together with the accuracy
MARKS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Table:
    """Cells in displayed form, and the notes below them. `name` is the stem of the table's files."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------ our numbers


def tables_of_results(
    results: Sequence[Result],
    theirs: Mapping[tuple[str, str], str] | None = None,
    sources: str = "",
) -> list[Table]:
    """Return a table of models by benchmarks, and further tables with all details of each number.

    A number whose protocol differs from the most frequent one in its column is marked with a letter, and a
    note explains the difference.

    Args:
        results: the results, in the order of rows and columns.
        theirs: published accuracies by our label and benchmark, for a column next to ours.
        sources: the sources of the published accuracies.
    """
    if not results:
        return []
    marks, notes = mark_protocols(results)
    columns, rows = _accuracy_cells_of(results, marks, theirs or {})
    sizes = {r.title: f"{'the first' if r.protocol.get('limit') else 'all'} {r.n:,}" for r in results}
    problems = ", ".join(f"{title} {size}" for title, size in sizes.items())
    head = f"Accuracy in % with Wilson's 95 % interval over problems. Problems: {problems}."
    notes = [head, *notes, *_warnings_of(results)]
    if theirs:
        notes.append(f"Columns marked published are not ours, and their protocol may differ ({sources}).")
    main = Table("benchmarks", "Benchmarks", tuple(columns), tuple(map(tuple, rows)), tuple(notes))
    return [main, _details_of(results, marks), *_tables_of_samples(results), *_tables_of_prompts(results)]


def _accuracy_cells_of(
    results: Sequence[Result],
    marks: Mapping[tuple[str, str], str],
    theirs: Mapping[tuple[str, str], str],
) -> tuple[list[str], list[list[str]]]:
    """Return the columns, and one row per model."""
    models = list(dict.fromkeys(result.model for result in results))
    by_cell = {(result.model, result.benchmark): result for result in results}
    columns, rows = ["model"], [[model] for model in models]
    for benchmark, title in {result.benchmark: result.title for result in results}.items():
        columns.append(title)
        for row, model in zip(rows, models, strict=True):
            result, mark = by_cell.get((model, benchmark)), marks.get((model, benchmark), "")
            row.append(f"{format_percent(result.accuracy)}{mark}" if result else "–")
        if any((model, benchmark) in theirs for model in models):
            columns.append(f"{title} (published)")
            for row, model in zip(rows, models, strict=True):
                row.append(theirs.get((model, benchmark), "–"))
    return columns, rows


def _details_of(results: Sequence[Result], marks: Mapping[tuple[str, str], str]) -> Table:
    columns: dict[str, Callable[[Result], str]] = {
        "model": lambda r: r.model,
        "benchmark": lambda r: r.title,
        "n": lambda r: f"{r.n:,}",
        "correct": lambda r: f"{r.correct:,}",
        "accuracy": lambda r: format_percent(r.accuracy) + marks.get((r.model, r.benchmark), ""),
        "truncated %": lambda r: f"{100 * r.truncated:.1f}",
        "no answer %": lambda r: f"{100 * r.no_answer:.1f}",
        "timeout %": lambda r: f"{100 * r.timeouts:.1f}",
        "last number %": lambda r: f"{100 * _last_number_share_of(r):.1f}",
        "tokens": lambda r: f"{r.tokens_mean:.0f}",
        "engine": lambda r: str(r.protocol["engine"]),
        "protocol": lambda r: r.fingerprint,
    }
    rows = tuple(tuple(cell(result) for cell in columns.values()) for result in results)
    note = (
        "Truncated: the output reached max_tokens, or a reasoning block never ended. No "
        "answer: none was found. Timeout: the comparison was aborted. Last number: the "
        "last number of the output was taken as the answer. Protocol: fingerprint of "
        "benchmark, limit, prompts, format, sampling, grader, engine, dtype and commit; "
        "results.json has it in full."
    )
    return Table("details", "All results with their protocols", tuple(columns), rows, (note,))


def _last_number_share_of(result: Result) -> float:
    outputs = result.n * result.samples * max(1, len(result.by_prompt))
    return result.rules.get("number", 0) / outputs


def _tables_of_samples(results: Sequence[Result]) -> list[Table]:
    """Return the metrics over several samples per problem."""
    several = [result for result in results if result.metrics]
    if not several:
        return []
    metrics = list(dict.fromkeys(name for result in several for name in result.metrics))
    columns = ("model", "benchmark", *metrics, "spread over samples")
    rows = tuple(
        (
            result.model,
            result.title,
            *(format_percent(result.metrics[name]) if name in result.metrics else "–" for name in metrics),
            "–" if result.sample_spread is None else f"{100 * result.sample_spread:.2f}",
        )
        for result in several
    )
    note = (
        "pass@k: probability that k samples include a correct one (unbiased). maj@k: the "
        "most frequent answer is correct; ties are shared. avg@k: mean over samples. "
        "best@k: the sample with the highest score is correct; ties are shared, and "
        "truncated outputs are wrong here, too. Intervals are over problems; the spread "
        "is the standard deviation of the accuracy across samples, in points."
    )
    return [Table("samples", "Several samples per problem", columns, rows, (note,))]


def _tables_of_prompts(results: Sequence[Result]) -> list[Table]:
    """Return a table of how much the wording of the prompt matters."""
    rows = tuple(
        (result.model, result.title, name, format_percent(one), spread)
        for result in results
        if result.prompt_spread is not None
        for name, one, spread in [
            *((name, one, "") for name, one in result.by_prompt.items()),
            ("all", result.accuracy, f"{100 * result.prompt_spread:.2f}"),
        ]
    )
    if not rows:
        return []
    note = "Spread: standard deviation of the accuracy across prompts, in points."
    columns = ("model", "benchmark", "prompt", "accuracy", "spread")
    return [Table("prompts", "Accuracy by prompt", columns, rows, (note,))]


def tables_of_parts(results: Sequence[Result]) -> list[Table]:
    """Return the accuracy by level, subject, length and other metadata, one table per benchmark."""
    tables = []
    for benchmark, title in {result.benchmark: result.title for result in results}.items():
        mine = [result for result in results if result.benchmark == benchmark]
        rows = []
        for column in dict.fromkeys(column for result in mine for column in result.split):
            if column == "output tokens":  # thirds of each model's own outputs
                found = [(f"{r.model}: {v}", {r.model: e}) for r in mine for v, e in r.split[column].items()]
            else:
                values = dict.fromkeys(value for r in mine for value in r.split.get(column, {}))
                found = [
                    (v, {r.model: r.split[column][v] for r in mine if v in r.split.get(column, {})})
                    for v in values
                ]
            for value, by in found:
                cells = [format_percent(by[r.model]) if r.model in by else "–" for r in mine]
                rows.append((column, value, f"{next(iter(by.values())).n:,}", *cells))
        columns = ("by", "value", "n", *(result.model for result in mine))
        tables.append(Table(f"split_{benchmark}", f"{title} by category", columns, tuple(rows)))
    return tables


def mark_protocols(results: Sequence[Result]) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Return a letter for each number whose protocol differs from its column's, and explaining notes."""
    others: dict[tuple[str, str], str] = {}
    for benchmark in dict.fromkeys(result.benchmark for result in results):
        column = [result for result in results if result.benchmark == benchmark]
        usual_print = Counter(result.fingerprint for result in column).most_common(1)[0][0]
        usual = next(result.protocol for result in column if result.fingerprint == usual_print)
        for result in column:
            if result.fingerprint != usual_print:
                others[result.model, benchmark] = describe_differences(result.protocol, usual)
    marks = letters_of(others.values())
    return {key: marks[what] for key, what in others.items()}, [
        f"{letter.strip()} a different protocol from the rest of its column: {what}."
        for what, letter in marks.items()
    ]


def letters_of(texts: Iterable[str]) -> dict[str, str]:
    """Return a mark for each distinct text, e.g. ` [a]`."""
    return {text: f" [{MARKS[n % len(MARKS)]}]" for n, text in enumerate(dict.fromkeys(texts))}


def describe_differences(protocol: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Describe how a protocol differs from another."""
    keys = [key for key in dict.fromkeys([*usual, *protocol]) if protocol.get(key) != usual.get(key)]
    if "chat_format" in keys or protocol.get("chat_format") != usual.get("chat_format"):
        keys = [key for key in keys if key != "chat_format_sha256"]
    return "; ".join(_describe_difference(key, protocol.get(key), usual.get(key)) for key in keys)


def _describe_difference(key: str, value: Any, usual: Any) -> str:
    if isinstance(value, Mapping) and isinstance(usual, Mapping):
        parts = [part for part in dict.fromkeys([*usual, *value]) if value.get(part) != usual.get(part)]
        return "; ".join(
            _describe_difference(f"{key}.{part}", value.get(part), usual.get(part)) for part in parts
        )
    return f"{key} {_format_value(value)} instead of {_format_value(usual)}"


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_format_value(one)}" for key, one in value.items())
    text = "none" if value is None else str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _warnings_of(results: Sequence[Result]) -> list[str]:
    """Return notes on accuracies that are dominated by truncated or missing answers."""
    notes = []
    for result in results:
        faults = [
            ("were cut", result.truncated, NOTABLE),
            ("contained no answer", result.no_answer, NOTABLE),
            ("could not be compared within the time limit", result.timeouts, NOTABLE),
            ("stated no answer, so their last number was taken", _last_number_share_of(result), EXPLAINS),
        ]
        said = [f"{100 * share:.0f} % {what}" for what, share, least in faults if share >= least]
        if said:
            said[0] = said[0].replace("%", "% of the outputs", 1)
            explained = result.explained or 0.0
            much = explained >= EXPLAINS
            why = f"; this explains {100 * explained:.0f} % of its wrong outputs" if much else ""
            notes.append(
                f"{WARNING if much else ''}{result.model} on {result.title}: {', '.join(said)}{why}."
            )
    return notes


def tables_of_questions(measures: Mapping[str, Any]) -> list[Table]:
    """Return tables of the quality of generated questions, from `recipes/tiny/measure_questions.py`."""
    estimates = [
        ("parses", "parses", 100.0),
        ("well_posed", "well posed, of those", 100.0),
        ("steps", "steps, of those", 1.0),
        ("verbatim", "verbatim in training set", 100.0),
        ("distinct", "distinct", 100.0),
    ]
    generators = measures["generators"]
    rows = []
    for label, measured in generators.items():
        cells = [_format_estimate(measured[key], scale) for key, _, scale in estimates]
        test = measured["equal_to_test"]
        rows.append(
            (label, f"{measured['questions']:,}", *cells, f"{test['verbatim']:,}", f"{test['masked']:,}")
        )
    columns = (
        "generator",
        "n",
        *(title for _, title, _ in estimates),
        "equal to a test question",
        "but for names, numbers",
    )
    notes = (
        "Shares in %, steps a mean, each with its 95 % interval and n. Questions that the generation stage "
        "dropped (cut, empty) count as not parsing, and in no other column.",
        f"Measured from outside by {measures['instrument']}; no stage saw it.",
    )
    quality = Table("questions", "Generated questions", columns, tuple(rows), notes)
    kinds = list(dict.fromkeys(kind for measured in generators.values() for kind in measured["faults"]))
    found = [quality]
    if any("by_length" in measured for measured in generators.values()):
        found.append(_well_posed_by_length(generators))
    if kinds:
        counts = tuple(
            (label, *(f"{measured['faults'].get(kind, 0):,}" for kind in kinds))
            for label, measured in generators.items()
        )
        found.append(Table("faults", "Kinds of fault", ("generator", *kinds), counts))
    return found


def _well_posed_by_length(generators: Mapping[str, Any]) -> Table:
    """Well-posed questions of equal length, and at the lengths that the first generator writes."""
    lengths = sorted({length for measured in generators.values() for length in measured["by_length"]})
    rows = []
    for label, measured in generators.items():
        shares = [measured["by_length"].get(length) for length in lengths]
        cells = [_format_estimate(share, 100.0) if share else "–" for share in shares]
        rows.append((label, *cells, _format_estimate(measured["well_posed_standardised"], 100.0)))
    columns = ("generator", *(f"steps: {length}" for length in lengths), "at the first one's lengths")
    last = f" {lengths[-1]} stands for this many and more." if lengths else ""
    note = (
        "Well posed, of the questions that parse, in %, by the number of sentences between the first and the "
        f"question: a longer question has more that can be wrong.{last} Last column: the average over "
        "lengths, weighted as in the first row with at least 100 questions that parse."
    )
    return Table("well_posed_by_length", "Well posed at equal lengths", columns, tuple(rows), (note,))


def _format_estimate(item: Mapping[str, Any], scale: float) -> str:
    estimate = Estimate(**item)
    if estimate.value is None:
        return "–"
    digits = 1 if scale == 100.0 else 2
    shown = f"{scale * estimate.value:.{digits}f}"
    if estimate.low is not None and estimate.high is not None:
        shown += f" [{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"
    return f"{shown} (n {estimate.n:,})"


def format_percent(estimate: Estimate) -> str:
    """Format an estimate in %, as `87.3 [85.4, 89.0]`; without brackets if it has no interval."""
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:.1f}"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


# ---------------------------------------------------------------------------------------------------- showing


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables to the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    console = Console(highlight=False)
    if not console.is_terminal:  # in a log, do not wrap tables at 80 columns
        console = Console(highlight=False, width=LOG_WIDTH)
    for table in tables:
        grid = Grid(title=escape(one_line(table.title)), title_justify="left", title_style="bold")
        for number, column in enumerate(table.columns):
            head = escape(one_line(column).replace(" (", "\n("))
            right = number and _is_numeric(table, number)
            justify: Literal["left", "right"] = "right" if right else "left"
            # Wrap if the terminal is too narrow, because an ellipsis would hide digits.
            grid.add_column(head, justify=justify, no_wrap=not number, overflow="fold")
        for row in table.rows:
            grid.add_row(*(escape(one_line(cell)) for cell in row))
        console.print(grid)
        for note in table.notes:
            console.print(escape(one_line(note)), style="bold yellow" if note.startswith(WARNING) else "dim")
        console.print()


def format_markdown(tables: Sequence[Table], title: str | None = None) -> str:
    """Return all tables as one Markdown page."""
    lines = [f"# {inline(title)}", ""] if title else []
    for table in tables:
        right = {place for place in range(1, len(table.columns)) if _is_numeric(table, place)}
        lines += [f"## {inline(table.title)}", "", *table_lines(table.columns, table.rows, right), ""]
        lines += [f"{paragraph(note)}\n" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def format_latex(table: Table) -> str:
    """Return one table in LaTeX, using booktabs."""
    kinds = "".join("r" if i and _is_numeric(table, i) else "l" for i in range(len(table.columns)))
    body = [" & ".join(map(tex, row)) + r" \\" for row in table.rows]
    head = " & ".join(map(tex, table.columns)) + r" \\"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(table.title)}. {tex(' '.join(table.notes))}}}",
    ]
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}"]) + "\n"


def format_csv(table: Table) -> str:
    """Return one table as CSV, without its notes."""
    return csv_text([table.columns, *table.rows])


def _is_numeric(table: Table, column: int) -> bool:
    """Return whether every cell is a number, with its interval and mark."""
    cells = [row[column] for row in table.rows]
    return bool(cells) and all(map(_NUMBER.fullmatch, cells))
