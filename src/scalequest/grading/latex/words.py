"""Read answers in words: numbers, units, times, dates, multiple-choice letters, and ways to say 'none'."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from scalequest.grading.latex.currencies import codes
from scalequest.grading.latex.numerals import MULTIPLIERS
from scalequest.grading.latex.tokens import FUNCTIONS

_FONT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox|rm)\s*"
_IN_FONT = re.compile(_FONT + r"\{([^{}]*)\}")

# ---------------------------------------------------------------------------------------------- plain words


def plain(text: str) -> str:
    r"""Return the words of `\text{...}` and the like without the command, lower case, single spaces."""
    text = _IN_FONT.sub(r" \1 ", text)
    text = re.sub(r"[\".,!?*]+(?=\s|$)|\\(?=[%$ ])", " ", text)
    return re.sub(r"^(?:the|an?) (?=[a-z]{3})", "", " ".join(text.casefold().split()))


_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}(?![A-Za-z])")
_NO_PROSE = FUNCTIONS | {"theta", "alpha", "beta", "gamma", "lambda", "omega", "sigma", "infinity"}
_NO_PROSE |= {"asin", "acos", "atan", "pmatrix", "bmatrix", "matrix", "array", "vmatrix"}


def is_prose(text: str) -> bool:
    """Return whether a text says something in words, in addition to or instead of a formula."""
    text = _IN_FONT.sub(r" \1 ", text).strip()
    words = [text] if re.fullmatch(r"[A-Za-z]{3}", text) else _WORD.findall(text)
    return any(word.casefold() not in _NO_PROSE for word in words)


_NONE = re.compile(
    r"(?:there (?:is|are|exists?) )?no (?:real |integer |such )?(?:solutions?|answers?|roots?|values?)"
    r"(?: of \w)?(?: exists?)?|none|(?:the )?empty set|inconsistent(?: system)?|\\emptyset|\\\{ ?\\\}|\{\}"
)
_UNDEFINED = re.compile(r"dne|(?:it |the limit )?does not exist|(?:it is )?undefined|not defined")
_ANYTHING = re.compile(r"(?:all real numbers|all reals|every real number|any real number|\\mathbb ?\{?r\}?)")


def says_none(text: str) -> bool:
    """Return whether a text denies that the problem has any solution."""
    return _NONE.fullmatch(plain(text)) is not None


def says_undefined(text: str) -> bool:
    """Return whether a text says that there is no such value."""
    return _UNDEFINED.fullmatch(plain(text)) is not None


def says_all_reals(text: str) -> bool:
    """Return whether a text names the whole real line."""
    return _ANYTHING.fullmatch(plain(text)) is not None


_CHOICE = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?(?:\(\s*([A-Ja-j])\s*\)|([A-Ja-j])(?:[).:]|(?=$)))(?:\s+(.*))?",
    re.S,
)


def choice(text: str) -> tuple[str, str] | None:
    """Return the letter of a multiple-choice answer and the text after it: `(B) 12` to `B`, `12`."""
    text = " ".join(_IN_FONT.sub(r" \1 ", text).replace("\\ ", " ").split())
    match = _CHOICE.fullmatch(text)
    return ((match[1] or match[2]).upper(), (match[3] or "").strip()) if match else None


# -------------------------------------------------------------------------------------------------- numbers

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")


_FORMULA = re.compile(
    r"(?<![A-Za-z])[A-Za-z]\(|[A-Za-z_]\([\"'\d]|__|[+*]|(?<!\w)[A-Za-z]\s?[-/]|[\w)]\s?[-/]\s?[A-Za-z](?![A-Za-z])"
)


# A sentence that negates its number, only bounds it, or is about another number derived from it.
_ANOTHER = re.compile(
    r"\b(?:not|cannot|\w+n't|never|wrong|incorrect|undefined|except|no such|no (?:real )?solutions?)\b"
    r"|\bat (?:least|most)\b|\b(?:less|more|fewer|greater|larger|smaller|bigger|higher|lower) than\b"
    r"|\bor (?:less|more|fewer|greater|larger|smaller|higher|lower)\b|\bup to\b"
    r"|\b(?:over|under|above|below|between)\b"
    r"|\b(?:multiples?|factors?|divisors?|powers?|roots?|reciprocal|square|cube|logarithm) of\b"
    r"|\b(?:squared|cubed|factorial|divisible|primes)\b",
    re.I,
)


def denies(text: str) -> bool:
    """Return whether words negate a number, bound it, or are about another number derived from it."""
    return _ANOTHER.search(text) is not None


def number_of_sentence(text: str) -> str | None:
    """Return the number of a sentence with at least two words and exactly one number; else None."""
    text = _IN_FONT.sub(r" \1 ", text).strip()
    if len(re.findall(r"[A-Za-z]{2,}", text)) < 2 or any(sign in text for sign in "=\\^{"):
        return None
    if _FORMULA.search(text):
        return None
    if text[:1].isdigit() and set(text.casefold().split()) & _NEVER:
        return None  # "3 more than x" is not 3
    if denies(text):
        return None
    numbers = _NUMBER.findall(text)
    return (
        str(numbers[0])
        if len(numbers) == 1 and len(re.findall(r"\d+", text.replace(numbers[0], ""))) == 0
        else None
    )


# ------------------------------------------------------------------------------------------- times and dates

_CLOCK = re.compile(r"(\d{1,2})(?: ?: ?([0-5]\d))?(?: ?: ?([0-5]\d))? ?(am|pm|noon|o'clock)?")
_YEAR = "january february march april may june july august september october november december"
_MONTHS = _YEAR.split()
_MONTH = "|".join(rf"{name[:3]}(?:{name[3:]})?" if name != "may" else "may" for name in _MONTHS)
_DATE = re.compile(
    rf"(?:(?P<m1>{_MONTH}) (?P<d1>\d{{1,2}})|(?P<d2>\d{{1,2}}) (?:of )?(?P<m2>{_MONTH}))(?: (?P<y>\d{{4}}))?"
    r"|(?P<iso_y>\d{4})[-/](?P<iso_m>\d\d)[-/](?P<iso_d>\d\d)"
)


@dataclass(frozen=True)
class Clock:
    """A time of day in seconds; `half` is am or pm if stated."""

    seconds: int
    half: str


def clock(text: str) -> Clock | None:
    """Read `20:34`, `8:34 p.m.`, `3 pm`; None for anything else."""
    match = _CLOCK.fullmatch(re.sub(r"\b([ap])\.? ?m\b\.?", r"\1m", plain(text)))
    if match is None or (match[2] is None and match[4] is None):
        return None
    hour, half = int(match[1]), match[4] if match[4] in ("am", "pm") else ""
    if hour > 24 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + 12 * (half == "pm")
    return Clock(3600 * hour + 60 * int(match[2] or 0) + int(match[3] or 0), half)


def same_time(a: Clock, b: Clock) -> bool:
    """Return whether two times agree; if only one says am or pm, the other may be on a 12-hour clock."""
    half_day = bool(a.half) != bool(b.half)
    return a.seconds == b.seconds or (half_day and (a.seconds - b.seconds) % 43_200 == 0)


def date(text: str) -> tuple[int, int, int] | None:
    """Return year (0 if not stated), month and day of `March 5, 2020`, `5 Mar 2020`, `2020-03-05`."""
    match = _DATE.fullmatch(re.sub(r"(?<=\d)(?:st|nd|rd|th)\b|,", "", plain(text)))
    if match is None:
        return None
    if match["iso_y"]:
        return int(match["iso_y"]), int(match["iso_m"]), int(match["iso_d"])
    month = [name[:3] for name in _MONTHS].index((match["m1"] or match["m2"])[:3]) + 1
    return int(match["y"] or 0), month, int(match["d1"] or match["d2"])


_ARC = re.compile(
    r"(-?)\s*(\d+)\s*\^\s*\\circ\s*(?:(\d+)\s*(?:'(?!')|\^\{?\s*\\prime\s*(?!\\)\}?))?"
    r"\s*(?:(\d+(?:\.\d+)?)\s*(?:''|\^\{\s*\\prime\s*\\prime\s*\}))?"
)


def arc(text: str) -> Fraction | None:
    r"""Read degrees, minutes and seconds, e.g. `63^\circ 45'`, in degrees; None for anything else."""
    match = _ARC.fullmatch(text.strip())
    if match is None:
        return None
    size = Fraction(match[2]) + Fraction(match[3] or 0) / 60 + Fraction(match[4] or 0) / 3600
    return -size if match[1] else size


# ----------------------------------------------------------------------------------------------------- units

_UNITS: dict[str, tuple[str, Fraction]] = {}
for _dimension, _table in {
    "length": "mm millimeter 1/1000|cm centimeter 1/100|m meter 1|km kilometer 1000|in inch inche 127/5000"
    "|ft foot feet 381/1250|yd yard 1143/1250|mi mile 201168/125",
    "mass": "mg milligram 1/1000|g gram 1|kg kilogram 1000|lb pound 45359237/100000"
    "|oz ounce 45359237/1600000",
    "time": "s sec second 1|min minute 60|h hr hour 3600|day 86400|week 604800",
    "volume": "ml milliliter 1/1000|l liter 1",
    "money": "cent 1/100|dollar usd buck 1",
    "angle": "degree deg 1",
    "radian": "radian rad 1",
    "percent": r"% \% percent pct 1",
}.items():
    for _entry in _table.split("|"):
        *_spellings, _factor = _entry.split()
        for _spelling in _spellings:
            _UNITS[_spelling] = (_dimension, Fraction(_factor))

_SYMBOLS = "N J W V A K C F Pa Hz mph kph rpm psi erg eV mol cal kcal ppm gal"
_LETTERS = frozenset(_SYMBOLS.split())
_MARKED = re.compile(r"(?:\s*(?:[/·*-]|\\cdot|\\times|\\,)?\s*⟨[^⟨⟩]*⟩(?:\s*\^\s*\{?\s*-?\d\s*\}?)?)+\s*$")
_BARE = re.compile(
    r"(?<=[\d})!])(\s*)((?:[A-Za-z]{2,}|(?<=\s)[mgsLh])(?:\^\{?-?\d\}?)?"
    r"(?:\s*(?:/|\bper\b|[ -])\s*[A-Za-z]+(?:\^\{?\d\}?)?){0,5})$"
)
_TAIL_SIGN = re.compile(r"\s*(\\?%|\^\s*\\circ(?:\s*[CF](?![A-Za-z]))?)\s*$")
_NEVER = (FUNCTIONS - {"min", "sec"}) | {
    "pi",
    "mod",
    "theta",
    "and",
    "or",
    "is",
    "if",
    "more",
    "less",
    "than",
    "times",
    "plus",
    "minus",
}
_NEVER |= {"over", "below", "above", "squared", "cubed", "factorial", "divided"}


_PLAIN_NUMBER = re.compile(
    r"-?(?:[\d.,{}^\s/]|(?<=\d)[eE][-+]?(?=\d)|\\(?:frac|sqrt|pi|times|cdot)(?![A-Za-z]))+"
)


@dataclass(frozen=True)
class Unit:
    """A unit as written, and by dimension if all of it is known: the factor to the basic unit."""

    text: str
    dimension: tuple[tuple[str, int], ...] | None
    factor: Fraction
    currencies: frozenset[str] = frozenset()


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""Split `10 \text{ cm}^2` into `10` and its unit; words with nothing before them are left unchanged."""
    sign = _TAIL_SIGN.search(text)
    if sign and sign.start() > 0:
        core = text[: sign.start()].strip()
        if "%" in sign[1]:
            return core, Unit("%", (("percent", 1),), Fraction(1))
        if re.search(r"\d", core) and not re.search(r"[A-Za-z]{3}|\^\s*\\circ", core):
            scale = sign[1].strip()[-1]
            named = f"degree {scale}" if scale in "CF" else "degree"
            return core, Unit(named, (("angle", 1),), Fraction(1))
    marked = _IN_FONT.sub(_mark, text)
    match = _MARKED.search(marked)
    if match and re.search(r"[\w)}]", marked[: match.start()]):
        if not MULTIPLIERS.isdisjoint(re.findall(r"[a-z]+", match[0])):
            return text, None  # `7 \times 2 dozen`
        return _unmarked(marked[: match.start()]), _unit(match[0])
    bare = _BARE.search(text)
    if bare and re.search(r"\d", text[: bare.start()]) and "\\" not in bare[2]:
        first = re.split(r"[\s/^-]", bare[2])[0]
        known = _known(first)
        if len(first) == 1 and first.islower() and not _PLAIN_NUMBER.fullmatch(text[: bare.start()].strip()):
            return text, None  # `2 + 3 m` and `R^2 h` are formulas
        if first in FUNCTIONS and bare[2] != first:
            return text, None  # `5 sec x`
        words = set(re.split(r"[\s/^-]+", bare[2].casefold()))
        if (bare[1] or known) and not words & (_NEVER | MULTIPLIERS) and (len(first) > 2 or known):
            return text[: bare.start()].strip(), _unit(bare[2])
    return text, None


_AMOUNT = re.compile(r"(?:^|\s*,?\s*(?:and\s)?\s*)(\d+(?:\.\d+)?)\s*([a-z]+)\.?")


def amount(text: str) -> tuple[str, Fraction, Fraction] | None:
    """Return dimension, size in the basic unit, and its first unit for `3 hours 25 minutes`; else None.

    The units must decrease, and each amount must be less than one of the previous unit.
    """
    text, end, total = plain(text), 0, Fraction(0)
    found: list[tuple[str, Fraction]] = []
    while match := _AMOUNT.match(text, end):
        entry = _UNITS.get(match[2]) or _UNITS.get(match[2].removesuffix("s"))
        if entry is None or (found and entry[0] != found[0][0]):
            return None
        size = Fraction(match[1]) * entry[1]
        if found and size >= found[-1][1]:
            return None
        total, end = total + size, match.end()
        found.append(entry)
    if len(found) < 2 or text[end:].strip():
        return None
    return found[0][0], total, found[0][1]


def _known(word: str) -> bool:
    low = word.casefold()
    return word in _LETTERS or bool(codes(word)) or bool({low, low.removesuffix("s")} & set(_UNITS))


def _mark(match: re.Match[str]) -> str:
    content = match[1]
    word = content.strip()
    is_text = match[0].lstrip("\\").startswith(("text", "mbox"))
    unit = content[:1] == " " or _known(word)
    if not word or word in ("e", "i", "d") or re.search(r"[\d=<>\\]", word):
        return match[0]
    return f"⟨{word}⟩" if is_text or unit else match[0]


def _unmarked(text: str) -> str:
    """Return the part of the text before its unit, with its own fonts back in place."""
    if "⟨" not in text:
        return text.strip()
    return re.sub(r"⟨([^⟨⟩]*)⟩", r"\\text{\1}", text).strip()


def _unit(text: str) -> Unit:
    words = re.sub(
        r"[⟨⟩{}]|\\cdot|\\times|\\,|·|\*|(?<=\w)-(?=\w|⟨)",
        " ",
        re.sub(r"\bper\b", "/", re.sub(r"\bmph\b", "mile / hour", text)),
    )
    dimension: dict[str, int] = {}
    factor, known, sign, square = Fraction(1), True, 1, 0
    names: list[str] = []
    currencies: frozenset[str] = frozenset()
    for word in re.findall(r"/|[^\s/^]+(?:\s*\^\s*-?\d)?", words):
        if word == "/":
            sign = -1
            names.append("/")
            continue
        if word.casefold() in ("square", "sq", "cubic", "cu"):
            square = 2 if word.casefold().startswith("sq") else 3
            continue
        name, _, power = (piece.strip() for piece in word.partition("^"))
        money = codes(name)
        currencies |= money
        entry = _UNITS.get(name.casefold()) or _UNITS.get(name.casefold().removesuffix("s"))
        entry = entry or (("money", Fraction(1)) if money else None)
        exponent = sign * (int(power) if power else square or 1)
        square = 0
        names.append(name.casefold().removesuffix("s") + (f"^{abs(exponent)}" if abs(exponent) != 1 else ""))
        if entry is None:
            known = False
            continue
        dimension[entry[0]] = dimension.get(entry[0], 0) + exponent
        factor *= entry[1] ** exponent
    return Unit(" ".join(names), tuple(sorted(dimension.items())) if known else None, factor, currencies)


def _without_money(unit: Unit, other: Unit) -> tuple[tuple[str, int], ...]:
    """Return the dimension of `dollars per hour` for comparison with `per hour`, whose sign was removed."""
    told = unit.dimension or ()
    if ("money", 1) not in told or len(told) == 1 or "cent" in unit.text.split():
        return told
    return tuple(d for d in told if d[0] != "money" or d in (other.dimension or ()))


def conversion(left: Unit, right: Unit) -> Fraction | None:
    """Return the value of one `left` in units of `right`; None if not convertible, as far as known."""
    if left.currencies and right.currencies and left.currencies.isdisjoint(right.currencies):
        return None
    if left.dimension is not None and right.dimension is not None:
        bare = _without_money(left, right), _without_money(right, left)
        return left.factor / right.factor if bare[0] == bare[1] else None
    a, b = set(left.text.split()), set(right.text.split())
    return Fraction(1) if a <= b or b <= a else None
