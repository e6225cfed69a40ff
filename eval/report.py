"""Print and write what a run's folders say: funnel, questions, benchmarks, what every stage cost.

    python eval/report.py                                           # the paper's Table 1
    python eval/report.py --published eval/published/*.yaml         # all of its tables and figures
    python eval/report.py --run runs/tiny                           # writes runs/tiny/report/
    python eval/report.py --evaluations runs/7b --output_dir report --parts true
    python eval/report.py --leakage '{MetaMath: runs/set}' --published eval/published/table6.yaml
    python eval/report.py --compare runs/a/evaluate/before runs/b/evaluate/after     # and what flipped

`--compare` says what changed between two models, or one model on two engines (evaluate twice, with
`--engine.name vllm` and `transformers`): the difference with its interval, McNemar's test, every flip.

Everything in the folders is shown: receipts (`receipt.json`), measured questions (`questions.json`) and
evaluations (`results.json`), models of one evaluation compared on the problems that they share. Only
these comparisons are computed here, so every number can be traced to its file. The paper's table of four
benchmarks is shown beside ours if we have a number on one of them. Seconds, on any machine.
Written: report.md, report.json, and each table as .tex and .csv; with `--track wandb` each as a W&B table,
and the plots of a run; with `--lm_eval true` the results in lm-eval's JSON layout; with `--html FILE` one
page to look at, with every row to search (also scripts/run_page.py). Exit status 1: rows are lost.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import Any, Literal

from scalequest import atomic_files
from scalequest.config import ConfigError, option
from scalequest.evaluation import comparison, funnel, tables
from scalequest.evaluation.export import write_lm_eval
from scalequest.evaluation.leakage import CleanRatios, read_clean_ratios, table_of_leakage
from scalequest.evaluation.protocol import read_receipt
from scalequest.evaluation.published import (
    PublishedTable,
    build_published_table,
    fits,
    load_published,
    published_scores_of,
)
from scalequest.evaluation.results import RESULTS, Result, read_results
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import read_rows
from scalequest.tracking import Tracker

QUESTIONS = "questions.json"
TABLE1 = Path(__file__).parent / "published" / "table1.yaml"


@dataclass(frozen=True)
class ReportConfig:
    """What to report, and where to write it."""

    run: str | None = option(None, "folder of a pipeline run")
    evaluations: list[str] = option(None, "further folders with evaluations", default_factory=list)
    questions: list[str] = option(None, "further folders of measured questions", default_factory=list)
    published: list[str] | None = option(
        None, "YAML files of published tables; null: the paper's Table 1 if one of its benchmarks was run"
    )
    published_as: dict[str, str] = option(
        None,
        "our model's label: the published model's name; `label (evaluation)` if two evaluations have it",
        default_factory=dict,
    )
    leakage: dict[str, str] = option(
        None,
        "name of a data set, as in the published table: folder of its scripts/dataset_statistics.py, or of a "
        "stage that compared it with benchmarks",
        default_factory=dict,
    )
    show_published: bool = option(False, "show the published tables even if none of our results fits")
    compare: list[str] = option(
        None, "folders of models, EVALUATION/LABEL: each is compared with the first", default_factory=list
    )
    parts: bool = option(False, "show accuracies by level, subject, length and so on")
    lm_eval: bool = option(False, "also write the results in lm-eval's JSON layout")
    track: Literal["wandb", "none"] = option("none", "log the tables, and the plots of a run, to W&B")
    group: str | None = option(None, "W&B group; null: that of the run's stages")
    html: str | None = option(None, "also write the page of the run, or of the one evaluation: this file")
    output_dir: str | None = option(None, "folder of the report; null: report/ in the run's folder")
    title: str | None = option(None, "headline")

    def __post_init__(self) -> None:
        """Check that a comparison has two sides, and that files have a folder."""
        if len(self.compare) == 1:
            raise ConfigError("compare: give at least two folders of models")
        if (self.lm_eval or self.track != "none") and not (self.run or self.output_dir):
            raise ConfigError("output_dir: give one, or a run")
        if self.html and not self.run and len(self.evaluations) != 1:
            raise ConfigError("html: a page is of one folder; give a run, or one evaluation")


@dataclass(frozen=True)
class Found:
    """What the folders contain.

    Attributes:
        stages: finished stages of the run.
        measured: measures of generated questions.
        evaluations: results by the folder of their evaluation.
        names: names of the evaluations, by folder.
        results: results of all evaluations, with distinct labels.
        published: the published tables to show.
        clean: clean ratios of data sets.
    """

    stages: Sequence[funnel.StageRecord]
    measured: Sequence[dict[str, Any]]
    evaluations: Mapping[Path, Sequence[Result]]
    names: Mapping[Path, str]
    results: Sequence[Result]
    published: Sequence[PublishedTable]
    clean: Sequence[CleanRatios]


def main(args: ReportConfig) -> None:
    """Gather, print, write; exit with 1 if rows are lost."""
    output = Path(args.output_dir) if args.output_dir else Path(args.run) / "report" if args.run else None
    if output is not None and (args.run is None or Path(args.run).is_dir()):  # a typing error makes no folder
        with writing(output):
            output.mkdir(parents=True, exist_ok=True)
    found = gather(args)
    shown, gaps = build_tables(args, found)
    tables.print_tables(shown)
    if output is not None:
        save(args, output, found, shown, gaps)
        print(f"written to {output}")
    if args.html:
        write_html(args, found)
    for gap in gaps:
        print(f"error: rows are lost: {gap}", file=sys.stderr)
    if gaps:
        sys.exit(1)


def gather(args: ReportConfig) -> Found:
    """Read everything that the folders contain.

    Raises:
        ConfigError: a folder is missing or has no results, or a file is wrong.
    """
    stages = funnel.read_stages(args.run) if args.run else []
    measured = [atomic_files.read_object(path) for path in find_files(args.run, args.questions, QUESTIONS)]
    for folder in args.evaluations:
        if not any(find_files(None, [folder], RESULTS)):
            raise ConfigError(f"evaluations: {folder}: no {RESULTS} here or below; did no model finish?")
    folders = dict.fromkeys(path.parent.parent for path in find_files(args.run, args.evaluations, RESULTS))
    own = {folder: read_evaluation(folder) for folder in folders}
    every = [result for mine in own.values() for result in mine]
    published = [load_published(path) for path in choose_published(args, every)]
    names = dict(zip(own, names_of(list(own)), strict=True))
    results = separate_labels({names[folder]: mine for folder, mine in own.items()})
    check_published_as(args.published_as, [*results, *every], published)
    clean = [read_clean_ratios(label, place) for label, place in args.leakage.items()]
    return Found(stages, measured, own, names, results, published, clean)


def build_tables(args: ReportConfig, found: Found) -> tuple[list[tables.Table], list[str]]:
    """The tables of the report, in order, and the rows that are lost."""
    shown: list[tables.Table] = []
    gaps: list[str] = []
    if found.stages:
        shown, gaps = funnel.build_funnel(found.stages)
    for measures in found.measured:
        shown += tables.tables_of_questions(measures)
    for number, folder in enumerate(found.evaluations, 1):
        mine = tables_of_evaluation(args, found, folder)
        shown += number_tables(mine, number, found.names[folder], len(found.evaluations))
    if found.clean:
        shown.append(table_of_leakage(found.clean))
    nothing = not (found.results or found.clean)
    for table in found.published:
        ours = fits(table, found.results, found.clean)  # if not, there is nothing to put beside it
        results, clean = (found.results or None, found.clean) if ours else (None, ())
        if nothing or args.show_published or ours:
            shown.append(build_published_table(table, results, args.published_as, clean))
    shown += compare_folders([Path(folder) for folder in args.compare], flips=True)
    if found.stages:
        shown.append(funnel.table_of_seconds(found.stages, read_wall_seconds(Path(args.run or ""))))
    return shown, gaps


def tables_of_evaluation(args: ReportConfig, found: Found, folder: Path) -> list[tables.Table]:
    """The tables of one evaluation, with a warning if it is not finished."""
    mine = found.evaluations[folder]
    models = list(dict.fromkeys(result.model for result in mine))
    end = f" ({found.names[folder]})"
    known = args.published_as | {key.removesuffix(end): name for key, name in args.published_as.items()}
    made = tables.tables_of_results(mine, *published_scores_of(found.published, models, known))
    if made and (lacking := find_unfinished(folder, models)):
        note = f"{tables.WARNING}not finished: {', '.join(lacking)}; run that evaluation again."
        made[0] = replace(made[0], notes=(note, *made[0].notes))
    made += tables.tables_of_parts(mine) if args.parts else []
    return [*made, *compare_folders([folder / model for model in models])]


def save(
    args: ReportConfig,
    output: Path,
    found: Found,
    shown: Sequence[tables.Table],
    gaps: Sequence[str],
) -> None:
    """Write the report, and what else the settings ask for."""
    details = {
        "stages": [{"folder": stage.folder, **stage.receipt} for stage in found.stages],
        "questions": found.measured,
        "results": [asdict(result) for result in found.results],
        "gaps": gaps,
    }
    title = args.title or (f"Report of {Path(args.run).name}" if args.run else "Report")
    with writing(output):
        write_report(output, shown, title, details)
        if args.lm_eval:
            for folder in found.evaluations:
                export_lm_eval(folder, output / "lm_eval")
    if args.track != "none":
        log_to_wandb(args, output, found, shown)


def find_files(run: str | None, folders: Sequence[str], name: str) -> Iterator[Path]:
    """All files of a name in the run's folder, the others, and below."""
    for folder in dict.fromkeys([*([run] if run else []), *folders]):
        if not Path(folder).is_dir():
            raise ConfigError(f"{folder}: no such folder")
        yield from sorted(Path(folder).rglob(name))


def choose_published(args: ReportConfig, results: Sequence[Result]) -> list[str | Path]:
    """The published tables to show."""
    if args.published is not None:
        return [path for pattern in args.published for path in sorted(glob(pattern)) or [pattern]]
    nothing = not (args.run or args.evaluations or args.questions or args.compare or args.leakage)
    ours = {result.benchmark for result in results}
    return [TABLE1] if nothing or ours & set(load_published(TABLE1).benchmarks) else []


def check_published_as(
    published_as: Mapping[str, str], results: Sequence[Result], published: Sequence[PublishedTable]
) -> None:
    """Check that it names models of ours and of theirs, since a typing error would just show nothing.

    Raises:
        ConfigError: it does not.
    """
    ours = dict.fromkeys(result.model for result in results)
    theirs = {row.model.casefold(): row.model for table in published for row in table.rows}
    for label, model in published_as.items():
        if label not in ours:
            raise ConfigError(f"published_as: no result is of '{label}'; there are {', '.join(ours)}")
        if theirs and model.casefold() not in theirs:
            close = get_close_matches(model, theirs.values(), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"published_as: no published table has a model '{model}'{hint}")


def compare_folders(folders: Sequence[Path], *, flips: bool = False) -> list[tables.Table]:
    """Compare every model with the first, on the problems that both were asked.

    Args:
        folders: folders of models.
        flips: whether the comparison was asked for: show what flipped, refuse pairs that share nothing.

    Raises:
        ConfigError: no results, nothing in common, or other problems under a benchmark's name.
    """
    if len(folders) < 2:
        return []
    for folder in folders:
        if not (folder / RESULTS).is_file():
            raise ConfigError(f"compare: {folder} has no {RESULTS}; give a model's folder, EVALUATION/LABEL")
    rows = [comparison.read_outputs(folder) for folder in folders]
    results = [read_results(folder / RESULTS) for folder in folders]
    labels = names_of(folders)
    titles = {r.benchmark: r.title for mine in results for r in mine}
    made: list[comparison.Comparison] = []
    for theirs, protocols, label in list(zip(rows, results, labels, strict=True))[1:]:
        differs = comparison.compare_protocols(results[0], protocols)
        pair = comparison.compare(rows[0], theirs, (labels[0], label), differs=differs)
        if flips and not pair:
            raise ConfigError(f"compare: {labels[0]} and {label} share no benchmark of two or more problems")
        made += pair
    return comparison.tables_of_comparisons(made, titles, flips=flips)


def export_lm_eval(folder: Path, output: Path) -> None:
    """Write every model of an evaluation in lm-eval's layout."""
    for path in sorted(folder.glob(f"*/{RESULTS}")):
        rows = comparison.read_outputs(path.parent)
        write_lm_eval(output, read_results(path), rows, read_receipt(path.parent))


def write_html(args: ReportConfig, found: Found) -> None:
    """Write the page of the run, or of the one evaluation."""
    from scalequest.run_page.page import write_run_page

    page = Path(args.html or "")
    with writing(page):
        write_run_page(
            args.run or args.evaluations[0], page,
            published=found.published, published_as=args.published_as, title=args.title,
        )  # fmt: skip
    print(f"written to {page}")


def log_to_wandb(args: ReportConfig, output: Path, found: Found, shown: Sequence[tables.Table]) -> None:
    """Log every table to W&B, and the plots of a run as `plots/NAME`, in the group of the run's stages."""
    group = args.group or (group_of(Path(args.run)) if args.run else None)
    with Tracker.start(
        stage="report", output_dir=output, config=asdict(args), group=group, mode=args.track
    ) as tracker:
        for table in shown:
            tracker.table(table.name, [dict(zip(table.columns, row, strict=True)) for row in table.rows])
        if args.run:
            from scalequest.run_page.page import gather as gather_page
            from scalequest.run_page.plots import save_plots

            facts, _ = gather_page(args.run, published=found.published, published_as=args.published_as)
            for path in save_plots(facts, output / "plots", ["png"]):
                tracker.image(f"plots/{path.stem}", path)


def group_of(run: Path) -> str | None:
    """The W&B group of a pipeline's stages."""
    try:
        return atomic_files.read_object(run / "run.json").get("group")
    except (ConfigError, OSError):  # no pipeline ran here
        return None


def read_evaluation(folder: Path) -> list[Result]:
    """Read the results of one evaluation, models in the order in which they were given."""
    by_model = {path.parent.name: read_results(path) for path in sorted(folder.glob(f"*/{RESULTS}"))}
    try:
        order = list(dict.fromkeys(row["model"] for row in read_rows(folder)))
    except ConfigError:  # not finished yet
        order = []
    return [result for model in dict.fromkeys([*order, *by_model]) for result in by_model.get(model, [])]


def find_unfinished(folder: Path, models: Sequence[str]) -> list[str]:
    """The models of an evaluation's receipt without results, e.g. because it was killed."""
    try:
        fields = read_receipt(folder)["fingerprint_fields"]
    except (OSError, ValueError, KeyError):  # folders of models that somebody put together
        return []
    return [label for label in fields.get("labels", []) if label not in models]


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or their whole paths if two have the same name."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def separate_labels(own: Mapping[str, Sequence[Result]]) -> list[Result]:
    """The results of all evaluations; a label that two of them have gets its evaluation's name appended."""
    labels = Counter(label for mine in own.values() for label in {result.model for result in mine})
    return [
        replace(result, model=f"{result.model} ({name})") if labels[result.model] > 1 else result
        for name, mine in own.items()
        for result in mine
    ]


def number_tables(made: Sequence[tables.Table], number: int, name: str, of: int) -> list[tables.Table]:
    """Number the tables of several evaluations."""
    if of == 1:
        return list(made)
    return [
        tables.Table(f"{one.name}_{number}", f"{one.title} ({name})", one.columns, one.rows, one.notes)
        for one in made
    ]


def read_wall_seconds(run: Path) -> dict[str, float]:
    """Wall-clock seconds of each stage, as the pipeline measured them."""
    try:
        stages = atomic_files.read_object(run / "run.json")["stages"]
    except (OSError, ValueError, KeyError):
        return {}
    return {
        name: float(noted["seconds"]) for name, noted in stages.items() if noted.get("seconds") is not None
    }


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn an error in writing the report into one line."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"output_dir: {error.filename or output}: {error.strerror or error}") from None


def write_report(folder: Path, shown: Sequence[tables.Table], title: str, details: dict[str, Any]) -> None:
    """Write the report's files."""
    atomic_files.write(folder / "report.md", tables.format_markdown(shown, title).encode())
    content = {"title": title, "tables": [asdict(table) for table in shown], **details}
    atomic_files.write(folder / "report.json", atomic_files.as_json(content))
    for table in shown:
        if fault := atomic_files.name_fault(table.name):  # the result files may come from anybody
            raise ConfigError(f"table {table.name[:80]!r} cannot name a file: {fault}")
        atomic_files.write(folder / f"{table.name}.tex", tables.format_latex(table).encode())
        atomic_files.write(folder / f"{table.name}.csv", tables.format_csv(table).encode())


RECIPE = Recipe("report", 1, "tool", lambda: (ReportConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
