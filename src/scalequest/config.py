"""Strict configs: dataclasses from one YAML file and the command line.

Nothing is guessed and nothing is ignored: an unknown, renamed, duplicate, abbreviated or wrongly typed key is
a `ConfigError` of one line that names where it stands, the key, and the key that was probably meant.
Importing this module imports neither torch nor transformers, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import sys
import textwrap
import types as pytypes
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from scalequest import bounded_yaml
from scalequest.ranges import COUNT, FINITE, SEED, Range, outside, range_of
from scalequest.redaction import SECRET, is_secret, redacted

COMMAND_LINE = "command line"

# Keys that older recipes use, and what to write now.
RENAMED = {
    "max_seq_length": "max_length",
    "torch_dtype": "dtype",
    "warmup_ratio": "warmup_steps (a number below 1 is a ratio)",
    "evaluation_strategy": "eval_strategy",
    "overwrite_output_dir": "--fresh",
    "use_flash_attention_2": "attn_implementation: flash_attention_2",
    "save_safetensors": "nothing: weights are always saved so",
    "logging_dir": "the environment variable TENSORBOARD_LOGGING_DIR",
    "group_by_length": "train_sampling_strategy: group_by_length",
    "max_prompt_length": "nothing: pairs that do not fit max_length are dropped with a reason",
    "dataset_mixer": "input (a list of sources)",
    "tokenizer": "processing_class",
    "use_liger_kernel": "model_init_kwargs: {use_kernels: true}",
    "no_cuda": "use_cpu",
    "fsdp_sharding_strategy": "fsdp_reshard_after_forward",
    "task": "runner: pooling",
    "swap_space": "nothing: vLLM no longer has it",
    "build_llm_processor": "build_processor",
    "chat_template": "chat_format, or chat_template_path",
}

# Settings of transformers' TrainingArguments and TRL's configs that change no weight, and paths.
_UNFINGERPRINTED = re.compile(
    r"output_dir|run_name|report_to|project|disable_tqdm|use_cpu|push_to_hub|resume_from_checkpoint|deepspeed|fsdp.*"
    r"|accelerator_config|parallelism_config|gradient_checkpointing.*|per_device_eval.*|model_name_or_path"
    r"|(logging|log|save|hub|ddp|dataloader(?!_drop_last)|trackio|torch_compile|eval|dataset_num)_.*"
)


class ConfigError(ValueError):
    """What is wrong with a setting or an input, in one line: where, which key or row, and what to do."""

    def __init__(self, message: str) -> None:
        """Keep the message to one line, and secrets out of it."""
        super().__init__(redacted(" ".join(message.split())))


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    within: Range | None = None,
    fingerprint: bool = True,
    default_factory: Callable[[], Any] | None = None,
) -> Any:
    """Make a dataclass field with a default and a line of help.

    Args:
        default: its value when it is not given (or give `default_factory`).
        help: one line for `--help`.
        within: the range of its number, or of every number in it; each field that takes numbers has one.
        fingerprint: False where no value of it can change a row, e.g. a batch size or a path.
        default_factory: makes the default, for a list or a nested dataclass.
    """
    metadata = {"help": help, "fingerprint": fingerprint, "within": within}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def required(help: str = "", *, within: Range | None = None, fingerprint: bool = True) -> Any:
    """Make a dataclass field that has to be given (keyword only, so it may follow fields with defaults)."""
    return field(kw_only=True, metadata={"help": help, "fingerprint": fingerprint, "within": within})


@dataclass(frozen=True)
class RunOptions:
    """What every data stage and evaluation takes."""

    output_dir: str = required("folder of this stage", fingerprint=False)
    seed: int = option(42, "seed of the run; each row's seed is derived from it", within=SEED)
    limit: int | None = option(None, "only the first N inputs", within=COUNT)
    fresh: bool = option(False, "start again, removing what output_dir holds", fingerprint=False)
    block_size: int = option(256, "rows written, and redone after a crash, together", within=COUNT)
    track: Literal["wandb", "none"] = option("wandb", "wandb, offline without a key; none", fingerprint=False)
    group: str | None = option(None, "W&B group, usually the pipeline's name", fingerprint=False)


@dataclass(frozen=True)
class TrainRunOptions:
    """What the training recipes take beside the trainer's own config."""

    limit: int | None = option(None, "only the first N rows", within=COUNT)
    fresh: bool = option(False, "start again, removing what output_dir holds", fingerprint=False)
    track: Literal["wandb", "none"] = option("wandb", "wandb, offline without a key; none", fingerprint=False)
    group: str | None = option(None, "W&B group, usually the pipeline's name", fingerprint=False)


# ---------------------------------------------------------------------------------------------------- reading


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML 1.2 map: `2e-5` is a number, `no` a string, and a duplicate key an error.

    Raises:
        ConfigError: naming file and line.
    """
    loaded = load_yaml(path)
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a map of keys at the top, got {_shown(loaded)}")
    return loaded


def load_yaml(path: str | Path) -> Any:
    """Read any YAML 1.2 as `read_yaml` does; file, depth and expanded aliases are bounded.

    Raises:
        ConfigError: naming file and line.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(bounded_yaml.MOST_BYTES + 1)
        text = data.decode("utf-8") if len(data) <= bounded_yaml.MOST_BYTES else None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if text is None:
        raise ConfigError(f"{path}: larger than {bounded_yaml.MOST_BYTES:,} bytes; is it a config at all?")
    try:
        return bounded_yaml.load(text)
    except DuplicateKeyError as error:
        key = str(error.problem).partition('"')[2].partition('"')[0]
        raise ConfigError(f"{path}: line {_line(error)}: duplicate key '{key}'") from None
    except bounded_yaml.TooMuch as error:
        raise ConfigError(f"{path}: line {_line(error)}: {error.problem}") from None
    except MarkedYAMLError as error:
        raise ConfigError(f"{path}: line {_line(error)}: not YAML: {error.problem}") from None
    except Exception as error:  # what a wrong tag makes of a value fails in many ways
        raise ConfigError(f"{path}: not YAML: {type(error).__name__}: {error}") from None


def _line(error: MarkedYAMLError) -> int:
    return int(error.problem_mark.line) + 1 if error.problem_mark is not None else 1


# ----------------------------------------------------------------------------------------------------- schema


@dataclass(frozen=True)
class _Leaf:
    owner: type
    annotation: Any
    default: Any  # MISSING where the key has to be given
    help: str
    within: Range = FINITE


@dataclass
class _Schema:
    leaves: dict[str, _Leaf]  # by dotted key
    maps: dict[str, type]  # dotted keys of nested dataclasses

    @classmethod
    def of(cls, types: Sequence[type]) -> _Schema:
        schema = cls({}, {})
        for owner in types:
            schema._add(owner, owner, "", None)
        return schema

    def _add(self, owner: type, cls: type, prefix: str, base: Any) -> None:
        ours = is_ours(cls)
        for item, annotation in _fields(cls):
            key = prefix + item.name
            default = _default(item) if base is None else getattr(base, item.name)
            nested = _nested(annotation)
            if nested is not None:
                self.maps[key] = nested
                self._add(owner, nested, key + ".", default if dataclasses.is_dataclass(default) else None)
                continue
            within = range_of(item, ours=ours)
            leaf = _Leaf(owner, annotation, default, str(item.metadata.get("help", "")), within)
            known = self.leaves.setdefault(key, leaf)
            if (known.annotation, known.default) != (annotation, default):
                raise TypeError(
                    f"{key} stands in {known.owner.__name__} and, differently, in {owner.__name__}"
                )


def is_ours(cls: type) -> bool:
    """Whether a dataclass is one of this project's, made with `option` and `required`, not a library's."""
    return any("fingerprint" in item.metadata for item in dataclasses.fields(cls))


def _fields(cls: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return [(item, hints[item.name]) for item in dataclasses.fields(cls) if item.init]


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, pytypes.UnionType) else (annotation,)


def _nested(annotation: Any) -> type | None:
    """The dataclass that a field of type `X` or `X | None` holds."""
    members = [member for member in _members(annotation) if member is not type(None)]
    if len(members) != 1 or not isinstance(members[0], type) or not dataclasses.is_dataclass(members[0]):
        return None
    try:
        typing.get_type_hints(members[0])
    except NameError:  # a library's class with names that exist only while it is type-checked
        return None
    return members[0]


def _hint(key: str, schema: _Schema) -> str:
    """Say what was meant by an unknown key."""
    wanted = key.replace("-", "_").lower()
    short = wanted.rpartition(".")[2]
    known = {name: name.rpartition(".")[2] for name in [*schema.leaves, *schema.maps]}
    if short in RENAMED:
        now = RENAMED[short]
        target = re.match(r"\w*", now)
        full = [name for name, last in known.items() if target and last == target[0]]
        return f"renamed, use {now.replace(known[full[0]], full[0], 1) if full else now}"
    if short.startswith("guided_"):
        return "renamed, use structured_outputs"
    same = [name for name, last in known.items() if name == wanted or last == short]
    if key in same:
        return f"write it as a map, {short} inside {key.rpartition('.')[0]}"
    if same:
        return f"did you mean {_either(same)}?"
    started = [name for name, last in known.items() if name.startswith(wanted) or last.startswith(short)]
    if started:
        return f"keys are not abbreviated: did you mean {_either(started)}?"
    close = difflib.get_close_matches(wanted, known, n=1) or [
        name
        for last in difflib.get_close_matches(short, known.values(), n=1)
        for name in known
        if known[name] == last
    ]
    return f"did you mean {_either(close)}?" if close else "see --help for all keys"


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names[:3])


# ----------------------------------------------------------------------------------------------------- values


def _shown(value: Any, key: str = "") -> str:
    if is_secret(key.rpartition(".")[2]):
        return SECRET
    try:
        text = repr(redacted(value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else text[:79] + "…"


def _type_name(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if annotation is Any:
        return "anything"
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, pytypes.UnionType):
        names = [_type_name(member) for member in _strict(annotation)]
        return " | ".join([name for name in names if name != "null"] + ["null"] * ("null" in names))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    if annotation is dict or origin in (dict, Mapping):
        return "map"
    if origin is not None:
        return f"list of {_type_name(args[0])}" if args else "list"
    return str(getattr(annotation, "__name__", annotation))


def _strict(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; where it is `SomeEnum | str`, the string has to be one of the enum's values."""
    members = _members(annotation)
    if any(isinstance(member, type) and issubclass(member, Enum) for member in members):
        return tuple(member for member in members if member is not str)
    return members


class _OutOfRange(ConfigError):
    """A number of the right type that its setting may not have."""


def _in_range(leaf: _Leaf, value: Any, key: str, source: str) -> Any:
    """A value of the right type, if each number in it is in the leaf's range.

    Raises:
        ConfigError: naming the range.
    """
    valid = _validated(leaf.annotation, value, key, source)
    for number in outside(valid, leaf.within):
        raise _OutOfRange(f"{source}: {key}: expected {leaf.within}, got {_shown(number, key)}")
    return valid


def _validated(annotation: Any, value: Any, key: str, source: str) -> Any:
    """Check a value as YAML gives it against an annotation, building the dataclasses in lists and maps."""
    members = [member for member in _members(annotation) if member is not type(None)]
    origin, args = get_origin(members[0]), get_args(members[0])
    inner = _nested(args[0 if origin in (list, tuple) else -1]) if len(members) == 1 and args else None
    if inner is not None and origin in (list, tuple) and isinstance(value, list):
        built = [_assemble((inner,), {}, one, source, f"{key}[{i}].")[0] for i, one in enumerate(value)]
        return tuple(built) if origin is tuple else built
    if inner is not None and origin is dict and isinstance(value, dict):
        return {
            name: _assemble((inner,), {}, one, source, f"{key}.{name}.")[0] for name, one in value.items()
        }
    try:
        # Strict validation of JSON is what a YAML value needs: 1 will do for a float, and an enum or a path
        # is given as a string; but "1" is no number, and 1 no boolean.
        union: Any = Union[_strict(annotation)]  # noqa: UP007
        return TypeAdapter(union).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError:
        expected = _type_name(annotation)
        raise ConfigError(f"{source}: {key}: expected {expected}, got {_shown(value, key)}") from None
    except (PydanticUserError, TypeError):
        raise ConfigError(f"{source}: {key}: cannot be set from a config") from None
    except ValueError:  # JSON holds no integer of more than 4,300 digits
        raise ConfigError(f"{source}: {key}: expected {FINITE}, got {_shown(value, key)}") from None


def _from_words(leaf: _Leaf, words: Sequence[str], key: str) -> Any:
    """Read the words after `--key` as its type needs them.

    Each word is YAML where the type accepts what YAML makes of it (numbers, true, null, `[a, b]`, `{a: 1}`),
    and itself where not; several words are a list; no word is true.
    """
    if not words:
        try:
            return _in_range(leaf, True, key, COMMAND_LINE)
        except ConfigError:
            raise ConfigError(
                f"{COMMAND_LINE}: {key}: needs a value, {_type_name(leaf.annotation)}"
            ) from None
    read = [_word(word) for word in words]
    tries: list[Any] = [read, list(words)]
    if len(words) == 1:
        tries = [read[0], words[0]] + ([] if words[0].startswith("[") else tries)
    for value in tries:
        try:
            return _in_range(leaf, value, key, COMMAND_LINE)
        except _OutOfRange:
            raise
        except ConfigError:
            continue
    expected = _type_name(leaf.annotation)
    raise ConfigError(f"{COMMAND_LINE}: {key}: expected {expected}, got {_shown(' '.join(words), key)}")


def _word(word: str) -> Any:
    try:
        value = bounded_yaml.load(word)
    except Exception:  # no YAML, which fails in many ways, or too much of it
        return word
    # YAML would strip quotes and comments off a plain string.
    return word if isinstance(value, str) or (value is None and word not in ("null", "~")) else value


# --------------------------------------------------------------------------------------------------- building


@dataclass
class _Given:
    """What file and command line gave: checked values by dotted key, and where each came from."""

    values: dict[str, Any] = field(default_factory=dict)
    maps: set[str] = field(default_factory=set)
    sources: list[str] = field(default_factory=list)


def _take_map(
    given: _Given, schema: _Schema, mapping: Mapping[Any, Any], source: str, prefix: str = "", at: str = ""
) -> None:
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if not isinstance(name, str) or "." in name or key not in {*schema.leaves, *schema.maps}:
            raise ConfigError(f"{source}: unknown key '{at}{key}'; {_hint(key, schema)}")
        if key in schema.leaves:
            given.values[key] = _in_range(schema.leaves[key], value, at + key, source)
        elif value is None:
            given.values[key] = None
        elif isinstance(value, Mapping):
            given.maps.add(key)
            given.values.pop(key, None)
            _take_map(given, schema, value, source, key + ".", at)
        else:
            raise ConfigError(f"{source}: {at}{key}: expected a map of keys, got {_shown(value, key)}")


def _take_words(given: _Given, schema: _Schema, key: str, words: Sequence[str]) -> None:
    if key in schema.leaves:
        given.values[key] = _from_words(schema.leaves[key], words, key)
        parent = key.rpartition(".")[0]
        while parent:
            given.values.pop(parent, None)
            parent = parent.rpartition(".")[0]
    elif key in schema.maps:
        value = _word(" ".join(words))
        nested = {key.rpartition(".")[2]: value}
        _take_map(given, schema, nested, COMMAND_LINE, key[: -len(key.rpartition(".")[2])])
    else:
        raise ConfigError(f"{COMMAND_LINE}: unknown key '--{key}'; {_hint(key, schema)}")


def _make(cls: type, given: _Given, schema: _Schema, prefix: str, base: Any, at: str = "") -> Any:
    """Make one dataclass from what was given, over its defaults or over the default of the field it fills."""
    arguments: dict[str, Any] = {}
    for item, annotation in _fields(cls):
        key = prefix + item.name
        default = _default(item) if base is None else getattr(base, item.name)
        nested = _nested(annotation)
        started = key in given.maps or any(name.startswith(key + ".") for name in given.values)
        if key in given.values:
            if given.values[key] is None and nested is not None and type(None) not in _members(annotation):
                raise ConfigError(f"{_where(given)}: {at}{key}: expected a map of keys, got null")
            arguments[item.name] = given.values[key]
        elif nested is not None and (started or default is MISSING):
            inner = default if dataclasses.is_dataclass(default) else None
            arguments[item.name] = _make(nested, given, schema, key + ".", inner, at)
        elif default is MISSING:
            raise ConfigError(
                f"{_where(given)}: required key '{at}{key}' is missing ({item.metadata.get('help', '')})"
            )
    try:
        return cls(**arguments) if base is None else dataclasses.replace(base, **arguments)
    except Exception as error:  # whatever a library's __post_init__ raises is about these settings
        shown = str(error) if isinstance(error, ConfigError) else f"{cls.__name__}: {error}"
        raise ConfigError(f"{_where(given)}: {shown}") from error


def _where(given: _Given) -> str:
    return " and ".join(given.sources) or COMMAND_LINE


def _assemble(
    types: Sequence[type],
    words: Mapping[str, Sequence[str]],
    mapping: Any,
    source: str | None,
    at: str = "",
) -> tuple[Any, ...]:
    schema = _Schema.of(types)
    given = _Given(sources=[name for name in (source, COMMAND_LINE if words else None) if name])
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{source}: {at.rstrip('.')}: expected a map of keys, got {_shown(mapping)}")
    for key in words:  # typos first: they explain what follows
        if key not in schema.leaves and key not in schema.maps:
            _take_words(given, schema, key, ())
    _take_map(given, schema, mapping, source or COMMAND_LINE, at=at)
    for key, value in words.items():
        _take_words(given, schema, key, value)
    return tuple(_make(cls, given, schema, "", None, at) for cls in types)


def build(types: Sequence[type], mapping: Mapping[str, Any], source: str = "config") -> tuple[Any, ...]:
    """Make the dataclasses of `types` from one map, as `parse` does from a file.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    return _assemble(types, {}, mapping, source)


# ----------------------------------------------------------------------------------------------- command line


def parse(*types: type, argv: Sequence[str] | None = None, description: str = "") -> tuple[Any, ...]:
    """Make the dataclasses of `types` from `--config FILE` and `--key value`, the latter winning.

    Keys of all types share one flat name space; nested dataclasses are maps in YAML and dotted keys on the
    command line. On an error, prints `error: ...` (local rank 0 only) and exits with 2; on `--help`, prints
    all keys and exits.

    Args:
        types: dataclasses, ours or TRL's; a key may stand in two of them only where both mean the same.
        argv: the words after the script's name.
        description: the head of `--help`, usually the script's docstring.

    Returns:
        One instance of each type, in their order.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        words = _split(argv)
        if "help" in words:
            print(_help(types, description))
            raise SystemExit(0)
        path = words.pop("config", None)
        if path is None:
            return _assemble(types, words, {}, None)
        if len(path) != 1:
            raise ConfigError(f"{COMMAND_LINE}: --config: expected one file, got {len(path)}")
        return _assemble(types, words, read_yaml(path[0]), path[0])
    except ConfigError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _split(argv: Sequence[str]) -> dict[str, list[str]]:
    """Sort words by the `--key` they follow; `--key=value` takes exactly one."""
    words: dict[str, list[str]] = {}
    key: str | None = None
    for word in argv:
        if word == "-h":
            words["help"] = []
        elif word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            if key in words:
                raise ConfigError(f"{COMMAND_LINE}: duplicate key '--{key}'")
            words[key] = [value] if equals else []
            key = None if equals else key
        elif key is None:
            raise ConfigError(f"{COMMAND_LINE}: unexpected '{word}': settings are given as --key value")
        else:
            words[key].append(word)
    return words


def _help(types: Sequence[type], description: str) -> str:
    schema = _Schema.of(types)
    script = Path(sys.argv[0]).name or "python"
    lines = [f"usage: {script} [--config FILE] [--key value ...]", ""]
    if description:
        lines += [
            line for text in description.strip().splitlines() for line in textwrap.wrap(text, 110) or [""]
        ] + [""]
    lines += textwrap.wrap(
        "--config FILE is a YAML file of the keys below, nested ones as maps; the command line wins over it. "
        "Write a list as --key a b, a map as --key '{a: 1}', true as --key or --key true. "
        "Keys are spelled out in full.",
        110,
    )
    for owner in types:
        lines += ["", f"{owner.__name__}:"]
        for key, leaf in schema.leaves.items():
            if leaf.owner is not owner:
                continue
            default = "required" if leaf.default is MISSING else f"default: {_plain(leaf.default)}"
            bounds = "" if leaf.within == FINITE else f"; {leaf.within}"
            lines.append(f"  --{key}  {_type_name(leaf.annotation)}  ({default}{bounds})")
            if leaf.help:
                text = textwrap.shorten(" ".join(leaf.help.split()), 300, placeholder=" …")
                lines += textwrap.wrap(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return json.dumps(_jsonable(value), ensure_ascii=False).strip('"')


# ---------------------------------------------------------------------------------------------------- records


def to_dict(config: Any) -> dict[str, Any]:
    """Everything a config holds, as JSON could hold it; secrets are left out."""
    held: dict[str, Any] = redacted(_fields_of(config))
    return held


def _fields_of(config: Any) -> dict[str, Any]:
    return {
        item.name: _jsonable(getattr(config, item.name)) for item in dataclasses.fields(config) if item.init
    }


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields_of(value)
    if isinstance(value, Enum):
        return _jsonable(value.value)
    if isinstance(value, Mapping):
        return {str(key): _jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(one) for one in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def fingerprint_fields(config: Any) -> dict[str, Any]:
    """The settings that can change a row or a weight, as JSON could hold them.

    Ours are marked by `option(..., fingerprint=False)`. Of a library's config (no field is marked) those are
    taken that differ from the library's default, logging, saving and hardware apart: so a new release of the
    library that adds a setting does not make a finished stage look changed. Secrets are left out, and a new
    key changes nothing.
    """
    ours = is_ours(type(config))
    out: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        if not item.init or not item.metadata.get("fingerprint", True):
            continue
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            out[item.name] = fingerprint_fields(value)
            continue
        plumbing = not ours and _UNFINGERPRINTED.fullmatch(item.name)
        if plumbing or (not ours and _jsonable(value) == _jsonable(_default(item))):
            continue
        out[item.name] = _jsonable(value)
    kept: dict[str, Any] = redacted(out, environment=False)
    return kept
