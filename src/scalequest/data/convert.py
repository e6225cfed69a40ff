r"""Convert upstream's files to rows, and rows to the files that our YAML files refer to.

Layouts:

- `json_lines`, `json_list`: the rows unchanged;
- `math`: a parquet file with problem, level, type and solution. `type` is renamed to `subject`, `answer` is
the content of the last box in the solution, and `id` consists of the split and the row number;
- `math_prompts`: the same data prepared for a training framework. The problem is the user turn without the
instruction at its end; the solution is in the ground truth.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError
from scalequest.data.sources import DataSet, Layout
from scalequest.records import Row, read_rows

INSTRUCTION = " Let's think step by step and output the final answer within \\boxed{}."


def to_rows(data: bytes, layout: Layout, split: str) -> list[Row]:
    """Return the rows of an upstream file.

    Args:
        data: the content of the file.
        layout: the layout of the file.
        split: the prefix of the ids of MATH.

    Raises:
        ConfigError: the file does not have this layout.
    """
    try:
        return _READERS[layout](data, split)
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise ConfigError(f"does not have the layout '{layout}': {type(error).__name__}: {error}") from None


def _json_lines(data: bytes, split: str) -> list[Row]:
    return _objects([json.loads(line) for line in data.splitlines() if line.strip()])


def _json_list(data: bytes, split: str) -> list[Row]:
    return _objects(json.loads(data))


def _objects(rows: Any) -> list[Row]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TypeError("expected objects")
    return rows


def _math(data: bytes, split: str) -> list[Row]:
    rows = _parquet(data)
    return [
        _problem(row["problem"], row["solution"], row, f"{split}/{number}") for number, row in enumerate(rows)
    ]


def _math_prompts(data: bytes, split: str) -> list[Row]:
    made = []
    for number, row in enumerate(_parquet(data)):
        text, solution = row["prompt"][0]["content"], row["reward_model"]["ground_truth"]["solution"]
        if not text.endswith(INSTRUCTION):
            raise ValueError(f"row {number + 1}: the problem does not end with the instruction")
        made.append(_problem(text.removesuffix(INSTRUCTION), solution, row, f"{split}/{number}"))
    return made


def _parquet(data: bytes) -> list[Row]:
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(io.BytesIO(data)).to_pylist()
    return rows


def _problem(problem: str, solution: str, row: Row, number: str) -> Row:
    return {
        "problem": problem,
        "solution": solution,
        "level": row["level"],
        "subject": row["type"],
        "answer": last_boxed(solution),
        "id": number,
    }


def last_boxed(solution: str) -> str:
    r"""Return the exact content of the last `\boxed` or `\fbox` of a worked solution; "" if it is empty.

    This is not the grader's rule, which may improve, because the rows of a data set must not change.
    """
    match = list(re.finditer(r"\\(?:boxed|fbox)\s*", solution))[-1]
    rest = solution[match.end() :]
    if not rest.startswith("{"):
        return re.split(r"[\s{}$]", rest, maxsplit=1)[0]
    depth = 0
    for place, char in enumerate(rest):
        depth += (char == "{") - (char == "}")
        if not depth:
            return rest[1:place]
    raise ValueError(f"unclosed box: {rest[:40]}")


_READERS: dict[Layout, Callable[[bytes, str], list[Row]]] = {
    "json_lines": _json_lines,
    "json_list": _json_list,
    "math": _math,
    "math_prompts": _math_prompts,
}


def to_file(rows: Sequence[Row]) -> bytes:
    """Return rows as gzipped JSON lines; the same rows always give the same bytes."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return gzip.compress(text.encode(), mtime=0)


def rows_sha256(rows: Sequence[Row]) -> str:
    """Hash rows independently of the order of their keys: sorted keys, one JSON line per row, UTF-8."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def check(rows: Sequence[Row], wanted: DataSet) -> None:
    """Check that rows are the expected rows of a data set.

    Raises:
        ConfigError: they differ.
    """
    found = len(rows), rows_sha256(rows)
    if found != (wanted.rows, wanted.sha256):
        raise ConfigError(
            f"unexpected rows: got {found[0]:,} with sha256 {found[1]}, expected "
            f"{wanted.rows:,} with {wanted.sha256}"
        )


def check_file(path: Path, wanted: DataSet) -> None:
    """Check that a finished file contains the rows of a data set.

    Raises:
        ConfigError: it is unreadable or contains other rows.
    """
    check(read_rows(path), wanted)
