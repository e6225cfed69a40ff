"""Score with vLLM's pooling runner, in this process."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from scalequest.config import ConfigError
from scalequest.engines.base import Block, EngineConfig, Request
from scalequest.engines.scoring import Head, Score, check_ids, places_of, positive_label, score_of
from scalequest.engines.vllm_engine import engine_arguments, import_vllm, keep_full


def unsupported(model: str, config: EngineConfig, revision: str | None, head: Head | None = None) -> str:
    """Return why the installed vLLM cannot score with `model`; "" if it can."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    loaded = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=config.trust_remote_code)
    names = list(loaded.architectures or [])
    known = ModelRegistry.get_supported_archs()
    kind = "ForTokenClassification" if head is not None and head.steps else "ForSequenceClassification"
    scoring = [name for name in names if name.endswith((kind, "RewardModel"))]
    if not scoring:
        return f"{model} is not a scorer: its architectures are {names}"
    for name in scoring:
        if name in known or name.replace("ForSequenceClassification", "ForCausalLM") in known:
            return ""
    return f"vllm does not support {', '.join(scoring)}"


class VllmScorer:
    """A `Scorer` on vLLM's bare engine, because `vllm.LLM` needs a tokenizer, which may be remote code."""

    name = "vllm"

    def __init__(
        self, model: str, config: EngineConfig, *, revision: str | None = None, head: Head | None = None
    ) -> None:
        """Load `model` and start the engine.

        Raises:
            ConfigError: an argument in `config.extra` is wrong, or the model cannot produce scores.
        """
        vllm = import_vllm()
        from vllm.usage.usage_lib import UsageContext

        self.version: str = vllm.__version__
        arguments = engine_arguments(model, config, revision=revision, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.engine: Any = vllm.LLMEngine.from_engine_args(
                vllm.EngineArgs(**arguments, runner="pooling", disable_log_stats=True),
                # like `vllm.LLM`: on GPUs this gives steps of 8,192 tokens and more instead of 2,048
                usage_context=UsageContext.LLM_CLASS,
            )
        tasks = self.engine.get_supported_tasks()
        settings = self.engine.vllm_config
        self.context: int = settings.model_config.max_model_len
        self._vocabulary: int = settings.model_config.get_vocab_size()
        self._head, self._model = head or Head(), model
        self._config: Any = settings.model_config.hf_config
        wanted = ("token_classify",) if self._head.steps else ("classify", "token_classify")
        self._task = next((task for task in wanted if task in tasks), None)
        if self._task is None:
            raise ConfigError(
                f"{model}: vllm cannot compute scores with this model; it supports {', '.join(tasks)}"
            )

    def score(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, list[Score]]]:
        """See `Scorer.score`."""
        from vllm import PoolingParams
        from vllm.inputs import tokens_input

        def ask(name: str, request: Request) -> bool:
            check_ids(request, self._vocabulary)
            if len(request.prompt_ids) > self.context:
                return False
            params = PoolingParams(task=self._task, use_activation=False)
            self.engine.add_request(name, tokens_input(list(request.prompt_ids)), params)
            return True

        for block, values in keep_full(self.engine, blocks, ask, self._values):
            scored = zip(block.requests, values, strict=True)
            yield block, [self._score(request, found) for request, found in scored]

    def _score(self, request: Request, found: tuple[float, ...] | None) -> Score:
        steps = found if found is not None and self._head.steps else ()
        return Score(request.key, found[-1] if found else None, len(request.prompt_ids), steps=steps)

    def _values(self, request: Request, output: Any) -> tuple[float, ...]:
        """Return the scores at the request's places, or at the last token.

        The data is [labels], or [tokens, labels] for models that score every token.
        """
        data = output.outputs.data
        rows = data[None] if data.dim() <= 1 else data
        count = rows.shape[-1]
        if count > 2:
            raise ConfigError(f"the model's head has {count} outputs, expected one or two")
        positive = positive_label(self._config, self._head, self._model) if count == 2 else None
        if not self._head.steps:
            return (score_of(rows[-1].tolist(), positive),)
        return tuple(score_of(rows[n].tolist(), positive, probability=True) for n in places_of(request))

    def __enter__(self) -> VllmScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the engine and free its memory."""
        self.engine.engine_core.shutdown()
        del self.engine
        gc.collect()
