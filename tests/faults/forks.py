"""The fork server of these tests: it has imported what recipes import, so that a start costs a fork."""

from __future__ import annotations

import multiprocessing

PRELOADED = [
    *("torch", "transformers", "transformers.models.llama.modeling_llama", "trl", "deepspeed", "scipy.stats"),
    *("pyarrow.parquet", "scalequest.grading.grader", "scalequest.stage.script", "scalequest.tracking"),
    *("scalequest.engines.transformers_engine", "scalequest.evaluation.harness", "scalequest.training.sft"),
    *("scalequest.training.dpo", "scalequest.training.difficulty_scorer", "scalequest.training.reward"),
    "scalequest.training.grpo",
]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(PRELOADED)
