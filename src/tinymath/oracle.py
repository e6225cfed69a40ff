"""The oracle: parse an arithmetic story in plain English, decide whether it can be answered, and answer it.

It is an instrument for reports and tests, not part of the method: nothing that makes, filters, solves or
selects a question may import it, nor the two modules that it consists of. `reading` rewrites a sentence in a
small alphabet. The `RULES` below match its clauses completely or not at all; a sentence that no rule matches
as a whole is split at its conjunctions. Every rule advances the `story`. The meaning of the verdict:

* `parses`: every sentence was understood; this also holds for a text without a question. A text whose
mistakes leave a careful reader unsure who did what does not parse, nor does a story about anything but who
has how many, prices and rates.
* `well_posed`: the text parses and has none of `FAULTS`, checked in that order. A number that the answer does
not need may be missing, but every given number must be possible.
* `steps`: the number of clauses that change or derive a number that the answer needs. A given initial number
is not a step.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from tinymath.reading import VERBS, Amount, Unread, fold, number, plural, tag
from tinymath.story import MONEY, NOTHING, ONE, SOME, UNHELD, Expr, Story, total

FAULTS = (
    "no_question",  # nothing is asked
    "two_questions",  # more than one thing is asked
    "unknown_item",  # the question or a step is about things that nobody was said to have, or that are gone
    "contradiction",  # two statements give different numbers
    "negative",  # somebody would have less than nothing, or a number is negative
    "inexact",  # a share, a part or a number that is not an integer; a division by zero
    "missing_number",  # the answer depends on a number that is not given
    "too_large",  # a number above LIMIT
)
LIMIT = 1_000_000


@dataclass(frozen=True)
class OracleVerdict:
    """What the oracle found: three separate facts; `fault`, `answer` and `steps` are set if they exist."""

    parses: bool
    well_posed: bool
    fault: str | None
    answer: int | None
    steps: int | None


# -- the rules: P Q are people, A B C amounts, L several people, K a singular noun, I the thing asked for;
# other words in capitals are the classes of VERBS. An act takes the story and the slots; "text" is the
# clause.
Slots = dict[str, str]
Act = Callable[[Story, Slots], None]
RULES: list[tuple[re.Pattern[str], Act, bool]] = []
_SLOTS = {
    **dict.fromkeys("PQ", r"@(?!they)\S+|x:\S+|it"),
    **dict.fromkeys("ABC", r"a\d+|x:\S+"),
    "I": r"[\w-]+",
    "K": r"x:\S+",
    "L": r"@\S+(?: , (?:@|x:)\S+)*(?: ,)? and (?:@|x:)\S+|@they",
}


def _slot(match: re.Match[str]) -> str:
    word = match[0]
    return f"(?P<{word}>{_SLOTS[word]})" if word in _SLOTS else f"(?:{VERBS[word].replace(' ', '|')})"


def rule(*patterns: str, asks: bool = False) -> Callable[[Act], Act]:
    """Register a function for every clause that matches one of the patterns."""

    def add(act: Act) -> Act:
        # A named group, as in (?P<down>...), is not a slot.
        RULES.extend((re.compile(re.sub(r"(?<!\(\?)\b[A-Z]+\b", _slot, p)), act, asks) for p in patterns)
        return act

    return add


# -- statements
@rule("(?P<first>initially )?P HAVE A(?: left)?(?P<last> initially)?", "P be left with A")
def _has(s: Story, g: Slots) -> None:
    p, a = s.who(g["P"]), s.amount(g["A"])
    heard = s.key(p, a.item) in s.hold
    if a.form == "percent_more" or (a.form == "times" and heard):
        _multiply(s, p, a)
    elif a.form == "times" or (a.sign and not heard and a.form == "count"):
        if s.focus in (None, p):
            raise Unread("compared with whom")
        _compare(s, p, str(s.focus), a)
    elif a.sign or s.per:
        raise Unread("more than what")
    else:
        s.state(p, a.item, s.number(a), bool(g.get("first") or g.get("last")))


@rule("(?:initially )?P (?:start|begin) with A(?: initially)?")
def _starts(s: Story, g: Slots) -> None:
    p, a = s.who(g["P"]), s.amount(g["A"])
    if a.sign:
        raise Unread("more than what")
    s.state(p, a.item, s.number(a), initially=True)


@rule("(?P<first>initially )?there be A(?: left)?", "A STAY")
def _there_are(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    s.state(s.owner(a.item) if s.hold else "there", a.item, s.number(a), bool(g.get("first")))


@rule("together L HAVE A", "L HAVE A together")
def _have_together(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    s.equate(total([s.get(p, a.item) for p in s.people(g["L"], a.item)]), s.step(s.number(a)))


@rule("A HAVE B each")
def _have_each(s: Story, g: Slots) -> None:
    a, b = s.amount(g["A"]), s.amount(g["B"])
    s.state(a.item, b.item, s.step(s.times(s.number(a), s.number(b))))


@rule("there be A in each K", "in each K there be A", "each K (?:HAVE|get|receive) A")
def _each_has(s: Story, g: Slots) -> None:
    a, kind = s.amount(g["A"]), plural(g["K"][2:])
    if s.each and s.each[0] == a.item:
        return s.equate(s.each[1], s.number(a))
    p = s.owner(kind)
    s.gain(p, a.item, s.step(s.times(s.get(p, kind), s.number(a))))
    return s.about(p)


@rule("(?:each )?A cost B(?: each)?")
def _costs(s: Story, g: Slots) -> None:
    a, b = s.amount(g["A"]), s.amount(g["B"])
    if a.n != 1 or b.item not in MONEY:
        raise Unread("price")
    s.prices[a.item] = (b.item, s.number(b))


# -- comparing and growing
def _compare(s: Story, p: str, q: str, a: Amount, rest: Amount | None = None) -> None:
    if a.form == "times":
        factor, more = s.factor(a.n), rest
    else:
        factor, more = ONE, a
    signed = more is None or (more.form == "count" and more.sign != 0)
    if not (a.item or s.item) or not signed or (rest and a.form != "times"):
        raise Unread("compared how")
    extra = s.literal(more.n).by(more.sign) if more else Expr()
    s.compare(p, q, a.item or s.item, factor, extra)


@rule("P HAVE A (?:than|as) Q(?: HAVE| do)?", "P HAVE A that Q HAVE", "P HAVE A as Q(?: HAVE)? (?:and|but) B")
def _than(s: Story, g: Slots) -> None:
    p = s.who(g["P"])
    q = p if g["Q"] == "@" + p else s.who(g["Q"], p)
    _compare(s, p, q, s.amount(g["A"]), s.amount(g["B"]) if "B" in g else None)


def _multiply(s: Story, p: str, a: Amount) -> None:
    if a.form == "times":
        s.put(p, a.item or s.item, s.step(s.times(s.get(p, a.item or s.item), s.factor(a.n))))
    else:
        s.gain(p, a.item, s.part(p, a), more=True)
    s.about(p)


@rule("P collect until Q HAVE A", "num:I RISE to A")
def _grows_to(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    item = g.get("I") or a.item or s.item
    p = s.who(g["P"]) if "P" in g else s.owner(item)
    if a.form != "times" or ("Q" in g and s.who(g["Q"]) != p):
        raise Unread("to how many")
    _multiply(s, p, replace(a, item=item))


@rule("num:I (?:RISE|(?P<down>SINK)) by A(?P<percent> percent)?")
def _grows_by(s: Story, g: Slots) -> None:
    a, p = s.amount(g["A"]), s.owner(g["I"])
    if a.item not in (s.item, g["I"]):
        raise Unread("by other things")
    value = s.part(p, replace(a, item=g["I"], form="percent_more" if "percent" in g else a.form))
    if "down" in g:
        s.lose(p, g["I"], value)
    else:
        s.gain(p, g["I"], value, more=True)
    s.about(p)


@rule("(?:P )?(?P<verb>double|triple) A", "A (?:be )?(?P<verb>double|triple)")
def _doubles(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    p = s.who(g["P"]) if "P" in g else s.owner(a.item)
    _multiply(s, p, Amount("times", a.item, Fraction(2 if g["verb"] == "double" else 3)))


# -- getting and giving
@rule("P GAIN A")
def _gains(s: Story, g: Slots) -> None:
    p, a = s.who(g["P"]), s.amount(g["A"])
    if a.form == "percent_more":
        return _multiply(s, p, a)
    value, purse = s.number(a), s.purse(p)
    s.about(p)
    if " buy " in g["text"] and a.item not in MONEY:
        money, price = s.prices.get(a.item, (purse, None))
        if money:
            s.pay(p, money, s.step(s.times(price, value)) if price else s.unknown(SOME))
    return s.gain(p, a.item, value, a.sign > 0)


@rule("P LOSE A(?: away| off)?", "P (?:LOSE|GIVE) (?:away|out|off) A", "P GIVE A (?:away|out)")
def _loses(s: Story, g: Slots) -> None:
    p, a = s.who(g["P"]), s.amount(g["A"])
    if a.form == "percent_more":
        raise Unread("loses more")
    if a.form == "all" and a.item == s.aside:  # "5 were rotten, and she threw them away": these five
        return None
    value = s.part(p, a)
    if a.item in MONEY and a.form == "count" and (p, a.item) not in s.hold:
        return s.pay(p, a.item, value)
    s.lose(p, a.item, value, whole=a.form == "all")
    return s.about(p)


@rule("P (?:GAIN|TAKE) A from Q", "P be GIVE A by Q")
def _takes(s: Story, g: Slots) -> None:
    taker = s.who(g["P"])
    s.transfer(s.who(g["Q"], taker), taker, s.amount(g["A"]))


@rule("Q GIVE P A", "Q GIVE A to P", "Q add A to what P HAVE", "Q bring A (?:, )?and P keep C together")
def _gives(s: Story, g: Slots) -> None:
    giver = s.who(g["Q"])
    s.transfer(giver, s.who(g["P"], giver), s.amount(g["A"]))


@rule("P put A together with B of Q")
def _adds(s: Story, g: Slots) -> None:
    p, a, b = s.who(g["P"]), s.amount(g["A"]), s.amount(g["B"])
    if a.item != b.item:
        s.get(p, a.item)
    s.transfer(s.who(g["Q"], p), p, replace(b, sign=1))
    s.focus = p


@rule("A (?:LEAVE|get)(?: away| off| out| over)?", "A left", "A be (?:LOSE|rotten|broken)")
@rule("A go to Q", "Q TAKE A", "A be TAKE by Q")
def _leave(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    taker = s.who(g["Q"]) if "Q" in g else None
    p = s.owner(a.item)
    if taker == p or a.form == "percent_more":
        raise Unread("from whom")
    if taker:
        return s.transfer(p, taker, a)
    s.lose(p, a.item, s.part(p, a), whole=a.form == "all")
    s.aside = a.item if " be " in g["text"] else ""
    return s.about(p)


@rule("A (?:COME|get on)")
def _come(s: Story, g: Slots) -> None:
    a = s.amount(g["A"])
    p = s.owner(a.item)
    s.gain(p, a.item, s.number(a), more=True)
    s.about(p)


# -- sharing, packing, trading, selling, buying
_AMONG = "(?: equally)? (?:among|into|between|(?P<with>with)) B(?: equally)?"


@rule(f"P SPLIT A{_AMONG}(?:(?: ,)? and (?:Q )?keep C)?", f"A be SPLIT{_AMONG}", "P make B of A and keep C")
def _shares(s: Story, g: Slots) -> None:
    a, b = s.amount(g["A"]), s.amount(g["B"])
    p = s.who(g["P"]) if "P" in g else s.owner(a.item)
    if "Q" in g and s.who(g["Q"]) != p:
        raise Unread("who keeps")
    whole, parts = s.use(p, a), s.number(replace(b, form="count"))
    share = s.step(s.over(whole, parts.plus(ONE) if "with" in g else parts))
    s.each = (a.item, share)
    if "C" in g:
        kept = s.times(share, s.number(s.amount(g["C"])))
        s.put(p, a.item, s.step(s.hold[s.key(p, a.item)].plus(kept)))


@rule("A SPLIT B(?: equally)?", "B be SPLIT(?: equally)? (?:by|among|between) L")
def _share_out(s: Story, g: Slots) -> None:
    b, people = s.amount(g["B"]), s.people(g["L"]) if "L" in g else []
    parts = s.number(s.amount(g["A"])) if "A" in g else Expr(Fraction(len(people)))
    s.each = (b.item, s.step(s.over(s.number(replace(b, form="count")), parts)))
    for p in people:
        s.gain(p, b.item, s.each[1])


@rule(
    "P PACK A (?:into|in) B (?:of|with) C(?: in)?(?: each)?", "P (?P<fill>fill) B with C each until A be left"
)
def _packs(s: Story, g: Slots) -> None:
    p, a, b = s.who(g["P"]), s.amount(g["A"]), s.amount(g["B"])
    if "fill" in g:
        if a.n != 0 or a.item != s.amount(g["C"]).item:
            raise Unread("until when")
        a = Amount("all", a.item)
    whole = s.use(p, a)
    s.gain(p, b.item, s.step(s.over(whole, s.number(s.amount(g["C"])))))


@rule("P TRADE A for B(?: each)?", "P sell A for B each", "P sell A and get B for each")
@rule("for A P GAIN B(?: ,)? and Q keep C")
@rule("Q TAKE A and GIVE (?P<from>P) B for each", "Q buy A from (?P<from>P) for B each")
def _trades(s: Story, g: Slots) -> None:
    p = s.who(g["P"], s.who(g["Q"])) if "from" in g else s.who(g["P"])
    if "Q" in g and "from" not in g and s.who(g["Q"]) != p:
        raise Unread("who keeps")
    a, b = s.amount(g["A"]), s.amount(g["B"])
    if a.item == b.item:
        raise Unread("for themselves")
    s.gain(p, b.item, s.step(s.times(s.use(p, a), s.number(b))))


@rule("P buy A for B(?P<each> each)?", "P pay B(?P<each> each)? for A", "P spend B on A")
def _buys(s: Story, g: Slots) -> None:
    p, a, b = s.who(g["P"]), s.amount(g["A"]), s.amount(g["B"])
    if b.item not in MONEY or a.form not in ("count", "all") or a.item in MONEY:
        raise Unread("price")
    each = "each" in g or a.form == "all"
    count, money = s.literal(a.whole if a.form == "all" else a.n), s.number(b)
    s.prices[a.item] = (b.item, money if each else s.step(s.over(money, count)))
    s.pay(p, b.item, s.step(s.times(count, money)) if each else money)
    s.gain(p, a.item, count)


@rule("P work")
def _goes_on(s: Story, g: Slots) -> None:
    s.who(g["P"])
    _for_as_long(s)


def _for_as_long(s: Story) -> None:
    if not (s.pace and s.span):
        raise Unread("for how long")
    s.equate(s.pace, s.literal(s.span[0]))


# -- questions, answered after everything has been read
def _asked(s: Story, g: Slots) -> str:
    return s.item if g["I"] == "them" else g["I"]


def _held(s: Story, person: str, item: str, initially: bool = False) -> Expr:
    """What somebody has of a thing, of all its kinds if there are several."""
    kinds = [s.purse(person) or "money"] if item == "money" else [item]
    if (person, item) not in s.hold:
        kinds = [i for p, i in s.hold if p == person and i.endswith("-" + item)] or kinds
    if not all((person, kind) in s.hold for kind in kinds):
        s.faults.add("unknown_item")
        return Expr()
    value = total([(s.first if initially else s.hold)[person, kind] for kind in kinds])
    return s.step(value) if len(kinds) > 1 else value


_FIND, _WHAT = "(?:find |calculate |tell u:me )", "(?:find |calculate |what be )?"
_TIME = "(?: left)?(?P<first> initially)?"


@rule(f"q:I do P (?:HAVE|keep|need|fill){_TIME}(?: together)?", "q:I HAVE P(?: get)?(?: left)?", asks=True)
@rule(
    "q:I do P (?P<first>start) with",
    f"{_WHAT}num:I(?: that)? P HAVE{_TIME}",
    f"{_FIND}q:I P HAVE{_TIME}",
    asks=True,
)
def _ask(s: Story, g: Slots) -> None:
    p, item = s.who(g["P"]), _asked(s, g)
    s.asked.append(lambda: _held(s, p, item, "first" in g))


@rule("q:I do L HAVE(?: left)? together", f"{_FIND}q:I L HAVE(?: together)?", asks=True)
@rule(f"{_WHAT}(?:together )?num:I(?: that)? L HAVE(?: together)?", asks=True)
def _ask_together(s: Story, g: Slots) -> None:
    def together() -> Expr:
        people = s.people(g["L"], item)
        value = total([_held(s, p, item) for p in people])
        return s.step(value) if len(people) > 1 else value

    item = _asked(s, g)
    s.asked.append(together)


@rule("q[+](?P<more>:)I do P HAVE than Q(?: HAVE)?", "q[-]:I do P HAVE than Q(?: HAVE)?", asks=True)
def _ask_difference(s: Story, g: Slots) -> None:
    def difference() -> Expr:
        value = _held(s, p, item).plus(_held(s, q, item), -1).by(1 if "more" in g else -1)
        s.checks.append(s.step(value))
        return s.step(value)

    p = s.who(g["P"])
    q, item = s.who(g["Q"], p), _asked(s, g)
    s.asked.append(difference)


@rule(f"q:I (?:be|STAY)(?: there)?(?: STAY)?{_TIME}(?: together)?", f"{_WHAT}num:I left", asks=True)
def _ask_left(s: Story, g: Slots) -> None:
    item = _asked(s, g)
    s.asked.append(lambda: _held(s, s.owner(item), item, "first" in g))


@rule("q:I do each K (?:get|receive|have)", "q:I be(?: there)? in each K", asks=True)
def _ask_share(s: Story, g: Slots) -> None:
    def share() -> Expr:
        if s.each and s.each[0] == _asked(s, g):
            return s.each[1]
        s.faults.add("unknown_item")
        return Expr()

    s.asked.append(share)


@rule("q:I do P (?:(?P<gain>GAIN)|LOSE|GIVE)(?: away| out)?(?: for A)?(?: together)?", asks=True)
def _ask_event(s: Story, g: Slots) -> None:
    def happened() -> Expr:
        same = ("money", *MONEY) if item == "money" else (item,)
        kind = "gain" if "gain" in g else "lose"
        found = [value for q, k, i, value in s.events if (q, k) == (p, kind) and i in same]
        s.faults |= set() if found else {"unknown_item"}
        return s.step(total(found)) if len(found) > 1 else total(found)

    p, item = s.who(g["P"]), _asked(s, g)
    if s.span:
        _for_as_long(s)
    s.asked.append(happened)


@rule("q:I do A cost", asks=True)
def _ask_price(s: Story, g: Slots) -> None:
    def price() -> Expr:
        money, each = s.prices.get(a.item, ("", Expr()))
        s.faults |= set() if g["I"] in (money, "money") else {"unknown_item"}
        return each if a.n == 1 else s.step(s.times(each, s.number(a)))

    a = s.amount(g["A"])
    s.asked.append(price)


# -- from a sentence to its clauses
@dataclass(frozen=True)
class Clause:
    """A clause that matches a rule, with its duration."""

    act: Act
    slots: Slots
    per: str | None
    span: tuple[Fraction | None, str] | None
    asks: bool


_LIKE = VERBS["LIKE"].replace(" ", "|")
_IDLE = re.compile(
    rf"(?:@\S+|x:\S+|it|@\S+ and @\S+) (?:{_LIKE})( (?:[uxt]:\S+|to|at|in|with|a|of|i:\S+)){{0,6}}"
)
_JOINTS = ("and", "but", "so", "if", "when", "while", ",", ";", ":")
_PRONOUNS = ("he", "she", "him", "her", "they")


def _one(text: str) -> Clause | None:
    """Return the clause that matches the whole text, if any; its duration may be anywhere in it."""
    per, span = re.findall(r"per:(\w+)", text), re.findall(r"d:(\S+):(\w+)", text)
    bare = " ".join(re.sub(r"(?<!\S)(?:per|d):\S+", "", text).split())
    bare = re.sub("^, | ,$", "", bare)
    if len(per) > 1 or len(span) > 1:
        return None
    for pattern, act, asks in RULES:
        if match := pattern.fullmatch(bare):
            slots = {"text": bare} | {name: word for name, word in match.groupdict().items() if word}
            time = (number("n:" + span[0][0]), span[0][1]) if span else None
            return Clause(act, slots, per[0] if per else None, time, asks)
    return None


def _clauses(text: str) -> list[Clause] | None:
    """Return the clauses of a tagged sentence, or None. It may reuse the previous subject (and verb)."""
    text = re.sub(r"^(?:(?:if|when|after|while|and|but|so|,) )+", "", text)
    if whole := _one(text):
        return [whole]
    words = text.split()
    for i, word in enumerate(words):
        if i and word in _JOINTS and (left := _one(" ".join(words[:i]).rstrip(" ,"))):
            lent = re.match(r"(?:initially )?((?:@\S+|x:\S+|there be) )(\S+ )?", f"{' '.join(words[:i])} ")
            for prefix in ("", *((lent[1], lent[1] + (lent[2] or "")) if lent else ())):
                if right := _clauses(prefix + " ".join(words[i + 1 :])):
                    return [left, *right]
    return None


def _read(story: Story, sentence: str) -> list[Clause]:
    """Return the clauses of a sentence; none if it says nothing relevant."""
    text = tag(sentence)
    if _IDLE.fullmatch(text):
        for i, word in enumerate(text.split()):
            if word[0] == "@" or (i == 0 and word.startswith("x:")):
                story.who(word)
        return []
    if "howmany" in text:  # the rest of the sentence may refer to this person by a pronoun
        names = re.findall(r"@(\w\S+)", text)
        story.seen[:0] = [name for name in names if name not in (*story.seen, *_PRONOUNS)]
    text = re.sub(r"^after (.*?)(?: ,)? (@\S+) ", r"\2 \1 , \2 ", fold(text, story.amounts))
    found = _clauses(text)
    if found is None:
        raise Unread(sentence)
    return found


def _tell(story: Story, text: str) -> None:
    """Apply the text to the story, sentence by sentence; questions are answered at the end."""
    strange = 0  # questions that are not about the domain
    text = re.sub(r"\b(Mrs?|Ms|Dr)\.", r"\1", text.strip())
    for i, sentence in enumerate(re.split(r"(?<=[.!?])\s+", text)):
        try:
            clauses = _read(story, sentence)
        except Unread:
            if not re.fullmatch(r"(And )?(What|Who|Which|Where|How) .*\?", sentence):
                raise
            strange += 1
            continue
        asking, telling = ([clause for clause in clauses if clause.asks is asks] for asks in (True, False))
        if (sentence.endswith("?") and not asking) or (telling and story.asked and i > 1):
            raise Unread(sentence)
        asked = [clause.slots["I"] for clause in asking if clause.slots["I"] not in ("them", "money")]
        story.item = story.item or (asked[0] if asked else "")
        for clause in telling + asking:
            story.count += 1
            story.per, story.span = clause.per, clause.span
            clause.act(story, clause.slots)
    if strange and not story.asked:
        raise Unread(text)
    if len(story.asked) + strange != 1:
        story.faults.add("two_questions" if story.asked else "no_question")


def judge(text: str) -> OracleVerdict:
    """Parse any text and decide whether it parses, whether it is well posed, and what the answer is."""
    story, answer = Story(), Expr()
    try:
        _tell(story, text)
        if len(story.asked) == 1:
            story.count, story.per, story.span = story.count + 1, None, None
            answer = story.asked[0]()
    except Unread:
        return OracleVerdict(False, False, None, None, None)
    for v, why in enumerate(story.unknowns):
        if why == NOTHING:
            story.solved.setdefault(v, Expr())
    for v, why in enumerate(story.unknowns):
        if why == UNHELD and story.known(Expr(terms=((v, Fraction(1)),))).terms:
            story.faults.add("unknown_item")
    for value in map(story.known, (*story.checks, *story.solved.values(), answer)):
        if not value.terms:
            story.faults |= {"negative"} if value.const < 0 else set()
            story.faults |= {"inexact"} if value.const.denominator > 1 else set()
            story.faults |= {"too_large"} if value.const > LIMIT else set()
    answer = story.known(answer)
    story.faults |= {"missing_number"} if answer.terms else set()
    for fault in FAULTS:
        if fault in story.faults:
            return OracleVerdict(True, False, fault, None, None)
    return OracleVerdict(True, True, None, int(answer.const), len(answer.steps))
