"""Read numbers in words, alone or after a numeral: `two hundred and five`, `2.5 million`, `3 quarters`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

_UNITS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen
"""
_SMALL = {word: number for number, word in enumerate(_UNITS.split())}
_TENS_IN_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS = {word: 10 * n for n, word in enumerate(_TENS_IN_WORDS, 2)}
_SCALES = {"thousand": 10**3, "lakh": 10**5, "crore": 10**7}
_SCALES |= {
    f"{prefix}illion": 10 ** (3 * n + 3)
    for n, prefix in enumerate(("m", "b", "tr", "quadr", "quint", "sext", "sept", "oct", "non", "dec"), 1)
}
_COUNTS = {"dozen": 12, "gross": 144, "score": 20}
# In `3 score`, the unit is twenty; `85 scores` are scores. All others may have an s.
_MULTIPLIERS = {"hundred": 100, **_SCALES, **_COUNTS}
_MULTIPLIERS |= {f"{word}s": size for word, size in _MULTIPLIERS.items() if word not in ("gross", "score")}
_MULTIPLIERS["tens"] = 10
_AGAIN = {"once": 1, "twice": 2, "thrice": 3}
_ORDINALS = {"three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}


def _ordinal(word: str) -> str:
    return _ORDINALS.get(word) or (f"{word[:-1]}ieth" if word.endswith("y") else f"{word}th")


# One second is a time, and a first is not a fraction: denominators start with the third.
_PARTS = {_ordinal(word): n for word, n in (*islice(_SMALL.items(), 3, None), *_TENS.items())}
_PARTS |= {_ordinal(word): n for word, n in {"hundred": 100, **_SCALES}.items()} | {"quarter": 4}
_PLURAL_PARTS = {f"{word}s": n for word, n in _PARTS.items()} | {"halves": 2}
_PARTS["half"] = 2

MULTIPLIERS = frozenset(_MULTIPLIERS) | frozenset(_PLURAL_PARTS)
_WORDS = MULTIPLIERS | {*_SMALL, *_TENS, *_AGAIN, *_PARTS}

_NUMERAL = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(
    rf"(?P<numeral>[-+]?(?:(?:\d+ ?)?\\frac\{{\d+\}}\{{\d+\}}|\d+ \d+/\d+|(?:{_NUMERAL})(?:/\d+)?)"
    r"(?![\w^!(]))|(?P<word>[A-Za-z]+)|(?P<comma>,)|(?P<gap>\s+|(?<=\w)-(?=[A-Za-z]))"
    r"|(?P<other>\\[A-Za-z]+|.)",
    re.S,
)
_LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "mn": 10**6, "mln": 10**6}
_LETTERS |= {"bn": 10**9, "bln": 10**9, "tn": 10**12}
_ABBREVIATED = re.compile(rf"([-+]?(?:{_NUMERAL}))({'|'.join(_LETTERS)})")
_SHORT = re.compile(rf"(?<![\w.,]){_ABBREVIATED.pattern}(?= [a-z]{{3}})")  # 1.2M people
_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_FONT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_LONGEST_UNIT = 5  # maximum number of words after a number; more are a sentence
_BEFORE = ("", *"=([{<>:;&$")  # where an answer or an element of it may start
_OPERATORS = tuple("+*/^_!(-")
_JOINTS = (",", "and", "or", "to", "out", "of")
_NO_UNIT_WORDS = """
and or is are was if more less fewer than times plus minus over below above squared cubed factorial divided
mod of in out to from by not point at least most past
"""
_NO_UNIT = frozenset(_NO_UNIT_WORDS.split())
_MAX_DIGITS = 400
_LONGEST = 500  # maximum number of characters of numbers in words; more are prose


@dataclass(frozen=True)
class _Number:
    value: Fraction
    end: int
    part: bool = False  # a fraction: `of an hour` may follow
    point: bool = False  # written as a decimal
    fork: tuple[Fraction, int] | None = None  # value and end without the last `and five`


def in_digits(text: str) -> str:
    r"""Write the numbers of an answer in digits: `two and a half hours` is `5/2 hours`, `5 dozen` is `60`.

    It reads a number with a unit after it, and lists of them, if nothing else precedes them; sentences are
    left unchanged. `and` adds if what follows is less than the hundred or thousand before it, or a proper
    fraction (`two hundred and five`, `two and a half`); otherwise it separates (`two and three`).
    """
    if len(text) > _LONGEST or not (" of " in text or _SHORT.search(text) or _has_number_word(text)):
        return text
    text = _SHORT.sub(lambda match: str(abbreviated(match[0])), text)
    text = _FONT.sub(lambda match: f" {match[1]} " if _has_number_word(match[1]) else match[0], text)
    pieces: list[str] = []
    written = 0
    for tokens, behind in _phrases(list(_TOKEN.finditer(text))):
        before = text[: tokens[0].start()].rstrip()[-1:]
        if before in _BEFORE and behind not in _OPERATORS:
            for (begin, end), digits in _items(tokens):
                pieces += [text[written:begin], digits]
                written = end
    return "".join((*pieces, text[written:]))


def _has_number_word(text: str) -> bool:
    return any(word.casefold() in _WORDS for word in _PLAIN_WORD.findall(text))


def _phrases(tokens: list[re.Match[str]]) -> Iterator[tuple[list[re.Match[str]], str]]:
    """Yield runs of words, numerals and commas, each with what follows it."""
    run: list[re.Match[str]] = []
    for token in tokens:
        if token.lastgroup == "other":
            if run:
                yield run, token[0]
            run = []
        elif token.lastgroup != "gap":
            run.append(token)
    if run:
        yield run, ""


def _items(tokens: list[re.Match[str]]) -> list[tuple[tuple[int, int], str]]:
    """Find the numbers of a list: positions and replacements; none unless all of it is a list."""
    words = [token[0].casefold() for token in tokens]
    found: list[tuple[tuple[int, int], str]] = []
    at = 0
    while at < len(words):
        number = _signed(words, at)
        if number is None:
            return []
        end = number.end
        stop = next((i for i in range(end, len(words)) if _parts(words, end, i)), len(words))
        if number.part or any(token.lastgroup == "word" for token in tokens[at:end]):
            unit = _unit(tokens[end - 1 : stop], words[end:stop], number)
            if unit is None:
                return []
            until = tokens[end + unit].start() if end + unit < stop else tokens[stop - 1].end()
            found.append(((tokens[at].start(), until), _written(number) + " " * (end + unit < stop)))
        at = next((i for i in range(stop, len(words)) if words[i] not in _JOINTS), len(words))
    return found


def _parts(words: list[str], begin: int, at: int) -> bool:
    """Return whether a list goes on at this word, with `and` or the next number of `six feet two inches`."""
    if words[at] in (",", "and", "or", "to") or words[at : at + 2] == ["out", "of"]:
        return True
    return at > begin and (words[at] in _SMALL or words[at] in _TENS or words[at][-1].isdigit())


def _unit(tokens: list[re.Match[str]], words: list[str], number: _Number) -> int | None:
    """Return how many words lead from a number to its unit, 2 in `half of an hour`; None without a unit."""
    if not words:
        return 0
    first = 0
    if number.part:
        first += words[:1] == ["of"]
        first += words[first : first + 1] in (["a"], ["an"], ["the"])
    unit = words[first:]
    hyphen = tokens[0].end() == tokens[1].start() or tokens[1].string[tokens[0].end()] == "-"
    if not 0 < len(unit) <= _LONGEST_UNIT or (hyphen and not unit[0].startswith(("percent", "pct"))):
        return None
    if any(len(word) < 2 or not word.isalpha() or word in _NO_UNIT or word in _WORDS for word in unit):
        return None
    return first


def _written(number: _Number) -> str:
    value = number.value
    places = (
        next((n for n in range(_MAX_DIGITS) if (value * 10**n).denominator == 1), 0) if number.point else 0
    )
    if not places:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


# ------------------------------------------------------------------------------------------------ the grammar


def _signed(words: list[str], at: int) -> _Number | None:
    if words[at] in _AGAIN and len(words) == 1:
        return _Number(Fraction(_AGAIN[words[at]]), at + 1)
    negative = words[at] in ("minus", "negative")
    number = _number(words, at + negative)
    if number is None or not negative:
        return number
    return _Number(-number.value, number.end, number.part, number.point)


def _number(words: list[str], at: int) -> _Number | None:
    """Read a fraction, a mixed number, a decimal or a cardinal, and the multipliers after it."""
    cardinal = _cardinal(words, at)
    number = _mixed(words, cardinal) or _fraction(words, at, cardinal) or _decimal(words, cardinal)
    number = number or cardinal
    if number and number.end == at + 1 and re.search(r"[/}]", words[at]) and words[at + 1 : at + 2] == ["of"]:
        number = _Number(number.value, number.end, part=True)  # 3/4 of an hour
    while number is not None and (behind := _multiplier(words, number)):
        number = _Number(number.value * behind[0], behind[1], point=number.point)
    return number


def _multiplier(words: list[str], number: _Number) -> tuple[int, int] | None:
    at = number.end
    if number.part:  # half a million, a quarter of a million
        at += words[at : at + 1] == ["of"]
        at += words[at : at + 1] in (["a"], ["an"], ["one"])
    size = _MULTIPLIERS.get(words[at]) if at < len(words) else None
    if size == 100 and not number.part:
        return None  # `five hundred and six hundred` are two
    return (size, at + 1) if size else None


def _mixed(words: list[str], cardinal: _Number | None) -> _Number | None:
    """Read `two and a half`; of `nine hundred and two tenths` the part is two tenths."""
    if cardinal is None:
        return None
    whole = (cardinal.value, cardinal.end)
    for value, end in (cardinal.fork or whole, whole):
        if words[end : end + 1] == ["and"] and value.denominator == 1:
            behind = _cardinal(words, end + 1)
            part = _fraction(words, end + 1, behind)
            if not words[end - 1][-1].isdigit():  # `2 and 1/2` are two
                part = part or behind
            if part and 0 < part.value < 1:
                sign = -1 if value < 0 else 1
                return _Number(value + sign * part.value, part.end)
    return None


def _fraction(words: list[str], at: int, cardinal: _Number | None) -> _Number | None:
    """Read `half`, `a third`, `two thirds`, `2 thirds`, `three twenty-fifths`."""
    if words[at : at + 1] == ["half"]:
        return _Number(Fraction(1, 2), at + 1, part=True)
    if words[at : at + 1] in (["a"], ["an"]):
        above, end = Fraction(1), at + 1
    elif cardinal is None:
        return None
    else:
        above, end = cardinal.value, cardinal.end
    tens = {"ten": 10, **_TENS}.get(words[end], 0) if end < len(words) else 0
    last = end + bool(tens)
    if last >= len(words):
        return None
    word = words[last]
    below = _PLURAL_PARTS.get(word) or _PARTS.get(word)
    if below is None or (tens == 10) != (tens > 0 and below >= 1000) or (tens > 10 and below > 9):
        return None
    # `twenty third` is an ordinal, and `two fifth graders` are two
    alone = above < 20 and words[last + 1 : last + 2] in ([], [","], ["and"], ["or"])
    if word in _PARTS and above != 1 and not alone:
        return None
    below = tens * below if tens == 10 else tens + below  # a ten-thousandth, a twenty-fifth
    return _Number(above / below, last + 1, part=True)


def _decimal(words: list[str], cardinal: _Number | None) -> _Number | None:
    if cardinal is None or words[cardinal.end : cardinal.end + 1] != ["point"]:
        return None
    end = cardinal.end + 1
    digits = ""
    while end < len(words) and _SMALL.get(words[end], 10) < 10:
        digits += str(_SMALL[words[end]])
        end += 1
    if not digits:
        return None
    return _Number(cardinal.value + Fraction(int(digits), 10 ** len(digits)), end, point=True)


def _cardinal(words: list[str], at: int) -> _Number | None:
    """Read groups below a thousand, each with its scale, in decreasing order."""
    total, limit, end = Fraction(0), None, -1
    fork: tuple[Fraction, int] | None = None
    point = False
    while (group := _group(words, at)) is not None:
        scale = _scale(words, group.end)
        if limit is not None and group.value * (scale or 1) >= limit:
            break
        comma = end >= 0 and words[end] == ","
        if comma and words[at - 1] == "," and not scale and not _hundreds(words[at : group.end]):
            break  # `one thousand, two` is a list
        if scale is None and end >= 0 and words[at - 1] == "and":
            fork = (total, end)
        elif scale is None and group.fork:
            fork = (total + group.fork[0], group.fork[1])
        total += group.value * (scale or 1)
        point = point or group.point
        end = at = group.end + (scale is not None)
        if scale is None:
            break
        limit = scale
        at += words[at : at + 1] == [","]
        at += words[at : at + 1] == ["and"]
    return _Number(total, end, point=point, fork=fork) if end >= 0 else None


def _scale(words: list[str], at: int) -> int | None:
    return _SCALES.get(words[at].removesuffix("s")) if at < len(words) else None


def _hundreds(words: list[str]) -> bool:
    return any(word.removesuffix("s") == "hundred" for word in words)


def _group(words: list[str], at: int) -> _Number | None:
    """Read a number below a hundred or a number of hundreds, e.g. `two hundred and five`; or a numeral."""
    first = _below_hundred(words, at)
    if first is None or not _hundreds(words[first.end : first.end + 1]):
        return first
    value, end = first.value * 100, first.end + 1
    joined = words[end : end + 1] == ["and"]
    rest = _below_hundred(words, end + joined)
    if rest is None or rest.end == end + joined or _hundreds(words[rest.end : rest.end + 1]):
        rest = None
    if rest is None or rest.value.denominator != 1 or not 0 < rest.value < 100:
        return _Number(value, end, point=first.point)
    return _Number(value + rest.value, rest.end, point=first.point, fork=(value, end) if joined else None)


def _below_hundred(words: list[str], at: int) -> _Number | None:
    if at >= len(words):
        return None
    word = words[at]
    if word in _TENS:
        ones = _SMALL.get(words[at + 1], 0) if at + 1 < len(words) else 0
        ones = ones if ones < 10 else 0
        return _Number(Fraction(_TENS[word] + ones), at + 1 + bool(ones))
    if word in _SMALL:
        return _Number(Fraction(_SMALL[word]), at + 1)
    if word in ("hundred", "dozen") or word in _SCALES:
        return _Number(Fraction(1), at)
    if word in ("a", "an") and words[at + 1 : at + 2] and words[at + 1] in _MULTIPLIERS:
        return _Number(Fraction(1), at + 1)
    value = _numeral(word)
    return None if value is None else _Number(value, at + 1, point="." in word)


def _numeral(word: str) -> Fraction | None:
    if not word[-1].isdigit() and word[-1] != "}":
        return None
    if len(word) > _MAX_DIGITS:
        return None
    sign = -1 if word[0] == "-" else 1
    pieces = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r" \1/\2", word.lstrip("-+").replace(",", "")).split()
    if any(re.fullmatch(r"[\d.]+/0+", piece) for piece in pieces):
        return None
    above = [piece.partition("/") for piece in pieces]
    return sign * sum((Fraction(top) / Fraction(below or 1) for top, _, below in above), Fraction(0))


def abbreviated(text: str) -> Fraction | None:
    """Return the value of `45k`, `2.5M` or `3bn`, without a space before the letters; None otherwise."""
    match = _ABBREVIATED.fullmatch(text)
    if match is None or len(text) > _MAX_DIGITS:
        return None
    return Fraction(match[1].replace(",", "")) * _LETTERS[match[2]]
