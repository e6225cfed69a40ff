r"""Compute statistics of any dataset of questions and answers: lengths, topics, duplicates, contamination.

    python scripts/dataset_statistics.py --input runs/tiny/select_solutions \
        --output_dir runs/tiny/statistics --contamination.benchmarks eval/benchmarks/tinymath_test.yaml
    python scripts/dataset_statistics.py --input hub:meta-math/MetaMathQA --columns '{query: query}' \
        --contamination.benchmarks 'eval/benchmarks/*.yaml' --output_dir runs/statistics/metamath

It runs as one process on any machine, with a few minutes per million rows and about 4 GB of memory.

Result: a table in the terminal, and OUTPUT/report.html with plots and OUTPUT/report.json with every number.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from scalequest.config import option, required
from scalequest.config.ranges import COUNT
from scalequest.questions.contamination import ContaminationRule
from scalequest.recipe import Recipe, run_recipe


@dataclass(frozen=True)
class StatisticsConfig:
    """What to read, and where to write the report."""

    input: list[str] = required("a stage folder, a file, or hub:owner/name")
    output_dir: str = required("output folder for the report")
    columns: dict[str, str] = option(
        help="mapping from our column names to those of the input: {query: problem, response: solution}",
        default_factory=dict,
    )
    contamination: ContaminationRule = option(
        help="benchmarks to compare with", default_factory=ContaminationRule
    )
    limit: int | None = option(None, "use only the first N rows", within=COUNT)


def main(config: StatisticsConfig) -> None:
    """Read, count, print, and write the report."""
    from rich.console import Console
    from rich.table import Table

    from scalequest.atomic_files import as_json, write
    from scalequest.evaluation.benchmark_questions import read_benchmark_questions
    from scalequest.pages import elements
    from scalequest.records import read_inputs
    from scalequest.solutions.overview import lines, overview, sections

    rows = read_inputs(config.input, "query", "response", columns=config.columns, limit=config.limit)
    tests = read_benchmark_questions(config.contamination)
    found = overview(rows, tests.questions, config.contamination, tests.left_out)

    title = f"Statistics of {', '.join(Path(source).name for source in config.input)}"
    table = Table(title=title, show_header=False)
    for label, text in lines(found.facts):
        table.add_row(label, text)
    Console(width=120).print(table)

    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    elements.write_page(folder / "report.html", title, *sections(found))
    write(folder / "report.json", as_json(found.facts))


RECIPE = Recipe("dataset_statistics", 1, "tool", lambda: (StatisticsConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
