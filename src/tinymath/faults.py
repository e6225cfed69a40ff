"""Ways to break a story, each by one change, so that what is wrong with it is known without reading it.

`break_story` takes a sound story and changes a number, a name, a thing or a sentence somewhere in it. It also
writes what a careful reader would note down until the fault is found: for each sentence, who had how many of
what before it and has after it, then the fault. Who has what comes before the number, so that a reader has
both what is held and what the sentence names in view before deciding whether they fit. Models of this domain
learn to judge and to repair questions from these texts. The oracle is not asked: it measures from outside.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tinymath.world import (
    FEMALE,
    FRACTIONS,
    ITEMS,
    MALE,
    PERCENTS,
    STARTS,
    Sentence,
    State,
    StoryProblem,
    pronouns,
)

VAGUE = ("some", "several", "many", "a few")
_PEOPLE = {*MALE, *FEMALE}
_PRONOUNS = {"He", "She", "he", "she", "him", "her"}
_COMPARED = ("more_than", "fewer_than", "times_as_many")  # the story goes on with the other person
_TAKES = ("loss", "fewer_than", "rate_loss", "spend")
_OWN = ("loss", "fraction", "percent_loss", "share", "rate_loss", "sell", "pack", "trade")  # of what one has


@dataclass(frozen=True)
class BrokenStory:
    """A story with one fault.

    Attributes:
        text: the question in words.
        fault: one of `FAULTS`.
        notes: the reader's, one per sentence, up to the fault.
        place: number of sentences before the fault shows.
    """

    text: str
    fault: str
    notes: tuple[str, ...]
    place: int


Break = Callable[[random.Random, StoryProblem], BrokenStory | None]
FAULTS: dict[str, Break] = {}
_WEIGHTS: dict[str, float] = {}


def _fault(weight: float) -> Callable[[Break], Break]:
    """Register a fault; the greater its weight, the more often it is drawn if several fit a story."""

    def add(make: Break) -> Break:
        FAULTS[make.__name__], _WEIGHTS[make.__name__] = make, weight
        return make

    return add


def break_story(rng: random.Random, story: StoryProblem, fault: str | None = None) -> BrokenStory | None:
    """Break a story in one way, or in a random one that fits it; None if `fault` does not fit it.

    Raises:
        KeyError: no fault has this name.
    """
    # The order of a weighted draw without replacement (Efraimidis and Spirakis 2006)
    order = sorted(FAULTS, key=lambda name: rng.random() ** (1 / _WEIGHTS[name]), reverse=True)
    for name in [fault] if fault else order:
        if found := FAULTS[name](rng, story):
            return found
    return None


def notes(story: StoryProblem, first: int = 0, last: int | None = None) -> tuple[str, ...]:
    """What a reader notes down: for each sentence whom and what it names, what held before it and holds after.

    The opening is number 0, the question the last; behind it stands the number that is asked for.
    """
    found = [_held(story.states[0])]
    for i, (sentence, state) in enumerate(zip(story.told[1:], story.states[1:], strict=True)):
        found.append(" ".join((_named(sentence), _held(story.states[i]), *_step(story, i), _held(state))))
    found.append(f"{_named(story.asked)} {_held(story.states[-1])}")
    return tuple(found[first:last])


def no_one_returns(story: StoryProblem) -> bool:
    """Whether nobody acts in the story who was in it before and is not its holder.

    Of such people the world does not keep count: a careful reader may find that they contradict themselves.
    """
    seen = {story.states[0].name}
    for sentence, state in zip(story.sentences[1:], story.states, strict=False):
        others = _people(sentence) - {state.name}
        if others & seen:
            return False
        seen |= others
    return True


# -------------------------------------------------------------------------------------------- numbers


@_fault(6)
def inexact(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """A share or a part of what somebody has that is not a whole number."""
    choices: list[tuple[int, dict[str, str], str]] = []
    for i, (kind, state) in enumerate(zip(story.kinds, story.states, strict=False)):
        v = state.value
        if kind in ("share", "pack"):
            choices += [(i, {"a": str(d)}, f"{v} / {d} is not whole.") for d in range(2, 10) if v % d]
        elif kind == "fraction":
            choices += [(i, {"f": f}, f"{v} / {k} is not whole.") for k, f in FRACTIONS.items() if v % k]
        elif kind.startswith("percent"):
            choices += [
                (i, {"a": str(p)}, f"{p} percent of {v} is not whole.") for p in PERCENTS if v * p % 100
            ]
    return _changed(story, *rng.choice(choices), "inexact") if choices else None


@_fault(5)
def negative(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """Somebody gives away, loses, uses or pays more than there is."""
    places = [i for i, kind in enumerate(story.kinds) if kind in _TAKES]
    if not places:
        return None
    i = rng.choice(places)
    value = story.states[i].value
    if story.kinds[i] in ("loss", "fewer_than"):
        amount = value + rng.randint(1, 40)
        note = f"{value} - {amount} is less than 0."
        return _changed(story, i, {"a": str(amount)}, note, "negative")
    choices = [(a, b) for a in range(2, 10) for b in range(2, 7) if a * b > value]
    if not choices:
        return None
    a, b = rng.choice(choices)
    note = f"{a} * {b} = {a * b}. {value} - {a * b} is less than 0."
    return _changed(story, i, {"a": str(a), "b": str(b)}, note, "negative")


@_fault(1.5)
def missing_number(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """A vague word where a number was, or no opening."""
    if story.kinds[0] in (*_OWN, "multiply", "percent_gain") and rng.random() < 0.3:
        told = story.told[1:]
        name = story.states[0].name if story.states[0].name in told[0].text else "?"
        return _broken(story, told, story.asked, "missing_number", 0, _unheld(name, story.states[0].items))
    i = rng.randrange(len(story.told))
    names = [name for name in ("v", "a", "b", "f") if f"{{{name}}}" in story.told[i].wording]
    if not names:
        return None
    word = rng.choice(VAGUE)
    told = _with(story.told, i, {rng.choice(names): word})
    return _broken(story, told, story.asked, "missing_number", i, f"{word} is no number.")


@_fault(1.5)
def contradiction(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """A second number for what somebody has."""
    # Of things that came later, somebody may have had some from the start.
    i = rng.choice([i for i, state in enumerate(story.states) if state.items == story.states[0].items])
    state = story.states[i]
    value = state.value + rng.choice([d for d in range(-20, 21) if d and state.value + d > 0])
    wording = rng.choice(STARTS if i == 0 else (STARTS[0], STARTS[3]))
    clash = Sentence(wording, {"n": state.name, "v": str(value), "items": state.items})
    told = (*story.told[: i + 1], clash, *story.told[i + 1 :])
    return _broken(story, told, story.asked, "contradiction", i + 1, _held(state, other_than=value))


# --------------------------------------------------------------------------------------------- people


@_fault(5)
def oneself(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """Somebody gives to, takes from or is compared with the same person."""
    places = []
    for i, (sentence, state) in enumerate(zip(story.told[1:], story.states, strict=False)):
        alike = set(MALE if state.name in MALE else FEMALE) - {state.name}
        others = {name for told in story.told[: i + 1] for name in _people(told.text)} & alike
        spoken = sentence.slots["He"] == state.name and "{He}" in sentence.wording
        plain = spoken or re.search("{n}|{o} takes {f}|{o} takes {a} percent", sentence.wording)
        if "{o}" in sentence.wording and (
            plain or (re.search("{(him|He|he)}", sentence.wording) and not others)
        ):
            places.append(i)
    if not places:
        return None
    i = rng.choice(places)
    name, other = story.states[i].name, story.told[i + 1].slots["o"]
    told = _with(story.told, i + 1, {"o": name})
    asked = story.asked
    if story.kinds[i] in _COMPARED:  # the rest of the story is about the other one
        told = (*told[: i + 2], *(_renamed(sentence, other, name) for sentence in told[i + 2 :]))
        asked = _renamed(asked, other, name)
    return _broken(story, told, asked, "oneself", i + 1, f"{name} and {name}.")


@_fault(4)
def second_number(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """Somebody whose number is known is compared with another, and gets a different one."""
    choices = [
        (i, past)
        for i, kind in enumerate(story.kinds)
        for past in story.states[:i]
        if kind in _COMPARED
        and past.name != story.states[i].name
        and past.items == story.states[i].items
        and story.states[i + 1].value not in {s.value for s in story.states[:i] if s.name == past.name}
    ]
    if not choices:
        return None
    i, past = rng.choice(choices)
    other, after = story.told[i + 1].slots["o"], story.states[i + 1]
    past = [state for state in story.states[:i] if state.name == past.name][-1]
    told = _with(story.told, i + 1, {"o": past.name})
    told = (*told[: i + 2], *(_renamed(sentence, other, past.name) for sentence in told[i + 2 :]))
    note = " ".join((_held(story.states[i]), *_step(story, i), _held(past, other_than=after.value)))
    return _broken(story, told, _renamed(story.asked, other, past.name), "second_number", i + 1, note)


@_fault(6)
def stranger(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """Somebody is asked about, or compared with, of whom the story says nothing."""
    name = _absent(rng, story)
    places = [i for i, kind in enumerate(story.kinds) if kind in _COMPARED]
    if places and rng.random() < 0.6:
        i = rng.choice(places)
        told = _with(story.told, i + 1, {"n": name})
        return _broken(story, told, story.asked, "stranger", i + 1, _other(story.states[i], name))
    asked = replace(story.asked, slots={**story.asked.slots, "n": name})
    note = _other(story.states[-1], name)
    return _broken(story, story.told, asked, "stranger", len(story.told), note)


@_fault(6)
def not_the_holder(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """Somebody of whom the story says nothing does something with what another person has."""
    # Of "4 pears" rather than "4 of the pears", somebody new may have had some.
    places = [
        i
        for i, sentence in enumerate(story.told[1:])
        if re.search("{(He|n)}.*(the {items}|puts them)", sentence.wording)
        and story.kinds[i] not in _COMPARED
    ]
    if not places:
        return None
    i, name = rng.choice(places), _absent(rng, story)
    told, asked = _with(story.told, i + 1, {**pronouns(name), "He": name, "n": name}), story.asked
    if rng.random() < 0.6:  # the story goes on as if it had always been theirs
        old = story.states[i].name
        told = (*told[: i + 2], *(_renamed(sentence, old, name) for sentence in told[i + 2 :]))
        asked = _renamed(asked, old, name)
    return _broken(story, told, asked, "not_the_holder", i + 1, _other(story.states[i], name))


@_fault(1)
def wrong_pronoun(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """A man's pronoun where only women were named, or the other way round."""
    for i in rng.sample(range(len(story.steps)), len(story.steps)):
        name, sentence = story.states[i].name, story.told[i + 1]
        other = FEMALE if name in MALE else MALE
        named = set().union(*(_people(told.text) for told in story.told[: i + 2]))
        slots = pronouns(rng.choice(other))
        shown = [slot for slot in ("He", "he", "him") if f"{{{slot}}}" in sentence.wording]
        if named & set(other) or not shown or sentence.slots["He"] == name:
            continue
        told = _with(story.told, i + 1, slots)
        note = _other(story.states[i], slots[shown[0]])
        return _broken(story, told, story.asked, "wrong_pronoun", i + 1, note)
    return None


# --------------------------------------------------------------------------------------------- things


@_fault(5)
def unknown_item(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """A step or the question is about things that nobody has."""
    text = story.text
    item = rng.choice([item for item in ITEMS if item not in text])
    places = [
        i for i, kind in enumerate(story.kinds) if kind in _OWN and "{items}" in story.told[i + 1].wording
    ]
    if places and rng.random() < 0.5:
        i = rng.choice(places)
        told = _with(story.told, i + 1, {"items": item})
        note = _other(story.states[i], item)
        return _broken(story, told, story.asked, "unknown_item", i + 1, note)
    asked = replace(story.asked, slots={**story.asked.slots, "items": item})
    note = _other(story.states[-1], item)
    return _broken(story, story.told, asked, "unknown_item", len(story.told), note)


# ------------------------------------------------------------------------------------------ questions


@_fault(0.5)
def no_question(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """Nothing is asked."""
    return _broken(story, story.told, None, "no_question", len(story.told), "Nothing is asked.")


@_fault(1)
def two_questions(rng: random.Random, story: StoryProblem) -> BrokenStory | None:
    """Two things are asked."""
    start = story.states[0]
    more = f"How many {start.items} did {start.name} have at first?"
    why = f"{start.items} {start.name}: 2 questions."
    found = _broken(story, story.told, story.asked, "two_questions", len(story.told), why)
    return replace(found, text=f"{found.text} {more}")


# -------------------------------------------------------------------------------------------- helpers


def _named(sentence: Sentence) -> str:
    """The people, pronouns, numbers and things of a sentence, in its order."""
    said = {sentence.slots.get(slot) for slot in ("items", "things", "f", "v", "a", "b")} - {None}
    known = _PEOPLE | _PRONOUNS | {word for value in said for word in str(value).split() if word != "a"}
    kept = [word for word in re.findall(r"\w+", sentence.text) if word in known or word.isdigit()]
    return " ".join(kept) + ":"


def _held(state: State, other_than: int | None = None) -> str:
    instead = "" if other_than is None else f", not {other_than}"
    return f"{state.name} {state.items} {state.value}{instead}."


def _unheld(name: str, items: str) -> str:
    return f"{name} {items} ?."


def _other(state: State, said: str) -> str:
    return f"{state.name} {state.items}, not {said}."


def _step(story: StoryProblem, i: int) -> tuple[str, ...]:
    return tuple(f"{line}." for line in story.steps[i])


def _people(text: str) -> set[str]:
    return {*re.findall("[A-Z][a-z]+", text)} & {*MALE, *FEMALE}


def _absent(rng: random.Random, story: StoryProblem) -> str:
    named = _people(story.text)
    return rng.choice([name for name in MALE + FEMALE if name not in named])


def _with(told: Sequence[Sentence], place: int, slots: dict[str, str]) -> tuple[Sentence, ...]:
    changed = replace(told[place], slots={**told[place].slots, **slots})
    return (*told[:place], changed, *told[place + 1 :])


def _renamed(sentence: Sentence, old: str, new: str) -> Sentence:
    if sentence.slots.get("n") != old:
        return sentence
    slots = {key: new if value == old else value for key, value in sentence.slots.items()}
    spoken = pronouns(new)
    if slots.get("He") == new:
        spoken = {**spoken, "He": new}
    return replace(sentence, slots={**slots, **{k: v for k, v in spoken.items() if k in slots}})


def _changed(story: StoryProblem, step: int, slots: dict[str, str], note: str, fault: str) -> BrokenStory:
    told = _with(story.told, step + 1, slots)
    return _broken(story, told, story.asked, fault, step + 1, f"{_held(story.states[step])} {note}")


def _broken(
    story: StoryProblem, told: Sequence[Sentence], asked: Sentence | None, fault: str, place: int, why: str
) -> BrokenStory:
    """Put it together; the fault shows in sentence `place`, or after the last one."""
    parts = [*told, asked] if asked else list(told)
    named = [_named(part) for part in parts[place : place + 1]]
    noted = (*notes(story, 0, place), " ".join((*named, why)))
    return BrokenStory(" ".join(part.text for part in parts), fault, noted, place)
