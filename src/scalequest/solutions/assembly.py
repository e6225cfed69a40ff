"""The published dataset: generators mixed, every row checked once more, shuffled, with its card and report.

The paper mixes 400K questions of DeepSeekMath's generator with 600K of Qwen2's (section 3.1 and App. B) and
publishes `query` and `response`; here each row also says where it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalequest.atomic_files import as_json, write
from scalequest.config import ConfigError, RunOptions, option, required, to_dict
from scalequest.config.ranges import COUNT
from scalequest.grading.latex.boxes import last_box
from scalequest.pages import elements
from scalequest.pages.cards import dataset_card, markdown_table
from scalequest.pages.markup import inline
from scalequest.questions.contamination import ContaminationRule, Index, TestQuestion
from scalequest.questions.duplicates import DuplicateRule, Sketch, find_duplicates, sketch
from scalequest.questions.text import batches
from scalequest.records import SAME_ID, Row, check_rows, quota, row_seed
from scalequest.solutions.overview import lines, overview, sections
from scalequest.stage.block_loop import Drop, stream
from scalequest.stage.folder import Stage
from scalequest.tracking import Tracker

VERSION = 5  # raise by hand when the same configuration gives other rows
COLUMNS = (
    *("id", "query", "response", "answer", "generator", "solver", "reward_model"),
    *("agreement", "reward", "margin", "source"),
)
_BOX = re.compile(r"(?<!\\)\\+(?:boxed|fbox)(?![a-zA-Z])")


@dataclass(frozen=True)
class Part:
    """One generator's share of the dataset."""

    source: str = required("a select_solutions folder, a file, or hub:owner/name")
    rows: int | None = option(
        None,
        "exactly so many, drawn by seed from those that pass the checks; fewer are an error; None takes all",
        within=COUNT,
    )


@dataclass(frozen=True)
class AssembleConfig:
    """The assembly stage."""

    parts: list[Part] = required("what is mixed", fingerprint=False)
    columns: dict[str, str] = option(help="our column names to the input's", default_factory=dict)
    one_box: bool = option(True, "drop a response without exactly one box")
    answer_parses: bool = option(True, "drop a response whose boxed answer is broken LaTeX, or prose")
    duplicates: DuplicateRule = option(help="across all parts", default_factory=DuplicateRule)
    contamination: ContaminationRule = option(
        help="the last look at the benchmarks", default_factory=ContaminationRule
    )
    title: str = option("Questions and solutions", "headline of the card")
    license: str = option("apache-2.0", "identifier of the licence, for the card")
    license_note: str = option(
        "Written by models: the licences of the generator, the solver and the reward model apply too.",
        "what else is to be said of it",
    )
    run: str | None = option(None, "run folder whose stages give funnel and cost", fingerprint=False)
    push_to_hub: str | None = option(None, "owner/name: upload it there, privately", fingerprint=False)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("parts: there is nothing to mix")


def parses(answer: str) -> bool:
    r"""Whether a box holds an answer: braces and `\left`, `\right` pair up, nothing is cut, no prose."""
    bare = re.sub(r"\\[{}\\]", "", answer)
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth < 0:
            return False
    paired = len(re.findall(r"\\left\b", answer)) == len(re.findall(r"\\right\b", answer))
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[a-zA-Z]+", " ", answer))
    whole = not re.search(r"(?:[-+*/=^_,]|\\)\s*$", answer)
    return bool(answer.strip()) and depth == 0 and paired and whole and len(words) <= 8


def check(row: Row, config: AssembleConfig) -> str | None:
    """Why a pair may not be published, or None."""
    if not str(row["query"]).strip() or not str(row["response"]).strip():
        return "empty"
    boxes = len(_BOX.findall(row["response"]))
    if config.one_box and boxes != 1:
        return "no_box" if boxes == 0 else "several_boxes"
    if config.answer_parses and not parses(last_box(row["response"]) or ""):
        return "answer_does_not_parse"
    return None


def outcomes(
    rows: Sequence[Row],
    config: AssembleConfig,
    tests: Sequence[TestQuestion],
    seed: int,
    limit: int | None = None,
) -> list[str | None]:
    """A reason or None for every row: the checks, duplicates over all parts, test questions, then the quotas.

    Args:
        rows: of all parts, each with `part`, the number of its part.
        config: checks and quotas.
        tests: questions of the benchmarks.
        seed: which rows fill a quota.
        limit: rows that were read of each part at most.

    Raises:
        ConfigError: two rows have one id, or too few are left for a quota and no limit is why.
    """
    _check_ids(rows, config)
    reasons = [check(row, config) for row in rows]
    queries = [str(row["query"]) for row in rows]
    index, sketches = Index(tests, config.contamination), []
    matches = []
    for _, tokens in batches(queries):
        sketches.append(sketch(tokens, config.duplicates))
        matches += index.matches(tokens)
    if rows:
        left = np.array([reason is None for reason in reasons])
        found = find_duplicates(queries, Sketch.joined(sketches), config.duplicates, left)
        reasons = [old or new for old, new in zip(reasons, found.reasons, strict=True)]
    if config.contamination.drop:
        flags = ["contamination" if match else None for match in matches]
        reasons = [old or new for old, new in zip(reasons, flags, strict=True)]
    for number, part in enumerate(config.parts):
        own = [n for n, row in enumerate(rows) if row["part"] == number and reasons[n] is None]
        own.sort(key=lambda n: row_seed(seed, "quota", str(rows[n]["id"])))
        wanted = len(own) if part.rows is None else part.rows
        for n in own[quota(wanted, len(own), f"parts: {part.source}", limit=limit) :]:
            reasons[n] = "over_quota"
    return reasons


def _check_ids(rows: Sequence[Row], config: AssembleConfig) -> None:
    first: dict[str, int] = {}
    for row in rows:
        if first.setdefault(row["id"], row["part"]) != row["part"]:
            one, other = (config.parts[part].source for part in (first[row["id"]], row["part"]))
            raise ConfigError(f"parts: {one} and {other} both have a row '{row['id']}'{SAME_ID}")


def assemble(
    stage: Stage,
    rows: Sequence[Row],
    config: AssembleConfig,
    run: RunOptions,
    *,
    tests: Sequence[TestQuestion] = (),
    funnel: Sequence[str] = (),
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Write the dataset and finish the stage.

    Args:
        stage: open and unfinished.
        rows: of all parts, each with `part`, the number of its part.
        config: what is mixed and checked.
        run: gives the seed of the order.
        tests: questions of the benchmarks.
        funnel: lines of the card on how the rows came about and what they cost.
        tracker: gets rates and sample rows.

    Returns:
        The stage's receipt (empty on workers other than 0).
    """
    # Which rows go in, and in what order
    reasons = outcomes(rows, config, tests, run.seed, run.limit)
    order = sorted(range(len(rows)), key=lambda n: row_seed(run.seed, "order", str(rows[n]["id"])))

    def published(number: int, _: Sequence[Any]) -> Row | Drop:
        row, reason = rows[order[number]], reasons[order[number]]
        row = {name: row.get(name) for name in COLUMNS} | {"source": config.parts[row["part"]].source}
        return row if reason is None else Drop(row, reason)

    stream(stage, len(rows), run.block_size, row=published, tracker=tracker)
    # Card and report
    kept = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    left_out = stage.receipt.get("benchmarks_left_out", ())
    found = overview(kept, tests, config.contamination, left_out)
    facts = [{"of": label, "what": text} for label, text in lines(found.facts)]
    card = dataset_card(
        config.title, _about(config), to_dict(config), stage.blocks.samples(3), "query", "response"
    )
    body = [card, "## What is in it", "", *markdown_table(facts, "of", "what"), "", *funnel]

    def report(receipt: Mapping[str, Any]) -> None:
        bars = elements.bars({"kept": receipt["kept"], **receipt["dropped"]})
        where = elements.section("Where every row went", bars)
        elements.write_page(stage.output_dir / "report.html", config.title, where, *sections(found))
        write(stage.output_dir / "report.json", as_json(found.facts))

    return stage.finish(
        rows_in=len(rows), card="\n".join(body), columns=COLUMNS, license=config.license, beside=report
    )


def _about(config: AssembleConfig) -> str:
    quotas = "; ".join(
        f"{inline(part.source)}: {'all' if part.rows is None else f'{part.rows:,}'}" for part in config.parts
    )
    looked = "No benchmark was given to compare with." if not config.contamination.given else (
        "Rows that match a benchmark were dropped." if config.contamination.drop
        else "Rows that match a benchmark were NOT dropped."
    )  # fmt: skip
    return (
        f"One `query` and one `response` a row, and where they come from. Mixed from {quotas}. {looked} "
        f"Licence: {inline(config.license)}. {inline(config.license_note)}"
    )


def upload(folder: str, name: str) -> None:
    """Push the dataset, its card and report to the hub, privately, with the hub client's credentials.

    Raises:
        ConfigError: its files are not those that its stage has written.
    """
    from huggingface_hub import HfApi

    check_rows(folder)

    api = HfApi()
    api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
    wanted = ["data/*", "README.md", "report.html", "report.json", "receipt.json"]
    api.upload_folder(folder_path=folder, repo_id=name, repo_type="dataset", allow_patterns=wanted)


def cost_lines(receipts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of the card on what the stages of a run cost."""
    rows = [
        {
            "stage": receipt["stage"],
            "rows in": f"{receipt['rows_in']:,}",
            "kept": f"{receipt['kept']:,}",
            "dropped": ", ".join(f"{reason} {n:,}" for reason, n in receipt["dropped"].items()) or "none",
            "tokens": f"{receipt['tokens']:,}",
            "seconds": f"{receipt['seconds']:,.0f}",
        }
        for receipt in receipts
    ]
    if not rows:
        return []
    total = {key: f"{sum(receipt[key] for receipt in receipts):,.0f}" for key in ("tokens", "seconds")}
    columns = ("stage", "rows in", "kept", "dropped", "tokens", "seconds")
    table = markdown_table([*rows, {"stage": "all", **total}], *columns)
    return ["## How it was made, and what it cost", "", *table, ""]
