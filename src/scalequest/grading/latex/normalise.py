"""Normalise what is only typeset differently: spacing, wrappers, fonts, labels, money, fractions."""

from __future__ import annotations

import re
from decimal import Context
from functools import lru_cache

from scalequest.grading.latex import currencies, forms
from scalequest.grading.latex.boxes import last_box
from scalequest.grading.latex.marks import unmarked
from scalequest.grading.latex.numerals import in_digits
from scalequest.grading.latex.signs import in_ascii
from scalequest.grading.latex.tokens import FUNCTIONS
from scalequest.grading.latex.words import denies, plain

LONGEST = 4_000  # characters; no answer is longer, and the expressions below are not designed for more

_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_ALL_IN_FONT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~|&nbsp;")
_NOTHING = re.compile(
    r"(?<!\\)\\(?:!|(?:left|right)\s*\.|(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z]))"
)
_COLOUR = re.compile(r"\\(?:text)?color\s*\{\w+\}")
_ABOUT = re.compile(r"^(?:\\approx|(?:approximately|approx\.?|about|roughly|around)\b) ?", re.I)
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z]{2}|[%${}])")
_ENVIRONMENT = re.compile(r"\\begin\s*\{")
_COMMANDS = {
    **{r"\leqslant": r"\le", r"\leq": r"\le", r"\geqslant": r"\ge", r"\geq": r"\ge", r"\neq": r"\ne"},
    **{r"\leqq": r"\le", r"\geqq": r"\ge", r"\lor": r"\vee"},
    **{r"\lt": "<", r"\gt": ">", r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac"},
    **{
        r"\bullet": r"\cdot",
        r"\langle": "(",
        r"\rangle": ")",
        r"\lbrace": r"\{",
        r"\rbrace": r"\}",
        r"\lbrack": "[",
        r"\rbrack": "]",
        r"\degree": r"^\circ",
    },
    **{
        r"\dbinom": r"\binom",
        r"\tbinom": r"\binom",
        r"\varnothing": r"\emptyset",
        r"\fbox": "",
        r"\boxed": "",
    },
    **{
        r"\simeq": r"\approx",
        r"\lvert": "|",
        r"\rvert": "|",
        r"\vert": "|",
        r"\mid": "|",
        r"\dots": r"\ldots",
    },
    **{
        r"\cdots": r"\ldots",
        r"\colon": ":",
        r"\land": r"\wedge",
        r"\setminus": r"\backslash",
        r"\Re": r"\mathbb{R}",
    },
    **{r"\bigcup": r"\cup", r"\dollar": r"\$", r"\textdollar": r"\$", r"\euro": "€", r"\texteuro": "€"},
    **{r"\pounds": "£", r"\textsterling": "£", r"\yen": "¥", r"\textyen": "¥"},
}
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))")
_ELLIPSIS = re.compile(r"\s*(?:,\s*(?:\.{3,}|…)|(?<=,\d)\.{3,}|(?<=, \d)\.{3,}|(?<=[\d)}])…)")
_GROUPED = re.compile(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?!\d|,\d|\.\d* \d)")
_MIXED = re.compile(r"(?<![\w.^/\\{}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\w.])")
# `0.1\overline{6}`, `0.1\dot6`, `0.\dot{1}4285\dot{7}` and `0.1(6)`
_REPEATING = re.compile(
    r"(?<!\d)(\d*)\.(\d*)(\\dot\s*\{?\d\}?\d*\\dot\s*\{?\d\}?|\\(?:overline|bar|dot)\s*(?:\{\d+\}|\d)"
    r"|\(\d+\)(?=\s*(?:$|[,;)\]}%]|\\%)))"
)
_PRINTED = re.compile(r"(?<![\d.,])\d+\.\d+(?![\d.…]|\s?\\[lcd]?dots)")
_ELIDED = re.compile(r"(?<![\d.])(\d{1,3}(?:,\d{3})+|\d*)\.(\d{2,40})\s?(?:\\ldots(?![A-Za-z])|\.{3,}|…)")
_BASES = "two|three|four|five|six|seven|eight|nine"
_BASE_WORDS = re.compile(
    rf"(?<=\w)\s*(?:_\s*\{{?\s*(?:\\text\w*\s*\{{)?\s*({_BASES})\s*\}}{{0,2}}"
    rf"|(?:\(|\\text\s*\{{|\s)*(?:in\s+)?base[ -]*\}}?\s*(\d+|{_BASES})[)}}\s]*)\s*$"
)
_BRACKETED_BASE = re.compile(r"\(([0-9A-Z]+)\)(?=_)|(?<=_)\{?\((\d{1,2})\)\}?")
_UNIT_FRACTION = re.compile(
    r"\\frac\s*\{(\\(?:text|mathrm)\s*\{[^{}]*\}(?:\^\{?\d\}?)?)\}\{(\\(?:text|mathrm)\s*\{[^{}]*\}(?:\^\{?\d\}?)?)\}"
)
_LEAD = re.compile(
    r"^(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:(?:final|general|unique|complete|exact) )?"
    r"(?:solution|answer|result|ans)s?(?: set)?(?: (?:is|are)\s*:?\s+|\s*:\s*|\.\s+(?=[-$\\\d]))(?=\S)",
    re.I,
)
_LABEL_FONT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}:]{1,60})(?::\s*\}|\}\s*:)"
)
_ARROW = re.compile(r"\\(?:to|mapsto|(?:long)?rightarrow)(?![A-Za-z])|->|→|↦")
_LABEL = re.compile(r"(?:and\s+)?(?P<name>[^\W\d_](?:[^\W_]|[ '()-]){0,60}?)\s*:(?=\s|[-+]?[\d\\(\[.$])\s*")
_NEXT_LABEL = re.compile(r"(?:\n|\s(?:and|\\text\s?\{ ?and ?\})(?=\s))(?=[^:,;\n]{1,60}:)")
_END_OF_PROOF = re.compile(r"(?:\s|\\q?quad)*(?:\\(?:blacksquare|square|qed)(?![A-Za-z])|∎|■|□)\s*$")
_LARGE = re.compile(r"(?<=\d) ?(?:\\text\{ ?)?(thousand|million|billion|trillion)\b\}?")
_PERCENT = re.compile(
    r"(?<=[\d}])[\s-]?\s*(?:\\(?:text|mbox|mathrm)\s*\{\s*)?(?:per ?cent|percent|pct)\b\.?(\s*\})?", re.I
)
_ZEROS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_DIGIT_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@lru_cache(maxsize=4096)  # one answer is compared with many
def normalise(text: str, *, priced: bool = False) -> str:
    """Return the text in the spelling that the other modules read. Takes linear time and never raises.

    Args:
        text: an answer.
        priced: whether to keep its currencies, as units of the amounts.
    """
    text = opened(text)
    if currencies.currencies(text) or "$" in text:
        text = currencies.spelt(text, kept=priced)
    text = re.sub(r"(?<![A-Za-z\\])(?:np|math|numpy|sympy)\.(?=[a-z])", "", text)
    text = re.sub(
        r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup ", re.sub(r"(?<![A-Za-z\\])oo(?![A-Za-z])", "infinity", text)
    )
    text = _PRINTED.sub(_printed, text) if len(text) > 15 else text
    text = _ELIDED.sub(_elided, _REPEATING.sub(_repeating, text))
    text = _PERCENT.sub(r"\\%", in_digits(_ABOUT.sub("", text)))
    text = _LARGE.sub(lambda m: rf" \cdot 10^{{{_ZEROS[m[1]]}}}", text)
    text = _BASE_WORDS.sub(_base, text)
    text = _BRACKETED_BASE.sub(lambda m: m[1] or m[2], text)
    text = re.sub(r"(?<=\d) ?x ?(?=10\^)", r" \\times ", text)
    text = re.sub(r"^(\d+) to (\d+)$", r"\1:\2", text)
    text = re.sub(r"^(\d+) out of (\d+)$", r"\1/\2", text)
    text = _ABOUT.sub("", re.sub(r"\s+", " ", text).strip())
    text = _GROUPED.sub(lambda m: m[1] + m[2].replace(" ", ""), text)
    text = _MIXED.sub(r"(\1+\2/\3)", text)
    if ".." in text or "…" in text:
        text = _ELLIPSIS.sub(r", \\ldots", text)
    while text and text[-1] in ".,;:" and not text.endswith("\\,"):
        text = text[:-1].rstrip()
    return text


@lru_cache(maxsize=4096)
def opened(text: str) -> str:
    """Return the text in one alphabet and one spelling of LaTeX, without wrappers, marks and labels."""
    spelt = in_ascii(text)
    text = (spelt if len(spelt) <= LONGEST else text).strip()
    text = _END_OF_PROOF.sub("", re.sub(r"\s{2,}", " ", text))  # long runs would take quadratic time below
    if text.count('"') == 1:
        text = text.strip('"').strip()
    text = _unwrap(text.replace("\\\\$", "$"))
    if ":" in text:
        text = _unlabelled(text)
    if lead := _LEAD.match(text):
        text = _unwrap(text[lead.end() :])
    if "\\\\" in text and not _ENVIRONMENT.search(text):
        text = _DOUBLED.sub(r"\\", text)
    text = text.replace("{,}", ",")
    if "\\" in text or "~" in text:
        text = re.sub(r" {2,}", " ", _SPACE.sub(" ", re.sub(r",\\!\s*", ",", text)))
        text = _COLOUR.sub("", _NOTHING.sub("", text))
        text = _COMMAND.sub(lambda match: _COMMANDS.get(match[0], match[0]), text)
        text = re.sub(r"\^\s*\{\s*\\circ\s*\}", r"^\\circ", text)
        text = re.sub(r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text)
        text = _UNIT_FRACTION.sub(r"\1/\2", text)
        text = _FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
    return text


def _unlabelled(text: str) -> str:
    """Remove the label of `Area: 7`; labels of several answers become names, as in `Mean: 5, Median: 6`."""
    text = _LABEL_FONT.sub(r"\1: ", text)
    if lead := _LEAD.match(text):
        text = _unwrap(text[lead.end() :])
    pieces = forms.split(_NEXT_LABEL.sub(",", text), (",", ";"))
    labels = [_LABEL.match(piece) for piece in pieces]
    if len(pieces) > 1 and all(labels):
        return ", ".join(
            f"{label['name']} = {piece[label.end() :]}"
            for label, piece in zip(labels, pieces, strict=True)
            if label
        )
    label = labels[0]
    if label is None or denies(label["name"]) or label["name"] in FUNCTIONS:
        return text
    rest = _unwrap(text[label.end() :])
    if len(label["name"]) == 1 and (label["name"] in "ABCDEFGHIJabcdefghij" or _ARROW.search(rest)):
        return text  # a choice, or a mapping
    name = re.sub(r"[^A-Za-z ]", "", label["name"]).strip()
    value = name and re.search(r"[\d\\]", rest) and not forms.is_related(rest)
    return f"{name} = {rest}" if value else rest


def _unwrap(text: str) -> str:
    """Remove math delimiters around the whole text, and whatever surrounds a box."""
    while True:
        before = text
        text = unmarked(text)
        for start, end in _DELIMITERS:
            inner = text[len(start) : -len(end)]
            if inner and text.startswith(start) and text.endswith(end) and start not in inner:
                text = inner.strip()
        if text.endswith("$.") or text.endswith("$,"):
            text = text[:-1]
        if "boxed" in text or "fbox" in text:
            sign = "-" if re.match(r"[$\s]*-\s*\\(?:boxed|fbox)\b", text) else ""
            text = f"{sign}{box}" if (box := last_box(text)) else text
        whole = _ALL_IN_FONT.fullmatch(text)
        if whole and re.search(r"[,:]|\d ", whole[1]):
            text = whole[1].strip()
        if text == before:
            return text


def _repeating(match: re.Match[str]) -> str:
    again = re.sub(r"\D", "", match[3])
    product = match[3][0] == "(" and not re.search(
        r"(?:^|[,;:=(\[{~<>])\s*[-+]?$", match.string[: match.start()]
    )
    if product or len(match[0]) > 100 or not (match[1] or match[2] or match[3][0] == "\\"):
        return match[0]
    return _fraction(match[1], match[2], again)


def _fraction(whole: str, fixed: str, again: str) -> str:
    """Return the fraction for a decimal whose last digits repeat forever."""
    below = (10 ** len(again) - 1) * 10 ** len(fixed)
    above = int(whole + fixed + again) - int(whole + fixed or "0")
    return rf"\frac{{{above}}}{{{below}}}"


def _printed(match: re.Match[str]) -> str:
    """Read `0.30000000000000004` as 0.3.

    A program prints up to 17 significant digits of a double, of which 15 are reliable. If these are at most
    twelve digits and zeros, the others are noise; a number with 18 or more digits is not a double.
    """
    if not 16 <= len(match[0].replace(".", "").lstrip("0")) <= 17:
        return match[0]
    short = Context(prec=15).create_decimal(match[0]).normalize()
    return format(short, "f") if len(short.as_tuple().digits) <= 12 else match[0]


def _elided(match: re.Match[str]) -> str:
    r"""Read `0.8333...` as 5/6: the repeating end must occur three times, or twice if nothing precedes it."""
    whole, digits = match[1].replace(",", ""), match[2]
    for size in range(1, len(digits) // 2 + 1):
        start = len(digits) - size
        while start and digits[start - 1] == digits[start - 1 + size]:
            start -= 1
        if len(digits) - start >= (2 if start == 0 else 3) * size:
            return _fraction(whole, digits[:start], digits[start : start + size])
    return rf"{whole}.{digits}\ldots"


def _base(match: re.Match[str]) -> str:
    base = match[1] or match[2]
    return f"_{_DIGIT_WORDS.index(base) if base in _DIGIT_WORDS else base}"


@lru_cache(maxsize=4096)  # one answer is compared with many
def compact(text: str) -> str:
    """Return a spelling without spaces and fonts; for words and single letters, also without case."""
    bare = plain(text)
    if re.fullmatch(r"[a-z ]+", bare):
        return bare
    text = re.sub(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|rm)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"([_^])\{(\w|\\[a-z]+)\}", r"\1\2", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)|\\(?=%)", "", text)
