"""Other spellings of an answer, and answers that are nearly the same."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator


def respelled(answer: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of spellings that mean the same."""
    yield (
        "spaced",
        re.sub(r"(?<=[-+=<>,()])|(?=[-+=<>,()])", " ", answer) if _plain(answer) else f" {answer} ",
    )
    yield "dollars", f"${answer}$" if "$" not in answer else answer
    yield "boxed", f"\\boxed{{{answer.replace('$', '')}}}"
    if "\\frac" in answer:
        yield "dfrac", answer.replace("\\frac", "\\dfrac")
    if (
        "(" in answer
        and "\\left" not in answer
        and answer.count("(") == answer.count(")")
        and "[" not in answer
    ):
        yield "left", answer.replace("(", "\\left(").replace(")", "\\right)")
    if re.fullmatch(r"-?\d+(?:\.\d+)?", answer):
        yield "unit", f"{answer} \\text{{ cm}}"
        yield "doubled", f"\\frac{{{2 * float(answer):g}}}{{2}}" if len(answer) < 6 else answer
    if re.fullmatch(r"\d{5,}", answer):
        yield "thousands", f"{int(answer):,}"
    parts = elements(answer)
    if parts and not re.match(r"\$?\s*(?:\\left)?[\[(]", answer):
        yield "order", ", ".join(reversed(parts))
    if _formula(answer):
        yield "once", f"1 \\cdot ({answer})"
        yield "twice", f"\\frac{{2({answer})}}{{2}}"
        yield "zero", f"0 + {answer}"


def near_misses(answer: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of answers that differ in a sign, digit, interval's end, element or order."""
    if re.match(r"[\d\\a-z(]", answer) and _formula(answer):
        yield "sign", f"-{answer}" if not re.search(r"[-+]", answer) else f"-({answer})"
    if answer.startswith("-"):
        yield "sign", answer[1:]
    for match in (re.search(r"\d", answer), list(re.finditer(r"\d", answer))[-1:]):
        found = match[0] if isinstance(match, list) and match else match
        if isinstance(found, re.Match):
            digit = str((int(found[0]) + 1) % 10)
            yield "digit", answer[: found.start()] + digit + answer[found.end() :]
    ends = re.fullmatch(r"([\[(])(.*),(.*)([\])])", answer)
    if (
        ends
        and "," not in ends[2]
        and not re.search(r"[\[\](){}]", ends[2] + ends[3])
        and "infty" not in ends[2]
    ):
        yield "end", f"{'(' if ends[1] == '[' else '['}{ends[2]},{ends[3]}{ends[4]}"
    parts = elements(answer)
    if len(parts) > 1:
        yield "element", ", ".join(parts[:-1])
        yield "element", ", ".join([*parts, "17"])
    tuple_ = re.fullmatch(r"\(([^()]*)\)", answer)
    if (
        tuple_
        and len(coordinates := tuple_[1].split(",")) > 1
        and coordinates[0].strip() != coordinates[1].strip()
    ):
        yield "swapped", f"({', '.join([coordinates[1], coordinates[0], *coordinates[2:]])})"


def mutated(answer: str, rng: random.Random) -> str:
    """Cut, double, replace or insert a piece somewhere."""
    pieces = re.findall(r"\\[A-Za-z]+|\\.|.", answer, re.S) or ["x"]
    extra = [
        *"0123456789+-*/^_(){}[],.;:=<>|!%$&~'\"xyzien ",
        "\\frac",
        "\\sqrt",
        "\\pm",
        "\\infty",
        "\\cup",
        "\\text{",
    ]
    extra += [
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "\\le",
        "\\ne",
        "\\\\",
        "\\sum",
        "^{",
        "**",
        "√",
        "½",
        "10^",
        "!!",
    ]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(pieces))
        action = rng.randrange(4)
        if action == 0 and len(pieces) > 1:
            del pieces[at]
        elif action == 1:
            pieces.insert(at, rng.choice(extra))
        elif action == 2:
            pieces[at] = rng.choice(extra)
        else:
            pieces[at:at] = pieces[at : at + rng.randint(1, 6)]
    return "".join(pieces)


def elements(answer: str) -> list[str]:
    """Elements of a bare list or a set of plain members."""
    inner = answer.strip("$ ").removeprefix("\\{").removesuffix("\\}")
    if (
        re.search(r"[()\[\]{}]|=|\\text|and|or", inner)
        or "," not in inner
        or re.search(r"\d,\s?\d{3}|\d,\\|\d \.", inner)
    ):
        return []
    return [part.strip() for part in inner.split(",")]


def _plain(answer: str) -> bool:
    return not re.search(r"\\(?:text|mbox|left|right|begin)|[A-Za-z]{4}|\d,\d{3}|\\[!,]|e-", answer)


def _formula(answer: str) -> bool:
    return not re.search(
        r"\.\W*$|^\.|[A-Za-z]{2}\.?$|\d \d|[A-Za-z]{3}"
        r"|\\(?:text|mbox|mathrm|pm|mp|in|cup|le|ge|ne|lt|gt|circ|begin)|[,=<>$%:_]",
        _bare(answer),
    )


def _bare(answer: str) -> str:
    return re.sub(r"\\(?:d?frac|sqrt|pi|cdot|left|right|sin|cos|tan|ln|log|times)", "", answer)
