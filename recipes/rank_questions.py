r"""Make preference pairs for QPO without a rewriter: a generator's better questions over its worse ones.

    python recipes/rank_questions.py --config recipes/tiny/rank_questions.yaml

The input are questions with scores in their columns: judge_questions.py adds `solvable`, solve_questions.py
`agreement`, score.py `difficulty`. `score` names the columns and their weights. Questions of like length are
compared, and the best of each group is paired with the worst. The method is not in the paper, which rewrites
questions with another model (optimize_questions.py).

It runs as one process on any machine, without a launcher, in seconds per 100,000 questions.

Result: rows of chosen and rejected questions with their scores, twenty of them in pairs.html; in dropped/
every other question, with the reason.
"""

from __future__ import annotations

import sys

from scalequest.config import RunOptions
from scalequest.questions.ranking import VERSION, RankConfig, rank_questions
from scalequest.recipe import Recipe, run_recipe
from scalequest.stage.script import open_stage, track


def main(run: RunOptions, config: RankConfig, worker: tuple[int, int]) -> None:
    """Read the scored questions, pair them, and write the pairs."""
    from scalequest.records import read_inputs, source_fingerprint

    inputs = {source: source_fingerprint(source) for source in config.input}
    stage = open_stage(
        RECIPE.name, RECIPE.version, run, config, inputs=inputs, worker=worker, writes=("pairs.html",)
    )
    if stage.finished:
        return
    rows = read_inputs(config.input, *config.needed, columns=config.columns, limit=run.limit)
    with track(stage, run, config, worker=worker[0]) as tracker:
        rank_questions(stage, rows, config, run, tracker=tracker)


RECIPE = Recipe("rank_questions", VERSION, "data", lambda: (RunOptions, RankConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
