"""What is vLLM's alone: its arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.engines import Block, EngineConfig, Request
from scalequest.engines.vllm_engine import engine_arguments, import_vllm, keep_full, seed_draws
from scalequest.engines.vllm_scorer import VllmScorer
from scalequest.hardware import has_gpu
from scalequest.questions.generation import GenerationConfig
from scalequest.solutions.solving import SolveConfig


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    pytest.importorskip("vllm")
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def arguments(model: str, **settings: Any) -> dict[str, Any]:
    import_vllm()
    return engine_arguments(model, EngineConfig(name="vllm", **settings), revision=None, seed=2**40)


def test_the_checkpoint_decides_the_dtype(tiny_llama: str) -> None:
    assert arguments(tiny_llama)["dtype"] == "float32"
    assert arguments(tiny_llama, dtype="bfloat16")["dtype"] == "bfloat16"


@pytest.mark.skipif(has_gpu(), reason="settings for machines without a GPU")
def test_prompts_are_read_whole_on_cpu(tiny_llama: str) -> None:
    """In pieces, a seeded one crashes vLLM 0.32; and the cache's memory has a bound."""
    made = arguments(tiny_llama, max_model_len=6000)
    assert made["enable_chunked_prefill"] is False
    assert made["max_num_batched_tokens"] >= made["max_model_len"] == 6000
    assert made["kv_cache_memory_bytes"] <= 1 << 30
    assert arguments(tiny_llama)["max_model_len"] == 128


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"max_num_seq": 3}, "unknown key 'max_num_seq' .*did you mean 'max_num_seqs'"),
        ({"dtype": "float16"}, "engine.extra.dtype: set engine.dtype instead"),
    ],
)
def test_a_wrong_argument_is_named(tiny_llama: str, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arguments(tiny_llama, extra=extra)


def test_extra_reaches_the_engine(tiny_llama: str) -> None:
    assert arguments(tiny_llama, extra={"enable_prefix_caching": False})["enable_prefix_caching"] is False


def test_a_blocks_seed_reaches_all_that_is_drawn_from() -> None:
    """vLLM's newer runner gives an unseeded request a seed out of numpy's numbers."""
    import numpy as np
    import torch

    def drawn(seed: int) -> tuple[float, float]:
        seed_draws(seed)
        return np.random.random(), torch.rand(1).item()

    assert drawn(2**40 + 1) == drawn(2**40 + 1)
    assert all(one != other for one, other in zip(drawn(2**40 + 1), drawn(2**40 + 2), strict=True))


def test_a_seed_a_block_does_not_reach_several_processes() -> None:
    two = EngineConfig(tensor_parallel_size=2)
    given = {"model_name_or_path": "m", "chat_format": "tinymath"}
    for config, more in ((GenerationConfig, {"num_questions": 1}), (SolveConfig, {"input": ["x"]})):
        with pytest.raises(ConfigError, match=r"seed_scope: block .* set seed_scope: row"):
            config(**given, **more, engine=two, seed_scope="block")
        config(**given, **more, engine=two)
        config(**given, **more, seed_scope="block")


class StubEngine:
    """Finishes one request a step; `waiting` is how many it had at each."""

    vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=2))

    def __init__(self) -> None:
        self.names: list[str] = []
        self.waiting: list[int] = []

    def step(self) -> list[Any]:
        self.waiting.append(len(self.names))
        return [SimpleNamespace(request_id=self.names.pop(0), said="done", finished=True)]

    def abort_request(self, names: list[str]) -> None:
        assert names == self.names
        self.names.clear()


def test_the_engine_is_never_drained_between_two_blocks() -> None:
    engine = StubEngine()
    work = [
        Block(index, [Request(f"{index}/{n}", [n], None) for n in range(size)])
        for index, size in enumerate((3, 0, 5, 1, 6))
    ]

    def ask(name: str, request: Request) -> bool:
        if request.key in ("2/0", "3/0"):  # the whole of block 3 is not asked
            return False
        engine.names.append(name)
        return True

    made = {
        block.index: results
        for block, results in keep_full(engine, work, ask, lambda one, output: f"{one.key} {output.said}")
    }
    assert made == {
        block.index: [None if one.key in ("2/0", "3/0") else f"{one.key} done" for one in block.requests]
        for block in work
    }
    assert engine.waiting == [4] * 10 + [3, 2, 1]
    # one that is left early takes back what it has asked
    for _ in keep_full(engine, work, ask, lambda *_: ""):
        break
    assert engine.names == []


def test_scores_are_made_in_steps_as_large_as_those_of_generation(
    tiny_llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left alone, vLLM takes a bare engine for a server's, and on GPUs its steps have 2,048 tokens."""
    from vllm import LLMEngine
    from vllm.usage.usage_lib import UsageContext

    class Seen(Exception):
        pass

    def started(arguments: Any, usage_context: Any = None) -> None:
        raise Seen(usage_context)

    monkeypatch.setattr(LLMEngine, "from_engine_args", started)
    with pytest.raises(Seen) as seen:
        VllmScorer(tiny_llama, EngineConfig())
    assert seen.value.args == (UsageContext.LLM_CLASS,)


def test_processes_of_one_model_are_not_forked_beside_the_trackers_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
    import_vllm()
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
