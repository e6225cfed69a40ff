"""The report on judged questions: tables for the terminal, report.json, and a page with examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalequest.atomic_files import as_json, write
from scalequest.evaluation.judged_questions import Labels
from scalequest.evaluation.statistics import Estimate
from scalequest.evaluation.tables import Table, format_percent
from scalequest.pages import elements
from scalequest.pages.markup import shorten
from scalequest.questions.judging import VERDICTS, Aspect
from scalequest.questions.levels import LEVELS
from scalequest.records import Row

REPORT, PAGE = "report.json", "report.html"
NOTABLE = 0.05  # share of missing verdicts above which a note warns
LISTED = 12  # questions under each heading of the page


def tables_of_judged(measures: Mapping[str, Any]) -> list[Table]:
    """Return the statistics as tables: shares, levels, topics, differences, agreement, missing verdicts."""
    generators: Mapping[str, Any] = measures["generators"]
    asked = [aspect for aspect in VERDICTS if any(aspect in one for one in generators.values())]
    tables = [_summary(measures, asked)]
    for aspect, title in (("difficulty", "Levels of difficulty"), ("topic", "Topics")):
        if aspect in asked:
            names = list(next(iter(generators.values()))[aspect]["shares"])
            cells = tuple(
                (name, *(_percent(one[aspect]["shares"][name]) for one in generators.values()))
                for name in names
            )
            note = "Shares in % of the questions with a verdict, with Wilson's 95 % interval."
            tables.append(Table(aspect, title, (aspect, *generators), cells, (note,)))
    if measures["differences"]:
        tables.append(_difference_table(measures["differences"]))
    if measures["agreement"]:
        tables.append(_agreement_table(measures["agreement"]))
    missing = tuple(
        (label, aspect, reason, f"{count:,}")
        for label, one in generators.items()
        for aspect in asked
        for reason, count in one[aspect]["no_verdict"].items()
    )
    if missing:
        head = ("generator", "aspect", "reason", "questions")
        tables.append(Table("missing", "Verdicts that are missing", head, missing))
    return tables


def _summary(measures: Mapping[str, Any], asked: Sequence[Aspect]) -> Table:
    columns, rows = ["generator", "questions"], []
    heads = {"solvability": "solvable %", "difficulty": "difficulty, 20 to 100"}
    columns += [heads[aspect] for aspect in asked if aspect in heads]
    notes = [_about(measures)]
    for label, one in measures["generators"].items():
        row = [label, f"{one['questions']:,}"]
        if "solvability" in asked:
            row.append(f"{_percent(one['solvability']['solvable'])} (n {one['solvability']['judged']:,})")
        if "difficulty" in asked:
            row.append(f"{_number(one['difficulty']['mean'])} (n {one['difficulty']['judged']:,})")
        rows.append(tuple(row))
        for aspect in asked:
            lost = sum(one[aspect]["no_verdict"].values())
            if lost > NOTABLE * one["questions"]:
                share = 100 * lost / one["questions"]
                notes.append(
                    f"Warning: {label}: {share:.0f} % have no verdict on {aspect}, and its column omits them."
                )
    notes.append("In brackets: 95 % intervals, Wilson's for shares and the normal one for means.")
    if measures["judged_by"] != "function":
        notes.append(_spent(measures["spent"]))
    return Table("judged", "Solvable share and difficulty", tuple(columns), tuple(rows), tuple(notes))


def _about(measures: Mapping[str, Any]) -> str:
    who = measures["judge"]
    if measures["judged_by"] == "function":
        return f"Judge: {who}, which decides by rules and is not a language model."
    where = "behind a server" if measures["judged_by"] == "server" else "run here"
    return f"Judge: {who}, {where}. Its verdicts are opinions; compare the agreement with others, if given."


def _spent(spent: Mapping[str, Any]) -> str:
    said = [f"{spent['requests']:,} requests"] if "requests" in spent else []
    said += [f"{spent['prompt_tokens']:,} tokens read"] if "prompt_tokens" in spent else []
    said += [f"{spent['tokens']:,} generated"] if "tokens" in spent else []
    said += [f"cost {spent['cost']:.2f} by the prices given"] if spent.get("cost") else []
    return f"Spent: {', '.join(said)}."


def _difference_table(found: Sequence[Mapping[str, Any]]) -> Table:
    names = {"solvability": "solvable, points", "difficulty": "difficulty, of 100"}
    rows = tuple(
        (
            one["generator"],
            one["from"],
            names[one["aspect"]],
            _signed(one, 100.0 if one["aspect"] == "solvability" else 1.0),
            f"{one['n']:,}",
            "yes" if one["paired"] else "no",
        )
        for one in found
    )
    note = (
        "The first minus the second, with the 95 % interval. Paired (same ids): the bootstrap over "
        "questions, or Tango's interval if few verdicts change; else combined from both intervals (Newcombe)."
    )
    head = ("generator", "against", "measure", "difference", "n", "paired")
    return Table("differences", "Differences between generators", head, rows, (note,))


def _agreement_table(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            one["with"],
            one["aspect"],
            f"{one['share']['n']:,}",
            _percent(one["share"]),
            _number(one["kappa"], 2),
        )
        for one in found
    )
    note = (
        "For the questions on which both have a verdict: the share of equal verdicts, and Cohen's kappa "
        "(quadratic weights for the levels of difficulty), each with its 95 % interval."
    )
    head = ("with", "aspect", "n", "equal verdicts %", "kappa")
    return Table("agreement", "Agreement with others", head, rows, (note,))


def _percent(estimate: Mapping[str, Any]) -> str:
    return format_percent(Estimate(**estimate))


def _number(estimate: Mapping[str, Any], digits: int = 1) -> str:
    one = Estimate(**estimate)
    if one.value is None:
        return "–"
    if one.low is None or one.high is None:
        return f"{one.value:.{digits}f}"
    return f"{one.value:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"


def _signed(estimate: Mapping[str, Any], scale: float) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    said = f"{scale * value:+.1f}"
    return said if low is None or high is None else f"{said} [{scale * low:+.1f}, {scale * high:+.1f}]"


# --------------------------------------------------------------------------------------------------- report


def write_report(
    folder: Path, rows: Sequence[Row], measures: Mapping[str, Any], others: Mapping[str, Labels]
) -> None:
    """Write report.json and report.html, with tables, disagreements and example questions."""
    sections = []
    for table in tables_of_judged(measures):
        shown = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        notes = [f'<p class="note">{elements.text(note)}</p>' for note in table.notes]
        plot = _levels_plot(rows, list(measures["generators"])) if table.name == "difficulty" else []
        sections.append(elements.section(table.title, elements.table(shown, table.columns), *notes, *plot))
    sections += [_confusion(one) for one in measures["agreement"]]
    for label, verdicts in others.items():
        sections += _disagreements(rows, label, verdicts)
    unsolvable = [row for row in rows if row.get("solvable") is False]
    sections += _examples("Called unsolvable", unsolvable, "solvability")
    for aspect in VERDICTS:
        lost = [row for row in rows if row.get(f"{aspect}_fault")]
        sections += _examples(f"No verdict on {aspect}", lost, aspect, reasons=True)
    elements.write_page(folder / PAGE, "Judged questions", *sections)
    write(folder / REPORT, as_json(dict(measures)))


def _levels_plot(rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    """Plot the levels of the first and the last generator, from 1 to 5."""
    levels = {
        label: [1 + LEVELS.index(row["difficulty"]) for row in rows
                if row["generator"] == label and row.get("difficulty") is not None]
        for label in dict.fromkeys((labels[0], labels[-1]))
    }  # fmt: skip
    if not all(levels.values()):
        return []
    return [elements.histogram(levels, "difficulty, from 1 (very easy) to 5 (very hard)")]


def _confusion(one: Mapping[str, Any]) -> str:
    """Show the confusion matrix, without the classes that neither side used."""
    table, names = one["table"], one["classes"]
    used = [n for n in range(len(names)) if any(table[n]) or any(row[n] for row in table)]
    cells = [{"": names[n], **{names[m]: table[n][m] for m in used}} for n in used]
    title = f"{one['aspect'].capitalize()}: the judge (rows) and {one['with']} (columns)"
    return elements.section(title, elements.table(cells, ["", *(names[m] for m in used)]))


def _disagreements(rows: Sequence[Row], label: str, verdicts: Labels) -> list[str]:
    """Show some of the questions on which the judge and others differ, for each aspect."""
    shown, differing = [], 0
    for column in VERDICTS.values():
        found = [
            {
                "generator": row["generator"],
                "id": row["id"],
                "question": shorten(row["question"], 400),
                "verdict": column,
                "judge": _said(row[column]),
                label: _said(theirs[column]),
            }
            for row in rows
            if (theirs := verdicts.get((row["generator"], row["id"]))) is not None
            and None not in (row.get(column), theirs[column])
            and row[column] != theirs[column]
        ]
        shown += found[: LISTED // 2]
        differing += len(found)
    if not shown:
        return []
    title, note = f"Where the judge and {label} differ", f"{len(shown)} of {differing:,} verdicts."
    return [elements.section(title, elements.table(shown), note=note)]


def _said(verdict: bool | str) -> str:
    return verdict if isinstance(verdict, str) else "yes" if verdict else "no"


def _examples(title: str, rows: Sequence[Row], aspect: Aspect, *, reasons: bool = False) -> list[str]:
    if not rows:
        return []
    shown = [
        {
            "generator": row["generator"],
            "id": row["id"],
            "question": shorten(row["question"], 400),
            **({"reason": row[f"{aspect}_fault"]} if reasons else {}),
            **({"end of the reply": _end(row[f"{aspect}_text"])} if row.get(f"{aspect}_text") else {}),
        }
        for row in rows[:LISTED]
    ]
    note = f"The first {len(shown)} of {len(rows):,}."
    return [elements.section(title, elements.table(shown), note=note)]


def _end(reply: str) -> str:
    return reply if len(reply) <= 300 else f"…{reply[-299:]}"
