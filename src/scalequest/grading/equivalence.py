"""Whether two answers are the same: by normalised text, exact arithmetic, element by element, math-verify.

The cheap layers decide every integer, decimal and fraction, so GSM8K and TinyMath never load math-verify.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import lru_cache

from scalequest.grading.exact import value
from scalequest.grading.extraction import last_box

_SPACING = re.compile(
    r"(?<!\\)\\(?:[!,;: ]|left(?![a-z])|right(?![a-z])|big(?![a-z])|Big(?![a-z])|quad|qquad|displaystyle)|~"
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|operatorname|mbox|rm)\s*\{([^{}]*)\}")
# "10 \text{ cm}^2", "5 apples", "7 km/h": what follows a number and is a unit rather than a symbol.
_UNIT = re.compile(r"(?<=[\d}])\s*(?:⟨([^⟨⟩]*)⟩(?:\^\{?-?\d\}?)?|\s([A-Za-z]{2,}(?:[ /][A-Za-z]+)*))[\s.]*$")
_PERCENT = re.compile(r"\s*(?:\\?%|\bpercent\b|\bpct\b)")
# "x =", "f(x) =", "x_1 =", "(p, q) =", "c \\in"
_NAME = r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?"
_LEFT_SIDE = re.compile(rf"^(?:{_NAME}|\((?:\s*[A-Za-z]\s*,)+\s*[A-Za-z]\s*\))\s*(?:=(?!=)|\\in(?![a-z]))")
_RELATION = re.compile(r"[<>]|\\(?:l|g|n)(?:e|t)(?:q|slant)*(?![a-z])")
_BASE_N = re.compile(r"-?\w+_\d+")
_OPEN, _CLOSE = "([{", ")]}"

_POWER = re.compile(r"([)}]?)\s*(?:\^|\*\*)\s*")
_FACTORIAL_OF_MUCH = re.compile(r"\d{4,}\s*!|\d\s*[)}]+\s*!|!\s*!")
_BARE_NAME = re.compile(r"(?<![\\A-Za-z])(?:np\.|math\.)?(pi|exp|ln|log|(?:arc)?(?:sin|cos|tan))(?![A-Za-z])")
_BARE_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)")
_MAX_EXPONENT = 20_000
_MAX_LENGTH = 400
_LONGEST = 4_000  # characters; no answer is, and the regular expressions below are not meant for more
_SECONDS = 3


def equivalent(prediction: str, reference: str) -> bool:
    """Whether `prediction` is the same answer as `reference`.

    Bounded in time for any text: nothing is evaluated as code, and what sympy would expand without end is
    answered False unless the cheap layers know better. Never raises.
    """
    if prediction.strip() == reference.strip():
        return bool(reference.strip())
    if max(len(prediction), len(reference)) > _LONGEST:
        return False
    return _same(normalise(prediction), normalise(reference))


def majority(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """The answer given most often, as first written, and its share of all answers, missing ones included.

    Ties go to the answer that came first. `(None, 0.0)` where no answer was given.
    """
    groups: list[tuple[str, list[str]]] = []
    for answer in answers:
        if answer is None or not answer.strip():
            continue
        text = normalise(answer[:_LONGEST])
        for key, members in groups:
            if key == text or _same(text, key):
                members.append(answer)
                break
        else:
            groups.append((text, [answer]))
    if not groups:
        return None, 0.0
    best = max(groups, key=lambda group: len(group[1]))[1]
    return best[0], len(best) / len(answers)


def normalise(text: str) -> str:
    """One spelling for what is only set differently: spacing, wrappers, fractions, currency, degrees."""
    text = _unwrap(text.strip().strip('"').replace("\\\\$", "$"))
    text = (
        text.replace("−", "-")
        .replace("\\$", "")
        .replace("$", "")
        .replace("^\\circ", "")
        .replace("^{\\circ}", "")
    )
    text = re.sub(r"\\degree|°", "", re.sub(r",\\!\s*", ",", text))
    text = _SPACING.sub(lambda m: " " if m[0] in ("\\ ", "~", "\\quad", "\\qquad") else "", text)
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"\\frac\s*\{([^{}]*)\}\s*(\w)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"([_^])\s*\{(\w)\}", r"\1\2", text)
    text = re.sub(r"(?<![\d.])(\d{1,3})((?: \d{3})+)(?![\d.])", lambda m: m[1] + m[2].replace(" ", ""), text)
    text = re.sub(r"\s+", " ", text).strip()
    return text[:-1].strip() if text.endswith((".", ",", ";")) else text


def _unwrap(text: str) -> str:
    """Take off math delimiters that enclose the whole text, and whatever stands around a box."""
    while True:
        before = text
        for start, end in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            inner = text[len(start) : -len(end)]
            if (
                len(text) > len(start) + len(end)
                and text.startswith(start)
                and text.endswith(end)
                and start not in inner
            ):
                text = inner.strip()
        text = last_box(text) or text
        if text == before:
            return text


def _split_unit(text: str) -> tuple[str, str]:
    r"""`10 \text{ cm}^2` to (`10`, `cm`); text that is all words keeps them."""
    marked = _TEXT.sub(lambda m: f"⟨{m[1].strip()}⟩", _PERCENT.sub("", text))
    match = _UNIT.search(marked)
    unit = ""
    if match and any(char.isdigit() for char in marked[: match.start()]):
        unit, marked = (match[1] or match[2] or "").strip(), marked[: match.start()]
    return marked.replace("⟨", " ").replace("⟩", " ").strip(), unit


def _same(prediction: str, reference: str) -> bool:
    if _compact(prediction) == _compact(reference):
        return bool(reference)
    (left, left_unit), (right, right_unit) = _split_unit(prediction), _split_unit(reference)
    if left_unit and right_unit and _compact(left_unit) != _compact(right_unit):
        return False
    left, right = _drop_left_side(left, right)
    if not left or not right:
        return False
    if _compact(left) == _compact(right):
        return True
    a, b = value(left), value(right)
    if a is not None and b is not None:
        return a == b
    if (verdict := _by_parts(left, right)) is not None:
        return verdict
    if _BASE_N.fullmatch(left) and _BASE_N.fullmatch(right):
        return False  # numerals of some base: equal digits were caught above
    if (b is not None and not _could_be_number(left)) or (a is not None and not _could_be_number(right)):
        return False
    return _math_verify(left, right)


def _compact(text: str) -> str:
    text = _TEXT.sub(r"\1", text)
    stripped = re.sub(r"\s|\\(?=[{}%])", "", text).casefold()
    return stripped[1:-1] if re.fullmatch(r"\([a-z]\)", stripped) else stripped


def _drop_left_side(left: str, right: str) -> tuple[str, str]:
    """`x = 5` is read as `5` where the other side names no variable, or names the same one."""
    if _RELATION.search(left + right):
        return left, right
    a, b = _LEFT_SIDE.match(left), _LEFT_SIDE.match(right)
    if a and (not b or a[0].replace(" ", "") == b[0].replace(" ", "")):
        left = left[a.end() :].strip() or left
    if b and "=" not in left:
        right = right[b.end() :].strip() or right
    return left, right


def _could_be_number(text: str) -> bool:
    """A plain number can equal text that has digits or a command; prose and bare symbols need no library."""
    return len(text) <= _MAX_LENGTH and bool(re.search(r"\d|\\(?:pi|sqrt|e\b|infty)", text))


def _by_parts(left: str, right: str) -> bool | None:
    """Compare unions, lists and tuples element by element; None where neither side is one.

    A list without brackets has no order; a tuple and an interval have. Brackets must agree where both sides
    have them.
    """
    for separator in (r"\cup", ","):
        a, b = _parts(left, separator), _parts(right, separator)
        if len(a[1]) == 1 and len(b[1]) == 1:
            continue
        if len(a[1]) != len(b[1]) or (a[0] and b[0] and a[0] != b[0]):
            # `\pm` stands for two elements, which only math-verify unfolds
            return None if "\\pm" in left + right else False
        if a[0] or b[0]:
            return all(_same(x, y) for x, y in zip(a[1], b[1], strict=True))
        return _paired(a[1], b[1])
    return None


def _parts(text: str, separator: str) -> tuple[str, list[str]]:
    """Brackets that enclose the whole list (or "") and its elements, split where no bracket is open."""
    text = text.strip()
    brackets = ""
    body = text
    if separator == ",":
        for start, end in (("\\{", "\\}"), *((o, c) for o in "([" for c in ")]")):
            if text.startswith(start) and text.endswith(end) and _encloses(text[len(start) : -len(end)]):
                brackets, body = ("" if start == "\\{" else start + end), text[len(start) : -len(end)]
                break
        body = re.sub(r"\s*(?:,\s*)?(?:\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)\s*", ",", body)
        if not brackets and value(body) is not None:
            return "", [body]  # 1,234
    parts, depth, start_at = [], 0, 0
    for i, char in enumerate(body):
        depth += (char in _OPEN) - (char in _CLOSE)
        if depth == 0 and body.startswith(separator, i):
            parts.append(body[start_at:i].strip())
            start_at = i + len(separator)
    parts.append(body[start_at:].strip())
    return brackets, parts


def _encloses(body: str) -> bool:
    """Whether the brackets around `body` belong together: its own never close more than they open."""
    depth = 0
    for char in body:
        depth += (char in _OPEN) - (char in _CLOSE)
        if depth < 0:
            return False
    return depth == 0


def _paired(left: list[str], right: list[str]) -> bool:
    """Whether each element of one list has its own equal in the other; both have the same length."""
    rest = list(right)
    for item in left:
        match = next((i for i, other in enumerate(rest) if _same(item, other)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _latex(text: str) -> str:
    """`2*pi` and `sqrt(2)` as commands, which is how math-verify reads them inside a box."""
    return _BARE_NAME.sub(r"\\\1 ", _BARE_ROOT.sub(r"\\sqrt{\1}", text))


def _too_much(text: str) -> bool:
    """Whether sympy would expand the text beyond any bound: towers and stacks of powers, large factorials."""
    if len(text) > _MAX_LENGTH or _FACTORIAL_OF_MUCH.search(text):
        return True
    largest, stacked = 1, 1
    for match in _POWER.finditer(text):
        rest = text[match.end() :]
        if rest[:1] in ("{", "("):
            group = _group(rest)
        else:
            group = re.split(r"[\s+/=,;(){}-]|(?<!\*)\*(?!\*)", rest, maxsplit=1)[0]
        if re.search(r"\d\s*[)}]*\s*(?:\^|\*\*|!)", group) or re.search(r"\d{4,}", group):
            return True  # a number raised inside an exponent, or an exponent of four digits
        size = max(map(int, re.findall(r"\d+", group)), default=1)
        largest, stacked = max(largest, size), stacked * size if match[1] else stacked
    return largest * stacked > _MAX_EXPONENT


def _group(text: str) -> str:
    """The bracketed group that `text` begins with; all of `text` where it is never closed."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char in _OPEN) - (char in _CLOSE)
        if depth == 0:
            return text[: i + 1]
    return text


@lru_cache(maxsize=4096)
def _math_verify(prediction: str, reference: str) -> bool:
    """math-verify 0.9 with the reference first, both boxed; False where it could not be asked safely."""
    if any(_too_much(text) for text in (prediction, reference)):
        return False
    from math_verify import parse, verify

    # Its timeouts are alarms, which only the main thread may set.
    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None
    try:
        gold, target = (
            parse(f"\\boxed{{{_latex(text)}}}", parsing_timeout=seconds, raise_on_error=False)
            for text in (reference, prediction)
        )
        return bool(verify(gold, target, timeout_seconds=seconds, raise_on_error=False))
    except Exception:  # whatever sympy or antlr throws on a malformed answer, the answer is not the reference
        return False
