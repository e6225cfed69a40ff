r"""Keep one solution a question: the instruction-tuning set.

    python recipes/select_solutions.py --config recipes/tiny/select_solutions.yaml
    python recipes/select_solutions.py --config recipes/tiny/select_solutions.yaml \
        --shuffle_answers --output_dir runs/tiny/shuffled            # a control that must teach nothing

One process on any machine; nothing to launch. A few minutes a million questions, most of them reading and
writing.

Result: rows of query and response, with the answer, the share of the samples that agree on it, the reward
where score.py gave one, and the margin of the choice; questions without a response that may be used in
dropped/.
"""

from __future__ import annotations

import sys

from scalequest.config import RunOptions, parse
from scalequest.solutions.selection import VERSION, SelectConfig, select_solutions
from scalequest.stages import begin, explained, tracked


def main(run: RunOptions, config: SelectConfig) -> None:
    """Read the solutions, select, write."""
    from scalequest.engines.launch import worker
    from scalequest.records import read_inputs, source_fingerprint

    index, workers = worker()
    inputs = {source: source_fingerprint(source) for source in config.input}
    stage = begin("select_solutions", VERSION, run, config, inputs=inputs, worker=(index, workers))
    if stage.finished:
        return
    rows = read_inputs(config.input, *config.needed, columns=config.columns, limit=run.limit)
    with tracked(stage, run, config, worker=index) as tracker:
        select_solutions(stage, rows, config, run, tracker=tracker)


if __name__ == "__main__":
    sys.exit(explained(main, *parse(RunOptions, SelectConfig, description=__doc__ or "")))
