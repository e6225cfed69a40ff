"""What `--fresh` removes from a stage's folder, and which files it must not touch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from glob import escape, glob
from pathlib import Path
from typing import Any

from scalequest.atomic_files import StageError, as_json, write
from scalequest.config import ConfigError, read_yaml
from scalequest.receipts import RECEIPT, read_receipt
from scalequest.records import expand, whole_source

# Files that every stage writes; a stage passes the names of any others to `Stage.open`, for its receipt.
_EVERY = (
    *(RECEIPT, "config.yaml", "README.md", "metrics.jsonl"),
    *("data", "dropped", "parts", "data.tmp", "dropped.tmp", ".*.tmp"),
)
# Files of stages whose receipts do not list them yet.
_BEFORE = (
    *("checkpoint-*", "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "adapter", "adapter_config.json", "training_args.bin", "trainer_state.json"),
    *("not_finite", "stopped.json", "calibration.png", "holdout.jsonl", "report.html", "report.json"),
    *("pairs.html", "results.json", "audit.html", "questions.json", "prepared"),
)


def strange(folder: Path) -> str | None:
    """Return a file that exists in a folder without a receipt and that a stage would overwrite."""
    # A tracker may have started to log, data may have been prepared, and a kill may have left a temporary
    # file.
    harmless = ("metrics.jsonl", "prepared")
    found = [path.name for path in _matching(folder, (*_EVERY, *_BEFORE))]
    return next((name for name in found if name not in harmless and not name.endswith(".tmp")), None)


def remove(folder: Path, receipt: Mapping[str, Any], keep: Collection[str] = ()) -> None:
    """Remove what a stage has written; its receipt is replaced by a note that says so.

    Folders of other stages inside, e.g. of an evaluation's models, are cleared likewise.

    Args:
        folder: the stage's folder.
        receipt: the receipt found there.
        keep: names that are kept, now and when a later run finishes a removal interrupted by a kill.
    """
    written = [name for name in _written(receipt) if name not in map(escape, keep)]
    # The receipt goes first, because the rest would otherwise look finished. It is replaced by a note, so
    # that after a kill halfway, the next run recognises the folder as a stage's and clears the rest.
    write(folder / RECEIPT, as_json({**receipt, "writes": written, "finished": False, "removing": True}))
    for path in _matching(folder, (*_EVERY, *written)):
        if path.name == RECEIPT:
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif (inner := read_receipt(path)) is not None:
            remove(path, inner)
            if {left.name for left in path.iterdir()} <= {RECEIPT, ".lock"}:
                shutil.rmtree(path)
        else:
            shutil.rmtree(path)


def _written(receipt: Mapping[str, Any]) -> Sequence[str]:
    """Return the files that only this stage writes, by its receipt; old receipts do not list them."""
    if "writes" in receipt:
        return list(receipt["writes"])
    fields = receipt.get("fingerprint_fields", {}) if receipt.get("stage") == "evaluate" else {}
    labels = fields.get("labels", ())
    return [*_BEFORE, *map(escape, labels)]


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    found = dict.fromkeys(path for pattern in patterns for path in sorted(folder.glob(pattern)))
    # `checkpoint-500-good` is a copy made by the user
    ours = re.compile(r"(?!checkpoint-).*|checkpoint-\d+")
    return [path for path in found if path.parent == folder and ours.fullmatch(path.name)]


# ----------------------------------------------------------------------------------------------- what is read


def refuse_overlap(output: str | Path, fresh: bool, *settings: Any) -> None:
    """Refuse an output folder that is also an input; with `fresh`, also one that overlaps an input.

    Folders are compared by their identity on disk, so links and different spellings make no difference.

    Args:
        output: the stage's folder.
        fresh: whether its content is about to be removed.
        settings: the stage's settings as mappings and lists; every string in them that names a stage folder,
            a model folder or a file counts as an input.

    Raises:
        StageError: names both folders. Nothing has been removed.
    """
    folder = Path(output).absolute()
    above = _places(folder)
    here = _place(folder)
    for text in texts(settings):
        for path in _named(text):
            source = _place(path)
            inside = here is not None and here in _places(path)
            if source == here and path.is_dir():
                raise StageError(
                    f"output_dir: {output} is '{text}', which this stage reads; choose another output_dir"
                )
            if fresh and (inside or (path.is_dir() and source in above)):
                raise StageError(
                    f"output_dir: {output} {'contains' if inside else 'is inside'} '{text}', which "
                    "this stage reads, and --fresh would remove it; choose another output_dir"
                )


def texts(value: Any) -> Iterator[str]:
    """Yield every string in mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | Sequence):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from texts(inner)


def _named(text: str) -> Iterator[Path]:
    """Yield the files, stage folders and model folders named in a string, or in a YAML file that it names."""
    for path in _there(text):
        yield path
        if path.suffix in (".yaml", ".yml") and path.is_file():
            with suppress(ConfigError):
                for inner in texts(read_yaml(path)):
                    yield from _there(inner)
                    yield from _there(str(path.parent / inner))


def _there(text: str) -> list[Path]:
    try:
        path = str(expand(whole_source(text)))
        found = [Path(one) for one in (glob(path) if "*" in path else [path] if text else [])]
        return [one for one in found if one.is_file() or (one.is_dir() and _is_source(one))]
    except (ConfigError, OSError, ValueError):  # not a path, or it does not exist
        return []


def _is_source(folder: Path) -> bool:
    names = (RECEIPT, "config.json", "adapter_config.json")
    return any((folder / name).exists() for name in names)


def _place(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _places(path: Path) -> set[tuple[int, int]]:
    """Return a path and the folders above it, by name and with links resolved."""
    named, real = Path(os.path.abspath(path)), path.resolve()
    ways = [named, *named.parents, real, *real.parents]
    return {place for one in ways if (place := _place(one)) is not None}
