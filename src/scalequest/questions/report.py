"""The filter stage's report: what every step did, as a page to read and as JSON to compute with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalequest import pages
from scalequest.durable import as_json, write
from scalequest.records import Row

if TYPE_CHECKING:
    from scalequest.questions.filters import TextFindings

_SHOWN = 100  # pairs a page; all of them stand in dropped/, column `matches` or `duplicate_of`


def filter_report(
    folder: Path, rows: Sequence[Row], found: TextFindings, receipt: Mapping[str, Any], steps: Sequence[str]
) -> None:
    """Write report.html and report.json into the folder of a filter stage that is about to finish.

    Args:
        folder: the stage's.
        rows: all that came in.
        found: by the steps that need no model.
        receipt: of the stage as it will stand there.
        steps: that ran.
    """
    drops, counts = dict(receipt["dropped"]), receipt.get("counts", {})
    facts: dict[str, Any] = {"rows_in": receipt["rows_in"], "kept": receipt["kept"], "dropped": drops}
    parts = [pages.section("Where every row went", pages.bars({"kept": receipt["kept"], **drops}))]
    if "language" in steps:
        facts["language"] = confusion = _confusion(found)
        note = "Rows: the rule in force. Columns: the paper's, which keeps plain ASCII alone."
        parts.append(pages.section("Language", pages.table(confusion), note=note))
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
        note = f"{len(shown)} of {len(near)} near-duplicates: the dropped one left, the one that stays right."
        table = pages.table([{"what": name, "rows": n} for name, n in facts["duplicates"].items()])
        parts.append(pages.section("Duplicates", table, pages.pairs(shown), note=note))
    if "contamination" in steps:
        by_rule = Counter[str](match.rule for match in found.matches.values())
        facts["contamination"] = {"flagged": dict(by_rule), "clean": found.clean}
        parts += contamination_sections(found.clean, by_rule, flagged_pairs(rows, found))
    if "solvability" in steps and "rules_disagree" in counts:
        unparsed = sum(drops.get(name, 0) for name in ("verdict_unparsed", "verdict_truncated"))
        asked = sum(drops.get(name, 0) for name in ("unsolvable",)) + unparsed + receipt["kept"]
        facts["solvability"] = {
            "judged": asked,
            "no_verdict": unparsed,
            "no_verdict_share": unparsed / max(1, asked),
            "rules_disagree": counts["rules_disagree"],
        }
        note = "rules_disagree: the last explicit verdict and the paper's 'yes anywhere' differ."
        parts.append(pages.section("Solvability", pages.table([facts["solvability"]]), note=note))
    if found.difficulties is not None:
        before, after = found.difficulties
        parts.append(
            pages.section("Difficulty", pages.histogram({"before": before, "after": after}, "difficulty"))
        )
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


def flagged_pairs(rows: Sequence[Row], found: TextFindings) -> list[tuple[str, str, str]]:
    """Label, question and benchmark question of every flagged row."""
    return [
        (f"{rows[n]['id']}: {match.rule}, {match.test.benchmark}/{match.test.id}", rows[n]["question"],
         match.test.question)
        for n, match in found.matches.items()
    ]  # fmt: skip


def contamination_sections(
    clean: Sequence[Mapping[str, Any]], by_rule: Mapping[str, int], flagged: Sequence[tuple[str, str, str]]
) -> list[str]:
    """Sections of a page: clean ratios, flags by rule, flagged pairs side by side."""
    note = (
        "met: the benchmark's questions that share 13 words in a row with any row (or are equal to one); "
        "clean: the share of the others, as in the paper's table 6."
    )
    ratios = pages.section("Benchmarks", pages.table(clean), note=note)
    shown = f"{min(_SHOWN, len(flagged))} of {len(flagged)} flagged rows: left the row, right the test."
    pairs = pages.section("Contamination", pages.bars(by_rule), pages.pairs(flagged[:_SHOWN]), note=shown)
    return [ratios, pairs]
