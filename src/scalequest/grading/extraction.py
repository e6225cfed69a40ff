"""Extract the final answer from a complete output: a box, `####`, an answer phrase, or the last number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from scalequest.grading.latex.boxes import joined_boxes, last_box
from scalequest.grading.latex.tokens import FUNCTIONS

# `function` and `timeout`: by a function of the user's
Rule = Literal["boxed", "hash", "phrase", "number", "none", "function", "timeout"]

_HASH = re.compile(r"####[ \t]*([^\n]+)")
_PHRASE = re.compile(
    r"(?:(?=[acfor答故])"  # faster than trying each of these
    r"(?:\b(?:(?:final|correct)\s+)?"
    r"(?:answers?|(?<=final )result|result(?=\s+is)|(?<=correct )(?:option|choice))[*_]*"
    r"(?:(?:,\s\w{2,15},)?\s+(?:is|are|(?:would|must|should|will)\s+be)\b\s*:?|\s*(?:[:：]|=>?))"
    r"|\bans\s*[.:]|^A:|答案[*_]*(?:是|为|[:：])[:：]?|答[:：]|故选[:：]?)"
    # a heading with the answer below it, or set off by a dash
    r"|^[ \t#>*_]*(?:(?:the|my|our)\s)?(?:(?:final|correct)\s)?answers?[*_ \t]*"
    r"(?:$(?=\s*\S)|\s(?:[-–—→]|[-=]>)\s))[*_]*",
    re.I | re.M,
)
# A sentence ends at a line break, or at a full stop that is not inside a number.
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)|(?<=[$\])])\.|[。！？]")
_NUMBER = re.compile(
    r"-?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+,\d\d(?![\d,])|\d+)(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+(?!\d|\.\d))?"
)
_MATH = re.compile(r"^\s*(?:\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])", re.S)
_JOINT = re.compile(r"\s*(?:,\s*(?:and|or)\b|,|;|\band\b|\bor\b)")
_NOTHING_MORE = re.compile(r"\s*\**\s*(?:[.!。]|\n|$)")
_NUMBER_THEN_WORDS = re.compile(  # in Chinese, "7 个", but neither 7 万 nor 7 分之 2
    rf"^\\?\$?({_NUMBER.pattern})\s*%?(?=[,;]\s+[a-z]|\s?(?![十百千万亿分又])[\u4e00-\u9fff])"
)
_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])")

# "18 dollars for each of the 3 boxes", but not "12 divided by 4, so 3": the start of a clause that only
# explains the number before it, and of one that continues to calculate with it.
_ASIDE = re.compile(r"\s\(|,?\s(?:which|as|for|when|where|after|if|but|not)\b")
_GOES_ON = re.compile(
    r"[-+*/^=<>×÷·%\\]|\b(?:is|are|equals?|gives?|makes?|or|to|so|times|plus|minus|divided|multiplied)\b"
    r"|\b(?:more|less|fewer)\b|(?:,|\band)\s*\$?\d"
)

# "12 apples (since 3 * 4 = 12)": a remark in brackets after a number, with numbers of its own
_REMARK = re.compile(r"\s\((?!mod\b|base\b)(?=[^()]*(?:\b[a-z]{2,}\s|=))(?=[^()]*\d)[^()]*\)\s*$")

_TRIES = 50  # maximum number of phrases and formulas examined, to keep long texts cheap
_WIDEST = 2_000  # maximum distance from a number to the ends of its formula, in characters


_TAG = re.compile(r"<(/?)answer>", re.I)
# What a model may start an answer with, and what may surround it.
_LEAD = re.compile(
    r"(?:(?:therefore|thus|then|hence|simply|indeed|clearly)\b[\s,:]*|not\b[^.\n]{1,60}?\bbut(?: rather)?\b"
    r"|\n[ \t]*(?:[-•>]|```[a-z]+$)[ \t]*|[\s*_`\"“]|\.{2,}|…)+",
    re.I | re.M,
)
# How a base model continues with another problem, or a chat model with another turn.
_NEXT = re.compile(r"\n[^\S\n]*\n[^\S\n]*(?:\*\*)?(?:Q|Question|Problem|Exercise)\s?\d{0,6}\s?[:.]")
_END = re.compile(r"<\|(?:endoftext|im_end|eot_id|end_of_text|end)\|>|</s>|<｜end▁of▁sentence｜>")
# Typeset formulas; a `$` only delimits a formula if a command is inside, otherwise it means money.
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|\$([^$\n]*\\[A-Za-z][^$\n]*)\$", re.S)
_THOUGHT = re.compile(r"</?think(?:ing)?>")


@dataclass(frozen=True)
class Extracted:
    """An answer as written, and the rule that found it; for `none`, `answer` is None."""

    answer: str | None
    rule: Rule


def extract(text: str, *, boxes: Literal["joined", "last"] = "joined", thinking: bool = False) -> Extracted:
    r"""Extract the final answer from a model's complete output.

    The last complete `\boxed{...}` takes precedence wherever it is, then the last `####`, then the last
    phrase such as "the answer is", then the last number. A box that is never closed, as in a truncated
    output, is ignored. Only the text after the reasoning counts; there is none if the output ends within it.

    Args:
        text: the output.
        boxes: "joined" reads `\boxed{1} and \boxed{2}` as the single answer `1, 2`; "last" uses only the last
            one.
        thinking: whether the prompt has opened a reasoning block, so that the output need not open one.
    """
    said = after_thoughts(text, opened=thinking)
    if said is None:
        return Extracted(None, "none")
    text = _first_turn(said)
    if (following := _NEXT.search(text)) and (own := _marked(text[: following.start()], boxes)):
        return own
    if marked := _marked(text, boxes):
        return marked
    if _is_bare(text):
        return Extracted(text.strip(), "number")
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return Extracted(None, "none")
    last = numbers[-1]
    near = text[max(0, last.start() - _WIDEST) : last.end() + _WIDEST]
    place = min(last.start(), _WIDEST)
    around = [match for match in _FORMULA.finditer(near) if match.start() < place < match.end()]
    if around:  # the number is part of a formula, but not its result
        return Extracted(next(group for group in around[-1].groups() if group).strip(" .\n"), "number")
    return Extracted(last.group().strip(), "number")


def _marked(text: str, boxes: Literal["joined", "last"]) -> Extracted | None:
    """Find an answer that the text marks as one."""
    if box := last_box(text) if boxes == "last" else joined_boxes(text):
        return Extracted(box, "boxed")
    if tagged := _last_tagged(text):
        return Extracted(tagged, "phrase")
    if line := _last_hash(text):
        return Extracted(line, "hash")
    phrase = _last_phrase(text)
    return Extracted(phrase, "phrase") if phrase else None


def _first_turn(text: str) -> str:
    """Return the text before the first token that ends a turn and has text before it."""
    for match in _END.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def _is_bare(text: str) -> bool:
    """Return whether the whole output is an answer: one word, or one line with nothing but a formula."""
    text = text.strip()
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)
    told = (
        len(words) > 1
        or not set(words) <= FUNCTIONS | {"cm", "mm", "km", "kg", "ft"}
        or "boxed" in text
        or "fbox" in text
    )
    formula = "\n" not in text and len(text) <= 200 and not told and text[-1:] not in (":", "?")
    return bool(text) and (formula or re.fullmatch(r"[A-Za-z]{3,20}", text) is not None)


def reference_in(solution: str, marker: str) -> str:
    """Return the reference answer that a reference solution states: the text after its last `marker`.

    Args:
        solution: a reference solution, or a bare answer.
        marker: what stands before the answer, `####` in GSM8K; "" or one that does not occur: all is answer.
    """
    return (solution.rpartition(marker)[2] if marker else solution).strip()


def after_thoughts(text: str, *, opened: bool = False) -> str | None:
    """Return the text after the last `</think>` or `</thinking>`; None if it ends within a reasoning block.

    Args:
        text: an output, or a prompt.
        opened: whether a block was open before the text began.
    """
    tags = list(_THOUGHT.finditer(text))
    if not tags:
        return None if opened else text
    return text[tags[-1].end() :] if tags[-1].group().startswith("</") else None


def _last_tagged(text: str) -> str | None:
    """Return the content of the last complete `<answer>`."""
    end = None
    for tag in reversed(list(_TAG.finditer(text))):
        if tag[1]:
            end = tag.start()
        elif end is not None:
            return text[tag.end() : end].strip() or None
    return None


def _last_hash(text: str) -> str | None:
    lines = list(_HASH.finditer(text))
    if not lines:
        return None
    if lines[-1][1][:1].isalpha() and text[lines[-1].end() :].strip():
        return None  # a heading, `#### Step 2`, with its text below it
    return _said(lines[-1][1])


def _last_phrase(text: str) -> str | None:
    for match in list(_PHRASE.finditer(text))[: -_TRIES - 1 : -1]:
        if said := _said(text[match.end() :]):
            return said
    return None


def _said(text: str) -> str | None:
    """Return the answer that a text starts with: its first formulas, else a number or its first sentence."""
    if lead := _LEAD.match(text):
        text = text[lead.end() :]
    if formulas := _formulas(text):
        return formulas
    sentence = _BOLD.sub("", _SENTENCE_END.split(text, maxsplit=1)[0]).strip().strip('"“”`')
    sentence = re.split(r",?\s(?:because|since)\s", sentence, maxsplit=1)[0]
    if number := _NUMBER_THEN_WORDS.match(sentence):
        return number.group(1)
    if _NUMBER.match(sentence):
        sentence = _REMARK.sub("", sentence)
    if len(re.findall(r"[a-z]{2,}", sentence)) >= 4 and (numbers := _NUMBER.findall(sentence)):
        if (first := _NUMBER.match(sentence)) and not _GOES_ON.search(
            _ASIDE.split(sentence[first.end() :], maxsplit=1)[0]
        ):
            return first.group().strip()
        return str(numbers[-1]).strip()  # "Final answer: the volume of the box is 120"
    return sentence.rstrip(".。*_").strip() or None


def _formulas(text: str) -> str | None:
    """Return the formula that a text starts with; several if the sentence only consists of `$2$ and $3$`."""
    found: list[str] = []
    ends: list[int] = []
    place = 0
    while math := _MATH.match(text[place:]):
        found.append(next(group for group in math.groups() if group).strip().rstrip("."))
        place += math.end()
        ends.append(place)
        joint = _JOINT.match(text, place)
        if joint is None or len(found) == _TRIES:
            break
        place = joint.end()
    if len(found) > 1 and _NOTHING_MORE.match(text, ends[-1]):
        return ", ".join(found)
    return found[0] if found else None
