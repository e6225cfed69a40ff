"""What `--fresh` removes from a stage's folder, and whose files it must not touch."""

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

# What every stage writes; what else one leaves in its folder it names to `Stage.open`, for its receipt.
_EVERY = (
    *(RECEIPT, "config.yaml", "README.md", "metrics.jsonl"),
    *("data", "dropped", "parts", "data.tmp", "dropped.tmp", ".*.tmp"),
)
# What stages have written whose receipts do not name it yet.
_BEFORE = (
    *("checkpoint-*", "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "adapter", "adapter_config.json", "training_args.bin", "trainer_state.json"),
    *("not_finite", "stopped.json", "calibration.png", "holdout.jsonl", "report.html", "report.json"),
    *("pairs.html", "results.json", "audit.html", "questions.json", "prepared"),
)


def strange(folder: Path) -> str | None:
    """The name of something that a folder without a receipt holds, and that a stage would write over."""
    # A tracker may have begun to log, data may have been prepared, and a kill may have left a temporary file.
    harmless = ("metrics.jsonl", "prepared")
    found = [path.name for path in _matching(folder, (*_EVERY, *_BEFORE))]
    return next((name for name in found if name not in harmless and not name.endswith(".tmp")), None)


def remove(folder: Path, receipt: Mapping[str, Any], keep: Collection[str] = ()) -> None:
    """Remove what a stage has written, the receipt apart, which says so.

    Folders of other stages in it, as those of an evaluation's models, lose what is theirs.

    Args:
        folder: of the stage.
        receipt: as it stands there.
        keep: names that are let alone, now and when a later run goes on with what a kill has left to remove.
    """
    written = [name for name in _written(receipt) if name not in map(escape, keep)]
    # The receipt goes first, or the rest would look finished; and it goes as a note, so that after a kill
    # halfway the next run knows the folder as a stage's and clears the rest.
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
    """What a stage has left beside what every stage does, by its receipt; those of before do not say it."""
    if "writes" in receipt:
        return list(receipt["writes"])
    fields = receipt.get("fingerprint_fields", {}) if receipt.get("stage") == "evaluate" else {}
    labels = fields.get("labels", ())
    return [*_BEFORE, *map(escape, labels)]


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    found = dict.fromkeys(path for pattern in patterns for path in sorted(folder.glob(pattern)))
    # `checkpoint-500-good` is a copy that somebody made
    ours = re.compile(r"(?!checkpoint-).*|checkpoint-\d+")
    return [path for path in found if path.parent == folder and ours.fullmatch(path.name)]


# ----------------------------------------------------------------------------------------------- what is read


def refuse_overlap(output: str | Path, fresh: bool, *settings: Any) -> None:
    """Refuse an output folder that is one of the folders that are read; with `fresh`, any that meets them.

    Folders are compared by what they are on the disk, so links and other spellings make no difference.

    Args:
        output: the folder of the stage.
        fresh: whether what it holds is to be removed.
        settings: the stage's, as maps and lists: every text in them that names a stage's folder, a model's or
            a file is taken for something that is read.

    Raises:
        StageError: naming both. Nothing has been removed.
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
    """Every text in maps and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | Sequence):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from texts(inner)


def _named(text: str) -> Iterator[Path]:
    """The files and the folders of stages and models that a text names, and those that a YAML file names."""
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
    except (ConfigError, OSError, ValueError):  # not a path, or none that is there
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
    """Where a path lies: itself and the folders above it, by its name and by where links lead."""
    named, real = Path(os.path.abspath(path)), path.resolve()
    ways = [named, *named.parents, real, *real.parents]
    return {place for one in ways if (place := _place(one)) is not None}
