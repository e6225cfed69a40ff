"""A page of sampled preference pairs, for a person to read before a model is trained on them."""

from __future__ import annotations

import difflib
import html
import random
import re
from collections.abc import Sequence
from pathlib import Path

from scalequest.durable import write
from scalequest.records import Row, read_rows

NAME = "pairs.html"
PAIRS, DROPS = 20, 3  # pairs shown, and dropped rows of each reason

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Preference pairs</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
article{border:1px solid #ccc;border-radius:6px;padding:.2rem 1rem;margin:1rem 0}
p{white-space:pre-wrap;overflow-wrap:anywhere} small{color:#666}
ins{background:#d7f5dc;text-decoration:none} del{background:#fbdcdc}
</style>
"""


def write_page(folder: Path, seed: int) -> Path:
    """Write `pairs.html` into a folder whose rows are in place; which pairs it shows depends on `seed` alone.

    Everything that a model or a user wrote is escaped; the page loads nothing.
    """
    pairs = _all_rows(folder / "data")
    rng = random.Random(seed)
    shown = sorted(rng.sample(range(len(pairs)), min(PAIRS, len(pairs))))
    lines = [_HEAD, "<h1>Preference pairs</h1>", f"<p>{len(shown)} of {len(pairs):,}, drawn at random.</p>"]
    lines += [_pair(pairs[number]) for number in shown]
    dropped = _all_rows(folder / "dropped")
    for reason in sorted({row["reason"] for row in dropped}):
        rows = [row for row in dropped if row["reason"] == reason]
        lines.append(f"<h2>Dropped: {html.escape(reason)} ({len(rows):,})</h2>")
        lines += [_drop(row) for row in rows[:DROPS]]
    path = folder / NAME
    write(path, ("\n".join(lines) + "\n").encode())
    return path


def _all_rows(folder: Path) -> list[Row]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in read_rows(path)]


def _pair(row: Row) -> str:
    before, after = _marked(row["rejected"], row["chosen"])
    return (
        f"<article><small>{html.escape(row['id'])}, {html.escape(row['direction'])}</small>"
        f"<p><b>rejected</b> {before}</p><p><b>chosen</b> {after}</p></article>"
    )


def _drop(row: Row) -> str:
    reply = html.escape((row.get("reply") or "")[-600:])
    return (
        f"<article><small>{html.escape(row['id'])}, {html.escape(row['direction'])}</small>"
        f"<p><b>question</b> {html.escape(row['rejected'])}</p><p><b>reply ends</b> {reply}</p></article>"
    )


def _marked(before: str, after: str) -> tuple[str, str]:
    """Both texts, escaped, with the words that went and the words that came marked."""
    old, new = (re.findall(r"\S+\s*", text) for text in (before, after))
    left, right = "", ""
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        left += _words(old[a:b], "" if kind == "equal" else "del")
        right += _words(new[c:d], "" if kind == "equal" else "ins")
    return left, right


def _words(words: Sequence[str], tag: str) -> str:
    text = html.escape("".join(words))
    return f"<{tag}>{text}</{tag}>" if tag and text else text
