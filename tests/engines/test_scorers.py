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
from scalequest.engines.scoring import Head, Score, Scorer, StepRequest, score_of

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
    config.num_labels = 3
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="3 outputs, expected one or two"):
        open_scorer(str(tmp_path), replace(CONFIG, name=name))


def classifier(kind: Any, folder: Path, labels: int, **more: Any) -> Any:
    """A tiny random Llama with a classifier's head, saved; eager and in float32."""
    import torch
    from transformers import LlamaConfig

    torch.manual_seed(labels)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.2,
        num_labels=labels, pad_token_id=STOP, eos_token_id=STOP, **more,
    )  # fmt: skip
    model = kind(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("positive", "column"), [(None, 1), ("0", 0)])
def test_a_head_of_two_labels_gives_the_probability_of_the_positive_one(
    tmp_path: Path, name: Any, positive: str | None, column: int
) -> None:
    import torch
    from transformers import LlamaForSequenceClassification

    model = classifier(LlamaForSequenceClassification, tmp_path, 2)
    rows = requests(9)
    with open_scorer(str(tmp_path), replace(CONFIG, name=name), head=Head(positive=positive)) as opened:
        ((_, scores),) = opened.score([Block(0, rows)])
    for row, score in zip(rows, scores, strict=True):
        with torch.no_grad():
            hidden = model.model(torch.tensor([list(row.prompt_ids)])).last_hidden_state[0, -1]
            wanted = model.score(hidden).softmax(-1)[column].item()
        assert score.value == pytest.approx(wanted, abs=1e-3)
        assert score.steps == ()


@pytest.mark.parametrize("labels", [1, 2])
def test_a_score_per_step_is_the_head_at_each_place(tmp_path: Path, labels: int) -> None:
    import torch
    from transformers import LlamaForTokenClassification

    model = classifier(LlamaForTokenClassification, tmp_path, labels)
    rows = [
        StepRequest(
            one.key, one.prompt_ids, None, places=(0, len(one.prompt_ids) // 2, len(one.prompt_ids) - 1)
        )
        for one in requests(9)
    ]
    rows.append(StepRequest("long", [1] * 65, None, places=(3,)))
    with open_scorer(str(tmp_path), replace(CONFIG, name="transformers"), head=Head(steps=True)) as opened:
        ((_, scores),) = opened.score([Block(0, rows)])
    assert scores.pop() == Score("long", None, 65)
    for row, score in zip(rows[:-1], scores, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([list(row.prompt_ids)])).logits[0, list(row.places)]
        wanted = logits.softmax(-1)[:, 1] if labels == 2 else logits[:, 0].sigmoid()
        assert score.steps == pytest.approx(wanted.tolist(), abs=1e-4)
        assert score.value == score.steps[-1]


def test_labels_with_names_are_named(tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    names = {"id2label": {0: "right", 1: "wrong"}, "label2id": {"right": 0, "wrong": 1}}
    classifier(LlamaForSequenceClassification, tmp_path, 2, **names)
    config = replace(CONFIG, name="transformers")
    with pytest.raises(ConfigError, match=r"positive_label: .* has the labels right and wrong; name the one"):
        open_scorer(str(tmp_path), config)
    with pytest.raises(ConfigError, match="not 'good'"):
        open_scorer(str(tmp_path), config, head=Head(positive="good"))
    with open_scorer(str(tmp_path), config, head=Head(positive="right")) as opened:
        ((_, scores),) = opened.score([Block(0, requests(2))])
    with open_scorer(str(tmp_path), config, head=Head(positive="wrong")) as opened:
        ((_, others),) = opened.score([Block(0, requests(2))])
    assert [one.value + other.value for one, other in zip(scores, others, strict=True)] == pytest.approx(
        [1, 1]
    )  # type: ignore[operator]


def test_a_probability_is_sound_at_the_ends() -> None:
    assert score_of([-1e6], None, probability=True) == 0
    assert score_of([1e6], None, probability=True) == 1
    assert score_of([3.0, -1e5], 1) == 0
    assert math.isnan(score_of([math.nan, 1.0], 1))
    assert score_of([-2.5], None) == -2.5


def test_auto_takes_vllm_and_falls_back(reward_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalequest.engines import vllm_engine

    def broken() -> None:
        raise ImportError("no such library")

    monkeypatch.setattr(vllm_engine, "import_vllm", broken)
    with open_scorer(reward_model, CONFIG) as opened:
        assert opened.name == "transformers"
    with pytest.raises(ConfigError, match="no such library"):
        open_scorer(reward_model, replace(CONFIG, name="vllm"))
