r"""Merge selected solutions into a dataset for publication: checks, shuffle, parquet files, card, report.

    python recipes/assemble_dataset.py --config recipes/qwen2_math_7b/assemble_dataset.yaml
    python recipes/assemble_dataset.py --config ... --push_to_hub owner/name        # uploads it, privately

It runs as one process on any machine, without a launcher, in about ten minutes per million rows, most of
which is reading and writing.

Result: data/*.parquet with query, response and the source of each row, which `datasets.load_dataset` reads;
the card README.md with funnel, cost, distributions, clean ratios and licence; report.html with plots; and the
dropped rows with their reasons in dropped/.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from scalequest.config import RunOptions
from scalequest.recipe import Recipe, run_recipe
from scalequest.solutions.assembly import VERSION, AssembleConfig, assemble, cost_lines, upload
from scalequest.stage.script import open_stage, track


def main(run: RunOptions, config: AssembleConfig, worker: tuple[int, int]) -> None:
    """Read all parts, check, shuffle and write them; upload the result if requested."""
    from scalequest.evaluation.benchmark_questions import (
        read_benchmark_questions,
        report_left_out,
        sha256_of_questions,
    )
    from scalequest.records import read_inputs, source_fingerprint

    # 1. The folder, and the fingerprint of everything that can change a row
    tests = read_benchmark_questions(config.contamination)
    inputs = {part.source: source_fingerprint(part.source) for part in config.parts}
    quotas = [part.rows for part in config.parts]
    stage = open_stage(
        RECIPE.name, RECIPE.version, run, config, inputs=inputs, worker=worker,
        writes=("report.html", "report.json"), benchmarks=sha256_of_questions(tests.questions), quotas=quotas,
    )  # fmt: skip

    # 2. All parts, each row with the number of its part; one order, one report
    if not stage.finished:
        report_left_out(tests, stage)
        rows: list[dict[str, Any]] = []
        for number, part in enumerate(config.parts):
            own = read_inputs([part.source], "query", "response", columns=config.columns, limit=run.limit)
            rows += [{**row, "part": number} for row in own]
        with track(stage, run, config, worker=worker[0]) as tracker:
            funnel = cost_lines(receipts(config.run, inputs))
            assemble(stage, rows, config, run, tests=tests.questions, funnel=funnel, tracker=tracker)

    # 3. The hub, only if requested
    if config.push_to_hub and worker[0] == 0:
        upload(run.output_dir, config.push_to_hub)


def receipts(folder: str | None, inputs: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the receipts of the stages below a run folder that led to these inputs, in their order."""
    from scalequest.receipts import made_by, read_receipt
    from scalequest.records import expand

    known: dict[str, dict[str, Any]] = {}
    for path in expand(folder).rglob("receipt.json") if folder else ():
        receipt = read_receipt(path.parent)
        if receipt and receipt.get("finished"):
            known[made_by(receipt)] = receipt
    found, queue = dict[str, dict[str, Any]](), list(inputs.values())
    while queue:
        name = queue.pop().partition("[")[0]  # `[:600]` selects a part of it
        if name in known and name not in found:
            found[name] = known[name]
            queue += known[name]["inputs"].values()
    return sorted(found.values(), key=lambda one: str(one["started"]))


RECIPE = Recipe("assemble_dataset", VERSION, "data", lambda: (RunOptions, AssembleConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
