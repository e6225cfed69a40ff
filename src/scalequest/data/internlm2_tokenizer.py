"""Build InternLM2's tokenizer for transformers from its SentencePiece file, without the model's own code.

The repositories of this model family contain `tokenizer.model`, a SentencePiece byte-pair model, and Python
code that reads it, written for transformers 4. `fast_tokenizer` parses the file and sets up the same steps in
the `tokenizers` library: the file's normaliser, its merges by score, and bytes for text without a piece. It
does not use SentencePiece's loader, which since version 0.2.1 refuses InternLM2's file because of a piece
that contains NUL.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scalequest.chat import bind, load_format, load_tokenizer
from scalequest.config import ConfigError
from scalequest.data.fetch import FetchError, discard
from scalequest.data.prepare import Outcome, Places
from scalequest.data.sources import Extra, Source

_SPACE = "▁"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # types of SentencePiece pieces
_BPE = 2
FILES = ("tokenizer.model", "tokenizer_config.json")


def write_tokenizer(
    extra: Extra, places: Places, folder: Path, model_dir: Path | None, say: Callable[[str], None]
) -> Outcome:
    """Write the folder of the fast tokenizer, unless it exists and can be loaded.

    Args:
        extra: the entry in the table of sources.
        places: where to look for the two files if `model_dir` is None.
        folder: the output folder.
        model_dir: a snapshot of the model.
        say: called with a line if the tokenizer cannot be built.
    """
    source = str(model_dir) if model_dir else extra.sources[0].label

    def outcome(status: str, done: bool = True) -> Outcome:
        return Outcome(extra.name, None, extra.licence, source, status, done)

    if (folder / "tokenizer.json").exists():
        return outcome(f"exists already: {folder}")
    try:
        files = {Path(one.path).name: _read(one, model_dir, places) for one in extra.sources}
        settings = json.loads(files["tokenizer_config.json"])
        tokenizer = fast_tokenizer(files["tokenizer.model"], settings)
        _save(tokenizer, settings, folder)
    except (ConfigError, FetchError, ValueError) as error:
        say(f"{extra.name}: {error}")
        return outcome("MISSING", done=False)
    for one in extra.sources:
        discard(places.part(one))
    return outcome(f"made: {folder}")


def _read(source: Source, model_dir: Path | None, places: Places) -> bytes:
    if model_dir is None:
        return places.read(source, source.path)
    path = model_dir / source.path
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; set --model_dir to a folder that contains {' and '.join(FILES)}"
        ) from None


def fast_tokenizer(model: bytes, settings: Mapping[str, Any]) -> Any:
    """Build a `tokenizers.Tokenizer` that encodes like a SentencePiece byte-pair model, after a BOS.

    Args:
        model: the content of the SentencePiece file.
        settings: the content of tokenizer_config.json: the names of special tokens, which replace the model's
            pieces with the same ids, and whether a BOS comes first.

    Raises:
        ConfigError: it is not a SentencePiece file, or one of another kind.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    proto = _parsed(model)
    named = {int(n): one for n, one in settings.get("added_tokens_decoder", {}).items()}
    names = [named.get(n, {}).get("content", piece.piece) for n, piece in enumerate(proto.pieces)]
    vocabulary = {name: number for number, name in enumerate(names)}
    scores = {
        piece.piece: piece.score
        for n, piece in enumerate(proto.pieces)
        if piece.type == _NORMAL and n not in named
    }
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            _merges(scores, vocabulary),
            unk_token=proto.trainer_spec.unk_piece,
            fuse_unk=True,
            byte_fallback=bool(proto.trainer_spec.byte_fallback),
        )
    )
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)
    for number, piece in enumerate(proto.pieces):
        special = number in named or piece.type in (_UNKNOWN, _CONTROL)
        if special:
            tokenizer.add_special_tokens([AddedToken(names[number], normalized=False, special=True)])
        elif piece.type == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(names[number], normalized=False, special=False)])
    bos = _token(settings, "bos_token", "<s>")
    if settings.get("add_bos_token", True):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    return tokenizer


def _parsed(model: bytes) -> Any:
    # A process can load the description of this file format once, from whichever package transformers uses.
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        proto = import_protobuf().ModelProto.FromString(model)
    except Exception as error:  # protobuf's own exception type
        raise ConfigError(f"tokenizer.model: not a SentencePiece file: {error}") from None
    if proto.trainer_spec.model_type != _BPE or not proto.pieces:
        raise ConfigError("tokenizer.model: expected a byte-pair SentencePiece model like InternLM2's")
    return proto


def _merges(scores: Mapping[str, float], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return every way to merge two pieces into a third, in SentencePiece's order."""
    found = [
        (-score, -len(left), vocabulary[left], left, right)
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in scores and (right := piece[cut:]) in scores
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def _normalizer(spec: Any) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _token(settings: Mapping[str, Any], key: str, usual: str) -> str:
    value = settings.get(key) or usual
    return str(value["content"] if isinstance(value, Mapping) else value)


def _save(tokenizer: Any, settings: Mapping[str, Any], folder: Path) -> None:
    """Write the folder atomically, after checking that the reward model's chat format accepts it."""
    from transformers import PreTrainedTokenizerFast

    tokens = {
        key: _token(settings, key, usual)
        for key, usual in (
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "</s>"),
        )
    }
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, padding_side="left", **tokens
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tokenizer-") as temporary:
        made = Path(temporary) / "tokenizer"
        fast.save_pretrained(made)
        bind(load_format("internlm2_reward"), load_tokenizer(str(made)))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
