"""Both engines on a real model: the same promises, kept by each."""

from __future__ import annotations

import dataclasses
import gc
import os
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine_support import blocks, complete, greedy, next_logits, requests

from scalequest import heartbeat
from scalequest.config import ConfigError
from scalequest.engines import Block, EngineConfig, Generator, Request, Sampling, open_generator
from scalequest.engines.base import CHECK_EVERY

IN_FLIGHT = 16


@pytest.fixture(scope="module")
def reference(tiny_llama: str) -> Any:
    """The model itself, to be asked one row at a time."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama).eval()


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def generator(request: pytest.FixtureRequest, tiny_llama: str) -> Iterator[Generator]:
    """One engine for all tests of this file; that closing it frees the model is checked at its end."""
    if request.param == "vllm":
        pytest.importorskip("vllm")
    environment = dict(os.environ)
    config = EngineConfig(name=request.param, max_num_seqs=IN_FLIGHT, batch_size=8)
    with open_generator(tiny_llama, config) as opened:
        yield opened
        model = opened.model if request.param == "transformers" else _vllm_model(opened)
        freed = weakref.ref(model)
        del model
    gc.collect()
    assert freed() is None
    assert not torch.distributed.is_initialized()
    os.environ.clear()
    os.environ.update(environment)


def _vllm_model(generator: Any) -> Any:
    return generator.llm.llm_engine.model_executor.driver_worker.model_runner.model


def test_every_request_comes_back_in_its_place(generator: Generator) -> None:
    rows = requests(60)
    work = [*blocks(rows, 25), Block(3, [])]
    seen = []
    finished, tokens = heartbeat.requests.count, heartbeat.requests.tokens
    for block, completions in generator.generate(work, Sampling(1.0, 1.0, 7), [5, 6]):
        seen.append(block.index)
        for request, completion in zip(block.requests, completions, strict=True):
            assert completion.key == request.key
            assert completion.prompt_tokens == len(request.prompt_ids)
            assert not {5, 6} & set(completion.ids)
            stopped = completion.finish_reason == "stop"
            assert completion.tokens == len(completion.ids) + stopped
            assert stopped or completion.tokens == 7
            tokens += completion.tokens
    assert sorted(seen) == [0, 1, 2, 3]
    assert (heartbeat.requests.count, heartbeat.requests.tokens) == (finished + 60, tokens)
    assert generator.name in ("vllm", "transformers")
    assert generator.version


def test_blocks_are_taken_only_as_they_are_needed(generator: Generator) -> None:
    taken = []

    def work() -> Iterator[Block]:
        for block in blocks(requests(200), 10):
            taken.append(block.index)
            yield block

    running = generator.generate(work(), Sampling(1.0, 1.0, 5), [])
    next(running)
    assert len(taken) <= 2 * IN_FLIGHT // 10 + 2
    running.close()  # type: ignore[attr-defined]
    # What was in flight is gone: the next call gets its own rows and nothing else.
    assert len(complete(generator, blocks(requests(3, seed=7), 3), Sampling(1.0, 1.0, 5))) == 3


def test_greedy_is_what_the_model_says_alone(generator: Generator, reference: Any) -> None:
    rows = requests(20)
    done = complete(generator, blocks(rows, 20), Sampling(0.0, 1.0, 8))
    for row in rows:
        assert done[row.key].ids == greedy(reference, row.prompt_ids, 8)
        assert done[row.key].finish_reason == "length"  # for all that its generation config says


def test_a_row_does_not_depend_on_its_neighbours(generator: Generator) -> None:
    rows = requests(40)
    sampling = Sampling(0.9, 0.95, 12)
    done = complete(generator, blocks(rows, 40), sampling, [3])
    assert complete(generator, blocks(rows[::-1], 7), sampling, [3]) == done
    assert complete(generator, blocks(rows[20:21], 1), sampling, [3])[rows[20].key] == done[rows[20].key]
    assert complete(generator, blocks(rows, 40), sampling, [3]) == done


def test_seeds_set_rows_apart(generator: Generator) -> None:
    (row, *_) = requests(1)
    sampling = Sampling(1.0, 1.0, 12)
    seeded = [dataclasses.replace(row, key=str(seed), seed=seed) for seed in (0, 1, 2, 2**63 - 1, 7)]
    assert len({done.ids for done in complete(generator, blocks(seeded, 5), sampling).values()}) == 5
    unseeded = [dataclasses.replace(row, key=str(number), seed=None) for number in range(5)]
    assert len({done.ids for done in complete(generator, blocks(unseeded, 5), sampling).values()}) == 5


def test_samples_are_distributed_as_the_model_says(generator: Generator, reference: Any) -> None:
    """Temperature and top-p: nothing outside the nucleus, and inside it the renormalised probabilities."""
    prompt, temperature, top_p, count = [17, 200, 3], 1.5, 0.8, 1500
    probabilities, order = torch.softmax(next_logits(reference, prompt) / temperature, -1).sort(
        descending=True
    )
    size = int((probabilities.cumsum(-1) < top_p).sum()) + 1
    nucleus = dict(
        zip(order[:size].tolist(), (probabilities[:size] / probabilities[:size].sum()).tolist(), strict=True)
    )
    assert 5 < size < 200

    rows = [Request(str(number), prompt, number) for number in range(count)]
    done = complete(generator, blocks(rows, count), Sampling(temperature, top_p, 1))
    counts = Counter(completion.ids[0] for completion in done.values())
    assert set(counts) <= set(nucleus)
    # Pearson: over n cells that expect at least five, about n on average, with a variance of 2 n.
    common = [token for token, share in nucleus.items() if share * count >= 5]
    statistic = sum(
        (counts[token] - nucleus[token] * count) ** 2 / (nucleus[token] * count) for token in common
    )
    assert statistic < len(common) + 4 * (2 * len(common)) ** 0.5


def test_it_ends_at_the_first_stop_token(generator: Generator, reference: Any) -> None:
    rows = requests(10)
    whole = {row.key: greedy(reference, row.prompt_ids, 10) for row in rows}
    stop = whole[rows[4].key][3]
    done = complete(generator, blocks(rows, 10), Sampling(0.0, 1.0, 10), [stop, 299])
    for key, ids in whole.items():
        stops = [place for place, token in enumerate(ids) if token in (stop, 299)]
        assert done[key].ids == (ids[: stops[0]] if stops else ids)
        assert done[key].finish_reason == ("stop" if stops else "length")
        assert done[key].tokens == (stops[0] + 1 if stops else 10)
    assert done[rows[4].key].finish_reason == "stop"


def test_it_ends_where_the_request_says_so(generator: Generator, reference: Any) -> None:
    """At the next time it is asked, which costs the others nothing, and its place is taken by another."""
    rows = requests(2 * IN_FLIGHT + 6)
    whole = {row.key: greedy(reference, row.prompt_ids, 30) for row in rows}
    wanted = {row.key: whole[row.key][number % 20] for number, row in enumerate(rows) if number % 3}
    watched = [
        dataclasses.replace(row, ends=lambda ids, token=wanted[row.key]: token in ids)
        if row.key in wanted
        else row
        for row in rows
    ]
    done = complete(generator, blocks(watched, 9), Sampling(0.0, 1.0, 30))
    for key, ids in whole.items():
        if key not in wanted:
            assert (done[key].ids, done[key].finish_reason) == (ids, "length")
            continue
        place = ids.index(wanted[key])
        assert ids[: len(done[key].ids)] == done[key].ids
        assert place < len(done[key].ids) <= place + CHECK_EVERY
        assert (done[key].finish_reason, done[key].tokens) == ("stop", len(done[key].ids))
    assert (
        len(complete(generator, blocks(requests(3), 3), Sampling(1.0, 1.0, 5))) == 3
    )  # nothing is left over


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ([4] * 120, "120 tokens plus max_tokens 10 exceeds the context of 128"),
        ([], "empty prompt"),
        ([4, 300], "token id 300 is outside"),
    ],
)
def test_a_request_that_cannot_be_met_is_named(generator: Generator, prompt: list[int], fault: str) -> None:
    work = [Block(0, [*requests(3), Request("q-000012/3", prompt, 1)])]
    with pytest.raises(ConfigError, match=rf"request q-000012/3: .*{fault}"):
        list(generator.generate(work, Sampling(1.0, 1.0, 10), []))
    assert len(complete(generator, blocks(requests(3), 3), Sampling(1.0, 1.0, 5))) == 3
