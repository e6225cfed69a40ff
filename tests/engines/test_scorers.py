from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_support import VOCABULARY, blocks, requests

from scalequest.config import ConfigError
from scalequest.engines.base import Block, EngineConfig, Request
from scalequest.engines.loading import open_scorer
from scalequest.engines.scoring import Score, Scorer

CONFIG = EngineConfig(batch_size=5, max_num_seqs=8)
STOP = 7  # token that is the padding too, as in many reward models


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random Llama with a one-number head."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder: Path = tmp_path_factory.mktemp("reward_model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.2,
        num_labels=1, pad_token_id=STOP, eos_token_id=STOP,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def alone(reward_model: str) -> Any:
    """What the head says at the last token of one unpadded row."""
    import torch
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification.from_pretrained(reward_model).eval()

    def value(ids: Any) -> float:
        with torch.no_grad():
            hidden = model.model(torch.tensor([list(ids)])).last_hidden_state[0, -1]
            return float(model.score(hidden).item())

    return value


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def scorer(request: pytest.FixtureRequest, reward_model: str) -> Iterator[Scorer]:
    with open_scorer(reward_model, replace(CONFIG, name=request.param)) as opened:
        assert opened.name == request.param
        yield opened


def test_a_score_is_the_head_at_the_last_token(scorer: Scorer, alone: Any) -> None:
    rows = [
        replace(one, prompt_ids=[*one.prompt_ids, *([STOP] if number % 2 else [])])
        for number, one in enumerate(requests(23))
    ]
    done: dict[str, Score] = {}
    for block, scores in scorer.score(blocks(rows, 10)):
        assert [score.key for score in scores] == [row.key for row in block.requests]
        done |= {score.key: score for score in scores}
    assert len(done) == 23
    for row in rows:
        score = done[row.key]
        assert score.value is not None
        assert math.isclose(score.value, alone(row.prompt_ids), rel_tol=1e-3, abs_tol=1e-3)
        assert (score.prompt_tokens, score.tokens, score.finish_reason) == (len(row.prompt_ids), 0, "stop")
    assert min(score.value for score in done.values()) < 0, "no sigmoid"


def test_what_does_not_fit_has_no_score(scorer: Scorer, alone: Any) -> None:
    rows = [Request("long", [1] * 65, None), Request("full", [1] * 64, None)]
    ((_, scores),) = scorer.score([Block(0, rows)])
    assert scores[0] == Score("long", None, 65)
    assert scores[0].finish_reason == "length"
    assert scores[1].value == pytest.approx(alone([1] * 64), abs=1e-3)
    assert list(scorer.score([Block(1, [])])) == [(Block(1, []), [])]


@pytest.mark.parametrize("ids", [[], [1, VOCABULARY], [-1]])
def test_ids_that_are_none_are_refused(scorer: Scorer, ids: list[int]) -> None:
    with pytest.raises(ConfigError, match="request bad"):
        list(scorer.score([Block(0, [Request("bad", ids, None)])]))


@pytest.mark.parametrize("name", ["vllm", "transformers"])
def test_a_model_that_does_not_score_is_refused(tiny_llama: str, tmp_path: Path, name: Any) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    if name == "vllm":
        with pytest.raises(ConfigError, match="not a scorer"):
            open_scorer(tiny_llama, replace(CONFIG, name=name))
        return
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)  # two labels
    with pytest.raises(ConfigError, match="2 outputs"):
        open_scorer(str(tmp_path), replace(CONFIG, name=name))


def test_auto_takes_vllm_and_falls_back(reward_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalequest.engines import vllm_engine

    def broken() -> None:
        raise ImportError("no such library")

    monkeypatch.setattr(vllm_engine, "import_vllm", broken)
    with open_scorer(reward_model, CONFIG) as opened:
        assert opened.name == "transformers"
    with pytest.raises(ConfigError, match="no such library"):
        open_scorer(reward_model, replace(CONFIG, name="vllm"))
