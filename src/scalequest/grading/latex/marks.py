"""Remove quotation marks and light Markdown, which do not belong to the answer inside them."""

from __future__ import annotations

import re

_MARK = re.compile(r"[*_`'\"~]")
_AROUND = (
    ("***", "***"),
    ("**", "**"),
    ("*", "*"),
    ("__", "__"),
    ("_", "_"),
    ("``", "''"),
    ("'", "'"),
    ('"', '"'),
)
_CODE = re.compile(r"^```[a-z]*\n([^`]*)\n```$|(`{1,3})([^`]+)\2")
_MOST = 4  # nested pairs
# A quotation mark only opens if nothing precedes it that could carry a prime or be a number of feet.
_ITEM = re.compile(r"((?:^\(?|[,;\[{])\s*)(['\"])([^'\"]+)\2(?=\s*(?:[,;\]})]|$))")
# `2**3` is a power: emphasis has no operand next to it.
_BOLD = re.compile(r"(?<![\w)}\]*])(\*\*|__)(?=[^\s*_])([^*_]+)(?<=\S)\1(?![\w({\[*\\])")
_BOLD_LABEL = re.compile(r"^\*\*([^*:]{1,60}:)\*\*")
_STRUCK = re.compile(r"(?:^|(?<=\s))~~(?=\S)[^~]+(?<=\S)~~(?=$|[\s.,;])")


def unmarked(text: str) -> str:
    """Remove quotation marks, emphasis and code marks from an answer and its elements, and struck-out text.

    Primes (`f'`), feet (`5'`), powers (`2**3`) and indices (`a_1`) are kept.
    """
    if not _MARK.search(text):
        return text
    text = _STRUCK.sub("", text).strip()
    text = _BOLD.sub(r"\2", _BOLD_LABEL.sub(r"\1 ", text))
    for _ in range(_MOST):
        text = _inner(text)
    if text.count("**") == 1:  # its other half was cut off
        text = text.removeprefix("**").removesuffix("**")
    return _ITEM.sub(r"\1\3", text) if "'" in text or '"' in text else text


def _inner(text: str) -> str:
    """Remove one pair of marks around the whole text."""
    body = text.rstrip(" .,")
    for start, end in _AROUND:
        inner = body[len(start) : -len(end)]
        if (
            inner.strip() == inner != ""
            and body.startswith(start)
            and body.endswith(end)
            and start not in inner
        ):
            return inner
    return _CODE.sub(lambda match: match[1] or match[3] or "", text).strip() if "`" in text else text
