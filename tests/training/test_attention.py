"""Attention over packed rows, document by document: equal to documents apart, whatever surrounds it.

The flash kernel runs on GPUs only; here its place is taken by `one_by_one`, under the same registered name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_support import logged

from scalequest.config import ConfigError
from scalequest.training import attention
from scalequest.training.sft import PackedRows

Train = Callable[..., Path]
Settings = dict[str, Any]
Rows = dict[str, Path]
VOCABULARY, PAD = 64, 63
FAMILIES = ("llama", "mistral", "qwen2")


@pytest.fixture(autouse=True)
def known() -> None:
    attention.register()


def model_of(family: str, **settings: Any) -> Any:
    """Two layers with random weights; two query heads per key head."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, pad_token_id=PAD,
        **settings,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def rows_of(lengths: list[list[int]]) -> list[dict[str, Any]]:
    """Packed rows as TRL's packing leaves them."""
    draw = torch.Generator().manual_seed(1)
    made = []
    for each in lengths:
        ids = torch.randint(0, PAD, (sum(each),), generator=draw).tolist()
        made.append({"input_ids": ids, "labels": list(ids), "seq_lengths": each})
    return made


def loss_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Summed over the targets."""
    out = model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False)
    targets = batch["labels"][:, 1:].flatten()
    return torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), targets, reduction="sum")


def learned(model: Any, batches: list[dict[str, Any]]) -> tuple[float, torch.Tensor]:
    """Summed loss over batches, and the gradient of all parameters."""
    model.zero_grad()
    total = sum(loss_of(model, batch) for batch in batches)
    assert isinstance(total, torch.Tensor)
    total.backward()
    return float(total.detach()), torch.cat([each.grad.flatten() for each in model.parameters()])


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["kept", "reentrant", "not reentrant"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_apart(family: str, checkpointing: bool | None) -> None:
    """Two rows, the second of them filled up: loss and gradient of the five documents apart."""
    lengths = [[7, 1, 12], [5, 9]]
    rows = rows_of(lengths)
    model = model_of(family).train()
    documents = []
    for row, each in zip(rows, lengths, strict=True):
        ids = torch.tensor(row["input_ids"])
        documents += [{"input_ids": part[None], "labels": part[None]} for part in ids.split(each)]
    loss, gradient = learned(model, documents)

    model.set_attn_implementation(attention.VARLEN)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    batch = PackedRows(PAD, boundaries=True)(rows)
    assert batch["cu_seq_lens_q"].tolist() == [0, 7, 8, 20, 25, 34, 40]
    assert batch["max_length_q"] == 12
    packed, pushed = learned(model, [batch])
    assert packed == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(pushed, gradient, atol=1e-4)
    apart = float((pushed - gradient).norm() / gradient.norm())
    assert apart < 1e-5


def test_no_mask_is_made_and_each_layer_is_given_the_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the boundaries that keep documents apart, in every layer, and not a mask."""
    seen: list[tuple[list[int], int]] = []
    original = attention.one_by_one

    def spy(query: Any, key: Any, value: Any, ends: Any, scaling: Any) -> Any:
        seen.append((ends.tolist(), query.shape[1] // key.shape[1]))
        return original(query, key, value, ends, scaling)

    monkeypatch.setattr(attention, "one_by_one", spy)
    model = model_of("qwen2")
    model.set_attn_implementation(attention.VARLEN)
    learned(model, [PackedRows(PAD, boundaries=True)(rows_of([[3, 4]]))])
    assert seen == [([0, 3, 7], 2)] * 2
    made = attention.mask(batch_size=1, q_length=7, kv_length=7, allow_is_causal_skip=False)
    assert made is None


@pytest.mark.parametrize("family", FAMILIES)
def test_without_boundaries_the_positions_say_where_documents_are(family: str) -> None:
    batch = PackedRows(PAD)(rows_of([[7, 1, 12], [5, 9]]))
    model = model_of(family)
    loss, gradient = learned(model, [batch])
    model.set_attn_implementation(attention.VARLEN)
    found, pushed = learned(model, [batch])
    assert found == pytest.approx(loss, rel=1e-5)
    assert float((pushed - gradient).norm() / gradient.norm()) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_generated_as_by_sdpa(family: str) -> None:
    """With a cache, with padding on the left, and with none."""
    model = model_of(family).eval()
    ids = torch.tensor([[PAD, PAD, 4, 5, 6], [1, 2, 3, 4, 5]])
    for padded in (ids != PAD).long(), torch.ones_like(ids):
        texts = []
        for name in ("sdpa", attention.VARLEN):
            model.set_attn_implementation(name)
            made = model.generate(
                ids,
                attention_mask=padded,
                max_new_tokens=8,
                do_sample=False,
                pad_token_id=PAD,
                eos_token_id=None,
            )
            texts.append(made.tolist())
        assert texts[0] == texts[1]


def test_a_sliding_window_shorter_than_the_row_is_kept() -> None:
    batch = PackedRows(PAD, boundaries=True)(rows_of([[20, 12]]))
    model = model_of("mistral", sliding_window=6)
    loss, gradient = learned(model, [batch])
    wide = learned(model_of("mistral", sliding_window=64), [batch])[0]
    assert wide != pytest.approx(loss, rel=1e-4), "the window has to matter for this test to say anything"
    model.set_attn_implementation(attention.VARLEN)
    found, pushed = learned(model, [batch])
    assert found == pytest.approx(loss, rel=1e-5)
    assert float((pushed - gradient).norm() / gradient.norm()) < 1e-5


def test_signature_of_torch_is_the_one_that_the_kernel_is_called_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own function is called as it is declared: bind the call, and compute it on the CPU."""
    import inspect

    from torch.nn.attention import varlen

    declared = inspect.signature(varlen.varlen_attn)

    def stand_in(*args: Any, **kwargs: Any) -> torch.Tensor:
        bound = declared.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        assert given["window_size"] == (-1, 0), "causal"
        assert given["cu_seq_q"] is given["cu_seq_k"]
        assert given["enable_gqa"] == (given["query"].shape[1] != given["key"].shape[1])
        assert given["max_q"] == given["max_k"] == 4
        return attention.one_by_one(
            given["query"], given["key"], given["value"], given["cu_seq_q"], given["scale"]
        )

    stand_in.__signature__ = declared  # type: ignore[attr-defined]
    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    query, key, value = (torch.randn(7, heads, 8) for heads in (4, 2, 2))
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    found = attention.flash(query, key, value, ends, 4, 0.3)
    assert torch.equal(found, attention.one_by_one(query, key, value, ends, 0.3))


def test_an_older_torch_is_called_by_its_own_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch 2.10 knows `is_causal`, and neither a scale nor groups of heads."""
    from torch.nn.attention import varlen

    def older(
        query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int,
        is_causal: bool = False, return_aux: Any = None,
    ) -> Any:  # fmt: skip
        assert is_causal
        assert query.shape == key.shape == value.shape
        return attention.one_by_one(query, key, value, cu_seq_q)

    monkeypatch.setattr(varlen, "varlen_attn", older)
    query, key, value = (torch.randn(7, heads, 8) for heads in (4, 2, 2))
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    found = attention.flash(query, key, value, ends, 4, 0.3)
    assert torch.allclose(found, attention.one_by_one(query, key, value, ends, 0.3), atol=1e-6)


# ------------------------------------------------------------------------------------------------- the choice


def chosen(model: Any, requested: str | None = None, **settings: Any) -> attention.Attention:
    given = {"max_length": 128, "dtype": torch.bfloat16, "device": torch.device("cpu"), **settings}
    return attention.choose(model, requested, **given)


def test_without_a_gpu_it_is_sdpa_and_the_reason_is_said() -> None:
    model = model_of("llama")
    found = chosen(model)
    assert (found.name, model.config._attn_implementation) == ("sdpa", "sdpa")
    assert "NVIDIA GPU" in found.why
    assert not found.joins_batch


def test_a_gpu_that_runs_the_kernel_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice follows what is found out about the GPU; the trial of the kernel itself needs one."""
    monkeypatch.setattr(attention, "_unavailable", lambda *_: None)
    model = model_of("qwen2")
    assert "rows of 128 tokens are too short for a gain" in chosen(model).why
    monkeypatch.setattr(attention, "_WORTH", 128 * model.config.hidden_size)
    assert chosen(model).name == model.config._attn_implementation == attention.VARLEN
    for other, why in (
        (model_of("mistral", sliding_window=64), "sliding window of 64"),
        (model_of("llama", attention_dropout=0.1), "attention_dropout is 0.1"),
        (model_of("gemma"), "not with 'gemma'"),
    ):
        found = chosen(other)
        assert found.name == "sdpa"
        assert why in found.why
    equal = model_of("mistral", sliding_window=128)
    assert chosen(equal).name == attention.VARLEN


@pytest.mark.parametrize(
    ("capability", "dtype", "why"),
    [
        ((7, 5), torch.float16, "this GPU has 7.5"),
        ((9, 0), torch.float32, "this run computes in float32"),
        ((9, 0), torch.bfloat16, "a test of the flash kernel failed"),  # there is no GPU to try it on
    ],
)
def test_a_gpu_that_does_not_says_why(
    capability: tuple[int, int], dtype: torch.dtype, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a real GPU answers for itself")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    given = {"dtype": dtype, "device": torch.device("cuda")}
    found = chosen(model_of("llama"), **given)
    assert found.name == "sdpa"
    assert why in found.why
    if dtype != torch.float32:
        with pytest.raises(ConfigError, match=f"varlen does not run on this GPU: .*{why}"):
            chosen(model_of("llama"), attention.VARLEN, **given)


def test_what_was_asked_for_is_obeyed_or_refused() -> None:
    model = model_of("llama")
    model.set_attn_implementation("eager")
    assert chosen(model, "eager") == attention.Attention("eager", "as configured")
    model.set_attn_implementation(attention.VARLEN)
    assert "one document at a time" in chosen(model, attention.VARLEN).why
    narrow = model_of("mistral", sliding_window=64)
    with pytest.raises(
        ConfigError, match=r"varlen does not support .* sliding window of 64 .* remove the setting"
    ):
        chosen(narrow, attention.VARLEN)
    assert attention.Attention("flash_attention_2", "").joins_batch


# ------------------------------------------------------------------------------------------------- the recipe


@pytest.mark.parametrize("checkpointing", [False, True])
def test_recipe_trains_evaluates_and_writes_samples_as_under_sdpa(
    settings: Settings,
    rows: Rows,
    train: Train,
    tmp_path: Path,
    checkpointing: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Losses, gradients, held-out loss, packed or not, and samples; the saved model names no attention."""
    from transformers import AutoModelForCausalLM

    outs, samples = {}, {}
    for name, packed in ((None, True), (attention.VARLEN, True), (attention.VARLEN, False)):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="scalequest"):
            key = (name, packed)
            outs[key] = train(
                "sft",
                settings,
                input=[str(rows["solutions"])],
                output_dir=str(tmp_path / f"{name}-{packed}"),
                attn_implementation=name,
                eval_packing=packed,
                gradient_checkpointing=checkpointing,
                holdout=6,
                sample_every=2,
                sample_count=2,
                sample_tokens=8,
            )
        said = [record.getMessage() for record in caplog.records]
        about = [line for line in said if " over packed rows (" in line]
        assert about == [line for line in about if f": attention: {name or 'sdpa'} over" in line]
        assert len(about) == 1
        samples[key] = [line for line in said if " sample at step " in line]
    plain, ours, unpacked = outs
    steps = {key: [record for record in logged(out) if "loss" in record] for key, out in outs.items()}
    for one, other in zip(steps[plain], steps[ours], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
        assert other["num_tokens"] == one["num_tokens"]
    receipts = {key: json.loads((out / "receipt.json").read_text()) for key, out in outs.items()}
    held = {key: receipt["counts"]["eval_loss"] for key, receipt in receipts.items()}
    assert held[ours] == pytest.approx(held[plain], abs=1e-4)
    assert held[unpacked] == pytest.approx(held[plain], rel=1e-2)
    assert receipts[ours]["fingerprint"] == receipts[plain]["fingerprint"]
    assert len(samples[plain]) == 4
    assert samples[ours] == samples[plain]
    for file in ("config.json", "generation_config.json"):
        assert attention.VARLEN not in (outs[ours] / file).read_text()
    assert AutoModelForCausalLM.from_pretrained(outs[ours]).config._attn_implementation == "sdpa"
