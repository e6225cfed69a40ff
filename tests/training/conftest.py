"""A tiny Llama with random weights, a real byte-level BPE tokenizer, and recipes run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from training_support import recipe

SPECIAL = ["<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"]
NAMES = ["Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal"]
QUESTIONS = [
    f"{NAMES[n % 8]} has {n + 2} {thing} and {verb} {n % 5 + 1} more. How many {thing} are there?"
    for n in range(40)
    for thing, verb in [(("apples", "buys"), ("stamps", "finds"), ("books", "gets"))[n % 3]]
]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level BPE of 384 tokens, trained on the questions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        QUESTIONS, trainers.BpeTrainer(vocab_size=384, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )


@pytest.fixture(scope="session")
def model_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 2-layer Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat(tokenizer: Any) -> Any:
    """TinyMath's format on the tiny tokenizer."""
    from scalequest.chat import bind, load_format

    return bind(load_format("tinymath"), tokenizer)


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Question, solution and preference rows as files."""
    folder = tmp_path_factory.mktemp("rows")
    questions = [{"id": f"q-{n:04d}", "question": text} for n, text in enumerate(QUESTIONS)]
    solutions = [
        {
            "id": f"q-{n:04d}",
            "query": text,
            "response": f"{n} + {n % 5} = {n + n % 5}\nThe answer is \\boxed{{{n}}}.",
        }
        for n, text in enumerate(QUESTIONS)
    ]
    pairs = [
        {
            "id": f"q-{n:04d}",
            "chosen": text,
            "rejected": " ".join(text.split()[::-1]),
            "direction": "solvability",
        }
        for n, text in enumerate(QUESTIONS)
    ]
    made = {}
    for name, content in (("questions", questions), ("solutions", solutions), ("pairs", pairs)):
        made[name] = folder / f"{name}.jsonl"
        made[name].write_text("".join(json.dumps(row) + "\n" for row in content))
    return made


@pytest.fixture
def settings(model_dir: Path, tmp_path: Path) -> dict[str, Any]:
    """What every training recipe is given here; fp32, so that runs can be compared exactly."""
    return {
        "model_name_or_path": str(model_dir),
        "chat_format": "tinymath",
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 2,
        "max_length": 128,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "track": "none",
    }


@pytest.fixture(scope="session")
def train() -> Callable[..., Path]:
    """Run a recipe's `main` on settings; gives its output folder."""
    from scalequest.config import build

    modules = {name: recipe(name) for name in ("qft", "sft", "qpo", "difficulty")}

    def run(name: str, settings: Mapping[str, Any], **more: Any) -> Path:
        given = {**settings, **more}
        modules[name].main(*build(modules[name].types(), given))
        return Path(given["output_dir"])

    return run
