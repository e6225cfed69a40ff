"""After training: a model that loads whole, its card, and the hub if that was asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from scalequest.atomic_files import StageError
from scalequest.chat import ChatFormat, prepare_tokenizer_and_model
from scalequest.models import check_safetensors, loading, missing
from scalequest.pages.cards import markdown_table
from scalequest.pages.markup import code, front_matter, inline
from scalequest.redaction import redacted

# What training leaves in a model's folder beside what every stage leaves there: `fresh` removes it. Other
# files that saving a tokenizer or a model's own code writes are noted when it is saved.
SAVED = (
    *("checkpoint-*", "adapter", "*.safetensors", "*.safetensors.index.json", "config.json"),
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "chat_template.jinja", "training_args.bin", "trainer_state.json"),
)
NOT_PUBLISHED = (
    # Patterns of the whole path, as the hub reads them.
    "checkpoint-*", "prepared/*", "wandb/*", "not_finite/*", "metrics.jsonl", "stopped.json", ".*",
    "training_args.bin",  # a pickle
)  # fmt: skip


def check_model(
    folder: Path, prompt_ids: Sequence[int], scorer: bool = False, trust_remote_code: bool = False
) -> None:
    """Load a saved model as anyone would, run a prompt through it and let it generate.

    Args:
        folder: of the model.
        prompt_ids: any prompt.
        scorer: it returns one number and generates nothing.
        trust_remote_code: its class may come from its own repository.

    Raises:
        StageError: weights are missing or empty, or what it computes is not finite.
    """
    auto = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    with loading(folder):
        model, report = auto.from_pretrained(
            folder,
            dtype="auto",
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    if faults := missing(report):
        raise StageError(
            f"{folder}: the saved model is not whole: {', '.join(faults[:3])} ({len(faults)} weights)"
        )
    prompt = torch.tensor([list(prompt_ids)])
    with torch.no_grad():
        logits = model(prompt).logits
    if not bool(torch.isfinite(logits).all()):
        raise StageError(
            f"{folder}: the saved model computes values that are not finite: training has diverged"
        )
    if not scorer:
        model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)


def merge_adapter(
    base: str,
    adapter: Path,
    folder: Path,
    *,
    dtype: Any,
    revision: str | None = None,
    prepared: tuple[Any, ChatFormat] | None = None,
    scorer: bool = False,
) -> None:
    """Add a LoRA adapter to its base and save the sum, which every engine loads as any other model.

    Args:
        base: folder or hub id of the model that the adapter was trained on.
        adapter: folder of the adapter.
        folder: for the sum and the tokenizer.
        dtype: of the sum.
        revision: of the base on the hub.
        prepared: tokenizer and chat format to which the base is brought first, as before training.
        scorer: the base becomes a sequence classifier with one label.
    """
    from peft import PeftModel

    auto: Any = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    extra = {"num_labels": 1, "problem_type": "regression"} if scorer else {}
    check_safetensors(adapter)
    if Path(base).is_dir():
        check_safetensors(base)
    with loading(base):
        model = auto.from_pretrained(base, revision=revision, dtype=dtype, use_safetensors=True, **extra)
    if prepared is not None:
        prepare_tokenizer_and_model(model, *prepared)
        prepared[0].save_pretrained(folder)
    with loading(adapter):
        whole = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    whole.save_pretrained(folder)


def model_card(
    title: str,
    stage: str,
    note: str,
    facts: Sequence[tuple[str, Any]],
    *,
    base: str | None,
    chat_format: str,
    scorer: bool,
    section: str = "",
) -> str:
    """The README.md of a model folder: what the model is and comes from, its settings, and how to load it.

    Args:
        title: of the page.
        stage: that made the model.
        note: one sentence on what it is for.
        facts: names and values.
        base: hub id of what it was trained from, if it has one.
        chat_format: that it was trained in.
        scorer: it gives one number instead of text.
        section: on its evaluation.
    """
    task = "text-classification" if scorer else "text-generation"
    auto = "AutoModelForSequenceClassification" if scorer else "AutoModelForCausalLM"
    shown = redacted(dict(facts)).items()
    return "\n".join(
        [
            "---", "library_name: transformers", f"pipeline_tag: {task}", f"tags: [scalequest, {stage}]",
            *(front_matter({"base_model": base}).splitlines() if base else []), "---", "",
            f"# {inline(title)}", "", note, "",
            *markdown_table([{"what": key, "value": value} for key, value in shown], "what", "value"), "",
            f"Chat format: {code(chat_format)}.", "",
            "```python", f"from transformers import {auto}, AutoTokenizer",
            f'model = {auto}.from_pretrained(folder, dtype="auto")',
            "tokenizer = AutoTokenizer.from_pretrained(folder)", "```", "",
            "## Evaluation", "", section or "Not evaluated yet: `eval/evaluate.py` on this folder.", "",
        ]
    )  # fmt: skip


def hardware(processes: int) -> str:
    """The hardware of a run, in words."""
    if torch.cuda.is_available():
        return f"{processes} x {torch.cuda.get_device_name()}"
    return f"{processes} process(es) on {os.cpu_count()} CPU cores"


def publish(folder: Path, args: Any) -> str:
    """Upload a finished model folder, checkpoints and logs left out; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=args.hub_token)
    repository = api.create_repo(
        args.hub_model_id or folder.name, private=args.hub_private_repo, exist_ok=True
    ).repo_id
    said = api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=list(NOT_PUBLISHED))
    return str(said.commit_url)
