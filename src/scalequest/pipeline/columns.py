"""Whether the inputs of a stage have the columns that it needs, before anything runs.

An input that exists is opened, and its first rows looked at, under the names that are guessed for them. Of
one that an earlier stage will make, only that is said which is certain: some stages write rows of their own,
and others pass rows on and add to them. What comes from anywhere else may have any column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalequest.atomic_files import StageError
from scalequest.config import ConfigError
from scalequest.records import expand, read_columns, read_inputs, whole_source
from scalequest.samples import SAMPLE_COLUMNS

# Columns that every input row of a recipe must have (of `select_solutions` and `score`, by their settings).
NEEDED: dict[str, tuple[str, ...]] = {
    "qft": ("question",),
    "qpo": ("chosen", "rejected"),
    "simpo": ("chosen", "rejected"),
    "kto": ("chosen", "rejected"),
    "orpo": ("chosen", "rejected"),
    "grpo": ("question",),
    "sft": ("query", "response"),
    "difficulty": ("question",),
    "reward": ("question", "responses", "answers", "finish_reasons"),
    "optimize_questions": ("question",),
    "filter_questions": ("question",),
    "solve_questions": ("question",),
    "assemble_dataset": ("query", "response"),
}
# All columns that the rows of these stages may have,
WRITTEN: dict[str, frozenset[str]] = {
    "generate_questions": frozenset({"id", "question", "generator", "seed", "finish_reason", "tokens"}),
    "optimize_questions": frozenset({"id", "direction", "rejected", "chosen", "generator"}),
    "rank_questions": frozenset(
        {"id", "chosen", "rejected", "direction", "generator", "rejected_id", "scores"}
    ),
    "select_solutions": frozenset(
        {"id", "query", "response", "answer", "agreement", "reward", "margin", "generator", "solver"}
        | {"reward_model", "from_id"}
    ),
    "assemble_dataset": frozenset(
        {"id", "query", "response", "answer", "generator", "solver", "reward_model", "agreement", "reward"}
        | {"margin", "source"}
    ),
}
# and those that these stages may add to the rows that they pass on.
_SAMPLED = frozenset({*SAMPLE_COLUMNS, "agreement"})
_LEVEL = frozenset({"difficulty_level", "difficulty_score", "difficulty_text", "difficulty_fault"})
ADDED: dict[str, frozenset[str]] = {
    "filter_questions": frozenset(
        {"id", "fail_rate", "duplicate_of", "matches", "matches_by", "verdict", "verdicts", "rules_disagree"}
        | {"verdict_by_substring", "verdict_text", "verdict_finish_reason", "verdict_fault", "verdict_tokens"}
        | _SAMPLED
        | _LEVEL
    ),
    "solve_questions": frozenset({"id", "solver", "generator"} | _SAMPLED),
    "score": frozenset(
        {"id", "rewards", "step_rewards", "reward_model", "reward_faults", "difficulty", "difficulty_by"}
        | _LEVEL
    ),
}
_LOOKED_AT = 1_000  # rows of each input

# Folders that stages of this run make, with the columns that they may have; None if that is not known.
Made = Mapping[str, frozenset[str] | None]
# Why an input cannot be read, or None, by its source and what is needed of it.
Seen = dict[tuple[object, ...], Exception | None]


def needed(recipe: str, values: Sequence[Any]) -> tuple[str, ...]:
    """Columns that every input row must have.

    Args:
        recipe: its name.
        values: its settings.
    """
    for value in values:
        if recipe == "score" and hasattr(value, "what"):
            return ("question", "responses", "finish_reasons") if value.what == "responses" else ("question",)
        if recipe == "select_solutions" and hasattr(value, "needed"):
            return tuple(value.needed)
    return NEEDED.get(recipe, ())


def written(recipe: str, values: Sequence[Any], made: Made) -> frozenset[str] | None:
    """Which columns the rows of a stage may have; None if that is not certain."""
    if recipe in WRITTEN:
        return WRITTEN[recipe]
    before = [_made(source, made) for source in sources(values)]
    if recipe not in ADDED or not before or None in before:
        return None
    renamed = _renamed(values)
    return ADDED[recipe].union(*(_under(renamed, columns) for columns in before if columns is not None))


def _under(renamed: Mapping[str, str], columns: frozenset[str]) -> frozenset[str]:
    """Return columns as a stage reads them, under our names."""
    found = {ours: theirs for ours, theirs in renamed.items() if theirs in columns}
    return (columns - set(found.values())) | set(found)


def _absent(keys: Sequence[str], renamed: Mapping[str, str], columns: frozenset[str]) -> list[str]:
    """Say which of the columns that a stage needs the rows of an earlier stage will not have."""
    absent = [key for key in keys if key not in _under(renamed, columns)]
    return [
        f"'{renamed[key]}', which is to be the {key}" if renamed.get(key, key) != key else f"'{key}'"
        for key in absent
    ]


def faults(recipe: str, values: Sequence[Any], made: Made, seen: Seen) -> Iterator[str]:
    """Say which inputs lack a column, one line for each.

    Args:
        recipe: the stage's.
        values: its settings.
        made: by folder, what stages of this run will have made before.
        seen: what was found in inputs that were looked at before, to which this adds.
    """
    keys, columns = needed(recipe, values), _renamed(values)
    for source in sources(values) if keys else ():
        try:
            path = str(expand(whole_source(source)))
            if _within(path, made) is not None:
                there = _made(source, made)
                if there is not None and (absent := _absent(keys, columns, there)):
                    yield f"input: {source}: its rows will have no {' and no '.join(absent)}"
            elif _is_there(source):
                _look_at(source, keys, columns, seen)
        except (ConfigError, StageError, OSError) as error:
            if "environment variable" not in str(error):  # which is said for all files at once
                yield f"input: {error}"
    for source, column, setting in _questions(values):
        try:
            named = {"question": column} if column else {}
            if _within(str(expand(whole_source(source))), made) is not None:
                there = _made(source, made)
                if there is not None and (absent := _absent(("question",), named, there)):
                    yield f"{setting}: {source}: its rows will have no {absent[0]}"
            elif _is_there(source):
                read_columns(source, "question", columns=named, limit=_LOOKED_AT, setting=setting)
        except (ConfigError, StageError, OSError) as error:
            if "environment variable" not in str(error):
                yield f"{setting.partition('.')[0]}: {error}"


def _look_at(source: str, keys: tuple[str, ...], columns: Mapping[str, str], seen: Seen) -> None:
    """Read the first rows of an input, once for all stages that need the same of it."""
    key = (source, keys, *sorted(columns.items()))
    if key not in seen:
        try:
            read_inputs([source], *keys, columns=columns, limit=_LOOKED_AT)
            seen[key] = None
        except (ConfigError, StageError, OSError) as error:
            seen[key] = error
    if (known := seen[key]) is not None:
        raise known


def _is_there(source: str) -> bool:
    return not source.startswith("hub:") and expand(whole_source(source)).exists()


def _questions(values: Sequence[Any]) -> Iterator[tuple[str, str | None, str]]:
    """Yield the sources of questions beside `input`, each with its column and the setting that names it."""
    for value in values:
        for one in getattr(getattr(value, "contamination", None), "against", None) or ():
            yield one.source, one.column, "contamination.against.column"
        if (columns := getattr(value, "question_columns", None)) is not None:
            for label, source in value.generators.items():
                yield source, columns.get(label), f"question_columns.{label}"


def sources(values: Sequence[Any]) -> list[str]:
    """The row sources that settings name."""
    found = [str(source) for value in values for source in getattr(value, "input", None) or ()]
    return found + [str(part.source) for value in values for part in getattr(value, "parts", None) or ()]


def _renamed(values: Sequence[Any]) -> dict[str, str]:
    return {key: name for value in values for key, name in (getattr(value, "columns", None) or {}).items()}


def _within(path: str, made: Made) -> str | None:
    return next((folder for folder in made if path == folder or path.startswith(f"{folder}/")), None)


def _made(source: str, made: Made) -> frozenset[str] | None:
    """What a source may have; None if no stage of this run makes it, or that is not known."""
    try:
        return made.get(str(expand(whole_source(source))))
    except ConfigError:  # a variable is not set, which is said elsewhere
        return None
