"""Rewrite plain English in a small alphabet, in which the oracle sees a sentence.

`tag` writes people as `@Tom`, numbers as `n:12` (`n:?` for "some"), fractions as `f:1/3`, things as
`i:apples`, singular nouns as `x:bus`, rates and durations as `per:day` and `d:3:day`, unknown words as
`u:word`, and verbs as their infinitives. `fold` then replaces every quantity phrase by one `Amount`. Nothing
here knows what a story means.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


class Unread(Exception):
    """The text was not understood."""


def _list(words: str) -> list[str]:
    return words.split()


VERBS = {  # class -> infinitives; in a rule, the name of a class stands for any of them
    "HAVE": "have own hold carry contain",
    "GAIN": "buy get receive find pick collect make bake earn win gain gather catch save grow build open paint write lay",
    "LOSE": "lose eat use throw drop break burn spend donate drink sell waste remove delete cook plant discard pay",
    "GIVE": "give hand send pass lend donate",
    "TAKE": "take steal borrow grab",
    "LEAVE": "leave die burst break wither vanish disappear melt fly hop run swim walk go fall",
    "COME": "come arrive join appear hatch",
    "STAY": "sit stand live rest swim play wait stay remain",
    "SPLIT": "share split divide distribute",
    "PACK": "pack put place arrange sort plant",
    "TRADE": "trade exchange swap",
    "RISE": "grow increase rise",
    "SINK": "shrink fall drop decrease",
    "LIKE": "be love like want go walk live count wonder play smile work collect visit meet",
    "OTHER": "do be bring add start begin keep double triple cost pay fill tell calculate",
}
IRREGULAR = """have has had having;do does did done;be is are was were been;go goes went gone going;get got getting
buy bought;find found;make made;win won;catch caught;grow grew grown;build built;lose lost;eat ate eaten;split split
throw threw thrown;break broke broken;spend spent;drink drank drunk;sell sold;give gave given;send sent;lend lent
take took taken;steal stole stolen;fly flew flown;run ran;swim swam;fall fell fallen;come came;sit sat;stand stood
shrink shrank;rise rose risen;bring brought;begin began begun;keep kept;pay paid;tell told;hold held;meet met;put put
write wrote written;burst burst"""
PLURALS = dict(
    entry.split(":")
    for entry in _list("""leaf:leaves child:children person:people man:men woman:women mouse:mice goose:geese foot:feet
    tooth:teeth loaf:loaves knife:knives sheep:sheep fish:fish potato:potatoes tomato:tomatoes""")
)
FAMILY = "brother sister mother father aunt uncle cousin friend neighbour neighbor teacher"
FUNCTION = frozenset(
    _list("""a an the of to from for with and but so if when while after until than as many more fewer that what which who it
    in on at into among between equally together left not all or by percent times number time away off out over up there
    without about initially howmany half whole each per rotten broken""")
)
# Further words that may start a sentence, and are then capitalised but not names.
STARTERS = frozenset(
    _list("""he she they his her their then now also some several many few yesterday today later finally afterwards altogether
    originally how every no one next both dozen please lots plenty those i him its this is do does did first""")
)
SMALL = _list("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen""")
TENS = _list("twenty thirty forty fifty sixty seventy eighty ninety")
SPELLED = dict(zip(SMALL, range(20), strict=True)) | dict(zip(TENS, range(20, 100, 10), strict=True))
PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "tenth": 10}
UNITS = "hour|day|week|month|year|minute"


def _forms() -> dict[str, str]:
    forms: dict[str, str] = {}
    irregular = [entry.split() for entry in re.split("[;\n]", IRREGULAR)]
    regular = {word for words in VERBS.values() for word in words.split()} - {"be", "do", "have", "go"}
    for base in sorted(regular):
        stem, y = base.removesuffix("e"), re.sub("y$", "i", base)
        past = (s + end for s in (stem, stem + stem[-1]) for end in ("ed", "ing"))
        forms |= dict.fromkeys((base, base + "s", y + "es", y + "ed", *past), base)
    return forms | {form: base for base, *others in irregular for form in (base, *others)}


FORMS = _forms()


def plural(word: str) -> str:
    """Return the plural of a noun, under which things are counted."""
    if word in PLURALS:
        return PLURALS[word]
    return word + "es" if re.search("(s|x|ch|sh)$", word) else re.sub("(?<![aeiou])y$", "ie", word) + "s"


def _is_plural(word: str) -> bool:
    return word in PLURALS.values() or re.search("[^sui']s$", word) is not None


_To = str | Callable[[re.Match[str]], str]
# Phrases, replaced in this order before words are examined. Those that say nothing about numbers are deleted.
_PHRASES: tuple[tuple[str, _To], ...] = (
    (r"to begin with|(?:in|at) the (?:beginning|start)|at first|originally", "initially"),
    (r"(?:in|at) the end|in the (?:morning|afternoon|evening)|(?:at|by) (?:noon|evening|night)", ""),
    (r"(?:the next|one) day", ""),
    (r"after (?:that|some (?:work|time)|a while)|some time later|for (?:his|her) birthday|on @\w+day", ""),
    (r"then|now|also|still|again|later|afterwards|finally|today|yesterday|just|already|too|only", ""),
    (r"please|home|equal|very|new|old|ones|remaining", ""),
    (r"(?:start|starts|started|begins|began) the day", "starts"),
    (r"altogether|in total|in all|combined", "together"),
    (r"the total number of", "together the number of"),
    (r"an? (?:lot|number|bunch|couple|handful) of|lots of|plenty of|a few|several", "n:?"),
    (r"part of", "n:? of"),
    (r"how many", "howmany"),
    (r"how much(?: money)?", "howmany i:money"),
    (r"(?<!as )many|some|few", "n:?"),
    (r"(?:every|each) one of|each of", "all of"),
    (r"every", "each"),
    (r"no", "n:0"),
    (r"(he|she) is one of them", r"\1 keep n:1 i:piles"),
    (r"less", "fewer"),
    (r"apiece", "each"),
    (r"the rest(?: of (?:them|it))?|the others|them|those", "i:them"),
    (r"the same number of", "n:1 times the number of"),
    (r"(?:twice|double)(?= (?:as|the))", "n:2 times"),
    (r"(?:thrice|triple)(?= (?:as|the))", "n:3 times"),
    (r"(?:his|her|their|its|the) number of", "the number of"),
    (rf"({'|'.join(TENS)})[- ]({'|'.join(SMALL[1:10])})", lambda m: f"n:{SPELLED[m[1]] + SPELLED[m[2]]}"),
    ("|".join(SPELLED), lambda m: f"n:{SPELLED[m[0]]}"),
    (r"(?:(?:n:(\d+)|a) )?(?:dozen|(hundred))", lambda m: f"n:{int(m[1] or 1) * (100 if m[2] else 12)}"),
    (rf"(?:(?:n:(\d+)|a|the) )?({'|'.join(PARTS)})s?", lambda m: f"f:{m[1] or 1}/{PARTS[m[2]]}"),
    (rf"(?:for|in) (?:n:(\S+)|a|an) ({UNITS})s?", lambda m: f"d:{m[1] or 1}:{m[2]}"),
    (rf"(?:an?|per|each) ({UNITS})", r"per:\1"),
)
# Nouns, after words are tagged: the role of a word depends on what precedes it.
_NOUNS: tuple[tuple[str, _To], ...] = (
    (r"(i:\S+) of u:(?!\S*s\b)\S+", r"\1"),  # bottles of water
    (r"(?<=n:1 )(?:u:\w+ )?u:([\w-]+)", lambda m: "i:" + plural(m[1])),
    (r"(?<=\S )u:([\w-]+) (i:)(?!them|money)(\S+)", r"\2\1-\3"),  # jelly beans, red balls
    (rf"(?:own@\S+|the|a|an) (?:u:[\w-]+ )?u:({FAMILY.replace(' ', '|')})", r"x:\1"),
    (r"own@(\S+) u:[\w-]+", r"@\1"),  # what Tom's jar contains, Tom has
    (r"(?:a|an|the) (?:u:[\w-]+ )?u:([\w-]+)", r"x:\1"),
    (r"each u:([\w-]+)", r"each x:\1"),
    (r"(?:on|in|at|into|under|near|inside|onto|over|for|behind) x:\S+", ""),  # the place does not matter
)
_PHRASE_RULES = [(re.compile(rf"\b(?:{pattern})\b"), to) for pattern, to in _PHRASES]
_NOUN_RULES = [(re.compile(rf"(?<!\S){pattern}(?!\S)"), to) for pattern, to in _NOUNS]
_NOUN_AHEAD = re.compile(r"(n:|f:|own@|(the|of|howmany|many|more|fewer)$)")
_OBJECT_BEFORE = re.compile("([nf]:|[,;]|(and|for|to|the|an?|all)?$)")


def _mark_names(sentence: str) -> str:
    """Return the sentence in lower case with every name marked by @; a title belongs to its name."""
    text = re.sub(r"\$(\d[\d,]*)", r"\1 dollars", sentence.replace("’", "'").replace("%", " percent"))
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).rstrip(". !?")
    words = re.findall(r"-?\d+(?:\.\d+)?|[A-Za-z][A-Za-z'-]*|[,;:]", text)
    if re.sub(r"\s", "", text) != "".join(words):
        raise Unread(sentence)
    out: list[str] = []
    for i, word in enumerate(words):
        low, after = word.lower(), words[i + 1] if i + 1 < len(words) else "."
        common = low in FUNCTION | STARTERS | PARTS.keys() or low.split("-")[0] in SPELLED
        common |= low in FORMS and after.lower() not in FORMS
        if out and out[-1] == "@":
            out[-1] += word
        elif low in ("mr", "mrs", "ms", "dr", "uncle", "aunt") and after[0].isupper():
            out.append("@")
        elif word[0].isupper() and not (i == 0 and common):
            out.append("@" + word)
        else:
            out.append("n:" + word if word[-1].isdigit() else low)
    return " ".join(out)


def tag(sentence: str) -> str:
    """Rewrite one sentence in the alphabet of the rules. Raises Unread if it contains other signs."""
    text = _mark_names(sentence)
    for pattern, to in _PHRASE_RULES:
        text = pattern.sub(to, text)
    words = text.split()
    out: list[str] = []
    for word, after in zip(words, [*words, ""][1:], strict=True):
        before = out[-1] if out else ""
        base = FORMS.get(word, "")
        if word in ("he", "she", "they", "him"):
            out.append("@" + word)
        elif word == "her" and before not in ("", "of") and _OBJECT_BEFORE.match(after):
            out.append("@her")
        elif word in ("the", "his", "her", "their", "its", "my"):
            out.append("the")
        elif word[0] == "@":
            out.append(re.sub("^(.*?)'s?$", r"own\1", word))
        elif (
            _is_plural(word)
            and (not base or (_NOUN_AHEAD.match(before) and base not in ("have", "be", "do")))
            and word not in FUNCTION
        ):
            out.append("i:" + word)
        elif word.rstrip("s") in UNITS.split("|"):
            out.append("t:" + word)
        elif base and not re.match("(an?|the|each|own@.*)$", before):
            participle = word == "been" or word not in (base, base + "s", base + "es")
            if before == "v:have" and base != "have" and participle:
                out.pop()  # has bought
            out.append("v:" + base)
        else:
            out.append(word if word in FUNCTION or re.match(r"\W|.*:", word) else "u:" + word)
    text = " ".join(out)
    for pattern, to in _NOUN_RULES:
        text = pattern.sub(to, text)
    text = re.sub(" +", " ", re.sub("v:|(?<=initially) ?,", "", text))
    return re.sub("^[,: ]+|[,: ]+$|,(?= ,)", "", text).strip()


@dataclass(frozen=True)
class Amount:
    """One quantity phrase, as far as its own words go."""

    form: str  # the first column of _AMOUNTS
    item: str = ""  # "" if omitted, "them" for a pronoun
    n: Fraction | None = None  # None if the number is vague
    m: Fraction | None = None  # for a product: how many in each
    whole: Fraction | None = None  # the 20 of "8 of his 20 cars"
    pack: str = ""  # for a product: the packs
    sign: int = 0  # 1 for "more", -1 for "fewer"


_N, _I, _EACH = r"n:\S+", r"i:\S+", r"(?: (?:in )?each(?: x:\S+)?)?"
_AMOUNTS = tuple(
    (form, re.compile(rf"(?<!\S)(?:{pattern})(?!\S)"))
    for form, pattern in (
        ("product", rf"(?P<n>{_N}) (?P<k>{_I}) (?:with|of) (?P<m>{_N}) (?P<i>{_I}){_EACH}"),
        ("product", rf"(?P<n>{_N}) (?P<k>{_I}) of (?P<i>{_I})"),
        ("percent_more", rf"(?P<n>{_N}) percent more(?: (?P<i>{_I}))?"),
        ("percent", rf"(?P<n>{_N}) percent of (?:the )?(?P<i>{_I})"),
        ("all_but", rf"all but (?P<n>{_N})(?: (?:of (?:the )?)?(?P<i>{_I}))?"),
        ("times", rf"(?:(?P<n>{_N}) times|(?P<f>f:\S+)) (?:as many|the number of)(?: (?P<i>{_I}))?"),
        ("times", rf"as many(?: (?P<i>{_I}))?"),
        ("part", rf"(?P<f>f:\S+)(?: of|(?<=f:1/2)) (?:the )?(?:(?P<w>{_N}) )?(?P<i>{_I})"),
        ("count", rf"(?P<n>{_N}) of the (?P<w>{_N}) (?P<i>{_I})"),
        ("count", rf"(?P<n>{_N}) of (?:the )?(?P<i>{_I})"),
        ("all", rf"all (?:of )?(?:the )?(?:(?P<w>{_N}) )?(?P<i>{_I})"),
        ("count", rf"the (?P<n>{_N})(?: (?P<i>{_I}))?"),
        ("all", rf"the (?P<i>{_I})"),
        ("all", r"(?P<i>i:them)"),
        ("count", rf"(?P<n>{_N}) (?P<c>more|fewer)(?: (?P<i>{_I}))?"),
        ("count", rf"(?P<n>{_N})(?: (?P<i>{_I})(?: (?P<c>more|fewer))?)?"),
        ("count", rf"(?:(?P<c>more|fewer) )?(?P<i>{_I})"),
    )
)


def number(word: str | None) -> Fraction | None:
    """Return the number in a tag; None if it is vague."""
    return Fraction(word[2:]) if word and word != "n:?" else None


def fold(text: str, amounts: list[Amount]) -> str:
    """Write "how many apples" as q:apples (q+, q- for more, fewer), and amounts as positions in `amounts`."""
    text = re.sub(r"howmany more (?:i:(\S+))?", lambda m: f"q+:{m[1] or 'them'}", text)
    text = re.sub(r"howmany fewer (?:i:(\S+))?", lambda m: f"q-:{m[1] or 'them'}", text)
    text = re.sub(r"howmany(?: (?:of )?(?:the )?i:(\S+))?", lambda m: f"q:{m[1] or 'them'}", text)
    text = re.sub(r"(?<!times )(?<!\d )the number of i:(\S+)", r"num:\1", text)
    for form, pattern in _AMOUNTS:

        def place(match: re.Match[str], form: str = form) -> str:
            got = match.groupdict()
            n = got.get("n") or got.get("f") or ("n:1" if form == "times" else None)
            item, pack = ((got.get(key) or "i:")[2:] for key in "ik")
            sign = {"more": 1, "fewer": -1}.get(got.get("c") or "", 0)
            m, whole = number(got.get("m")), number(got.get("w"))
            amounts.append(Amount(form, item, number(n), m, whole, pack, sign))
            return f"a{len(amounts) - 1}"

        text = pattern.sub(place, text)
    return text
