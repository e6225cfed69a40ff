"""InternLM2's configuration for transformers, which supports the family only through remote code.

With this, vLLM, which has its own implementation, loads InternLM2-Reward without running remote code.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig


class InternLM2Config(PretrainedConfig):  # type: ignore[misc]
    """The keys of the family's config.json; the defaults are those of its 7B models."""

    model_type = "internlm2"

    def __init__(
        self,
        vocab_size: int = 92544,
        hidden_size: int = 4096,
        intermediate_size: int = 14336,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        num_key_value_heads: int = 8,
        hidden_act: str = "silu",
        max_position_embeddings: int = 32768,
        rms_norm_eps: float = 1e-5,
        bias: bool = False,
        rope_theta: float = 1_000_000.0,
        rope_scaling: dict[str, Any] | None = None,
        reward_token_id: int | None = None,
        **rest: Any,
    ) -> None:
        """Accept the keys unchanged; rope_theta and rope_scaling become today's rope_parameters."""
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.num_key_value_heads, self.hidden_act, self.bias = num_key_value_heads, hidden_act, bias
        self.max_position_embeddings, self.rms_norm_eps = max_position_embeddings, rms_norm_eps
        self.reward_token_id = reward_token_id
        scaling = dict(rope_scaling or {})
        kind = scaling.pop("type", "default")
        scaled = {} if kind == "dynamic" and scaling.get("factor", 1) == 1 else scaling
        rope = {"rope_type": kind if scaled else "default", "rope_theta": rope_theta, **scaled}
        self.rope_parameters = rest.pop("rope_parameters", None) or rope
        rest.pop("auto_map", None)  # code in the repository, which is not needed here
        self.tie_word_embeddings = bool(rest.pop("tie_word_embeddings", False))
        super().__init__(**rest)


def register() -> None:
    """Register the family with transformers; repeated calls have no effect."""
    AutoConfig.register(InternLM2Config.model_type, InternLM2Config, exist_ok=True)
