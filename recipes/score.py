r"""Score responses or questions: by a reward model, a difficulty scorer, a function, or a judge.

One process (one GPU, or the CPU with a small model):

    python recipes/score.py --config recipes/qwen2_math_7b/score_responses.yaml

One node with 8 GPUs; each runs a copy of the model and gets every eighth block of rows:

    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/score.py \
        --config recipes/qwen2_math_7b/score_responses.yaml

Several nodes, run once on each, with output_dir on a shared file system:

    accelerate launch --config_file accelerate_configs/ddp.yaml --num_machines 2 --num_processes 16 \
        --machine_rank $SLURM_NODEID --main_process_ip $HEAD_NODE --main_process_port 29500 \
        recipes/score.py --config recipes/qwen2_math_7b/score_responses.yaml

With a judge behind a chat server (its url, prices and a budget; the key comes from the environment, under the
name that server.key_variable gives), here one of our own:

    vllm serve Qwen/Qwen2.5-72B-Instruct --port 8000
    python recipes/score.py --config recipes/qwen2_math_7b/judge_responses.yaml \
        --server.url http://localhost:8000/v1 --server.model Qwen/Qwen2.5-72B-Instruct

Interrupted, answers that were paid for are not asked for again.

A published reward model is read in its tokenizer's own chat template unless chat_format names another. A head
of two labels gives the probability of `positive_label`. A process reward model scores steps, which
`aggregate` (min, mean, product or last) makes one reward of; here one whose steps end in its own token:

    python recipes/score.py --config recipes/qwen2_math_7b/score_responses_by_steps.yaml

With a reward of your own, e.g. this my_reward.py; it returns one number per response, or, with
`--what question`, one number:

    def score(row):
        return [-len(response) for response in row["responses"]]

    python recipes/score.py --input runs/tiny/solve_questions --output_dir runs/tiny/score_by_function \
        --judge function --function my_reward.py:score

Hardware: a 24 GB GPU for each copy of a 7B model. The paper scored its five million responses in 112.0
hours of an A100-40G (its table 4).

Result: the rows with a column `rewards` (one number per response, null if it was cut or the judge gave none),
for select_solutions.py; or with a column `difficulty`, for filter_questions.py. A judge's replies that gave
nothing have their reasons in the rows, and what a server cost is in receipt.json.
"""

from __future__ import annotations

import sys
from typing import Any

from scalequest.config import RunOptions, to_dict
from scalequest.recipe import Recipe, run_recipe
from scalequest.solutions.rewards import VERSION, ScoreConfig, reward_token, score
from scalequest.stage.script import open_stage, track


def main(run: RunOptions, config: ScoreConfig, worker: tuple[int, int]) -> None:
    """Read the rows, load the scorer or call the judge, score, write."""
    from scalequest.chat import bind, load_format, load_tokenizer
    from scalequest.engines.loading import open_scorer
    from scalequest.questions.judges import judge_identity, open_judge
    from scalequest.questions.prompts import load_prompt
    from scalequest.records import model_fingerprint, read_inputs, source_fingerprint
    from scalequest.solutions.function_scores import score_by_function
    from scalequest.solutions.internlm2 import register
    from scalequest.solutions.judged_scores import score_by_judge

    # 1. The folder, and the fingerprint of all that can change a row
    model, revision = config.model_name_or_path or "", config.model_revision
    inputs = {source: source_fingerprint(source) for source in config.input}
    identity: dict[str, Any] = {}
    function = next((key.load() for key in config.functions), None)
    if function is not None:
        identity["function"] = function.identity
    elif config.judge != "scorer":
        models, identity = judge_identity(config)
        inputs |= models
        prompt = load_prompt(config.prompt or "", config.places)
        identity["prompt"] = to_dict(prompt)
    else:
        inputs[model] = model_fingerprint(model, revision)
        identity["reward_token"] = reward_token(model, revision)
        if config.chat_format:
            chat_format = load_format(config.chat_format, config.tokenizer or model, revision)
            identity["chat_format"] = to_dict(chat_format)
    stage = open_stage(RECIPE.name, RECIPE.version, run, config, inputs=inputs, worker=worker, **identity)
    if stage.finished:
        return

    # 2. Score block by block
    needed = ("question", "responses", "finish_reasons") if config.what == "responses" else ("question",)
    rows = read_inputs(config.input, *needed, columns=config.columns, limit=run.limit, without=())
    with track(stage, run, config, worker=worker[0]) as tracker:
        if function is not None:
            score_by_function(stage, rows, function, config, run, tracker=tracker)
            return
        if config.judge != "scorer":
            with open_judge(config, stage, run, worker) as judge:
                score_by_judge(stage, rows, judge, prompt, config, run, tracker=tracker)
            return
        register()
        tokenizer = load_tokenizer(config.tokenizer or model, None if config.tokenizer else revision)
        chat = bind(chat_format, tokenizer) if config.chat_format else None
        with open_scorer(model, config.engine, revision=revision, head=config.head) as scorer:
            stage.receipt["engine"] = f"{scorer.name} {scorer.version}"
            token = identity["reward_token"]
            score(stage, rows, scorer, chat, tokenizer, config, run, end_token=token, tracker=tracker)


RECIPE = Recipe("score", VERSION, "data", lambda: (RunOptions, ScoreConfig), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
