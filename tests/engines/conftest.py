"""A tiny random Llama whose next-token distributions are far from flat."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_support import VOCABULARY


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a float32 model that vLLM's CPU attention takes (head size 32), without a tokenizer."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    folder: Path = tmp_path_factory.mktemp("tiny_llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.2,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    # What an engine must not pick up: stop tokens and a way of sampling that the caller did not ask for.
    model.generation_config = GenerationConfig(
        eos_token_id=[1, *range(100, 200)], do_sample=True, temperature=0.01, repetition_penalty=1.5
    )
    model.save_pretrained(folder)
    return str(folder)
