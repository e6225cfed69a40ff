"""What is vLLM's alone: its arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.engines import EngineConfig
from scalequest.engines.launch import has_gpu
from scalequest.engines.vllm_engine import engine_arguments, import_vllm, seed_draws
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
    assert made["kv_cache_memory_bytes"] <= 4 << 30
    assert arguments(tiny_llama)["max_model_len"] == 128


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"max_num_seq": 3}, "unknown key 'max_num_seq' .*did you mean 'max_num_seqs'"),
        ({"dtype": "float16"}, "engine.extra.dtype: set it beside extra"),
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
