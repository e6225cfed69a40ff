"""What is vLLM's alone: its arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.engines import EngineConfig
from scalequest.engines.launch import has_gpu
from scalequest.engines.vllm_engine import engine_arguments, import_vllm


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
