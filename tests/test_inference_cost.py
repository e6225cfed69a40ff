"""What sampling and scoring take, beside values worked out by hand and numbers that others have measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scalequest.config import read_yaml
from scalequest.estimate import (
    A100_40G,
    CONTEXT,
    DEVICES,
    GIB,
    H100,
    Architecture,
    Device,
    Topology,
    Work,
    spread_over,
)
from scalequest.inference_cost import VLLM_2024, Efficiency, Engine, changes, sampling_cost, scoring_cost

SIZES = read_yaml(Path(__file__).parents[1] / "recipes/architectures.yaml")
QWEN2 = Architecture(**SIZES["Qwen/Qwen2-Math-7B"])
DEEPSEEK = Architecture(**SIZES["deepseek-ai/deepseek-math-7b-rl"])
LLAMA3 = Architecture(**SIZES["meta-llama/Meta-Llama-3-8B"])
LLAMA3_70B = Architecture(80, 8192, 28672, 64, 8, 128256)

# Two blocks of 4 heads of 16, two of them for keys: 64 x 64, 64 x 32 twice, 64 x 64 and 3 x 64 x 128 a block,
# 2 x 64 + 64 norms, and 1,000 x 64 twice.
TOY = Architecture(2, 64, 128, 4, 2, 1000)
WEIGHTS = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + 2 * 2 * 64 + 64 + 2 * 1000 * 64
PLAIN = Efficiency(1.0, 1.0, 1.0)
# 1 TFLOP/s, 1 GB/s of memory and 1 GB/s between cards
SLOW = Device("toy", 2, 1, 1, 1, sequences=8)


def test_bytes_and_flops_by_hand() -> None:
    engine = Engine(TOY, SLOW, length=100, utilization=1.0)
    assert engine.weights == 2 * WEIGHTS
    assert engine.token == 2 * 2 * 2 * 32  # keys and values, 2 bytes, 2 blocks, 2 heads of 16
    assert engine.room == 2 * GIB - CONTEXT - 2 * WEIGHTS
    assert engine.flops(10) == 2 * (WEIGHTS - 64_000) + 4 * 2 * 64 * 10
    # Qwen2's 4 heads of 128 for keys and values in 28 blocks; DeepSeek's 32 of 128 in 30
    assert Engine(QWEN2, H100).token == 57_344
    assert Engine(DEEPSEEK, H100).token == 491_520


def test_the_batch_is_what_keys_and_values_leave_room_for() -> None:
    engine = Engine(DEEPSEEK, A100_40G, utilization=0.95)
    # (0.95 x 40 GiB - 1.5 GiB - 13.8 GB) / (491,520 x 512, sequences being whole blocks of 16 tokens)
    assert engine.concurrency(505) == int((36.5 * GIB - 2 * DEEPSEEK.parameters()) // (512 * 491_520)) == 100
    assert engine.concurrency(60) == 256, "vLLM's own limit"
    assert replace(engine, most=17).concurrency(60) == 17


def test_a_step_is_the_longer_of_arithmetic_and_reading() -> None:
    engine = Engine(TOY, SLOW)
    reading = 2 * WEIGHTS / 1e9
    assert engine.seconds(1, 0, 0, PLAIN) == reading
    assert engine.seconds(1, 0, 1e6, PLAIN) == reading + 1e-3
    assert engine.seconds(1e6, 0, 0, PLAIN) == 1e6 * 2 * (WEIGHTS - 64_000) / 1e12
    assert engine.seconds(1, 0, 0, Efficiency(1.0, 0.5, 1.0)) == 2 * reading
    # on two GPUs: half of it, and two sums of 2 bytes x 64 in each of 2 blocks over 1 GB/s
    two = replace(engine, gpus=2).seconds(1, 0, 0, PLAIN)
    assert two == pytest.approx(reading / 2 + 2 * 2 * 2 * 64 * (2 * 1 / 2) / 1e9)


def test_sampling_by_hand() -> None:
    engine = Engine(TOY, SLOW, most=4)
    cost = sampling_cost(engine, 100, 10, 20, PLAIN, samples=2)
    assert (cost.read, cost.written, cost.together) == (1000, 4000, 4)
    step = (2 * WEIGHTS + 4 * 20 * engine.token) / 1e9  # 10 of the prompt and half of the 20 are there
    seconds = 1000 * step + 1000 * engine.flops(5) / 1e12
    assert cost.hours == pytest.approx(seconds / 3600)
    assert sampling_cost(engine, 100, 10, 20, PLAIN, samples=2, shared=False).read == 2000
    assert sampling_cost(engine, 100, 10, 20, PLAIN, cached=9).read == 100
    busy = sampling_cost(engine, 100, 10, 20, Efficiency(1.0, 1.0, 0.5), samples=2)
    assert busy.hours == pytest.approx(2 * cost.hours)
    # the last of each call of 50 runs on alone, for 80 tokens more than the mean
    waited = sampling_cost(engine, 100, 10, 20, PLAIN, samples=2, batch=50, limit=100)
    alone = (2 * WEIGHTS + 110 * engine.token) / 1e9
    assert waited.hours - cost.hours == pytest.approx(4 * 80 * alone / 3600)


def test_scoring_by_hand() -> None:
    engine = Engine(TOY, SLOW, head=False)
    one = 2 * TOY.parameters(head=False) / 1e9  # the weights are read for each of few tokens
    assert scoring_cost(engine, 3600, 10, PLAIN).hours == pytest.approx(one)
    assert scoring_cost(engine, 3600, 10, PLAIN, together=10).hours == pytest.approx(one / 10)
    long = 3600 * 1e6 * engine.flops(5e5) / 1e12 / 3600
    assert scoring_cost(engine, 3600, 1e6, PLAIN).hours == pytest.approx(long)


def test_it_agrees_with_what_others_have_measured() -> None:
    """Two measurements that went into no efficiency but (the second) the last one's `busy`."""
    engine = Engine(LLAMA3, H100, length=8192, most=256)
    # vLLM pull request 7117, August 2024: 24.3 requests/s, 256 tokens in and 256 out
    assert 1000 / (3600 * sampling_cost(engine, 1000, 256, 256, VLLM_2024).hours) == pytest.approx(
        24.3, rel=0.1
    )
    # Lambda, vLLM 0.6.0: 8,088 tokens/s on ShareGPT
    assert 198_000 / (3600 * sampling_cost(engine, 1000, 220, 198).hours) == pytest.approx(8088, rel=0.1)


def test_what_does_not_fit_and_what_to_change() -> None:
    large = Engine(LLAMA3_70B, DEVICES["A100-80G"], length=8192)
    assert not large.fits
    assert changes(large, DEVICES) == ["engine.tensor_parallel_size: 2"]
    assert replace(large, gpus=2).fits
    long = Engine(QWEN2, A100_40G, length=1_000_000)
    most = int(long.room // 57_344)
    assert changes(long, DEVICES) == [
        "engine.tensor_parallel_size: 2",
        f"engine.max_model_len: {most} at most",
        "another GPU: A100-80G or H100 or H200",
    ]
    assert replace(long, length=most).fits
    assert not replace(long, length=most + 1).fits
    assert changes(Engine(LLAMA3_70B, A100_40G, length=10**9), DEVICES) == [
        "a smaller model, or more GPUs than a single machine has"
    ]


def test_the_global_batch_stays_on_any_number_of_processes() -> None:
    spread, work = spread_over(Topology(processes=8), Work(rows=1, length=10, accumulation=8), 24)
    assert (spread.processes, work.accumulation) == (16, 4)
    spread, work = spread_over(Topology(processes=8), Work(rows=1, length=10), 3)
    assert (spread.processes, work.accumulation) == (2, 4)
