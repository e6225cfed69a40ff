"""Print and write what a run's folders say: funnel, questions, benchmarks, what every stage cost.

    python eval/report.py --run runs/tiny                           # writes runs/tiny/report/
    python eval/report.py --evaluations runs/7b --published eval/published/table1.yaml --output_dir report

Whatever lies in the folders is shown: receipts (`receipt.json`), measured questions (`questions.json`) and
evaluations (`results.json`). Nothing is computed anew, so every number can be followed to its file.
Seconds, on any machine.
Written: report.md, report.json, and each table as .tex and .csv. Exit status 1 says that rows are lost.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, option, parse
from scalequest.evaluation import funnel, tables
from scalequest.evaluation.harness import RESULTS, Result, read_results
from scalequest.records import read_rows
from scalequest.stages import explained

QUESTIONS = "questions.json"


@dataclass(frozen=True)
class ReportConfig:
    """What to report, and where to."""

    run: str | None = option(None, "folder of a pipeline run")
    evaluations: list[str] = option(None, "further folders with evaluations", default_factory=list)
    questions: list[str] = option(None, "further folders of measured questions", default_factory=list)
    published: list[str] = option(None, "YAML files of published tables", default_factory=list)
    published_as: dict[str, str] = option(
        None, "our model's label: the published model's name", default_factory=dict
    )
    show_published: bool = option(False, "show the published tables whole as well")
    output_dir: str | None = option(None, "where the report goes; null: report/ in the run's folder")
    title: str | None = option(None, "headline")

    def __post_init__(self) -> None:
        """Something has to be reported, and somewhere."""
        if not (self.run or self.evaluations or self.questions or self.published):
            raise ConfigError("nothing to report: give run, evaluations, questions or published")
        if not (self.run or self.output_dir):
            raise ConfigError("output_dir: give one, or a run")


def main(args: ReportConfig) -> None:
    """Gather, print, write; exit with 1 where rows are lost."""
    shown: list[tables.Table] = []
    gaps: list[str] = []
    stages: list[funnel.StageRecord] = []
    if args.run:
        stages = funnel.read_stages(args.run)
        rows, gaps = funnel.funnel(stages)
        shown += rows if stages else []
    measured = [
        json.loads(path.read_text(encoding="utf-8")) for path in found(args.run, args.questions, QUESTIONS)
    ]
    for measures in measured:
        shown += tables.question_table(measures)
    published = [tables.load_published(path) for path in args.published]
    results: list[Result] = []
    folders = dict.fromkeys(path.parent.parent for path in found(args.run, args.evaluations, RESULTS))
    for number, folder in enumerate(folders, 1):
        mine = evaluation(folder)
        results += mine
        shown += numbered(
            tables.benchmark_tables(mine, published, args.published_as), number, folder, len(folders)
        )
    if args.show_published:
        shown += map(tables.published_table, published)
    if stages:
        shown.append(funnel.seconds_table(stages, wall_seconds(Path(args.run or ""))))
    tables.show(shown)
    output = Path(args.output_dir) if args.output_dir else Path(args.run or "") / "report"
    details = {
        "stages": [{"folder": stage.folder, **stage.receipt} for stage in stages],
        "questions": measured,
        "results": [asdict(result) for result in results],
        "gaps": gaps,
    }
    write(
        output, shown, args.title or (f"Report of {Path(args.run).name}" if args.run else "Report"), details
    )
    print(f"written to {output}")
    for gap in gaps:
        print(f"error: rows are lost: {gap}", file=sys.stderr)
    if gaps:
        sys.exit(1)


def found(run: str | None, folders: Sequence[str], name: str) -> Iterator[Path]:
    """All files of a name below the run's folder and the others."""
    for folder in dict.fromkeys([*([run] if run else []), *folders]):
        if not Path(folder).is_dir():
            raise ConfigError(f"{folder}: no such folder")
        yield from sorted(Path(folder).rglob(name))


def evaluation(folder: Path) -> list[Result]:
    """The results below one evaluation's folder, models in the order in which they were given."""
    by_model = {path.parent.name: read_results(path) for path in sorted(folder.glob(f"*/{RESULTS}"))}
    try:
        order = list(dict.fromkeys(row["model"] for row in read_rows(folder)))
    except ConfigError:  # not finished yet
        order = []
    return [result for model in dict.fromkeys([*order, *by_model]) for result in by_model.get(model, [])]


def numbered(made: Sequence[tables.Table], number: int, folder: Path, of: int) -> list[tables.Table]:
    """Tell the tables of several evaluations apart."""
    if of == 1:
        return list(made)
    return [
        tables.Table(f"{one.name}_{number}", f"{one.title} ({folder.name})", one.columns, one.rows, one.notes)
        for one in made
    ]


def wall_seconds(run: Path) -> dict[str, float]:
    """Wall-clock seconds of each stage, as the pipeline measured them."""
    try:
        stages = json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError):
        return {}
    return {
        name: float(noted["seconds"]) for name, noted in stages.items() if noted.get("seconds") is not None
    }


def write(folder: Path, shown: Sequence[tables.Table], title: str, details: dict[str, Any]) -> None:
    """Write the report's files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(tables.markdown(shown, title), encoding="utf-8")
    content = {"title": title, "tables": [asdict(table) for table in shown], **details}
    (folder / "report.json").write_text(
        json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for table in shown:
        (folder / f"{table.name}.tex").write_text(tables.latex(table), encoding="utf-8")
        (folder / f"{table.name}.csv").write_text(tables.to_csv(table), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(explained(main, *parse(ReportConfig, description=__doc__ or "")))
