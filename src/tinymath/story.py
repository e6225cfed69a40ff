"""The state of a story while the oracle reads it: numbers are linear expressions of the unknown ones.

A number may be given late or be implied by a later one: "Tom ate 3 and has 5 left" determines what Tom had.
Every number remembers the steps that led to it, and every number that somebody ever had is checked at the
end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tinymath.reading import Amount, Unread, plural
from tinymath.world import FEMALE, MALE

MONEY = ("coins", "dollars", "euros", "cents", "pounds")
GENDER = {
    **dict.fromkeys((*MALE, "him", "he", "brother", "father", "uncle", "grandpa", "king"), "he"),
    **dict.fromkeys((*FEMALE, "her", "she", "sister", "mother", "aunt", "grandma", "queen"), "she"),
}
# Why a number is unknown; if one equation could determine two of them, the first kinds are determined first.
UNSAID = "unsaid"  # nobody has said it so far
UNHELD = "unheld"  # about things that somebody was never said to have, although others were
NOTHING = "nothing"  # what somebody had before getting the first: nothing, unless the text says otherwise
SOME = "some"  # the text is vague


@dataclass(frozen=True)
class Expr:
    """A linear expression of unknown numbers, with the steps that led to it."""

    const: Fraction = Fraction(0)
    terms: tuple[tuple[int, Fraction], ...] = ()
    steps: frozenset[int] = frozenset()

    def plus(self, other: Expr, k: Fraction | int = 1) -> Expr:
        """Return this plus `k` times the other."""
        terms = dict(self.terms)
        for v, c in other.terms:
            terms[v] = terms.get(v, Fraction(0)) + k * c
        kept = tuple((v, c) for v, c in terms.items() if c)
        return Expr(self.const + k * other.const, kept, self.steps | other.steps)

    def by(self, k: Fraction | int) -> Expr:
        """Return this times `k`."""
        return Expr().plus(self, k)


ONE = Expr(Fraction(1))


def total(values: list[Expr]) -> Expr:
    """Return the sum of the values."""
    whole = Expr()
    for value in values:
        whole = whole.plus(value)
    return whole


@dataclass
class Story:
    """The state of a story and its questions."""

    amounts: list[Amount] = field(default_factory=list)
    hold: dict[tuple[str, str], Expr] = field(default_factory=dict)  # (who, what) -> how many now
    first: dict[tuple[str, str], Expr] = field(default_factory=dict)  # and at first
    gone: set[tuple[str, str]] = field(default_factory=set)  # sold, traded, packed or given away as a whole
    solved: dict[int, Expr] = field(default_factory=dict)
    unknowns: list[str] = field(default_factory=list)
    checks: list[Expr] = field(default_factory=list)  # must be integers and not negative
    events: list[tuple[str, str, str, Expr]] = field(default_factory=list)  # who, gain/lose, what, how many
    prices: dict[str, tuple[str, Expr]] = field(default_factory=dict)
    faults: set[str] = field(default_factory=set)
    asked: list[Callable[[], Expr]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)  # people, the last one named at the end
    gender: dict[str, str] = field(default_factory=lambda: dict(GENDER))
    focus: str | None = None  # the person whom the story is about
    item: str = ""  # the thing that it is about
    each: tuple[str, Expr] | None = None  # the size of one share
    aside: str = ""  # the things that a clause has just set apart
    pace: Expr | None = None  # how long a rate given without a duration continued
    per: str | None = None  # the rate and the duration given with the current clause
    span: tuple[Fraction | None, str] | None = None
    count: int = 0  # of clauses

    # -- numbers
    def unknown(self, why: str) -> Expr:
        """Return a new unknown number."""
        self.unknowns.append(why)
        return Expr(terms=((len(self.unknowns) - 1, Fraction(1)),))

    def known(self, value: Expr) -> Expr:
        """Return the value with everything substituted that has been determined since."""
        while found := next(((v, c) for v, c in value.terms if v in self.solved), None):
            rest = replace(value, terms=tuple(term for term in value.terms if term != found))
            value = rest.plus(self.solved[found[0]], found[1])
        return value

    def open(self, value: Expr) -> bool:
        """Return whether the value depends on a number that the text has not given so far."""
        return any(self.unknowns[v] != NOTHING for v, _ in self.known(value).terms)

    def factor(self, n: Fraction | None) -> Expr:
        """Return a number of the text that may be fractional."""
        return self.unknown(SOME) if n is None else Expr(n)

    def literal(self, n: Fraction | None) -> Expr:
        """Return a number of the text that counts things."""
        self.checks.append(value := self.factor(n))
        return value

    def step(self, value: Expr) -> Expr:
        """Return the same number, one step later."""
        return replace(value, steps=value.steps | {self.count})

    def times(self, left: Expr, right: Expr) -> Expr:
        """Return the product; the product of two unknown numbers is unknown."""
        left, right = self.known(left), self.known(right)
        if left.terms and right.terms:
            return self.unknown(SOME)
        product = right.by(left.const) if not left.terms else left.by(right.const)
        return replace(product, steps=left.steps | right.steps)

    def over(self, value: Expr, parts: Expr) -> Expr:
        """Return the quotient, which must be an integer."""
        parts = self.known(parts)
        if parts.terms or not parts.const:
            self.faults |= set() if parts.terms else {"inexact"}
            return self.unknown(SOME)
        self.checks += [parts, value.by(1 / parts.const)]
        return value.by(1 / parts.const)

    def equate(self, left: Expr, right: Expr) -> None:
        """Set two numbers equal: this determines an unknown one, or the text contradicts itself."""
        rest = self.known(left.plus(right, -1))
        if not rest.terms:
            self.faults |= {"contradiction"} if rest.const else set()
            return
        v, c = min(rest.terms, key=lambda term: (UNSAID, UNHELD, NOTHING, SOME).index(self.unknowns[term[0]]))
        self.solved[v] = replace(rest, terms=tuple(term for term in rest.terms if term[0] != v)).by(-1 / c)

    # -- people and things
    def who(self, word: str, other: str | None = None) -> str:
        """Return the person for a word; a pronoun means the subject, else the last one named, not `other`."""
        candidates = [p for p in (self.focus, *reversed(self.seen)) if p and p != other]
        found: str | None = None
        if word == "it":
            found = next((p for p in candidates if p.startswith("x:")), None)
        elif word in ("@he", "@she", "@him", "@her"):
            sex = GENDER[word[1:]]
            genders = [self.gender.get(p.removeprefix("x:"), "") for p in candidates]
            place = next((genders.index(gender) for gender in (sex, "") if gender in genders), None)
            found = None if place is None else candidates[place]
            if found:
                self.gender[found.removeprefix("x:")] = sex
        elif word != "@they":
            found = word.removeprefix("@")
        if found is None or found == other:
            raise Unread(word)
        self.seen = [p for p in self.seen if p != found] + [found]
        return found

    def people(self, words: str, item: str = "") -> list[str]:
        """Return several people; "they" are all who have the item."""
        if words != "@they":
            return [self.who(word) for word in words.split() if word[0] in "@x"]
        if not (found := list(dict.fromkeys(p for p, i in self.hold if i == self.key(p, item)[1]))):
            raise Unread("they")
        return found

    def holds(self, person: str) -> bool:
        """Return whether anything was said about what the person has."""
        return any(p == person for p, _ in self.hold)

    def key(self, person: str, item: str) -> tuple[str, str]:
        """Return the key of a holding: "beans" finds jelly beans if there are no other beans."""
        alike = [k for k in self.hold if k[0] == person and k[1].endswith("-" + item)]
        return alike[0] if (person, item) not in self.hold and len(alike) == 1 else (person, item)

    def owner(self, item: str) -> str:
        """Return the person meant if a thing is named without its holder."""
        holders = {p for p, i in self.hold if (p, i) == self.key(p, item)}
        if self.focus and (self.focus in holders or len(holders) != 1):
            return self.focus
        if len(holders) != 1:
            raise Unread(item)
        return holders.pop()

    def about(self, *people: str) -> None:
        """Keep the story about its present person as long as that person takes part."""
        if self.focus not in people:
            self.focus = next((p for p in people if self.holds(p)), people[0])

    def purse(self, person: str) -> str | None:
        """Return the money that a person was said to have."""
        return next((money for money in MONEY if (person, money) in self.hold), None)

    # -- amounts
    def amount(self, word: str) -> Amount:
        """Return the amount at a position, with its item filled in."""
        amount = (
            Amount("count", plural(word[2:]), Fraction(1)) if word[0] == "x" else self.amounts[int(word[1:])]
        )
        if amount.item in ("", "them"):
            amount = replace(amount, item=self.item)
        if amount.item in ("", "money") and amount.form != "times":
            raise Unread(word)
        return amount

    def number(self, amount: Amount) -> Expr:
        """Return the value of a count or a product, over the whole duration given with it."""
        if amount.form not in ("count", "product") or amount.pack == amount.item:
            raise Unread(amount.form)
        value = self.literal(amount.n)
        if amount.form == "product":
            value = self.step(self.times(value, self.literal(amount.m)))
        if self.per and self.span and self.per == self.span[1]:
            value = self.step(self.times(value, self.literal(self.span[0])))
        elif self.per and not self.span:
            self.pace = self.unknown(SOME)
            value = self.step(self.times(value, self.pace))
        elif self.per or (self.span and amount.n is not None):
            raise Unread("time")
        return value

    def part(self, person: str, amount: Amount) -> Expr:
        """Return the value of an amount relative to what somebody has."""
        if amount.whole is not None:
            self.state(person, amount.item, self.literal(amount.whole))
        if amount.form in ("count", "product"):
            return self.number(amount)
        if amount.form == "times" or self.per or self.span:
            raise Unread(amount.form)
        held = self.get(person, amount.item)
        if amount.form == "all":
            return held
        if amount.form == "all_but":
            return held.plus(self.literal(amount.n), -1)
        share = self.times(held, self.factor(amount.n))
        return share if amount.form == "part" else share.by(Fraction(1, 100))

    # -- events
    def get(self, person: str, item: str, why: str | None = None) -> Expr:
        """Return what somebody has of something; if it was never said, an unknown number."""
        key = self.key(person, item)
        if key not in self.hold:
            others = any(p == person or i == item for p, i in self.hold)
            self.hold[key] = self.first[key] = self.unknown(why or (UNHELD if others else UNSAID))
        elif key in self.gone:
            self.faults.add("unknown_item")
        return self.hold[key]

    def put(self, person: str, item: str, value: Expr) -> None:
        """Set what somebody has from now on."""
        key = self.key(person, item)
        self.hold[key] = value
        self.first.setdefault(key, value)
        self.gone.discard(key)
        self.checks.append(value)
        self.item = item

    def state(self, person: str, item: str, value: Expr, initially: bool = False) -> None:
        """Record a statement about what somebody has, now or at first."""
        key = self.key(person, item)
        if key in self.hold:
            self.equate((self.first if initially else self.hold)[key], value)
        if not initially or key not in self.hold:
            self.put(person, item, value)
        self.focus, self.item = person, item

    def lose(self, person: str, item: str, value: Expr, why: str | None = None, whole: bool = False) -> None:
        """Subtract from what somebody has."""
        self.put(person, item, self.step(self.get(person, item, why).plus(value, -1)))
        self.checks.append(value)
        self.events.append((person, "lose", item, value))
        self.aside = ""
        if whole:
            self.gone.add(self.key(person, item))

    def gain(self, person: str, item: str, value: Expr, more: bool = False, given: bool = False) -> None:
        """Add to what somebody has; the first mention of a thing may be a start, unless it says "more"."""
        key, others = self.key(person, item), self.holds(person)
        self.checks.append(value)
        self.events.append((person, "gain", item, value))
        self.gone.discard(key)
        if key in self.hold or more:
            self.put(person, item, self.step(self.get(person, item).plus(value)))
        else:
            base = self.unknown(UNSAID if given and not others else NOTHING)
            self.first[key] = base.plus(value)
            self.put(person, item, base.plus(self.step(value) if given else value))

    def transfer(self, giver: str, taker: str, amount: Amount) -> None:
        """Move things from one person to another, who becomes the subject if the giver has nothing left."""
        if giver == taker:
            raise Unread("to oneself")
        value = self.part(taker if amount.form == "percent_more" else giver, amount)
        strange = self.holds(giver) and not any(i == amount.item for _, i in self.hold)
        self.lose(giver, amount.item, value, None if strange else UNSAID)
        self.gain(taker, amount.item, value, amount.sign > 0, given=True)
        self.about(taker, giver)
        if amount.form == "all":
            self.focus = taker

    def compare(self, left: str, right: str, item: str, factor: Expr, more: Expr) -> None:
        """Record that left is `factor` times right plus `more`; a new person becomes the subject."""
        if left == right:
            self.faults.add("contradiction")
        new = self.key(left, item) in self.hold and self.key(right, item) not in self.hold
        held, other = (self.get(p, item, None if self.holds(p) else UNSAID) for p in (left, right))
        new = new or (self.open(other) and not self.open(held))
        self.equate(held, self.step(self.times(other, factor).plus(more)))
        self.checks += [held, other]
        self.focus, self.item = (right if new else left), item

    def pay(self, person: str, money: str, value: Expr) -> None:
        """Spend money; if somebody's money was never mentioned, only the spending counts."""
        if self.holds(person):
            self.lose(person, money, value)
        else:
            self.events.append((person, "lose", money, value))
        self.about(person)

    def use(self, person: str, amount: Amount) -> Expr:
        """Return how much is divided, packed, sold or traded; for a new person, that is everything."""
        if amount.form in ("count", "product") and not self.holds(person):
            self.state(person, amount.item, self.number(amount))
            amount = replace(amount, form="all", whole=None)
        value = self.part(person, amount)
        self.lose(person, amount.item, value, whole=amount.form == "all")
        self.about(person)
        return value
