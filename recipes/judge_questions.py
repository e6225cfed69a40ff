r"""Measure questions by a judge: how many can be solved, how difficult they are, and what they are about.

One process (a function, a server, or one GPU):

    python recipes/judge_questions.py --config recipes/tiny/judge_questions.yaml

One node of 8 GPUs, one model copy and every eighth block of questions each:

    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/judge_questions.py \
        --config recipes/qwen2_math_7b/judge_questions_local.yaml

With a server, here one of our own; any other OpenAI-compatible one wants its url, prices and a budget, and
its key in the environment (server.key_variable says under which name):

    vllm serve Qwen/Qwen2.5-72B-Instruct --port 8000
    python recipes/judge_questions.py --config recipes/qwen2_math_7b/judge_questions.yaml \
        --server.url http://localhost:8000/v1 --server.model Qwen/Qwen2.5-72B-Instruct

What rewriting did to questions, by pairs of the same id; another judge, or people, to compare the judge with
(`--against` may be given later: nothing is judged again):

    python recipes/judge_questions.py --config recipes/qwen2_math_7b/judge_questions.yaml \
        --generators '{before: runs/pairs, after: runs/pairs}' \
        --question_columns '{before: rejected, after: chosen}' --output_dir runs/qwen2_math_7b/judge_pairs \
        --against '{people: labels.jsonl}'

Hardware: none for a function or a server elsewhere; a 24 GB GPU for each copy of a 7B model. Three requests
per question. Interrupted, answers that were paid for are not asked for again.

Result: every verdict and reply in data/; report.json and report.html with the solvable share, levels of
difficulty and topics of each generator, differences between generators, and the agreement with others, all
with 95 % intervals; the tables in the terminal; what a server cost in receipt.json. The paper's judge
(GPT-4o) found 72.2 % of questions solvable before rewriting, and 83.7 or 86.7 % after it (its Fig. 4).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from scalequest.config import RunOptions, to_dict
from scalequest.questions.judging import VERSION, JudgeConfig, judge_questions, read_questions
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import Row
from scalequest.stage.script import open_stage, track


def main(run: RunOptions, config: JudgeConfig, worker: tuple[int, int]) -> None:
    """Read the questions, load or call the judge, judge, report."""
    from scalequest.evaluation.judged_questions import measure, read_labels
    from scalequest.evaluation.judged_report import PAGE, REPORT, tables_of_judged, write_report
    from scalequest.evaluation.tables import Table, format_markdown
    from scalequest.questions.judges import judge_identity, open_judge
    from scalequest.questions.prompts import load_prompt
    from scalequest.records import read_dropped, read_rows, source_fingerprint, written_rows

    # 1. The folder, and the fingerprint of all that can change a row
    inputs = {source: source_fingerprint(source) for source in config.generators.values()}
    identity: dict[str, Any] = {"labels": list(config.generators)}
    function, prompts = None, {}
    if config.judge == "function":
        (function,) = (key.load() for key in config.functions)
        identity["function"] = function.identity
    else:
        paths = to_dict(config.prompts)
        places = {"topic": ("question", "topics")}
        prompts = {one: load_prompt(paths[one], places.get(one, ("question",))) for one in config.aspects}
        identity["prompts"] = {one: to_dict(prompt) for one, prompt in prompts.items()}
        models, more = judge_identity(config)
        inputs |= models
        identity |= more
    stage = open_stage(
        RECIPE.name, RECIPE.version, run, config,
        inputs=inputs, writes=(REPORT, PAGE), worker=worker, **identity,
    )  # fmt: skip

    # 2. Labels that name no question are found before anything is asked
    rows = read_questions(config, run)
    others = {
        label: read_labels(label, source, rows, config.topics) for label, source in config.against.items()
    }

    folder, tables = stage.output_dir, list[Table]()

    def report(receipt: Mapping[str, Any], judged: Sequence[Row]) -> None:
        spent = {**receipt.get("counts", {}), "tokens": receipt["tokens"]}
        measures = measure(judged, config, others, spent, run.seed)
        write_report(folder, judged, measures, others)
        tables.extend(tables_of_judged(measures))

    def report_rows(made: Mapping[str, Any]) -> None:
        report(made, [*written_rows(folder / "data"), *written_rows(folder / "dropped")])

    # 3. Ask about every question, and report; if that was done before, report anew: labels may have come
    if not stage.finished:
        with ExitStack() as stack:
            tracker = stack.enter_context(track(stage, run, config, worker=worker[0]))
            judge = stack.enter_context(open_judge(config, stage, run, worker)) if prompts else None
            judge_questions(
                stage, rows, judge, config, run,
                prompts=prompts, function=function and function.call, beside=report_rows, tracker=tracker,
            )  # fmt: skip
    elif worker[0] == 0:
        report(stage.receipt, [*read_rows(folder), *read_dropped(folder)])
    if tables:
        print(format_markdown(tables))


RECIPE = Recipe("judge_questions", VERSION, "data", lambda: (RunOptions, JudgeConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
