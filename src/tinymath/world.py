"""TinyMath: a procedural micro-domain of arithmetic stories, small enough for a model of a few megabytes.

A story follows one running quantity: somebody has a number of things, one to four steps change the number,
the holder or the things, and the last sentence asks for what the holder has at the end. Every number is an
integer from 1 to 200. `problem` makes a story with its worked solution, `narrative` tells one as plain prose,
and `corrupt` breaks one in a known way. Held-out wordings, and the pairs of step kinds in `HELD_OUT_PAIRS`,
occur in one test split only.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

LARGEST = 200
MALE = ("Tom", "Ben", "Sam", "Leo", "Max", "Jack", "Omar", "Paul")
FEMALE = ("Anna", "Mia", "Lily", "Emma", "Nina", "Sara", "Rosa", "Kate")
ITEMS = (
    "apples", "pears", "plums", "nuts", "eggs", "books", "pens", "cards", "stamps", "shells", "stones", "beads",
    "marbles", "balls", "toys", "cakes", "cookies", "roses", "seeds", "tickets", "stickers", "buttons", "coins", "leaves",
)  # fmt: skip
FRACTIONS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
PERCENTS = (10, 20, 25, 50)
SENTENCE_END = re.compile(r"[.?](?=\s|$)")


@dataclass(frozen=True)
class State:
    """Who has how many of what."""

    name: str
    items: str
    value: int


@dataclass(frozen=True)
class Move:
    """One step drawn for a state: its sentence's slots, the lines of its solution, the state after it."""

    slots: dict[str, str]
    lines: tuple[str, ...]
    after: State


@dataclass(frozen=True)
class Kind:
    """One kind of step: its training sentences, the held-out one, and how to draw it (or None)."""

    name: str
    wordings: tuple[str, ...]
    held_out: str
    draw: Callable[[random.Random, State], Move | None]


@dataclass(frozen=True)
class Sentence:
    """A wording and what stands in its slots."""

    wording: str
    slots: dict[str, str]

    @property
    def text(self) -> str:
        """The sentence in words."""
        return self.wording.format(**self.slots)


@dataclass(frozen=True)
class StoryProblem:
    """A story with everything known about it: the opening, one sentence and one tuple of lines per step."""

    told: tuple[Sentence, ...]
    asked: Sentence
    kinds: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]
    states: tuple[State, ...]
    held_out_wording: bool

    @property
    def sentences(self) -> tuple[str, ...]:
        """The story without its question."""
        return tuple(sentence.text for sentence in self.told)

    @property
    def question(self) -> str:
        """The sentence that asks."""
        return self.asked.text

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the solution, one per operation."""
        return tuple(line for step in self.steps for line in step)

    @property
    def text(self) -> str:
        """The complete question, in the form that a model sees."""
        return " ".join((*self.sentences, self.question))

    @property
    def answer(self) -> int:
        """The number held at the end."""
        return self.states[-1].value

    @property
    def solution(self) -> str:
        """The worked solution: one line per operation, with the answer in a box."""
        return "\n".join((*self.lines, f"The answer is \\boxed{{{self.answer}}}."))


def _other(rng: random.Random, *taken: str) -> str:
    return rng.choice([name for name in MALE + FEMALE if name not in taken])


def _plus(value: int, amount: int) -> str:
    return f"{value} + {amount} = {value + amount}"


def _minus(value: int, amount: int) -> str:
    return f"{value} - {amount} = {value - amount}"


def _product(value: int, factor: int) -> str:
    return f"{value} * {factor} = {value * factor}"


def _quotient(value: int, divisor: int) -> str:
    return f"{value} / {divisor} = {value // divisor}"


def _add(rng: random.Random, state: State) -> Move | None:
    amount = rng.randint(2, 40)
    after = replace(state, value=state.value + amount)
    return Move({"a": str(amount)}, (_plus(state.value, amount),), after)


def _subtract(rng: random.Random, state: State) -> Move | None:
    if state.value < 4:
        return None
    amount = rng.randint(2, min(40, state.value - 1))
    return Move(
        {"a": str(amount)}, (_minus(state.value, amount),), replace(state, value=state.value - amount)
    )


def _multiply(rng: random.Random, state: State) -> Move | None:
    factor = rng.randint(2, 5)
    return Move(
        {"a": str(factor)}, (_product(state.value, factor),), replace(state, value=state.value * factor)
    )


def _divide(rng: random.Random, state: State) -> Move | None:
    divisors = [d for d in range(2, 10) if state.value % d == 0 and state.value > d]
    if not divisors:
        return None
    divisor = rng.choice(divisors)
    return Move(
        {"a": str(divisor)}, (_quotient(state.value, divisor),), replace(state, value=state.value // divisor)
    )


def _fraction(rng: random.Random, state: State) -> Move | None:
    parts = [k for k in FRACTIONS if state.value % k == 0 and state.value > k]
    if not parts:
        return None
    k = rng.choice(parts)
    part = state.value // k
    after = replace(state, value=state.value - part)
    return Move({"f": FRACTIONS[k]}, (_quotient(state.value, k), _minus(state.value, part)), after)


def _percent(sign: int) -> Callable[[random.Random, State], Move | None]:
    def draw(rng: random.Random, state: State) -> Move | None:
        shares = [p for p in PERCENTS if state.value * p % 100 == 0]
        if not shares:
            return None
        share = rng.choice(shares)
        part = state.value * share // 100
        last = _plus(state.value, part) if sign > 0 else _minus(state.value, part)
        after = replace(state, value=state.value + sign * part)
        return Move({"a": str(share)}, (f"{share} percent of {state.value} = {part}", last), after)

    return draw


def _rate(sign: int) -> Callable[[random.Random, State], Move | None]:
    def draw(rng: random.Random, state: State) -> Move | None:
        each, times = rng.randint(2, 9), rng.randint(2, 6)
        part = each * times
        if sign < 0 and part >= state.value:
            return None
        last = _plus(state.value, part) if sign > 0 else _minus(state.value, part)
        after = replace(state, value=state.value + sign * part)
        return Move({"a": str(each), "b": str(times)}, (_product(each, times), last), after)

    return draw


def _hand_over(
    draw: Callable[[random.Random, State], Move | None],
) -> Callable[[random.Random, State], Move | None]:
    """Continue comparisons with the other person's number."""

    def handed(rng: random.Random, state: State) -> Move | None:
        move = draw(rng, state)
        if move is None:
            return None
        other = _other(rng, state.name)
        return replace(move, slots={**move.slots, "o": other}, after=replace(move.after, name=other))

    return handed


def _sell(rng: random.Random, state: State) -> Move | None:
    move = None if state.items in ("coins", "bags") else _multiply(rng, state)
    return move and replace(move, after=replace(move.after, items="coins"))


def _spend(rng: random.Random, state: State) -> Move | None:
    move = _rate(-1)(rng, state) if state.items == "coins" else None
    things = rng.choice([item for item in ITEMS if item != "coins"])
    return move and replace(move, slots={**move.slots, "things": things})


def _pack(rng: random.Random, state: State) -> Move | None:
    move = None if state.items in ("coins", "bags") else _divide(rng, state)
    return move and replace(move, after=replace(move.after, items="bags"))


def _trade(rng: random.Random, state: State) -> Move | None:
    move = None if state.items in ("coins", "bags") else _multiply(rng, state)
    things = rng.choice([item for item in ITEMS if item not in ("coins", state.items)])
    return move and replace(
        move, slots={**move.slots, "things": things}, after=replace(move.after, items=things)
    )


# Slots: {n} holder, {he} {his} {him} {He} pronouns, {o} another person, {items} the things held, {things}
# other things, {a} {b} numbers, {f} a fraction in words. Everything is in the plural, so that no number needs
# agreement.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("gain", ("{He} buys {a} more {items}.", "{He} gets {a} {items} from {o}.", "{o} gives {n} {a} more {items}.", "{He} finds {a} more {items}."),
             "Then {o} adds {a} {items} to what {n} has.", _add),
        Kind("loss", ("{He} gives {a} {items} to {o}.", "{He} loses {a} of the {items}.", "{o} takes {a} {items} from {n}.", "{He} throws away {a} {items}."),
             "Then {a} of the {items} go to {o}.", _subtract),
        Kind("multiply", ("Then the number of {items} grows to {a} times as many.", "After some work {he} has {a} times as many {items}.", "{He} collects until {he} has {a} times as many {items}."),
             "Then {n} has {a} times the number of {items}.", _multiply),
        Kind("share", ("{He} shares the {items} equally among {a} boxes and keeps one box.", "{He} splits the {items} into {a} equal piles and keeps one pile.", "{He} divides the {items} equally among {a} people, and {he} is one of them."),
             "{He} makes {a} equal piles of the {items} and keeps only one pile.", _divide),
        Kind("fraction", ("{He} gives {f} of the {items} to {o}.", "{He} loses {f} of the {items}.", "{o} takes {f} of the {items}."),
             "Then {f} of the {items} go to {o}.", _fraction),
        Kind("percent_loss", ("{He} gives away {a} percent of the {items}.", "{He} loses {a} percent of the {items}.", "{o} takes {a} percent of the {items}."),
             "Then {a} percent of the {items} go to {o}.", _percent(-1)),
        Kind("percent_gain", ("{o} gives {him} {a} percent more {items}.", "Then the number of {items} grows by {a} percent.", "{He} finds {a} percent more {items}."),
             "Then {n} gets {a} percent more {items}.", _percent(1)),
        Kind("more_than", ("{o} has {a} more {items} than {n}.", "{o} owns {a} {items} more than {n}.", "{n} has {a} fewer {items} than {o}."),
             "Now {o} has as many {items} as {n} and {a} more.", _hand_over(_add)),
        Kind("fewer_than", ("{o} has {a} fewer {items} than {n}.", "{o} owns {a} {items} fewer than {n}.", "{n} has {a} more {items} than {o}."),
             "Now {o} has as many {items} as {n} but {a} fewer.", _hand_over(_subtract)),
        Kind("times_as_many", ("{o} has {a} times as many {items} as {n}.", "{o} owns {a} times as many {items} as {n} has."),
             "Now {o} has {a} times the number of {items} that {n} has.", _hand_over(_multiply)),
        Kind("together", ("{o} brings {a} {items}, and {n} keeps all of them together.", "{n} puts them together with the {a} {items} of {o}."),
             "{o} has {a} {items} and gives all of them to {n}.", _add),
        Kind("rate_gain", ("{He} picks {a} {items} an hour for {b} hours.", "{He} makes {a} {items} a day for {b} days.", "For {b} days {he} gets {a} {items} a day."),
             "For {b} hours {he} finds {a} {items} an hour.", _rate(1)),
        Kind("rate_loss", ("{He} uses {a} {items} a day for {b} days.", "{He} loses {a} {items} an hour for {b} hours.", "For {b} days {he} gives away {a} {items} a day."),
             "For {b} hours {he} throws away {a} {items} an hour.", _rate(-1)),
        Kind("packs", ("{He} buys {b} packs with {a} {items} each.", "{o} gives {him} {b} boxes with {a} {items} each.", "{He} opens {b} packs of {a} {items} each."),
             "{He} finds {b} boxes of {a} {items} each.", _rate(1)),
        Kind("sell", ("{He} sells all the {items} for {a} coins each.", "{He} sells every one of the {items} and gets {a} coins for each."),
             "{o} buys all the {items} from {him} for {a} coins each.", _sell),
        Kind("spend", ("{He} buys {b} {things} for {a} coins each.", "{He} pays {a} coins each for {b} {things}."),
             "{He} spends {a} coins on each of {b} {things}.", _spend),
        Kind("pack", ("{He} packs all the {items} into bags of {a}.", "{He} fills bags with {a} {items} each until no {items} are left."),
             "{He} puts all the {items} into bags with {a} in each.", _pack),
        Kind("trade", ("{He} trades each of the {items} for {a} {things}.", "{o} takes all the {items} and gives {him} {a} {things} for each."),
             "For each of the {items} {he} gets {a} {things}, and {he} keeps only those.", _trade),
    )
}  # fmt: skip

STARTS = (
    "{n} has {v} {items}.",
    "{n} starts with {v} {items}.",
    "At first {n} has {v} {items}.",
    "{n} owns {v} {items}.",
)
STARTS_HELD_OUT = "To begin with, {n} has {v} {items}."
QUESTIONS = (
    "How many {items} does {n} have now?",
    "How many {items} does {n} have in the end?",
    "How many {items} does {n} have?",
    "What is the number of {items} that {n} has now?",
)
QUESTION_HELD_OUT = "In the end, how many {items} does {n} have?"

# Ordered pairs of kinds that no training text contains: an eighth of all pairs, spread over the kinds.
HELD_OUT_PAIRS = frozenset(
    (first, second)
    for i, first in enumerate(KINDS)
    for j, second in enumerate(KINDS)
    if (3 * i + 5 * j) % 8 == 0
)


def count_sentences(text: str) -> int:
    """Return the number of sentences of a text of this domain."""
    return len(SENTENCE_END.findall(text.strip()))


def pronouns(name: str) -> dict[str, str]:
    """The values of the slots {he} {his} {him} {He} for a name."""
    he, his, him = ("he", "his", "him") if name in MALE else ("she", "her", "her")
    return {"he": he, "his": his, "him": him, "He": he.capitalize()}


def _say(rng: random.Random, wording: str, state: State, slots: dict[str, str]) -> Sentence:
    # Every third time, the name replaces a leading pronoun: both are plain English, and a model needs both.
    leading = {"He": state.name} if rng.random() < 1 / 3 else {}
    filled = {"o": _other(rng, state.name), **pronouns(state.name), **leading, **slots}
    return Sentence(wording, {"n": state.name, "items": state.items, **filled})


def problem(rng: random.Random, steps: int, *, held_out: bool = False) -> StoryProblem:
    """Draw a story of `steps` steps.

    Without `held_out`, it uses training wordings and no held-out pair of kinds. With it, at least one pair of
    kinds is held out (if there are at least two steps) and at least one sentence uses a held-out wording.
    """
    while True:
        start = State(rng.choice(MALE + FEMALE), rng.choice(ITEMS), rng.randint(3, 60))
        states, kinds, moves = [start], [], []
        for _ in range(steps):
            name = rng.choice(list(KINDS))
            move = KINDS[name].draw(rng, states[-1])
            if move is None or move.after.value > LARGEST:
                break
            if move.after.name != states[-1].name and move.after.name in {state.name for state in states}:
                break  # a second number for somebody to whom the story has given one would contradict it
            kinds.append(name)
            moves.append(move)
            states.append(move.after)
        if len(kinds) < steps:
            continue
        pairs = set(itertools.pairwise(kinds))
        if bool(pairs & HELD_OUT_PAIRS) != (held_out and steps > 1):
            continue
        new = rng.randrange(steps) if held_out else -1
        opening = STARTS_HELD_OUT if held_out and rng.random() < 0.5 else rng.choice(STARTS)
        told = [Sentence(opening, {"n": start.name, "v": str(start.value), "items": start.items})]
        for i, (name, move) in enumerate(zip(kinds, moves, strict=True)):
            kind = KINDS[name]
            wording = (
                kind.held_out if i == new or (held_out and rng.random() < 0.3) else rng.choice(kind.wordings)
            )
            told.append(_say(rng, wording, states[i], move.slots))
        ask = QUESTION_HELD_OUT if held_out and rng.random() < 0.5 else rng.choice(QUESTIONS)
        asked = Sentence(ask, {"n": states[-1].name, "items": states[-1].items})
        lines = tuple(move.lines for move in moves)
        return StoryProblem(tuple(told), asked, tuple(kinds), lines, tuple(states), held_out)


def narrative(rng: random.Random, steps: int) -> str:
    """Tell a story as prose that states what is held after each step, without a question."""
    told = problem(rng, steps)
    parts = [told.sentences[0]]
    for sentence, state in zip(told.sentences[1:], told.states[1:], strict=True):
        parts += [sentence, f"Now {state.name} has {state.value} {state.items}."]
    return " ".join(parts)


def arithmetic(rng: random.Random, lines: int) -> str:
    """Return bare calculations in the notation of the solutions, unrelated to each other."""
    return "\n".join(_calculation(rng) for _ in range(lines))


def _calculation(rng: random.Random) -> str:
    kind = rng.randrange(5)
    if kind == 0:
        value = rng.randint(1, LARGEST - 1)
        return _plus(value, rng.randint(1, min(60, LARGEST - value)))
    if kind == 1:
        value = rng.randint(2, LARGEST)
        return _minus(
            value, rng.randint(1, min(60, value - 1)) if rng.random() < 0.7 else rng.randint(1, value - 1)
        )
    factor = rng.randint(2, 9)
    value = rng.randint(2, LARGEST // factor)
    if kind == 2:
        return _product(value, factor)
    if kind == 3:
        return _quotient(value * factor, factor)
    share = rng.choice(PERCENTS)
    whole = rng.choice([v for v in range(2, LARGEST + 1) if v * share % 100 == 0])
    return f"{share} percent of {whole} = {whole * share // 100}"


# The ways to break a text; their names are those that the oracle reports.
FAULTS = (
    "missing_number",
    "negative",
    "inexact",
    "no_question",
    "two_questions",
    "contradiction",
    "unknown_item",
)


def corrupt(rng: random.Random, fault: str, steps: int = 2) -> str:
    """Return a story with exactly one fault of the given kind in `FAULTS`."""
    while True:
        told = problem(rng, steps)
        start, last = told.states[0], told.states[-1]
        sentences, question = list(told.sentences), told.question
        if fault == "missing_number":
            place = rng.randrange(len(sentences))
            words = sentences[place].split(" ")
            numbers = [i for i, word in enumerate(words) if word.isdigit()]
            if not numbers:
                continue
            words[rng.choice(numbers)] = "some"
            sentences[place] = " ".join(words)
        elif fault == "negative":
            amount = last.value + rng.randint(1, 40)
            sentences.append(_say(rng, rng.choice(KINDS["loss"].wordings), last, {"a": str(amount)}).text)
        elif fault == "inexact":
            divisors = [d for d in range(2, 10) if last.value % d]
            if last.value < 2 or not divisors or last.items == "bags":
                continue
            wording, divisor = rng.choice(KINDS["share"].wordings), str(rng.choice(divisors))
            sentences.append(_say(rng, wording, last, {"a": divisor}).text)
        elif fault == "no_question":
            question = ""
        elif fault == "two_questions":
            question += f" How many {start.items} did {start.name} have at first?"
        elif fault == "contradiction":
            clash = rng.choice(STARTS).format(
                n=start.name, v=start.value + rng.randint(1, 20), items=start.items
            )
            sentences.insert(1, clash)
        elif fault == "unknown_item":
            seen = " ".join(sentences)
            unknown = rng.choice([item for item in ITEMS if item not in seen])
            question = f"How many {unknown} does {last.name} have now?"
        else:
            raise ValueError(f"unknown fault {fault!r}; expected one of {', '.join(FAULTS)}")
        return " ".join((*sentences, question)).strip()


def problems(
    rng: random.Random, count: int, steps: Sequence[int], *, held_out: bool = False
) -> list[StoryProblem]:
    """Return `count` stories with different texts, with numbers of steps drawn uniformly from `steps`."""
    found: dict[str, StoryProblem] = {}
    while len(found) < count:
        drawn = problem(rng, rng.choice(steps), held_out=held_out)
        found.setdefault(drawn.text, drawn)
    return list(found.values())
