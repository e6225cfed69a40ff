"""Where the final answer stands in a whole output: a box, `####`, an answer phrase, or the last number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Rule = Literal["boxed", "hash", "phrase", "number", "none"]

_BOX = re.compile(r"\\+(?:boxed|fbox)(?![a-zA-Z])\s*")
_HASH = re.compile(r"####[ \t]*([^\n]+)")
_PHRASE = re.compile(
    r"(?:\b(?:final\s+)?answers?\**(?:\s+(?:is|are)\b\s*:?|\s*[:=])|\bresult\s+is\b\s*:?|^A:)\**\s*",
    re.I | re.M,
)
# A sentence ends at a line break, or at a full stop that does not stand inside a number.
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)|(?<=[$\])])\.")
_NUMBER = re.compile(
    r"-?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+,\d\d(?![\d,])|\d+)(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+(?!\d|\.\d))?"
)
_MATH = re.compile(r"^\s*(?:\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])", re.S)
_NUMBER_THEN_WORDS = re.compile(rf"^\\?\$?({_NUMBER.pattern})\s*%?(?=[,;]\s+[a-z])")

_TRIES = (
    50  # boxes and phrases looked at, from the last one back: a text of thousands of them has to cost little
)


# What may stand between the boxes of one answer: "and", commas, math delimiters, the next one's name.
_BETWEEN = re.compile(
    r"(?:\s|[$,;&~]|\\[\[\]()\\,;]|\\q?quad(?![a-z])|\\(?:text|mbox)\s*\{\s*(?:,?\s*and|or|,)\s*\}"
    r"|\b(?:and|or)\b|\b[a-zA-Z](?:_\w)?\s*=)*"
)
_THOUGHT = re.compile(r"</?think(?:ing)?>")


@dataclass(frozen=True)
class Extracted:
    """An answer as it is written, and the rule that found it; `none` comes with `answer` None."""

    answer: str | None
    rule: Rule


def extract(text: str, *, boxes: Literal["joined", "last"] = "joined", thinking: bool = False) -> Extracted:
    r"""Find the final answer in a model's whole output.

    The last complete `\boxed{...}` wins wherever it stands, then the last `####`, then the last phrase such
    as "the answer is", then the last number. A box that is never closed, as in a truncated output, is
    passed over. Only what follows the thoughts is looked at; nothing, where the output ends inside them.

    Args:
        text: the output.
        boxes: "joined" takes `\boxed{1} and \boxed{2}` as the one answer `1, 2`; "last" takes the last alone.
        thinking: the prompt has opened a block of thoughts, so that the output need not.
    """
    said = after_thoughts(text, opened=thinking)
    if said is None:
        return Extracted(None, "none")
    text = said
    box = last_box(text) if boxes == "last" else joined_boxes(text)
    found: tuple[tuple[Rule, str | None], ...] = (("boxed", box), ("hash", _last_hash(text)))
    for rule, answer in found:
        if answer:
            return Extracted(answer, rule)
    if answer := _last_phrase(text):
        return Extracted(answer, "phrase")
    numbers = _NUMBER.findall(text)
    return Extracted(numbers[-1].strip(), "number") if numbers else Extracted(None, "none")


def after_thoughts(text: str, *, opened: bool = False) -> str | None:
    """What follows the last `</think>` or `</thinking>`; None where the text ends inside a block of thoughts.

    Args:
        text: an output, or a prompt.
        opened: whether a block was open before the text began.
    """
    tags = list(_THOUGHT.finditer(text))
    if not tags:
        return None if opened else text
    return text[tags[-1].end() :] if tags[-1].group().startswith("</") else None


def last_box(text: str) -> str | None:
    r"""Content of the last complete, non-empty `\boxed{...}` or `\fbox{...}`, nested braces included."""
    return next((content for _, content, _ in _boxes(text)), None)


def joined_boxes(text: str) -> str | None:
    """Contents of the last box and of those beside it, each once, separated by commas."""
    contents: list[str] = []
    begin = -1
    for start, content, end in _boxes(text):
        if contents and not (end <= begin and _BETWEEN.fullmatch(text, end, begin)):
            break
        if content not in contents:
            contents.insert(0, content)
        begin = start
    return ", ".join(contents) or None


def _boxes(text: str) -> Iterator[tuple[int, str, int]]:
    """Yield begin, content and end of complete boxes, the last one first."""
    for match in list(_BOX.finditer(text))[: -_TRIES - 1 : -1]:
        rest = text[match.end() :]
        inside = braced(rest) if rest.startswith("{") else re.split(r"[\s{}$]", rest, maxsplit=1)[0]
        if inside and inside.strip():
            yield match.start(), inside.strip(), match.end() + len(inside) + 2 * rest.startswith("{")


def braced(text: str) -> str | None:
    """What stands between the brace that opens `text` and the one that closes it; None where none does."""
    depth = 0
    for i, char in enumerate(text):
        escaped = i > 0 and text[i - 1] == "\\" and not (i > 1 and text[i - 2] == "\\")
        if char in "{}" and not escaped:
            depth += 1 if char == "{" else -1
            if depth == 0:
                return text[1:i]
    return None


def _last_hash(text: str) -> str | None:
    lines = _HASH.findall(text)
    return str(lines[-1]).strip() if lines else None


def _last_phrase(text: str) -> str | None:
    for match in list(_PHRASE.finditer(text))[: -_TRIES - 1 : -1]:
        rest = text[match.end() :]
        if math := _MATH.match(rest):
            return next(group for group in math.groups() if group).strip().rstrip(".")
        sentence = _SENTENCE_END.split(rest.lstrip(), maxsplit=1)[0].strip()
        if number := _NUMBER_THEN_WORDS.match(sentence):
            return number.group(1)
        if len(re.findall(r"[a-z]{2,}", sentence)) >= 4 and (numbers := _NUMBER.findall(sentence)):
            return str(numbers[-1]).strip()  # "Final answer: the volume of the box is 120"
        if sentence:
            return sentence.rstrip(".*").strip()
    return None
