"""A two-layer Llama that has seen a few stories: it writes questions and answers that stop, most of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

NAMES = ["Ann", "Ben", "Cleo", "Dan"]
THINGS = ["apples", "stamps", "books"]
STEPS = 120


def stories(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Questions and solutions, the same ones for the same seed."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        a, b, thing = rng.randint(1, 9), rng.randint(1, 9), rng.choice(THINGS)
        question = f"{rng.choice(NAMES)} has {a} {thing} and buys {b}. How many {thing} now?"
        made.append((question, f"{a} + {b} = {a + b}\nThe answer is \\boxed{{{a + b}}}."))
    return made


def build_tiny_model(folder: Path) -> Path:
    """Train it for a few seconds and save it, tokenizer included, in TinyMath's markup."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from scalequest.chat import bind, load_format

    texts = stories(200)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator([part for pair in texts for part in pair], trainer)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    chat = bind(load_format("tinymath"), tokenizer)

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    )
    rows = [[*prompt, *target] for prompt, target in (chat.solve_ids(*pair) for pair in texts)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [chat.pad_id] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(ids == chat.pad_id, -100)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(STEPS):
        batch = torch.arange(step * 16, step * 16 + 16) % len(rows)
        model(input_ids=ids[batch], labels=labels[batch]).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
