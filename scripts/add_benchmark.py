r"""Write the YAML file of a benchmark, and print a first look at its problems.

    python scripts/add_benchmark.py my_problems.csv --name mine --output eval/benchmarks/mine.yaml
    python scripts/add_benchmark.py hub:openai/gsm8k/main:test --name my_gsm8k --output runs/my_gsm8k.yaml

One process on any machine; seconds per thousand problems. The file may be JSON lines, JSON, CSV, TSV or
parquet. The columns of question, reference and id are recognised by their usual names; otherwise name them:
`--question problem --answer expected`, `--question '[body, question]'` for a question in two columns.

Result: the YAML file with the number of rows and their checksum, which `eval/evaluate.py --benchmarks FILE`
reads, and on the screen: the columns, duplicate questions, the references that the grader cannot read with
the reasons, and some problems. An existing file is only replaced with `--force`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalequest.config import ConfigError, option, required
from scalequest.config.ranges import NOT_NEGATIVE
from scalequest.recipe import Recipe, run_recipe


@dataclass(frozen=True)
class AddBenchmarkConfig:
    """The problems, and what their file says of them."""

    input: str = required("a file, a stage folder or hub:owner/name@revision:split; --input may be omitted")
    name: str = required("name in results and tables")
    output: str | None = option(None, "the YAML file to write; null: NAME.yaml in eval/benchmarks")
    title: str | None = option(None, "heading of the column in tables; null: the name")
    about: str = option("", "source, licence and known errors")
    question: list[str] = option(
        None, "column of the question, or several to join; none: by the usual names", default_factory=list
    )
    answer: str | None = option(None, "column of the reference; null: by the usual names")
    id: str | None = option(None, "column of the id; null: the only unique column whose name ends in id")
    metadata: list[str] = option(
        None, "columns for breaking down the results, e.g. level", default_factory=list
    )
    answer_after: str | None = option(None, "the reference is the text after this marker")
    answer_box: bool = option(False, "the reference is the content of the last box")
    samples: int = option(3, "number of problems to print", within=NOT_NEGATIVE)
    force: bool = option(False, "replace the file if it exists")

    def __post_init__(self) -> None:
        """Check the name, which becomes part of file names."""
        from scalequest.atomic_files import name_fault

        if reason := name_fault(self.name):
            raise ConfigError(f"name: {self.name[:80]!r} cannot be used as a file name: {reason}")


def main(config: AddBenchmarkConfig) -> None:
    """Read, describe, write, look."""
    from scalequest.evaluation.new_benchmark import draft, first_look, write_benchmark
    from scalequest.grading import Grader
    from scalequest.records import read_rows

    path = Path(config.output or f"eval/benchmarks/{config.name}.yaml")
    more = {
        "title": config.title,
        "metadata": config.metadata or None,
        "about": config.about or None,
        **({"answer_after": config.answer_after, "answer_box": None} if config.answer_after else {}),
        **({"answer_box": True, "answer_after": None} if config.answer_box else {}),
    }
    content = draft(
        read_rows(config.input), source_for(config.input, path), name=config.name,
        question=config.question, answer=config.answer, id=config.id, more=more,
    )  # fmt: skip
    benchmark = write_benchmark(path, content, force=config.force)
    with Grader() as grader:
        print("\n".join([str(path), *first_look(benchmark, content, grader, config.samples)]))
    print(f"Use it: python eval/evaluate.py --benchmarks {path} ...")


def source_for(source: str, output: Path) -> str:
    """Return a source as the YAML file has to name it: relative to that file, or as given."""
    if source.startswith(("hub:", "$", "~")):
        return source
    beside = Path(source).resolve().is_relative_to(output.parent.resolve())
    if Path(source).is_absolute() and not beside:
        return source
    return os.path.relpath(Path(source).resolve(), output.parent.resolve())


def with_input(words: Sequence[str]) -> list[str]:
    """Return the command line with `--input` before a file that comes first."""
    return ["--input", *words] if words and not words[0].startswith("-") else list(words)


RECIPE = Recipe("add_benchmark", 1, "tool", lambda: (AddBenchmarkConfig,), main, with_input)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
