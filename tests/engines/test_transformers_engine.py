"""What is promised of the transformers engine alone: bytes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from engine_support import blocks, complete, requests

from scalequest.config import ConfigError
from scalequest.engines import EngineConfig, Sampling, open_generator
from scalequest.engines.transformers_engine import RowSampler

CONFIG = EngineConfig(name="transformers", batch_size=8)


def test_batch_1_and_batch_8_give_the_same_rows(tiny_llama: str) -> None:
    rows = requests(24)
    sampling = Sampling(1.0, 0.9, 16)
    done = []
    for size in (1, 8):
        with open_generator(tiny_llama, dataclasses.replace(CONFIG, batch_size=size)) as generator:
            done.append(complete(generator, blocks(rows, 24), sampling, [3]))
    assert done[0] == done[1]


def test_a_block_redone_by_another_process_is_the_same(tiny_llama: str) -> None:
    """In bfloat16 too, and whichever blocks went before."""
    work = blocks(requests(48), 16)
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    done = []
    for chosen in (work, work[2:]):
        with open_generator(tiny_llama, config) as generator:
            done.append(complete(generator, chosen, Sampling(1.0, 0.9, 16), [3]))
    assert {key: done[0][key] for key in done[1]} == done[1]


def test_only_vllm_takes_extra_arguments(tiny_llama: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.extra: only vllm .* swap"):
        open_generator(tiny_llama, dataclasses.replace(CONFIG, extra={"swap": 1}))


@pytest.mark.parametrize(
    ("top_p", "uniform", "token"),
    [
        (1.0, 0.0, 1),  # token 0 has no probability
        (1.0, 0.49, 1),
        (1.0, 0.51, 2),
        (1.0, 1 - 2**-24, 3),
        (0.5, 1 - 2**-24, 1),  # exactly reached: nothing more
        (0.6, 1 - 2**-24, 2),  # the token that crosses it is in
        (0.6, 0.62, 1),  # 0.5 of 0.8, renormalised
        (0.6, 0.63, 2),
        (0.01, 0.9, 1),
    ],
)
def test_the_drawn_token(top_p: float, uniform: float, token: int) -> None:
    logits = torch.tensor([[0.0, 0.5, 0.3, 0.2]]).log()
    sampler = RowSampler(torch.tensor([[uniform]]), Sampling(1.0, top_p, 1))
    scores = sampler(torch.zeros(1, 1, dtype=torch.long), logits)
    assert scores.isfinite().nonzero().tolist() == [[0, token]]
