"""Generate with vLLM inside this process: token ids in; we step the engine and always keep it full."""

from __future__ import annotations

import dataclasses
import difflib
import gc
import itertools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from scalequest import heartbeat
from scalequest.config import ConfigError
from scalequest.engines.base import (
    CHECK_EVERY,
    Block,
    Completion,
    EngineConfig,
    Request,
    Sampling,
    check_request,
)
from scalequest.hardware import has_gpu
from scalequest.models import adapter_base
from scalequest.precision import engine_dtype

GIB = 1 << 30
_OURS = ("model", "revision", "seed", *(item.name for item in dataclasses.fields(EngineConfig)))
_NAMES = itertools.count()  # names of requests, unique across engines
_PICKLES = ("auto", "hf", "pt", "npcache")  # weight formats that are, or may be, pickles
_CPU_BLOCK = 128  # tokens per block of the key-value cache on CPU, vLLM's default there

T = TypeVar("T")


def import_vllm() -> Any:
    """Import vLLM with settings for batch jobs, unless the environment overrides them.

    With a single process, its scheduling is deterministic, and on a CPU it starts in 4 to 13 seconds instead
    of 30 to 39 and uses all cores instead of all but one.
    """
    cpu = not has_gpu()
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # For tensor parallelism: the tracker's threads are already running, and forking while they hold locks
        # may hang.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # The ten warnings at every start on a CPU concern deliberate settings, or things that nobody can
        # change.
        "VLLM_LOGGING_LEVEL": "ERROR" if cpu else "WARNING",
    }
    if cpu and hasattr(os, "sched_getaffinity"):
        settings["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Until vLLM has configured its logging, its messages would appear whatever their level.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    import vllm

    return vllm


def engine_arguments(model: str, config: EngineConfig, *, revision: str | None, seed: int) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM` for a generator of `model`, or of a LoRA adapter's base model.

    Raises:
        ConfigError: an argument in `config.extra` is unknown to the installed vLLM, or duplicates one of our
            settings.
    """
    from transformers import AutoConfig

    adapter, model = model, adapter_base(model) or model
    loaded = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=config.trust_remote_code)
    # By default, vLLM runs float32 checkpoints in 16 bits, and bfloat16 checkpoints in bfloat16 on any CPU.
    trusted = config.trust_remote_code
    dtype = engine_dtype(config.dtype, model, revision=revision, trust_remote_code=trusted)
    arguments: dict[str, Any] = {
        "model": model,
        "revision": revision,
        "dtype": dtype,
        "seed": seed % 2**32,
        "max_model_len": config.max_model_len,
        "tensor_parallel_size": config.tensor_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enforce_eager": bool(config.enforce_eager),
        "trust_remote_code": config.trust_remote_code,
        "load_format": "safetensors",  # or the value in extra, which is not a pickle format
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,  # token ids in, token ids out
        "generation_config": "vllm",  # ignore the checkpoint's, which may change the sampling
        "use_tqdm_on_load": False,
    }
    if adapter != model:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(adapter)}
    if config.max_num_seqs is not None:
        arguments["max_num_seqs"] = config.max_num_seqs
    if not has_gpu():
        arguments |= _cpu_arguments(loaded.get_text_config(), config, dtype)
    return arguments | _checked(config.extra)


def _rank(adapter: str) -> int:
    """Return the smallest rank supported by vLLM that fits the adapter."""
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    settings = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    needed = max([settings["r"], *settings.get("rank_pattern", {}).values()])
    fitting = [rank for rank in get_args(MaxLoRARanks) if rank >= needed]
    if not fitting:
        raise ConfigError(
            f"{adapter}: its rank {needed} exceeds vLLM's maximum; merge it into its base model"
        )
    return int(min(fitting))


def _cpu_arguments(model: Any, config: EngineConfig, dtype: str) -> dict[str, Any]:
    length = config.max_model_len or model.max_position_embeddings
    sequences = config.max_num_seqs or 256
    arguments = {
        "max_model_len": length,
        "enforce_eager": True if config.enforce_eager is None else config.enforce_eager,
        # vLLM 0.32 crashes on CPU if the prompt of a seeded request is processed in chunks.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(4096, length, sequences),
    }
    if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        import psutil

        # By default it takes 92 % of the machine's memory, and refuses to start if other processes use some
        # of it. Models of a few million parameters sample no faster with more than a GiB, and each costs a
        # second to clear and free; for other models, set VLLM_CPU_KVCACHE_SPACE.
        heads = getattr(model, "num_key_value_heads", None) or model.num_attention_heads
        size = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
        token = 2 * model.num_hidden_layers * heads * size * (4 if dtype == "float32" else 2)
        sequence = (length // _CPU_BLOCK + 2) * _CPU_BLOCK * token
        most = max(sequence, min(GIB, psutil.virtual_memory().available // 2))
        arguments["kv_cache_memory_bytes"] = min(sequences * sequence, most)
    return arguments


def _checked(extra: dict[str, Any]) -> dict[str, Any]:
    from vllm import EngineArgs, __version__

    known = [item.name for item in dataclasses.fields(EngineArgs)]
    for key in extra:
        if key in _OURS:
            raise ConfigError(f"engine.extra.{key}: set engine.{key} instead")
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"engine.extra: unknown key '{key}' (vllm {__version__}){hint}")
    if (weights := extra.get("load_format")) in _PICKLES:
        raise ConfigError(f"engine.extra.load_format: {weights} loads pickle files; remove it")
    return extra


@dataclass
class _Open(Generic[T]):
    """A block that has been taken; `missing` of its requests have no result yet."""

    block: Block
    results: list[T | None]
    missing: int


def keep_full(
    engine: Any,
    blocks: Iterable[Block],
    ask: Callable[[str, Request], bool],
    read: Callable[[Request, Any], T | None],
) -> Iterator[tuple[Block, list[T | None]]]:
    """Step an engine that always has waiting requests, and yield each block when its last one is done.

    Args:
        engine: vLLM's engine, with nothing in flight.
        blocks: blocks of requests, taken lazily, before the previous ones are done, so the engine never runs
            empty.
        ask: adds a request to the engine under a name; returns False if it does not, for a result of None.
        read: turns a request and the engine's output into a result, or None if it is not finished; if there
            is a result before the engine's last output, the request is aborted.
    """
    # Enough waiting requests to replace a finished one within a step, but few enough to stay lazy.
    most = 2 * engine.vllm_config.scheduler_config.max_num_seqs
    in_flight: dict[str, tuple[_Open[T], int]] = {}

    def pulled() -> Iterator[tuple[_Open[T], int]]:
        for block in blocks:
            opened: _Open[T] = _Open(block, [None] * len(block.requests), len(block.requests))
            for position in range(len(block.requests) or 1):
                yield opened, position

    waiting = pulled()
    try:
        while True:
            while len(in_flight) < most and (item := next(waiting, None)) is not None:
                opened, position = item
                name = str(next(_NAMES))
                if opened.block.requests and ask(name, opened.block.requests[position]):
                    in_flight[name] = item
                    continue
                opened.missing -= 1
                if opened.missing <= 0:
                    yield opened.block, opened.results
            if not in_flight:
                return
            for output in engine.step():
                opened, position = in_flight[output.request_id]
                result = read(opened.block.requests[position], output)
                if result is None:
                    continue
                del in_flight[output.request_id]
                if not output.finished:
                    engine.abort_request([output.request_id])
                opened.results[position] = result
                heartbeat.finished(tokens=getattr(result, "tokens", 0))
                opened.missing -= 1
                if not opened.missing:
                    yield opened.block, opened.results
    finally:
        if in_flight:
            engine.abort_request(list(in_flight))


class VllmGenerator:
    """A `Generator` that uses vLLM. `llm` is the underlying `vllm.LLM`."""

    name = "vllm"

    def __init__(
        self, model: str, config: EngineConfig, *, revision: str | None = None, seed: int = 0
    ) -> None:
        """Load `model` and start the engine.

        Raises:
            ConfigError: an argument in `config.extra` is wrong.
        """
        vllm = import_vllm()
        self.version: str = vllm.__version__
        arguments = engine_arguments(model, config, revision=revision, seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.llm: Any = vllm.LLM(**arguments)
        settings = self.llm.llm_engine.vllm_config
        self.context: int = settings.model_config.max_model_len
        self._vocabulary: int = settings.model_config.get_vocab_size()
        self._adapter: Any = None
        if adapter_base(model) is not None:
            from vllm.lora.request import LoRARequest

            self._adapter = LoRARequest("adapter", 1, model)

    def generate(
        self, blocks: Iterable[Block], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[Block, list[Completion]]]:
        """See `Generator.generate`; a block is yielded when its last request is done.

        Raises:
            ConfigError: a request does not fit into the context.
        """
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        engine = self.llm.llm_engine
        shared = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": list(stop_ids),
            "ignore_eos": True,  # only `stop_ids` end a completion, not the checkpoint's own stop tokens
            "detokenize": False,
            "skip_clone": True,  # used by one request only, so no deep copy is needed
        }
        whole = {"output_kind": RequestOutputKind.FINAL_ONLY}
        watched = {"output_kind": RequestOutputKind.DELTA, "stream_interval": CHECK_EVERY}
        made: dict[str, list[int]] = {}  # tokens so far of requests with a stop condition

        def seeded() -> Iterator[Block]:
            for block in blocks:
                if block.seed is not None:
                    seed_draws(block.seed)
                yield block

        def ask(name: str, request: Request) -> bool:
            check_request(request, sampling, context=self.context, vocabulary=self._vocabulary)
            given = {**shared, **(watched if request.ends else whole)}
            params = SamplingParams(seed=request.seed if sampling.temperature else None, **given)
            prompt = tokens_input(list(request.prompt_ids))
            engine.add_request(name, prompt, params, lora_request=self._adapter)
            return True

        def read(request: Request, output: Any) -> Completion | None:
            (generated,) = output.outputs
            ids = [*made.pop(output.request_id, ()), *generated.token_ids]
            if output.finished:
                return _completion(request, ids, generated.finish_reason)
            assert request.ends is not None, "only requests with a stop condition are read in parts"
            if request.ends(ids):
                return Completion(request.key, tuple(ids), "stop", len(request.prompt_ids), len(ids))
            made[output.request_id] = ids
            return None

        for block, completions in keep_full(engine, seeded(), ask, read):
            yield block, [done for done in completions if done is not None]

    def __enter__(self) -> VllmGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the engine and free its memory."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()


def check_block_seeds(config: EngineConfig) -> None:
    """Refuse block seeds if the model is spread over several processes, which the seed would not reach.

    Raises:
        ConfigError: `config` asks for several GPUs per copy of the model.
    """
    if config.tensor_parallel_size > 1 and config.name != "transformers":
        raise ConfigError(
            "seed_scope: block seeds only this process, not the "
            f"{config.tensor_parallel_size} of engine.tensor_parallel_size: set seed_scope: "
            "row"
        )


def seed_draws(seed: int) -> None:
    """Seed unseeded requests: torch's generator, or numpy's if vLLM seeds each request from that."""
    import numpy as np
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def _completion(request: Request, ids: Sequence[int], finish_reason: Any) -> Completion:
    if finish_reason not in ("stop", "length"):
        raise RuntimeError(f"request {request.key}: vLLM aborted the request ({finish_reason})")
    return Completion(
        key=request.key,
        ids=tuple(ids[:-1] if finish_reason == "stop" else ids),
        finish_reason=finish_reason,
        prompt_tokens=len(request.prompt_ids),
        tokens=len(ids),
    )
