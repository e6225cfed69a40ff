"""Texts from which a model learns to judge and to rewrite questions of this domain.

A reply is what a careful reader notes down while reading, one line per sentence, then a verdict ("Yes." or
"No.") or, after `MARKER`, the rewritten question. Verdicts and targets follow from how the world made the
texts; nothing here reads a text, and the oracle is not asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tinymath import world
from tinymath.faults import break_story, no_one_returns, notes
from tinymath.world import StoryProblem

MARKER = "Question:"
MORE = "More:"
SOUND = 0.45  # of the questions to judge
UNTOUCHED = 0.35  # of the questions to repair need no repair

Direction = Literal["solvability", "difficulty"]


@dataclass(frozen=True)
class Lesson:
    """One question and the reply to learn.

    Attributes:
        question: what is judged or rewritten.
        reply: the notes, then the verdict or the new question.
        fault: what is wrong with the question; None if it is sound.
    """

    question: str
    reply: str
    fault: str | None


def judging(rng: random.Random, steps: Sequence[int], *, held_out: bool = False) -> Lesson:
    """Draw a question, sound or with one fault of any kind, and the verdict with its reasons."""
    story = _story(rng, steps, held_out=held_out)
    if rng.random() < SOUND or (broken := break_story(rng, story)) is None:
        return Lesson(story.text, _lines(*notes(story), "Yes."), None)
    return Lesson(broken.text, _lines(*broken.notes, "No."), broken.fault)


def rewriting(
    rng: random.Random, direction: Direction, steps: Sequence[int], *, held_out: bool = False
) -> Lesson:
    """Draw a question to repair, or to repair and make one step longer.

    A sound question that is to be repaired comes back as it is. The notes of a broken one go on after the
    fault with what holds once it is repaired. `MORE` stands before the note of an added step: without it, the
    likeliest first word of a sentence yet to be invented is less likely than the question that ends the notes.
    """
    story = target = _story(rng, steps, held_out=held_out)
    if direction == "difficulty":
        target = _story(rng, [count + 1 for count in steps], held_out=held_out)
        story = _without_last(target)
    broken = None if rng.random() < UNTOUCHED else break_story(rng, story)
    *found, asked = notes(target, broken.place if broken else 0)
    if direction == "difficulty":
        found[-1] = f"{MORE} {found[-1]}"
    reply = _lines(*(broken.notes if broken else ()), *found, asked, f"{MARKER} {target.text}")
    return Lesson(broken.text if broken else story.text, reply, broken.fault if broken else None)


def drills(rng: random.Random, lines: int) -> str:
    """Write lines as in a reader's notes, without their stories: calculations, and look-ups of who has what.

    Half of the calculations have no result in whole numbers from 0, and half of the look-ups fail.
    """
    return _lines(*(_calculation(rng) if rng.random() < 0.4 else _look_up(rng) for _ in range(lines)))


def _look_up(rng: random.Random) -> str:
    name, other = rng.sample(world.MALE + world.FEMALE, 2)
    items, thing = rng.sample(world.ITEMS, 2)
    sound, amount = rng.random() < 0.5, rng.randint(2, 60)
    held = f"{name} {items}"
    kind = rng.randrange(6)
    if kind == 0:  # the question names another thing
        said = items if sound else thing
        named = f"{said} {name}"
    elif kind == 1:  # the question names somebody else
        said = name if sound else other
        named = f"{items} {said}"
    elif kind == 2:  # somebody else acts
        said = name if sound else other
        named = f"{said} {amount} {items}"
    elif kind == 3:
        said = "He" if (name in world.MALE) == sound else "She"
        named = f"{said} {amount} {items}"
    else:  # somebody gives to, takes from or is compared with another, or the same one
        said = other if sound else name
        people = rng.choice(((said, name), (name, said), (said, world.pronouns(name)["him"])))
        named = " ".join((people[0], *rng.sample((f"{amount} {items}", people[1]), 2)))
    found = f"{held} {rng.randint(2, world.LARGEST)}."
    failed = f"{name} and {name}." if kind > 3 else f"{held}, not {said}."
    return f"{found}\n{named}: {found if sound else failed}"


def _calculation(rng: random.Random) -> str:
    kind, sound = rng.randrange(4), rng.random() < 0.5
    while True:
        value = rng.randint(2, world.LARGEST)
        if kind == 0:
            divisor = rng.randint(2, 9)
            found, whole = f"{value} / {divisor}", value % divisor == 0
            result = value // divisor
        elif kind == 1:
            share = rng.choice(world.PERCENTS)
            found, whole = f"{share} percent of {value}", value * share % 100 == 0
            result = value * share // 100
        else:
            value = rng.randint(2, 80)
            amount = max(2, value + rng.randint(-20, 20))
            found, whole = f"{value} - {amount}", amount <= value
            result = value - amount
        if whole == sound:
            fault = "is not whole" if kind < 2 else "is less than 0"
            return f"{found} = {result}." if whole else f"{found} {fault}."


def _story(rng: random.Random, steps: Sequence[int], *, held_out: bool) -> StoryProblem:
    while True:
        story = world.problem(rng, rng.choice(steps), held_out=held_out)
        if no_one_returns(story):
            return story


def _without_last(story: StoryProblem) -> StoryProblem:
    """The same story without its last step, asking for what is held then."""
    state = story.states[-2]
    asked = replace(story.asked, slots={**story.asked.slots, "n": state.name, "items": state.items})
    return replace(
        story,
        told=story.told[:-1],
        asked=asked,
        kinds=story.kinds[:-1],
        steps=story.steps[:-1],
        states=story.states[:-1],
    )


def _lines(*parts: str) -> str:
    return "\n".join(parts)
