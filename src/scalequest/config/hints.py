"""Suggest the key that was probably meant by an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from scalequest.config.schema import Schema

# Keys of older recipes and other tools, with their replacements (suggested only if the recipe has them) and a
# note.
RENAMED: dict[str, tuple[tuple[str, ...], str]] = {
    "max_seq_length": (("max_length",), ""),
    "torch_dtype": (("dtype",), ""),
    "warmup_ratio": (("warmup_steps",), "a value below 1 is a ratio"),
    "evaluation_strategy": (("eval_strategy",), ""),
    "overwrite_output_dir": (("fresh",), "it starts again and removes the contents of output_dir"),
    "use_flash_attention_2": (("attn_implementation",), "attn_implementation: flash_attention_2"),
    "group_by_length": (("train_sampling_strategy",), "train_sampling_strategy: group_by_length"),
    "dataset_mixer": (("input",), "a list of sources"),
    "no_cuda": (("use_cpu",), ""),
    "chat_template": (("chat_format", "chat_template_path"), ""),
}

# Keys without a replacement: a key that identifies the recipes they could have belonged to, and a note.
REMOVED: dict[str, tuple[str, str]] = {
    "save_safetensors": ("save_strategy", "weights are always saved as safetensors"),
    "logging_dir": ("logging_steps", "set the environment variable TENSORBOARD_LOGGING_DIR"),
    "max_prompt_length": ("max_length", "rows longer than 'max_length' are dropped with a reason"),
    "swap_space": ("gpu_memory_utilization", "vLLM removed it"),
}


def hint_for(key: str, schema: Schema) -> str:
    """Return a hint for an unknown key; it only suggests keys of the schema."""
    wanted = key.replace("-", "_").lower()
    short = wanted.rpartition(".")[2]
    last_part = {name: name.rpartition(".")[2] for name in [*schema.leaves, *schema.maps]}
    same = [name for name, last in last_part.items() if name == wanted or last == short]
    if key in same:
        return f"write it as a mapping, {short} inside {key.rpartition('.')[0]}"
    if same:
        return f"did you mean {_either(same)}?"
    names, note = RENAMED.get(short, ((), ""))
    if now := [name for one in names for name, last in last_part.items() if last == one]:
        return f"renamed: use {_either(now)}" + (f" ({note})" if note else "")
    beside, note = REMOVED.get(short, ("", ""))
    if beside in last_part.values():
        return f"no longer a setting: {note}"
    return _closest(wanted, short, last_part)


def _closest(wanted: str, short: str, last_part: dict[str, str]) -> str:
    started = [n for n, last in last_part.items() if n.startswith(wanted) or last.startswith(short)]
    if started:
        return f"keys cannot be abbreviated; did you mean {_either(started)}?"
    close = difflib.get_close_matches(wanted, last_part, n=1)
    if not close:
        parts = difflib.get_close_matches(short, last_part.values(), n=1)
        close = [name for name, last in last_part.items() if last in parts]
    return f"did you mean {_either(close)}?" if close else "see --help for all keys"


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names[:3])
