"""After training: a model that loads whole, its card, and the hub if that was asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
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
_QUESTION = "What is 12 + 7?"
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
    data: Sequence[str],
    use: str,
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
        data: hub ids of what it was trained on.
        use: section on how it is asked, of `use_of`.
        scorer: it gives one number instead of text.
        section: on its evaluation.
    """
    task = "text-classification" if scorer else "text-generation"
    comes_from = {
        **({"base_model": base, "base_model_relation": "finetune"} if base else {}),
        **({"datasets": list(data)} if data else {}),
    }
    shown = redacted(dict(facts)).items()
    return "\n".join(
        [
            "---", "library_name: transformers", f"pipeline_tag: {task}", f"tags: [scalequest, {stage}]",
            *front_matter(comes_from).splitlines(), "---", "",
            f"# {inline(title)}", "", note, "",
            *markdown_table([{"what": key, "value": value} for key, value in shown], "what", "value"), "",
            "## Use", "", use, "",
            "## Evaluation", "", section or "Not evaluated yet: `eval/evaluate.py` on this folder.", "",
        ]
    )  # fmt: skip


_PIPELINE = """\
```python
from transformers import pipeline

model = pipeline("text-generation", model="{folder}")
print(model([{{"role": "user", "content": "{text}"}}], max_new_tokens=512, return_full_text=False))
```

```bash
vllm serve {folder}
curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{folder}", "messages": [{{"role": "user", "content": "{text}"}}]}}'
```"""
_LOADED = """\
```python
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = {auto}.from_pretrained("{folder}", dtype="auto")
```"""


def use_of(folder: str, chat_format: str, tokenizer: Any, scorer: bool) -> str:
    """The section of a card on how the model is asked: its prompt in words, and the code.

    Args:
        folder: the model's folder, as the code names it.
        chat_format: name of the format that it was trained in.
        tokenizer: as it is saved; its chat template is what is shown.
        scorer: it gives one number instead of text.
    """
    folder, named = re.sub(r"[^\w./-]", "-", folder), f"Chat format: {code(chat_format)}."
    auto = "AutoModelForSequenceClassification" if scorer else "AutoModelForCausalLM"
    loaded = _LOADED.format(auto=auto, folder=folder)
    if tokenizer.chat_template is None:
        return f"{named} There is no chat template: none can give what the model was trained on.\n\n{loaded}"
    text, asks = _QUESTION, "A question is put into this, instruction included"
    try:
        shown = _prompt(tokenizer, text)
    except TemplateError:  # one that writes questions takes none
        text, asks = "", "It writes a question by itself: send an empty message. What it is given"
        shown = _prompt(tokenizer, text)
    example = loaded if scorer else _PIPELINE.format(folder=folder, text=text)
    fenced = "\n".join(f"    {line}" for line in shown.split("\n"))
    return f"{named} {asks}, by the chat template that the tokenizer carries:\n\n{fenced}\n\n{example}"


def _prompt(tokenizer: Any, text: str) -> str:
    asked = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))


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
