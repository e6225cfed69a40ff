"""The filter stage's report: what every step did, as a page to read and as JSON to compute with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalequest import pages
from scalequest.durable import as_json, write
from scalequest.questions.contamination import Match
from scalequest.questions.duplicates import Duplicates
from scalequest.records import Row

_SHOWN = 100  # pairs a page; all of them stand in dropped/, column `matches` or `duplicate_of`
_EXAMPLES = 10  # of the two language rules' disagreements, each way
# Reasons in the order of the usual steps, so that the bars read as a funnel; others follow.
_ORDER = (
    *("empty", "language", "duplicate", "near_duplicate", "template", "contamination"),
    *("verdict_truncated", "verdict_unparsed", "unsolvable", "too_easy", "too_hard", "off_target"),
)


@dataclass
class TextFindings:
    """What the steps that need no model found, row by row.

    Attributes:
        reasons: why a row goes no further, or None.
        columns: what a row gets, e.g. the benchmark question that it matches.
        ascii: whether the paper's language rule would keep the row.
        duplicates: where that step ran.
        matches: by row number, where the contamination step ran.
        clean: the benchmarks' clean ratios.
        difficulties: where difficulty was selected by a column: of all rows that the step saw, and of those
        it kept.
    """

    reasons: list[str | None]
    columns: list[Row]
    ascii: list[bool]
    duplicates: Duplicates | None = None
    matches: dict[int, Match] = field(default_factory=dict)
    clean: list[dict[str, Any]] = field(default_factory=list)
    difficulties: tuple[list[float], list[float]] | None = None


def filter_report(
    folder: Path, rows: Sequence[Row], found: TextFindings, receipt: Mapping[str, Any], steps: Sequence[str]
) -> None:
    """Write report.html and report.json into the folder of a filter stage that is about to finish.

    Args:
        folder: the stage's, its rows in place.
        rows: all that came in.
        found: by the steps that need no model.
        receipt: of the stage as it will stand there.
        steps: that ran.
    """
    drops, counts = dict(receipt["dropped"]), receipt.get("counts", {})
    facts: dict[str, Any] = {"rows_in": receipt["rows_in"], "kept": receipt["kept"], "dropped": drops}
    known = {name: drops[name] for name in _ORDER if name in drops}
    where = pages.bars({"kept": receipt["kept"], **known, **drops})
    parts = [pages.section("Where every row went", where, note=f"{receipt['rows_in']:,} rows came in.")]
    if "language" in steps:
        facts["language"] = confusion = _confusion(found)
        note = "Rows: the rule in force. Columns: the paper's, which keeps plain ASCII alone."
        parts.append(pages.section("Language", pages.table(confusion), _by_language(rows, found), note=note))
    if (duplicates := found.duplicates) is not None:
        facts["duplicates"] = {
            **Counter(reason for reason in duplicates.reasons if reason),
            "compared_pairs": duplicates.candidates,
            "template_rows_kept": duplicates.template_rows,
        }
        near = [n for n, reason in enumerate(duplicates.reasons) if reason == "near_duplicate"]
        shown = [
            (str(rows[n]["id"]), rows[n]["question"], rows[int(duplicates.kept[n])]["question"])
            for n in near[:_SHOWN]
        ]
        told = {
            "dropped: equal but for case, spacing and spelling of LaTeX": "duplicate",
            "dropped: near-duplicates": "near_duplicate",
            "dropped: over the cap of a template": "template",
            "kept, though an earlier row has the same text with other numbers": "template_rows_kept",
        }
        table = pages.table([{"what": k, "rows": facts["duplicates"].get(v, 0)} for k, v in told.items()])
        note = f"{duplicates.candidates:,} pairs of rows were compared."
        if near:
            note += f" Below, {len(shown):,} of {len(near):,} near-duplicates; what differs is marked."
        beside = pages.pairs(shown, "dropped", "kept in its stead", differences=True)
        parts.append(pages.section("Duplicates", table, beside, note=note))
    if "contamination" in steps:
        by_rule = Counter[str](match.rule for match in found.matches.values())
        left_out = receipt.get("benchmarks_left_out", [])
        facts["contamination"] = {"flagged": dict(by_rule), "clean": found.clean, "left_out": left_out}
        parts += contamination_sections(found.clean, by_rule, flagged_pairs(rows, found), "came in", left_out)
    if "solvability" in steps and "rules_disagree" in counts:
        unparsed = sum(drops.get(name, 0) for name in ("verdict_unparsed", "verdict_truncated"))
        asked = drops.get("unsolvable", 0) + unparsed + receipt["kept"]
        facts["solvability"] = {
            "judged": asked,
            "no_verdict": unparsed,
            "no_verdict_share": unparsed / max(1, asked),
            "rules_disagree": counts["rules_disagree"],
        }
        note = "rules_disagree: the last explicit verdict and the paper's 'yes anywhere' differ."
        parts.append(pages.section("Solvability", pages.table([facts["solvability"]]), note=note))
    measure = "difficulty" if found.difficulties else "fail rate (1 - agreement)"
    before, after = found.difficulties or _fail_rates(folder)
    if before:
        plot = pages.histogram({"before": before, "after": after}, measure)
        note = "Before: all rows that were measured. After: those that go on."
        parts.append(pages.section("Difficulty", plot, note=note))
    pages.write_page(folder / "report.html", "Filtered questions", *parts)
    write(folder / "report.json", as_json(facts))


def _confusion(found: TextFindings) -> list[dict[str, Any]]:
    """How the rule in force and the paper's ASCII rule divide the rows."""
    names = {True: "ASCII rule keeps", False: "ASCII rule drops"}
    table = Counter(
        (reason in ("language", "empty"), names[plain])
        for reason, plain in zip(found.reasons, found.ascii, strict=True)
    )
    return [
        {"ours": label, **{name: table[dropped, name] for name in names.values()}}
        for dropped, label in ((False, "keeps"), (True, "drops"))
    ]


def _by_language(rows: Sequence[Row], found: TextFindings) -> str:
    """The first rows of each kind that the language step dropped, or kept against the ASCII rule."""
    examples = []
    for label, dropped in (("drops", True), ("keeps, not ASCII", False)):
        numbers = [
            n
            for n, (reason, plain) in enumerate(zip(found.reasons, found.ascii, strict=True))
            if (reason == "language") is dropped and (dropped or not plain)
        ]
        examples += [
            {"ours": label, "id": rows[n]["id"], "question": rows[n]["question"]} for n in numbers[:_EXAMPLES]
        ]
    return pages.table(examples) if examples else ""


def _fail_rates(folder: Path) -> tuple[list[float], list[float]]:
    """Fail rates that the stage's own model gave: of all rows, and of those that it kept."""
    import pyarrow.parquet as pq

    rates: dict[str, list[float]] = {"data": [], "dropped": []}
    for name, found in rates.items():
        for path in sorted((folder / name).glob("*.parquet")):
            if "fail_rate" in pq.read_schema(path).names:
                column = pq.read_table(path, columns=["fail_rate"])["fail_rate"]
                found += [value for value in column.to_pylist() if value is not None]
    return [*rates["data"], *rates["dropped"]], rates["data"]


def flagged_pairs(rows: Sequence[Row], found: TextFindings) -> list[tuple[str, str, str]]:
    """Label, question and benchmark question of every flagged row."""
    return [
        (f"{rows[n]['id']}: {match.rule}, {match.test.benchmark}/{match.test.id}", rows[n]["question"],
         match.test.question)
        for n, match in found.matches.items()
    ]  # fmt: skip


def contamination_sections(
    clean: Sequence[Mapping[str, Any]],
    by_rule: Mapping[str, int],
    flagged: Sequence[tuple[str, str, str]],
    which: str,
    left_out: Sequence[str] = (),
) -> list[str]:
    """Sections of a page: clean ratios, flags by rule, flagged pairs side by side.

    Args:
        clean: of `Index.clean_ratios`.
        by_rule: how many rows each rule flagged.
        flagged: of `flagged_pairs`.
        which: questions the ratios are about, after "a question that".
        left_out: benchmarks that were not looked at.
    """
    without = f" Not looked at, since their data were not there: {', '.join(left_out)}." if left_out else ""
    if not clean:
        return [pages.section("Contamination", note=f"No benchmark was given to compare with.{without}")]
    note = (
        f"Met: the benchmark's questions that share 13 words in a row with a question that {which} (or are "
        f"equal to one). Clean: the share of the others, as in the paper's table 6.{without}"
    )
    table = pages.table([{**one, "clean": f"{100 * one['clean']:.2f} %"} for one in clean])
    shown = f"{min(_SHOWN, len(flagged)):,} of {len(flagged):,} flagged rows, the words in common marked."
    return [
        pages.section("Benchmarks", table, note=note),
        pages.section(
            "Contamination",
            pages.bars(by_rule),
            pages.pairs(flagged[:_SHOWN], "row", "benchmark's question"),
            note=shown if flagged else "No row is flagged.",
        ),
    ]
