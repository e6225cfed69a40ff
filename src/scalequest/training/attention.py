"""Attention over packed rows, within each document: choose the kernel, and say why.

With a mask, the `sdpa` kernels compute the full square of a packed row, however little of it the mask keeps.
The flash kernel for variable-length sequences that comes with torch (`torch.nn.attention.varlen`) computes
only each document's triangle. It is registered with transformers as `varlen` during training; saved files do
not mention it, because transformers does not save the name of the attention implementation.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from scalequest.config import ConfigError

log = logging.getLogger(__name__)

VARLEN = "varlen"
# Models with plain causal attention, with or without a sliding window; tests compare each of them with sdpa.
MODELS = ("llama", "mistral", "qwen2")
_HALF = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 192  # above this, the flash kernel's backward pass does not run on every GPU
_WORTH = 2048 * 3584  # tokens per row times hidden size from which `varlen` was measured to be faster
_CAPABILITY = (8, 0)  # Ampere, the first architecture supported by the flash kernel


@dataclass(frozen=True)
class Attention:
    """The implementation of attention over packed rows.

    Attributes:
        name: its name in transformers: `varlen`, `sdpa`, `eager`, `flex_attention`, `flash_attention_2`, …
        why: the reason, one clause for the log.
    """

    name: str
    why: str

    @property
    def joins_batch(self) -> bool:
        """Return whether to use TRL's collator, which joins a batch into one sequence."""
        return "flash" in self.name


def register() -> None:
    """Register the name `varlen` with transformers in this process."""
    AttentionInterface.register(VARLEN, attend)
    AttentionMaskInterface.register(VARLEN, mask)


def choose(
    model: Any, requested: str | None, *, max_length: int | None, dtype: torch.dtype, device: torch.device
) -> Attention:
    """Choose and set the attention implementation for training `model` on packed rows.

    A name given by the user is obeyed. Otherwise it is `varlen` if that can run, or transformers' own choice
    (`sdpa` with a mask) if not.

    Args:
        model: the model, loaded with `attn_implementation=requested`.
        requested: the user's choice; None leaves the choice to us.
        max_length: the length of a packed row in tokens; no document is longer. None for no limit.
        dtype: the dtype in which attention is computed: autocast's or the model's own.
        device: the device that the model is trained on.

    Raises:
        ConfigError: `varlen` was requested, but it would not compute this model's attention correctly or does
            not run on this GPU.
    """
    wrong = _unlike(model, max_length)
    if requested == VARLEN:
        if wrong is not None:
            raise ConfigError(
                f"attn_implementation: varlen does not support this model: {wrong}; remove the setting"
            )
        slow = _unavailable(model, dtype, device)
        if slow and device.type == "cuda" and dtype in _HALF:  # `attend` would call the kernel
            raise ConfigError(
                f"attn_implementation: varlen does not run on this GPU: {slow}; remove the setting"
            )
        return Attention(
            VARLEN, "as configured" + (f"; one document at a time, because {slow}" if slow else "")
        )
    if requested is not None:
        return Attention(model.config._attn_implementation, "as configured")
    without = wrong or _unavailable(model, dtype, device) or _too_small(model, max_length)
    if without is not None:
        return Attention(model.config._attn_implementation, f"with a mask, because {without}")
    model.set_attn_implementation(VARLEN)
    return Attention(VARLEN, "torch's flash kernel, one document at a time")


def boundaries(lengths: list[list[int]], width: int) -> dict[str, torch.Tensor | int]:
    """Return the boundaries of documents, in the form that transformers' flash attention uses.

    Args:
        lengths: the tokens per document, for each row of a batch.
        width: the tokens per row after padding; the padding counts as one more document.

    Returns:
        `cu_seq_lens_q` and `cu_seq_lens_k`, int32, (documents + 1,): offsets into the batch laid out as one
        sequence; `max_length_q` and `max_length_k`: the length of the longest document.
    """
    sizes = [size for each in lengths for size in (*each, width - sum(each)) if size]
    ends = torch.tensor(list(accumulate(sizes, initial=0)), dtype=torch.int32)
    longest = max(sizes)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def mask(
    *,
    q_length: int,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:
    """Return no mask for packed rows and `sdpa`'s mask otherwise; has `AttentionMaskInterface`'s signature.

    Without padding or a cache, `attend` finds the documents from their boundaries or positions. Text
    generation uses a cache or padding, and a sliding window shorter than the row needs a mask.
    """
    whole = q_length == kv_length and attention_mask is None and not use_vmap
    if whole and (local_size is None or q_length <= local_size):
        return None
    return sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        attention_mask=attention_mask,
        local_size=local_size,
        use_vmap=use_vmap,
        **kwargs,
    )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention within each document of packed rows, and `sdpa`'s attention otherwise.

    The signature is `AttentionInterface`'s.

    Args:
        module: the layer.
        query: (batch, heads, length, head size).
        key: (batch, key heads, length with the cache, head size).
        value: like `key`.
        attention_mask: the result of `mask`; if there is one, the rows are not packed.
        dropout: the dropout probability.
        scaling: the factor for products of queries and keys; None for 1 / sqrt(head size).
        cu_seq_lens_q: from `boundaries`. Without it, the documents are derived from `position_ids`, which
            makes the CPU wait for the GPU in every layer.
        max_length_q: from `boundaries`.
        position_ids: (batch, length); a document begins wherever they do not increase by one.
        kwargs: further arguments for `sdpa`.

    Returns:
        Tensor of shape (batch, length, heads, head size), and no weights.
    """
    packed = attention_mask is None and query.shape[2] == key.shape[2] > 1
    if packed and cu_seq_lens_q is None and position_ids is not None:
        cu_seq_lens_q, max_length_q = _read_off(position_ids, query.shape[0])
    if not packed or cu_seq_lens_q is None:
        out, _ = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            position_ids=position_ids,
            **kwargs,
        )
        return out, None
    if dropout:
        raise ValueError(
            "varlen attention does not support dropout; set attention_dropout to 0 in the model's config"
        )
    return _attend_within(query, key, value, cu_seq_lens_q, max_length_q, scaling), None


def _attend_within(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """Compute attention within each document; tensors and arguments as in `attend`."""
    kind, dtype = query.device.type, query.dtype
    if torch.is_autocast_enabled(kind):  # rotated queries and keys are float32 again
        dtype = torch.get_autocast_dtype(kind)
    batch, _, length, _ = query.shape
    query, key, value = (states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value))
    if kind == "cuda" and dtype in _HALF and longest is not None:
        out = flash(query, key, value, ends, longest, scaling)
    else:
        out = one_by_one(query, key, value, ends, scaling)
    return out.unflatten(0, (batch, length))


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    scaling: float | None = None,
) -> torch.Tensor:
    """Compute causal attention within each document with torch's flash kernel, on a GPU in half precision.

    Args:
        query: (tokens, heads, head size).
        key: (tokens, key heads, head size).
        value: like `key`.
        ends: int32, (documents + 1,), on the same device.
        longest: the length of the longest document.
        scaling: None for 1 / sqrt(head size).

    Returns:
        Tensor of the queries' shape.
    """
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters  # torch 2.10 and 2.11 have different signatures
    settings: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in known:
        settings["enable_gqa"] = True
    elif groups > 1:
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    if "scale" in known:
        settings["scale"] = scaling
    elif scaling is not None:
        query = query * (scaling * query.shape[-1] ** 0.5)
    out: torch.Tensor = varlen_attn(query, key, value, ends, ends, longest, longest, **settings)
    return out


def one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    scaling: float | None = None,
) -> torch.Tensor:
    """Compute the same as `flash`, on any device and in any precision, with one `sdpa` call per document."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    query, key, value = (states.transpose(0, 1).unsqueeze(0) for states in (query, key, value))
    spans = [slice(begin, end) for begin, end in pairwise(ends.tolist())]
    parts = [
        scaled_dot_product_attention(
            query[:, :, span], key[:, :, span], value[:, :, span], is_causal=True, scale=scaling
        )
        for span in spans
    ]
    return torch.cat(parts, 2).squeeze(0).transpose(0, 1)


def _read_off(positions: torch.Tensor, batch: int) -> tuple[torch.Tensor | None, int | None]:
    """Return the boundaries and the longest document; None and None if every row is one document."""
    positions = positions.expand(batch, -1)
    starts = torch.ones_like(positions, dtype=torch.bool)
    starts[:, 1:] = positions.diff() != 1
    if int(starts.sum()) == batch:
        return None, None
    firsts = starts.flatten().nonzero().flatten()
    ends = torch.cat([firsts, firsts.new_tensor([positions.numel()])]).to(torch.int32)
    return ends, int(ends.diff().max())


def _unlike(model: Any, max_length: int | None) -> str | None:
    """Return why `varlen` would not compute this model's attention correctly; None if it would."""
    config = model.config
    if config.model_type not in MODELS or not type(model).__module__.startswith("transformers."):
        return f"it was tested with {', '.join(MODELS)}, but not with '{config.model_type}'"
    if getattr(config, "attention_dropout", 0):
        return f"it does not support dropout, but the model's attention_dropout is {config.attention_dropout}"
    window = getattr(config, "sliding_window", None)
    if window is not None and (max_length is None or max_length > window):
        return f"the model's sliding window of {window} tokens is shorter than max_length"
    return None


def _too_small(model: Any, max_length: int | None) -> str | None:
    """Return why the flash kernel would not be faster; None if it would.

    Measured with four layers, forward and backward, on an H100 and an H200 (bench/gpu_results.jsonl): at a
    hidden size of 3,584 it saves 12 to 16 % of the time at 4,096 tokens and 13 % at 2,048, and is slower at
    1,024. At a hidden size of 1,536 it is equal at 4,096 tokens and slower below.
    """
    size = model.config.hidden_size
    if max_length is not None and max_length * size < _WORTH:
        return f"rows of {max_length} tokens are too short for a gain at a hidden size of {size}"
    return None


def _unavailable(model: Any, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why the flash kernel does not run here; None if it does, as tested once on a few tokens."""
    if device.type != "cuda" or torch.version.hip is not None:
        return f"the flash kernel needs an NVIDIA GPU, but this is '{device.type}'"
    if dtype not in _HALF:
        return f"the flash kernel needs bf16 or fp16, but this run computes in {dtype}".replace("torch.", "")
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        has = ".".join(map(str, capability))
        return f"the flash kernel needs compute capability 8.0, but this GPU has {has}"
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size % 8 or size > _LARGEST_HEAD:
        return f"the head size {size} is not a multiple of 8 up to {_LARGEST_HEAD}"
    try:
        heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        query, key, value = (
            torch.zeros(12, count, size, dtype=dtype, device=device, requires_grad=True) for count in heads
        )
        ends = torch.tensor([0, 5, 12], dtype=torch.int32, device=device)
        with torch.enable_grad():
            flash(query, key, value, ends, 7).sum().backward()
        torch.cuda.synchronize(device)
    except Exception as error:  # an older torch, or one built without the kernel
        return f"a test of the flash kernel failed ({type(error).__name__}: {str(error)[:150]})"
    return None
