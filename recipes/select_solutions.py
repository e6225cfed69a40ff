r"""Keep one solution per question: the instruction-tuning set.

    python recipes/select_solutions.py --config recipes/tiny/select_solutions.yaml
    python recipes/select_solutions.py --config recipes/tiny/select_solutions.yaml \
        --shuffle_answers --output_dir runs/tiny/shuffled            # a control that must teach nothing

With a rule of your own, e.g. this my_rule.py; it returns the index of a response, or None or a reason to drop
the row:

    def choose(row):
        right = [n for n, answer in enumerate(row["answers"]) if answer and answer.isdigit()]
        return right[0] if right else "no_whole_number"

    python recipes/select_solutions.py --config recipes/tiny/select_solutions.yaml \
        --rule function --function my_rule.py:choose

It runs as one process on any machine, without a launcher, in a few minutes per million questions, most of
which is reading and writing.

Result: rows of query and response, with the answer, the share of the samples that agree on it, the reward if
score.py computed one, and the margin of the choice; questions without an eligible response in dropped/.
"""

from __future__ import annotations

import sys

from scalequest.config import RunOptions
from scalequest.recipe import Recipe, run_recipe
from scalequest.solutions.selection import VERSION, SelectConfig, select_solutions
from scalequest.stage.script import open_stage, track


def main(run: RunOptions, config: SelectConfig, worker: tuple[int, int]) -> None:
    """Read the solutions, select, and write the pairs."""
    from scalequest.records import read_inputs, source_fingerprint

    inputs = {source: source_fingerprint(source) for source in config.input}
    function = next((key.load() for key in config.functions), None)
    identity = {} if function is None else {"function": function.identity}
    stage = open_stage(RECIPE.name, RECIPE.version, run, config, inputs=inputs, worker=worker, **identity)
    if stage.finished:
        return
    rows = read_inputs(config.input, *config.needed, columns=config.columns, limit=run.limit)
    with track(stage, run, config, worker=worker[0]) as tracker:
        select_solutions(stage, rows, config, run, function=function, tracker=tracker)


RECIPE = Recipe("select_solutions", VERSION, "data", lambda: (RunOptions, SelectConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
