"""The oracle: reads an arithmetic story in plain English and says whether it can be answered, and with what.

It is an instrument for reports and tests. It is no part of the method: nothing that makes, filters, solves or picks a
question may import it. A text goes through three passes. `_tag` writes a sentence in a small alphabet: people
(`@Tom`), numbers (`n:12`, `n:?` for "some"), fractions (`f:1/3`), things (`i:apples`), single nouns (`x:bus`), rates and
durations (`per:day`, `d:3:day`), verbs as infinitives. `_fold` turns every phrase of quantity into one `Amount`. `_parse`
matches clauses with `RULES`, whole or not at all, and splits a sentence at its joints where no rule fits all of it.
The rules drive a `Story`: what everybody holds of everything, as linear expressions of the numbers not known yet, so
that a number may come late, or follow backwards from a later one.

What the verdict means:

* `parses`: every sentence was understood, a text without a question too. A slip that leaves a careful reader unsure who
  did what does not parse, nor does a story about anything but who holds how many, their prices and their rates.
* `well_posed`: it parses and has none of `FAULTS`, looked for in that order. A number that the answer does not need may
  be missing, but every number given has to be possible.
* `steps`: how many clauses change or derive a number that the answer needs. A start given as one number is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from scalequest.tinymath.world import FEMALE, MALE

FAULTS = (
    "no_question",  # nothing is asked
    "two_questions",  # more than one thing is asked
    "unknown_item",  # the question or a step is about things that nobody was said to hold, or that are gone
    "contradiction",  # two statements give different numbers
    "negative",  # somebody would hold less than nothing, or a number is below zero
    "inexact",  # a share, a part or a number that is not whole; a division by nothing
    "missing_number",  # the answer hangs on a number that is not given
    "too_large",  # a number above LIMIT
)
LIMIT = 1_000_000


@dataclass(frozen=True)
class Verdict:
    """What the oracle found: three separate facts; `fault`, `answer` and `steps` only where they exist."""

    parses: bool
    well_posed: bool
    fault: str | None
    answer: int | None
    steps: int | None


class Unread(Exception):
    """The text is not understood."""


# ------------------------------------------------------------------------------------------------ words and their tags
VERBS = {  # class -> infinitives; in a rule the name of a class stands for any of them
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
IRREGULAR = """have has had having;do does did done;be is are was were been;go goes went gone going;get got getting;buy bought
find found;make made;win won;catch caught;grow grew grown;build built;lose lost;eat ate eaten;throw threw thrown;break broke
broken;spend spent;drink drank drunk;sell sold;give gave given;send sent;lend lent;take took taken;steal stole stolen;fly
flew flown;run ran;swim swam;fall fell fallen;come came;sit sat;stand stood;shrink shrank;rise rose risen;bring brought;begin
began begun;keep kept;pay paid;tell told;hold held;write wrote written;meet met;burst burst;split split;put put;hand handed"""
PLURALS = dict(
    leaf="leaves", child="children", person="people", man="men", woman="women", mouse="mice", goose="geese", foot="feet",
    tooth="teeth", loaf="loaves", knife="knives", sheep="sheep", fish="fish", potato="potatoes", tomato="tomatoes",
)  # fmt: skip
MONEY = ("coins", "dollars", "euros", "cents", "pounds")
FAMILY = "brother sister mother father aunt uncle cousin friend neighbour neighbor teacher".split()
GENDER = {**dict.fromkeys((*MALE, "him", "he", "brother", "father", "uncle", "grandpa", "king"), "he"),
          **dict.fromkeys((*FEMALE, "her", "she", "sister", "mother", "aunt", "grandma", "queen"), "she")}  # fmt: skip
FUNCTION = frozenset(
    """a an the of to from for with and but so if when while after until than as many more fewer that what which who it in on at into
    among between equally together left not all or by percent times number times time away off out over up there without about
    initially howmany half whole each per rotten broken""".split()
)
STARTERS = frozenset(
    """he she they his her their then now also some several many few yesterday today later finally afterwards altogether originally
    how every no one next both dozen please lots plenty those i him its this is do does did first""".split()
)
SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SPELLED = dict(zip(SMALL, range(20), strict=True)) | dict(zip(TENS, range(20, 100, 10), strict=True))
PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "tenth": 10}
UNITS = "hour|day|week|month|year|minute"


def _forms() -> dict[str, str]:
    forms: dict[str, str] = {}
    irregular = [entry.split() for entry in IRREGULAR.replace("\n", " ").split(";")]
    for base in sorted({word for words in VERBS.values() for word in words.split()} - {"be", "do", "have", "go"}):
        stem, y = base.removesuffix("e"), re.sub("y$", "i", base)
        for form in (base, base + "s", y + "es", y + "ed", stem + "ed", stem + "ing", stem + stem[-1] + "ed", stem + stem[-1] + "ing"):
            forms[form] = base
    return forms | {form: base for base, *others in irregular for form in (base, *others)}


FORMS = _forms()

# First pass: phrases, in this order. What says nothing about numbers becomes nothing.
PHRASES = tuple((re.compile(rf"\b(?:{pattern})"), to) for pattern, to in (
    (r"(?:to begin with|(?:in|at) the (?:beginning|start)|at first|originally)\b", "initially"),
    (r"(?:in the (?:end|morning|afternoon|evening)|at the end|(?:at|by) (?:noon|evening|night)|(?:the next|one) day|on the way"
     r"|after (?:that|some (?:work|time)|a while)|some time later|for (?:his|her) birthday|on @\w+day)\b", ""),
    (r"(?:then|now|also|still|again|later|afterwards|finally|today|yesterday|just|already|too|only|equal|please|very|new|old|ones|remaining|home)\b", ""),
    (r"(?:start|starts|started|begins|began) the day\b", "starts"), (r"(?:altogether|in total|in all|combined)\b", "together"), (r"the total number of\b", "together the number of"),
    (r"(?:an? (?:lot|number|bunch|couple|handful) of|lots of|plenty of|a few|several)\b", "n:?"), (r"part of\b", "n:? of"),
    (r"how many\b", "howmany"), (r"how much(?: money)?\b", "howmany i:money"),
    (r"(?<!as )many\b|(?:some|few)\b", "n:?"), (r"(?:every|each) one of|each of\b", "all of"), (r"every\b", "each"), (r"no\b", "n:0"),
    (r"(?:he|she) is one of them\b", "keep n:1 i:piles"), (r"less\b", "fewer"), (r"apiece\b", "each"),
    (r"the rest(?: of (?:them|it))?\b|the others\b|them\b|those\b", "i:them"), (r"the same number of\b", "n:1 times the number of"),
    (r"(?:twice|double)(?= (?:as|the))", "n:2 times"), (r"(?:thrice|triple)(?= (?:as|the))", "n:3 times"),
    (r"(?:his|her|their|its|the) number of\b", "the number of"),
    (rf"({'|'.join(TENS)})[- ]({'|'.join(SMALL[1:10])})\b", lambda m: f"n:{SPELLED[m[1]] + SPELLED[m[2]]}"),
    (rf"({'|'.join(SPELLED)})\b", lambda m: f"n:{SPELLED[m[1]]}"),
    (r"(?:(?:n:(\d+)|a) )?(dozen|hundred)\b", lambda m: f"n:{int(m[1] or 1) * (12 if m[2] == 'dozen' else 100)}"),
    (rf"(?:(?:n:(\d+)|a|the) )?({'|'.join(PARTS)})s?\b", lambda m: f"f:{m[1] or 1}/{PARTS[m[2]]}"),
    (rf"(?:for|in) (?:n:(\S+)|a|an) ({UNITS})s?\b", lambda m: f"d:{m[1] or 1}:{m[2]}"), (rf"(?:an?|per|each) ({UNITS})\b", r"per:\1"),
))  # fmt: skip
# Last pass of tagging, over words already tagged: nouns from what stands before them.
_A_NOUN_FOLLOWS = re.compile(r"(n:|f:|own@|(the|of|howmany|many|more|fewer)$)")
NOUNS = tuple((re.compile(rf"(?<!\S){pattern}(?!\S)"), to) for pattern, to in (
    (r"(i:\S+) of u:(?!\S*s\b)\S+", r"\1"),  # bottles of water
    (r"(?<=n:1 )(?:u:(\w+) )?u:([\w-]+)", lambda m: "i:" + _plural(m[2])),
    (r"(?<=\S )u:([\w-]+) (i:)(?!them|money)(\S+)", r"\2\1-\3"),  # jelly beans, red balls
    (rf"(?:own@\S+|the|a|an) (?:u:[\w-]+ )?u:({'|'.join(FAMILY)})", r"x:\1"), (r"own@(\S+) u:[\w-]+", r"@\1"),
    (r"(?:a|an|the) (?:u:[\w-]+ )?u:([\w-]+)", r"x:\1"), (r"each u:([\w-]+)", r"each x:\1"), (r"v:have(?= (?:v:be )?v:(?!have|be)\w+)", ""),
    (r"(?:on|in|at|into|under|near|inside|onto|over|for|behind) (?:x:\S+|the i:\S+|@\S+)", ""),
))  # fmt: skip


def _plural(word: str) -> str:
    if word in PLURALS:
        return PLURALS[word]
    return word + "es" if re.search("(s|x|ch|sh)$", word) else re.sub("(?<![aeiou])y$", "ie", word) + "s"


def _is_plural(word: str) -> bool:
    return word in PLURALS.values() or re.search("[^sui']s$", word) is not None


def _words(sentence: str) -> str:
    """The sentence in lower case with every name marked by @; a title goes with its name."""
    text = re.sub(r"\$(\d[\d,]*)", r"\1 dollars", sentence.replace("’", "'").replace("%", " percent"))
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).rstrip(". !?")
    words = re.findall(r"-?\d+(?:\.\d+)?|[A-Za-z][A-Za-z'-]*|[,;:]", text)
    if re.sub(r"\s", "", text) != "".join(words):
        raise Unread(sentence)
    out: list[str] = []
    for i, word in enumerate(words):
        low, after = word.lower(), words[i + 1] if i + 1 < len(words) else "."
        title = low in ("mr", "mrs", "ms", "dr", "uncle", "aunt") and after[0].isupper()
        common = low in FUNCTION or low in STARTERS or low.split("-")[0] in SPELLED or low in PARTS or low in FORMS and after.lower() not in FORMS
        if out and out[-1] == "@":
            out[-1] = "@" + word
        elif title:
            out.append("@")
        else:
            name = word[0].isupper() and not (i == 0 and common)
            out.append("@" + word if name else f"n:{word}" if word[-1].isdigit() else low)
    return " ".join(out)


def _tag(sentence: str) -> str:
    """The sentence in the alphabet of the rules, its amounts not yet folded."""
    text = _words(sentence)
    for pattern, to in PHRASES:
        text = pattern.sub(to, text)
    words = text.split()
    out: list[str] = []
    for i, word in enumerate(words):
        before, after = out[-1] if out else "", words[i + 1] if i + 1 < len(words) else ""
        if word in ("he", "she", "they", "him") or (word == "her" and before not in ("", "of") and re.match("([nf]:|[,;]|(and|for|to|the|an?|all)?$)", after)):
            out.append("@" + word)
        elif word in ("the", "his", "her", "their", "its", "my"):
            out.append("the")
        elif word[0] == "@":
            out.append(re.sub("^(.*?)'s?$", r"own\1", word))
        elif _is_plural(word) and (_A_NOUN_FOLLOWS.match(before) or word not in FORMS) and word not in FUNCTION:
            out.append("i:" + word)
        elif word in FORMS and not re.match("(an?|the|each|own@.*)$", before):
            out.append("v:" + FORMS[word])
        else:
            out.append(word if word in FUNCTION or re.match(r"\W|.*:", word) else "u:" + word)
    text = " ".join(out)
    for pattern, to in NOUNS:
        text = pattern.sub(to, text)
    return re.sub(r"^[,: ]+|[,: ]+$|,(?= ,)", "", re.sub(" +", " ", re.sub("v:|(?<=initially),|(?<=initially) ,", "", text))).strip()


# ------------------------------------------------------------------------------------------------ phrases of quantity
@dataclass(frozen=True)
class Amount:
    """One phrase of quantity, as far as its words go: `n` is None where the number is vague, `item` where it is elided."""

    form: str
    item: str | None = None
    n: Fraction | None = None
    m: Fraction | None = None  # how many in each, of a product
    whole: Fraction | None = None  # the 20 of "8 of his 20 cars"
    pack: str | None = None  # the packs of a product
    sign: int = 0  # 1 for "more", -1 for "fewer"
    owner: str | None = None


_N, _I, _OF = r"n:\S+", r"i:\S+", r"(?:the |own@(?P<o>\S+) )"
FORMS_OF_AMOUNT = tuple((form, re.compile(rf"(?<!\S){pattern}(?!\S)")) for form, pattern in (
    ("product", rf"(?P<n>{_N}) (?P<k>{_I}) (?:with|of|contain|hold) (?P<m>{_N}) (?P<i>{_I})(?: (?:in )?each(?: x:\S+)?)?"),
    ("product", rf"(?P<n>{_N}) (?P<k>{_I}) of (?P<i>{_I})"),
    ("percent_more", rf"(?P<n>{_N}) percent more(?: (?P<i>{_I}))?"),
    ("percent", rf"(?P<n>{_N}) percent of {_OF}?(?P<i>{_I})"),
    ("all_but", rf"all but (?P<n>{_N})(?: (?:of {_OF}?)?(?P<i>{_I}))?"),
    ("times", rf"(?:(?P<n>{_N}) times |(?P<f>f:\S+) )(?:as many|the number of)(?: (?P<i>{_I}))?"),
    ("times", rf"as many(?: (?P<i>{_I}))?"),
    ("part", rf"(?P<f>f:\S+) (?:of )?{_OF}?(?:(?P<w>{_N}) )?(?P<i>{_I})"),
    ("count", rf"(?P<n>{_N}) of {_OF}(?P<w>{_N}) (?P<i>{_I})"),
    ("count", rf"(?P<n>{_N}) of {_OF}?(?P<i>{_I})"),
    ("all", rf"all (?:of )?{_OF}?(?:(?P<w>{_N}) )?(?P<i>{_I})"),
    ("count", rf"the (?P<n>{_N})(?: (?P<i>{_I}))?"),
    ("all", rf"{_OF}(?P<i>{_I})|(?P<x>i:them)"),
    ("count", rf"(?P<n>{_N})(?: (?P<c>more|fewer))?(?: (?P<i>{_I}))?(?: (?P<e>more|fewer))?"),
    ("count", rf"(?:(?P<c>more|fewer) )?(?P<i>{_I})"),
))  # fmt: skip


def _number(tag: str | None) -> Fraction | None:
    return Fraction(tag[2:]) if tag and tag != "n:?" else None


def _fold(text: str, amounts: list[Amount]) -> str:
    """Replace questions of quantity by q:item and phrases of quantity by a0, a1, ...: places in `amounts`."""
    text = re.sub(r"howmany (more|fewer) (?:i:(\S+))?", lambda m: f"q{'+' if m[1] == 'more' else '-'}:{m[2] or 'them'}", text)
    text = re.sub(r"howmany(?: (?:of )?(?:the )?i:(\S+))?", lambda m: f"q:{m[1] or 'them'}", text)
    text = re.sub(rf"(?<!times )(?<!\d )the number of i:(\S+)", r"num:\1", text)
    for form, pattern in FORMS_OF_AMOUNT:

        def fold(match: re.Match[str], form: str = form) -> str:
            got = {"x": None, **match.groupdict()}
            n = got.get("n") or got.get("f") or ("n:1" if form == "times" else None)
            item = (got.get("i") or got["x"] or "i:")[2:]
            sign = {"more": 1, "fewer": -1}.get(got.get("c") or got.get("e") or "", 0)
            pack = (got.get("k") or "i:")[2:]
            amounts.append(Amount(form, item or None, _number(n), _number(got.get("m")), _number(got.get("w")), pack or None, sign, got.get("o")))
            return f"a{len(amounts) - 1}"

        text = pattern.sub(fold, text)
    return text


# ------------------------------------------------------------------------------------------------ numbers, known or not
@dataclass(frozen=True)
class Expr:
    """A linear expression of unknown numbers, with the steps it took."""

    const: Fraction = Fraction(0)
    terms: tuple[tuple[int, Fraction], ...] = ()
    steps: frozenset[int] = frozenset()

    def plus(self, other: Expr, k: Fraction | int = 1) -> Expr:
        """This and `k` times the other."""
        terms = dict(self.terms)
        for v, c in other.terms:
            terms[v] = terms.get(v, Fraction(0)) + k * c
        return Expr(self.const + k * other.const, tuple((v, c) for v, c in terms.items() if c), self.steps | other.steps)

    def by(self, k: Fraction | int) -> Expr:
        """This times `k`."""
        return Expr(steps=self.steps).plus(self, k)


@dataclass(frozen=True)
class Clause:
    """A clause that a rule fits: what the rule does, its slots, and the time said with it."""

    act: Callable[[Story, dict[str, str]], None]
    slots: dict[str, str]
    per: str | None
    span: tuple[Fraction | None, str] | None
    asks: bool


@dataclass
class Story:
    """What everybody holds of everything, as far as the text was read."""

    amounts: list[Amount] = field(default_factory=list)
    hold: dict[tuple[str, str], Expr] = field(default_factory=dict)
    first: dict[tuple[str, str], Expr] = field(default_factory=dict)
    gone: set[tuple[str, str]] = field(default_factory=set)
    solved: dict[int, Expr] = field(default_factory=dict)
    unknowns: list[str] = field(default_factory=list)  # why each is not known
    checks: list[Expr] = field(default_factory=list)  # have to be whole and not negative
    events: list[tuple[str, str, str, Expr]] = field(default_factory=list)  # who, gain or lose, what, how many
    prices: dict[str, tuple[str, Expr]] = field(default_factory=dict)
    faults: set[str] = field(default_factory=set)
    asked: list[Callable[[], Expr]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    gender: dict[str, str] = field(default_factory=lambda: dict(GENDER))
    focus: str | None = None
    item: str | None = None
    each: tuple[str, Expr] | None = None  # what one share came to
    aside: str | None = None  # the things that a sentence just set apart
    pace: Expr | None = None  # for how long a rate went on that was given without
    clause: Clause | None = None
    count: int = 0

    # -- numbers
    def unknown(self, why: str) -> Expr:
        self.unknowns.append(why)
        return Expr(terms=((len(self.unknowns) - 1, Fraction(1)),))

    def known(self, value: Expr) -> Expr:
        """The value with everything put in that was found out since."""
        while any(v in self.solved for v, _ in value.terms):
            v, c = next((v, c) for v, c in value.terms if v in self.solved)
            rest = Expr(value.const, tuple(t for t in value.terms if t[0] != v), value.steps)
            value = rest.plus(self.solved[v], c)
        return value

    def open(self, value: Expr) -> bool:
        """Whether the value hangs on a number that the text has not given so far."""
        return any(self.unknowns[v] != "nothing" for v, _ in self.known(value).terms)

    def literal(self, n: Fraction | None) -> Expr:
        if n is not None:
            self.checks.append(Expr(n))
        return self.unknown("some") if n is None else Expr(n)

    def times(self, left: Expr, right: Expr) -> Expr:
        left, right = self.known(left), self.known(right)
        if left.terms and right.terms:
            return self.unknown("some")
        product = right.by(left.const) if not left.terms else left.by(right.const)
        return replace(product, steps=left.steps | right.steps)

    def factor(self, n: Fraction | None) -> Expr:
        return self.unknown("some") if n is None else Expr(n)

    def over(self, value: Expr, parts: Expr) -> Expr:
        parts = self.known(parts)
        if parts.terms:
            return self.unknown("some")
        if not parts.const:
            self.faults.add("inexact")
            return self.unknown("some")
        self.checks.append(value.by(1 / parts.const))
        return value.by(1 / parts.const)

    def step(self, value: Expr) -> Expr:
        """The same number, one step later."""
        return replace(value, steps=value.steps | {self.count})

    def equate(self, left: Expr, right: Expr) -> None:
        rest = self.known(left.plus(right, -1))
        if not rest.terms:
            if rest.const:
                self.faults.add("contradiction")
            return
        v, c = min(rest.terms, key=lambda t: ("unsaid", "unheld", "nothing", "some").index(self.unknowns[t[0]]))
        self.solved[v] = Expr(rest.const, tuple(t for t in rest.terms if t[0] != v), rest.steps).by(-1 / c)

    # -- people and things
    def who(self, word: str, other: str | None = None) -> str:
        """The person a word stands for; a pronoun is whom the story is about, else who was named last."""
        if word == "it":
            found = next((p for p in [self.focus, *reversed(self.seen)] if p and p.startswith("x:")), None)
        elif word in ("@he", "@she", "@him", "@her"):
            sex = GENDER[word[1:]]
            found = next((p for p in [self.focus, *reversed(self.seen)] if p and p != other and self.sex(p) in ("", sex)), None)
            if found:
                self.gender[found] = sex
        else:
            found = None if word == "@they" else word.removeprefix("@")
        if found is None or found == other:
            raise Unread(word)
        self.seen = [p for p in self.seen if p != found] + [found]
        return found

    def sex(self, person: str) -> str:
        return self.gender.get(person.removeprefix("x:"), "")

    def key(self, person: str, item: str) -> tuple[str, str]:
        """The place of a holding: "beans" finds jelly beans where there are no others."""
        alike = [k for k in self.hold if k[0] == person and k[1].endswith("-" + item)]
        return alike[0] if (person, item) not in self.hold and len(alike) == 1 else (person, item)

    def get(self, person: str, item: str, why: str | None = None) -> Expr:
        """What somebody holds of something; what was never said is an unknown number."""
        key = self.key(person, item)
        if key not in self.hold:
            others = any(p == person for p, _ in self.hold)
            self.hold[key] = self.first[key] = self.unknown(why or ("unheld" if others else "unsaid"))
        elif key in self.gone:
            self.faults.add("unknown_item")
        return self.hold[key]

    def put(self, person: str, item: str, value: Expr) -> None:
        key = self.key(person, item)
        self.hold[key] = value
        self.first.setdefault(key, value)
        self.gone.discard(key)
        self.checks.append(value)
        self.item = item

    def state(self, person: str, item: str, value: Expr, initially: bool = False) -> None:
        key = self.key(person, item)
        if key in self.hold:
            self.equate((self.first if initially else self.hold)[key], value)
        if not (initially and key in self.hold):
            self.put(person, item, value)
        self.focus, self.item = person, item

    def owner(self, item: str) -> str:
        """Who is meant where a thing is named without its holder."""
        holders = {p for p, i in self.hold if (p, i) == self.key(p, item)}
        if self.focus in holders or (len(holders) != 1 and self.focus):
            return str(self.focus)
        if len(holders) != 1:
            raise Unread(item)
        return holders.pop()

    def about(self, *people: str) -> None:
        """The story stays with the person it is about while that person takes part."""
        if self.focus not in people:
            self.focus = next((p for p in people if any(p == q for q, _ in self.hold)), people[0])

    # -- amounts
    def amount(self, word: str) -> Amount:
        amount = Amount("count", _plural(word[2:]), Fraction(1)) if word.startswith("x:") else self.amounts[int(word[1:])]
        if amount.item in (None, "them"):
            if self.item is None and amount.form != "times":
                raise Unread(word)
            amount = replace(amount, item=self.item)
        if amount.item == "money":
            raise Unread(word)
        return amount

    def number(self, amount: Amount) -> Expr:
        """How many a count or a product is, in all the time said with it."""
        if amount.form not in ("count", "product"):
            raise Unread(amount.form)
        value = self.literal(amount.n)
        if amount.form == "product":
            value = self.step(self.times(value, self.literal(amount.m)))
        per, span = (self.clause.per, self.clause.span) if self.clause else (None, None)
        if per and span and per == span[1]:
            value = self.step(self.times(value, self.literal(span[0])))
        elif per and not span:
            self.pace = self.unknown("some")
            value = self.step(self.times(value, self.pace))
        elif per or (span and amount.n is not None):
            raise Unread("time")
        return value

    def part(self, person: str, amount: Amount) -> Expr:
        """How many an amount is of what somebody holds."""
        assert amount.item
        if amount.form in ("count", "product"):
            if amount.whole is not None:
                self.state(person, amount.item, self.literal(amount.whole))
            return self.number(amount)
        if amount.form == "times" or (self.clause and (self.clause.per or self.clause.span)):
            raise Unread(amount.form)
        if amount.whole is not None:
            self.state(person, amount.item, self.literal(amount.whole))
        held = self.get(person, amount.item)
        if amount.form == "all":
            return held
        if amount.form == "all_but":
            return held.plus(self.literal(amount.n), -1)
        share = self.factor(amount.n)
        return self.times(held, share if amount.form == "part" else share.by(Fraction(1, 100)))

    def lose(self, person: str, item: str, value: Expr, why: str | None = None, all_of_it: bool = False) -> None:
        held = self.get(person, item, why)
        self.put(person, item, self.step(held.plus(value, -1)))
        self.checks.append(value)
        self.events.append((person, "lose", item, value))
        if all_of_it:
            self.gone.add(self.key(person, item))

    def gain(self, person: str, item: str, value: Expr, more: bool = False, given: bool = False) -> None:
        """Somebody gets more; the first that is heard of a thing may be a start, unless it is "more"."""
        others = any(p == person for p, _ in self.hold)
        self.checks.append(value)
        self.events.append((person, "gain", item, value))
        self.gone.discard(self.key(person, item))
        if self.key(person, item) in self.hold or more:
            self.put(person, item, self.step(self.get(person, item).plus(value)))
        else:
            base = self.unknown("unsaid" if given and not others else "nothing")
            self.first[person, item] = base.plus(value)
            self.put(person, item, base.plus(self.step(value) if given else value))

    def transfer(self, giver: str, taker: str, amount: Amount) -> None:
        assert amount.item
        if giver == taker:
            raise Unread("to oneself")
        value = self.part(taker if amount.form == "percent_more" else giver, amount)
        unheard = any(p == giver for p, _ in self.hold) and not any(i == amount.item for _, i in self.hold)
        self.lose(giver, amount.item, value, None if unheard else "unsaid")
        self.gain(taker, amount.item, value, amount.sign > 0, given=True)
        self.about(taker, giver)
        if amount.form == "all":
            self.focus = taker

    def compare(self, left: str, right: str, item: str, factor: Expr, more: Expr) -> None:
        """The left one holds `factor` times what the right one holds, and `more`."""
        held, other = self.get(left, item), self.get(right, item)
        news = self.open(other) and not self.open(held)
        self.equate(held, self.step(self.times(other, factor).plus(more)))
        self.checks += [held, other]
        self.focus, self.item = (right if news else left), item

    def pay(self, person: str, money: str, value: Expr) -> None:
        """Money goes; that of somebody whose purse was never mentioned is only spent."""
        if any(p == person for p, _ in self.hold):
            self.lose(person, money, value)
        else:
            self.events.append((person, "lose", money, value))
        self.about(person)

    def purse(self, person: str) -> str | None:
        return next((m for m in MONEY if (person, m) in self.hold), None)


# ----------------------------------------------------------------------------------------------------------- the rules
# A rule is a clause in tags. P Q are people, A B C amounts, L a list of people, K a single noun, I the thing asked for;
# other words in capitals are the classes of VERBS. A clause has to fit from its first word to its last.
Slots = dict[str, str]
RULES: list[tuple[re.Pattern[str], Callable[[Story, Slots], None], bool]] = []
_SLOTS = {
    **dict.fromkeys("PQ", r"@(?!they)\S+|x:\S+|it"), **dict.fromkeys("ABC", r"a\d+|x:\S+"), "I": r"[\w-]+", "K": r"x:\S+",
    "L": r"@\S+(?: , (?:@|x:)\S+)*(?: ,)? and (?:@|x:)\S+|@they",
}  # fmt: skip


def _macro(match: re.Match[str]) -> str:
    word = match[0]
    return f"(?P<{word}>{_SLOTS[word]})" if word in _SLOTS else f"(?:{VERBS[word].replace(' ', '|')})"


def rule(*patterns: str, asks: bool = False) -> Callable[[Callable[[Story, Slots], None]], Callable[[Story, Slots], None]]:
    """Let a function act on every clause that fits one of the patterns."""

    def add(act: Callable[[Story, Slots], None]) -> Callable[[Story, Slots], None]:
        RULES.extend((re.compile(re.sub(r"(?<!\(\?)\b[A-Z]+\b", _macro, pattern)), act, asks) for pattern in patterns)
        return act

    return add


@rule("(?P<first>initially )?P HAVE A(?: left)?(?P<last> initially)?", "P be left with A")
def _has(s: Story, g: Slots) -> None:
    p, a = s.who(g["P"]), s.amount(g["A"])
    assert a.item
    has = s.key(p, a.item) in s.hold
    if a.form == "percent_more" or (a.form == "times" and has):
        _multiplies(s, p, a)
    elif a.form == "times" or (a.sign and not has):
        if s.focus in (None, p) or a.sign and a.form != "count":
            raise Unread("compared with whom")
        _compares(s, p, str(s.focus), a)
    elif a.sign or a.form not in ("count", "product"):
        raise Unread("more than what")
    else:
        s.state(p, a.item, s.number(a), bool(g.get("first") or g.get("last")))


@rule("(?:initially )?P (?:start|begin) with A(?: initially)?")
def _starts(s: Story, g: Slots) -> None:
    p, a = s.who(g["P"]), s.amount(g["A"])
    assert a.item
    if a.sign:
        raise Unread("more at the start")
    s.state(p, a.item, s.number(a), initially=True)


@rule("(?P<first>initially )?there be A(?: left)?", "A STAY")
def _there_are(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    assert a.item
    holder = "there" if "first" in g or not s.hold else s.owner(a.item)
    s.state(holder, a.item, s.number(a), bool(g.get("first")))


@rule("(?:together )L HAVE A", "L HAVE A together")
def _have_together(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    assert a.item
    holdings = [s.get(p, a.item) for p in _people(s, g["L"], a.item)]
    s.equate(_sum(holdings), s.step(s.number(a)))


@rule("A HAVE B each")
def _have_each(s: Story, g: Slots) -> None:
    a, b = s.amount(g["A"]), s.amount(g["B"])
    assert b.item
    s.state(str(a.item), b.item, s.step(s.times(s.number(a), s.number(b))))


@rule("there be A in each K", "in each K there be A", "each K (?:HAVE|get|receive) A")
def _every_one_has(s: Story, g: Slots) -> None:
    a, kind = s.amount(g["A"]), _plural(g["K"][2:])
    assert a.item
    if s.each and s.each[0] == a.item:
        s.equate(s.each[1], s.number(a))
        return
    p = s.owner(kind)
    s.gain(p, a.item, s.step(s.times(s.get(p, kind), s.number(a))))
    s.about(p)


@rule("(?:each )?A cost B(?: each)?", "each K cost B")
def _costs(s: Story, g: Slots) -> None:
    a, b = s.amount(g.get("A") or g["K"]), s.amount(g["B"])
    if a.n != 1 or b.item not in MONEY:
        raise Unread("price")
    s.prices[str(a.item)] = (b.item, s.number(b))


def _compares(s: Story, p: str, q: str, a: Amount, rest: Amount | None = None) -> None:
    assert a.item or s.item
    factor = s.factor(a.n) if a.form == "times" else Expr(Fraction(1))
    more = rest or a
    if a.form == "times" and more is a:
        extra = Expr()
    elif more.form != "count" or not more.sign or (rest and a.form != "times"):
        raise Unread("compared how")
    else:
        extra = s.literal(more.n).by(more.sign)
    s.compare(p, q, str(a.item or s.item), factor, extra)


@rule("P HAVE A than Q(?: HAVE| do)?", "P HAVE A as Q(?: HAVE| do)?", "P HAVE A that Q HAVE", "P HAVE A as Q(?: HAVE)? (?:and|but) B")
def _than(s: Story, g: Slots) -> None:
    p = s.who(g["P"])
    q = p if g["Q"] == "@" + p else s.who(g["Q"], p)
    _compares(s, p, q, s.amount(g["A"]), s.amount(g["B"]) if "B" in g else None)


def _multiplies(s: Story, p: str, a: Amount) -> None:
    item = str(a.item or s.item)
    held = s.get(p, item)
    if a.form == "times":
        s.put(p, item, s.step(s.times(held, s.factor(a.n))))
    else:
        s.gain(p, item, s.part(p, a), more=True)
    s.about(p)


@rule("num:I RISE to A", "P collect until Q HAVE A", "num:I (?:RISE|(?P<down>SINK)) by A(?P<percent> percent)?", "(?:P )?(?P<verb>double|triple) A", "A (?:be )?(?P<verb>double|triple)")
def _changes(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    if "I" in g:
        a = replace(a, item=g["I"])
    p = s.who(g["P"]) if g.get("P") else s.owner(str(a.item))
    if "Q" in g and s.who(g["Q"]) != p:
        raise Unread("whose")
    if "verb" in g:
        a = Amount("times", a.item, Fraction(2 if g["verb"] == "double" else 3))
    elif "percent" in g:
        a = replace(a, form="percent_more" if g["percent"] else "count")
        if g["down"]:
            s.lose(p, str(a.item), s.part(p, a))
            return s.about(p)
        if a.form == "count":
            s.gain(p, str(a.item), s.number(a), more=True)
            return s.about(p)
    elif a.form != "times":
        raise Unread("to how many")
    return _multiplies(s, p, a)


@rule("P (?:GAIN|TAKE) A from Q", "Q GIVE P A", "Q GIVE A to P", "P be give A by Q", "Q add A to what P HAVE", "Q bring A (?:, )?and P keep C together")
def _goes(s: Story, g: Slots) -> None:
    # The giver comes first unless the taker is the subject: a pronoun never means the other one.
    if re.match(g["P"], g["text"]):
        taker = s.who(g["P"])
        giver = s.who(g["Q"], taker)
    else:
        giver = s.who(g["Q"])
        taker = s.who(g["P"], giver)
    s.transfer(giver, taker, s.amount(g["A"]))


@rule("P GAIN A")
def _gains(s: Story, g: Slots) -> None:
    p, a = s.who(g["P"]), s.amount(g["A"])
    assert a.item
    if a.form == "percent_more":
        return _multiplies(s, p, a)
    value, purse = s.number(a), s.purse(p)
    s.about(p)
    if g["text"].split()[1] == "buy" and a.item not in MONEY:
        if a.item in s.prices:
            money, price = s.prices[a.item]
            s.pay(p, money, s.step(s.times(price, value)))
        elif purse:
            s.pay(p, purse, s.unknown("some"))
    s.gain(p, a.item, value, a.sign > 0)
    return None


@rule("P LOSE A(?: away| off)?", "P (?:LOSE|GIVE) (?:away|out|off) A", "P GIVE A (?:away|out)")
def _loses(s: Story, g: Slots) -> None:
    p, a = s.who(g["P"]), s.amount(g["A"])
    assert a.item
    if a.form == "percent_more":
        raise Unread("loses more")
    if a.form == "all" and a.item == s.aside:  # "5 were rotten, and she threw them away": these five
        return None
    value = s.part(p, a)
    if a.item in MONEY and a.form == "count" and (p, a.item) not in s.hold:
        return s.pay(p, a.item, value)
    s.lose(p, a.item, value, all_of_it=a.form == "all")
    return s.about(p)


@rule("A (?:LEAVE|get)(?: away| off| out| over)?", "A left", "A be (?:LOSE|rotten|broken)", "A go to Q", "Q TAKE A", "A be TAKE by Q")
def _leaves(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    assert a.item
    taker = s.who(g["Q"]) if "Q" in g else None
    p = s.owner(a.item)
    if taker and taker != p:
        return s.transfer(p, taker, a)
    if taker or a.form == "percent_more":
        raise Unread("from whom")
    s.lose(p, a.item, s.part(p, a), all_of_it=a.form == "all")
    s.aside = a.item if " be " in g["text"] else None
    return s.about(p)


@rule("A (?:COME|get on)")
def _come(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    assert a.item
    p = s.owner(a.item)
    s.gain(p, a.item, s.number(a), more=True)
    s.about(p)


@rule("P put A together with B of Q")
def _together_with(s: Story, g: Slots) -> None:
    p, a, b = s.who(g["P"]), s.amount(g["A"]), s.amount(g["B"])
    assert b.item
    s.transfer(s.who(g["Q"], p), p, replace(b, sign=1))
    if a.item != b.item:
        s.get(p, str(a.item))
    s.focus = p


def _use(s: Story, p: str, a: Amount) -> Expr:
    """What is divided, packed, sold or traded; of things not heard of before it is all there is."""
    assert a.item
    if a.form in ("count", "product") and s.key(p, a.item) not in s.hold and not any(q == p for q, _ in s.hold):
        s.state(p, a.item, s.number(a))
        a = replace(a, form="all", whole=None)
    value = s.part(p, a)
    s.lose(p, a.item, value, all_of_it=a.form == "all")
    s.about(p)
    return value


_AMONG = "(?: equally)? (?:among|into|between|(?P<with>with)) B(?: equally)?"


@rule(f"P SPLIT A{_AMONG}(?:(?: ,)? and (?:Q )?keep C)?", f"A be SPLIT{_AMONG}", "P make B of A and keep C")
def _shares(s: Story, g: Slots) -> None:
    a, b = s.amount(g["A"]), s.amount(g["B"])
    assert a.item and b.item
    p = s.who(g["P"]) if "P" in g else s.owner(a.item)
    total, parts = _use(s, p, a), s.number(replace(b, form="count"))
    parts = parts.plus(Expr(Fraction(1))) if g.get("with") else parts
    share = s.step(s.over(total, parts))
    s.each = (a.item, share)
    s.checks.append(parts)
    if g.get("C"):
        kept = s.times(share, s.number(s.amount(g["C"])))
        s.put(p, a.item, s.step(s.hold[s.key(p, a.item)].plus(kept)))


@rule("A SPLIT B(?: equally)?", "A be SPLIT(?: equally)? (?:by|among|between) L")
def _share_out(s: Story, g: Slots) -> None:
    if "L" in g:
        a, people = s.amount(g["A"]), _people(s, g["L"], None)
        total, parts = s.number(a), Expr(Fraction(len(people)))
    else:
        a, people = s.amount(g["B"]), []
        total, parts = s.number(a), s.number(s.amount(g["A"]))
    assert a.item
    s.each = (a.item, s.step(s.over(total, parts)))
    for p in people:
        s.gain(p, a.item, s.each[1])


@rule("P PACK A (?:into|in) B (?:of|with) C(?: in)?(?: each)?", "P fill B with C each until A be left")
def _packs(s: Story, g: Slots) -> None:
    p, a, b = s.who(g["P"]), s.amount(g["A"]), s.amount(g["B"])
    if "fill" in g["text"]:
        if a.n != 0 or a.item != s.amount(g["C"]).item:
            raise Unread("until when")
        a = Amount("all", a.item)
    total = _use(s, p, a)
    s.gain(p, str(b.item), s.step(s.over(total, s.number(s.amount(g["C"])))))


@rule("P TRADE A for B(?: each)?", "Q TAKE A and GIVE P B for each", "for A P GAIN B(?: ,)? and Q keep C",
      "P sell A for B each", "P sell A and get B for each", "Q buy A from P for B each")  # fmt: skip
def _trades(s: Story, g: Slots) -> None:
    if "Q" in g and not g["text"].startswith("for"):
        p = s.who(g["P"], s.who(g["Q"]))
    else:
        p = s.who(g["P"])
        if "Q" in g and s.who(g["Q"]) != p:
            raise Unread("who keeps")
    a, b = s.amount(g["A"]), s.amount(g["B"])
    if a.item == b.item:
        raise Unread("for themselves")
    total = _use(s, p, a)
    s.gain(p, str(b.item), s.step(s.times(total, s.number(b))))


@rule("P buy A for B(?P<each> each)?", "P pay B(?P<each> each)? for A", "P spend B on A")
def _buys(s: Story, g: Slots) -> None:
    p, a, b = s.who(g["P"]), s.amount(g["A"]), s.amount(g["B"])
    if b.item not in MONEY or a.form not in ("count", "all") or a.item in MONEY:
        raise Unread("price")
    count = s.literal(a.whole if a.form == "all" else a.n)
    price = s.number(b)
    if g.get("each") or a.form == "all":
        total = s.step(s.times(count, price))
        s.prices[str(a.item)] = (b.item, price)
    else:
        total = price
        s.prices[str(a.item)] = (b.item, s.step(s.over(price, count)))
    s.pay(p, b.item, total)
    s.gain(p, str(a.item), count)


@rule("P work")
def _goes_on(s: Story, g: Slots) -> None:
    s.who(g["P"])
    if not (s.pace and s.clause and s.clause.span):
        raise Unread("for how long")
    s.equate(s.pace, s.literal(s.clause.span[0]))


# -- questions
def _sum(values: list[Expr]) -> Expr:
    total = Expr()
    for value in values:
        total = total.plus(value)
    return total


def _people(s: Story, words: str, item: str | None) -> list[str]:
    if words == "@they":
        found = [p for p in dict.fromkeys(p for p, _ in s.hold) if item is None or s.key(p, item) in s.hold]
        if not found:
            raise Unread("they")
        return found
    return [s.who(word) for word in words.split() if word[0] in "@x"]


def _things(s: Story, person: str, item: str, initially: bool = False) -> Expr:
    """What somebody holds of a thing, of all its kinds where there are several."""
    kinds = [s.purse(person) or "money"] if item == "money" else [item]
    if (person, item) not in s.hold:
        kinds = [i for p, i in s.hold if p == person and i.endswith("-" + item)] or kinds
    for kind in kinds:
        if (person, kind) not in s.hold:
            s.faults.add("unknown_item")
            return Expr()
    total = _sum([(s.first if initially else s.hold)[person, kind] for kind in kinds])
    return s.step(total) if len(kinds) > 1 else total


_WHAT = "(?:find |calculate |what be )?"


@rule("q:I do P (?:HAVE|keep|need|fill|own)(?: left)?(?P<first> initially)?(?: together)?", "q:I HAVE P(?: get)?(?: left)?", "q:I do P (?P<first>start) with",
      _WHAT + "(?:q|num):I(?: that)? P HAVE(?: left)?(?P<first> initially)?", asks=True)  # fmt: skip
def _asks(s: Story, g: Slots) -> None:
    item = s.item if g["I"] == "them" else g["I"]
    p = s.who(g["P"])
    s.asked.append(lambda: _things(s, p, str(item), bool(g.get("first"))))


@rule("q:I do L HAVE(?: left)? together", _WHAT + "(?:together )?(?:q|num):I(?: that)? L HAVE(?: together)?", asks=True)
def _asks_together(s: Story, g: Slots) -> None:
    item = s.item if g["I"] == "them" else g["I"]

    def total() -> Expr:
        people = _people(s, g["L"], item)
        s.count += 1
        whole = _sum([_things(s, p, str(item)) for p in people])
        return s.step(whole) if len(people) > 1 else whole

    s.asked.append(total)


@rule("q[+]:I do P HAVE than Q(?: HAVE)?", "q[-]:I do P HAVE than Q(?: HAVE)?", asks=True)
def _asks_difference(s: Story, g: Slots) -> None:
    p = s.who(g["P"])
    q = s.who(g["Q"], p)
    sign = 1 if "q+" in g["text"] else -1
    item = s.item if g["I"] == "them" else g["I"]

    def difference() -> Expr:
        s.count += 1
        value = s.step(_things(s, p, str(item)).plus(_things(s, q, str(item)), -1).by(sign))
        s.checks.append(value)
        return value

    s.asked.append(difference)


@rule("q:I (?:be|STAY)(?: there)?(?: left| STAY)?(?: initially| together)?", _WHAT + "num:I left", asks=True)
def _asks_left(s: Story, g: Slots) -> None:
    item = s.item if g["I"] == "them" else g["I"]

    def left() -> Expr:
        holders = [p for p, i in s.hold if i == item]
        if not holders:
            return _things(s, str(s.focus), str(item))
        return _things(s, s.owner(str(item)), str(item))

    s.asked.append(left)


@rule("q:I do each K (?:get|receive|have)", "q:I be(?: there)? in each K", asks=True)
def _asks_each(s: Story, g: Slots) -> None:
    def share() -> Expr:
        item = s.item if g["I"] == "them" else g["I"]
        if s.each is None or s.each[0] != item:
            s.faults.add("unknown_item")
            return Expr()
        return s.each[1]

    s.asked.append(share)


@rule("q:I do P (?P<gain>GAIN)(?: for A)?", "q:I do P (?:LOSE|GIVE|pay)(?: away| out| for A)?", asks=True)
def _asks_event(s: Story, g: Slots) -> None:
    p, item = s.who(g["P"]), s.item if g["I"] == "them" else g["I"]
    if s.clause and s.clause.span:
        if not s.pace:
            raise Unread("how fast")
        s.equate(s.pace, s.literal(s.clause.span[0]))

    def happened() -> Expr:
        kind = "gain" if g.get("gain") else "lose"
        found = [e for q, k, i, e in s.events if (q, k) == (p, kind) and (i == item or (item == "money" and i in MONEY))]
        if not found:
            s.faults.add("unknown_item")
        s.count += 1
        return s.step(_sum(found)) if len(found) > 1 else _sum(found)

    s.asked.append(happened)


@rule("q:I do A cost", asks=True)
def _asks_price(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])

    def price() -> Expr:
        money, each = s.prices.get(str(a.item), ("", Expr()))
        if not money or g["I"] not in (money, "money"):
            s.faults.add("unknown_item")
        s.count += 1
        return each if a.n == 1 else s.step(s.times(each, s.number(a)))

    s.asked.append(price)


# ------------------------------------------------------------------------------------------------------------- reading
_IDLE = re.compile(rf"(?:@\S+|x:\S+|it|@\S+ and @\S+) (?:{VERBS['LIKE'].replace(' ', '|')})( (?:[ux]:\S+|to|at|in|with|a|of|i:\S+)){{0,6}}")
_JOINTS = ("and", "but", "so", "if", "when", "while", ",", ";", ":")
_OPENERS = ("if", "when", "after", "while", "and", "but", "so", ",")


def _clauses(text: str, before: str = "") -> list[Clause] | None:
    """The clauses of a tagged sentence, or None; `before` lends its subject and verb to a clause without."""
    words = text.split()
    while words and words[0] in _OPENERS:
        words = words[1:]
    text = " ".join(words)
    if not words:
        return None
    per, span = re.search(r"per:(\w+)", text), re.search(r"d:([^:\s]+):(\w+)", text)
    bare = re.sub(r"^, | ,$", "", " ".join(re.sub(r"(?<!\S)(?:per:\w+|d:\S+)", "", text).split()))
    if len(re.findall(r"per:|d:", text)) <= bool(per) + bool(span):
        for pattern, act, asks in RULES:
            if match := pattern.fullmatch(bare):
                slots = {"text": bare, **match.groupdict()}
                slots = {k: v for k, v in slots.items() if v is not None or k in ("percent", "down")}
                long = (None if span[1] == "?" else Fraction(span[1]), span[2]) if span else None
                return [Clause(act, slots, per[1] if per else None, long, asks)]
    for i, word in enumerate(words):
        if word in _JOINTS and i:
            left = _clauses(" ".join(words[:i]).rstrip(" ,"), before)
            if left is None:
                continue
            subject = re.match(r"(?:initially )?((?:@\S+|x:\S+|there be) )(\S+ )?", f"{' '.join(words[:i])} ")
            lent = [subject[1], subject[1] + (subject[2] or "")] if subject else []
            for prefix in ("", *lent):
                right = _clauses(prefix + " ".join(words[i + 1 :]), text)
                if right is not None:
                    return left + right
    return None


def _read(story: Story, sentence: str) -> list[Clause]:
    """The clauses of a sentence; none where it says nothing that matters."""
    text = _tag(sentence)
    if _IDLE.fullmatch(text):
        for i, word in enumerate(text.split()):
            if word[0] == "@" or (i == 0 and word.startswith("x:")):
                story.who(word)
        return []
    text = re.sub(r"^after (\S+ing .*?|.*?) ,? ?(@\S+) ", r"\2 \1 , \2 ", _fold(text, story.amounts))
    found = _clauses(text)
    if found is None:
        raise Unread(sentence)
    return found


def _tell(story: Story, text: str) -> None:
    """Let the story happen, sentence by sentence; a question waits for the end."""
    sentences = re.split(r"(?<=[.!?])\s+", re.sub(r"\b(Mrs?|Ms|Dr)\.", r"\1", text.strip()))
    strange = told_after = 0
    for i, sentence in enumerate(sentences):
        try:
            clauses = _read(story, sentence)
        except Unread:
            if re.match("(And )?(What|Who|Which|Where|How) ", sentence) and sentence.endswith("?"):
                strange += 1
                continue
            raise
        if sentence.endswith("?") and not any(c.asks for c in clauses):
            raise Unread(sentence)
        told_after += bool(story.asked) and i > 1 and any(not c.asks for c in clauses)
        story.item = story.item or next((c.slots["I"] for c in clauses if c.asks and c.slots.get("I") not in (None, "them", "money")), None)
        for clause in sorted(clauses, key=lambda c: c.asks):
            story.count += 1
            story.clause = clause
            clause.act(story, clause.slots)
    if (strange and not story.asked) or (told_after and len(story.asked) < 2):
        raise Unread(text)
    if len(story.asked) + strange > 1:
        story.faults.add("two_questions")
    elif not story.asked:
        story.faults.add("no_question")


def judge(text: str) -> Verdict:
    """Read any text and say whether it parses, whether it is well posed, and what it comes to."""
    story = Story()
    try:
        _tell(story, text)
    except Unread:
        return Verdict(False, False, None, None, None)
    answer = Expr(Fraction(0))
    if not story.faults & {"no_question", "two_questions"}:
        answer = story.asked[0]()
    for v, why in enumerate(story.unknowns):
        if why == "nothing" and v not in story.solved:
            story.solved[v] = Expr()
    for value in (*story.checks, *story.solved.values(), answer):
        value = story.known(value)
        if value.terms:
            continue
        for fault, broken in (("negative", value.const < 0), ("inexact", value.const.denominator > 1), ("too_large", value.const > LIMIT)):
            if broken:
                story.faults.add(fault)
    if any(why == "unheld" and story.known(Expr(terms=((v, Fraction(1)),))).terms for v, why in enumerate(story.unknowns)):
        story.faults.add("unknown_item")
    answer = story.known(answer)
    if answer.terms:
        story.faults.add("missing_number")
    for fault in FAULTS:
        if fault in story.faults:
            return Verdict(True, False, fault, None, None)
    return Verdict(True, True, None, int(answer.const), len(answer.steps))
