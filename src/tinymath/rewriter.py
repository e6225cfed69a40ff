"""Rules that rewrite a TinyMath question: they stand where the method has a large model that improves questions.

The rules know the training sentences of the domain and look at one sentence after the other with a running guess of who
holds how many of what. In both directions they mend what looks wrong on the spot; for "difficulty" they then put one
more step before the question. They work by local cues and are wrong now and then: the running number passes over parts and
percentages, which are let stand as they come; what a rate adds up to is not weighed against what is held; a number filled
in is not looked at twice; and people who stood in the story before are forgotten. `report` measures how often a rewrite
is what it should be.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from tinymath.world import FEMALE, FRACTIONS, ITEMS, KINDS, MALE, PERCENTS, QUESTIONS, STARTS

_VAGUE = "some|several|many|a few"
_SLOTS = {
    **dict.fromkeys(("n", "o"), "[A-Z][a-z]+"),
    "He": "[A-Z][a-z]+",
    "he": "he|she",
    "him": "him|her",
    "his": "his|her",
    **dict.fromkeys(("items", "things"), "[a-z]+s"),
    **dict.fromkeys(("a", "b", "v"), rf"\d+|{_VAGUE}"),
    "f": "|".join(FRACTIONS.values()),
}


@dataclass(frozen=True)
class Guess:
    """Who seems to hold how many of what after the sentences so far."""

    name: str
    items: str
    value: int


@dataclass(frozen=True)
class Sentence:
    """A sentence that was recognised: its kind, its wording, and what stands in the slots."""

    kind: str
    wording: str
    slots: dict[str, str]


def _pattern(wording: str) -> re.Pattern[str]:
    seen: set[str] = set()

    def slot(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return f"(?:{_SLOTS[name]})"
        seen.add(name)
        return f"(?P<{name}>{_SLOTS[name]})"

    return re.compile(re.sub(r"\\{(\w+)\\}", slot, re.escape(wording)))


_WORDINGS = [("start", text) for text in STARTS]
_WORDINGS += [(kind.name, text) for kind in KINDS.values() for text in kind.wordings]
_WORDINGS += [("question", text) for text in QUESTIONS]
_PATTERNS = [(kind, text, _pattern(text)) for kind, text in _WORDINGS]


def _recognise(text: str, name: str = "") -> Sentence | None:
    """What a sentence may be; where it may be two things, the one that is about the person named."""
    matches = [(kind, wording, pattern.fullmatch(text)) for kind, wording, pattern in _PATTERNS]
    found = [Sentence(kind, wording, match.groupdict()) for kind, wording, match in matches if match]
    return next(
        (sentence for sentence in found if sentence.slots.get("n") == name), found[0] if found else None
    )


def _pronouns(name: str) -> dict[str, str]:
    he, his, him = ("he", "his", "him") if name in MALE else ("she", "her", "her")
    return {"he": he, "his": his, "him": him}


def _other(rng: random.Random, name: str) -> str:
    return rng.choice([other for other in MALE + FEMALE if other != name])


def _set(sentence: Sentence, guess: Guess, rng: random.Random) -> Sentence:
    """The sentence with its people and things set to those of the guess; numbers stay as they are."""
    slots = {**sentence.slots, "n": guess.name, "items": guess.items, **_pronouns(guess.name)}
    if sentence.slots.get("He") not in (guess.name, slots["he"].capitalize()):
        slots["He"] = slots["he"].capitalize()
    if slots.get("o") in (None, guess.name):
        slots["o"] = _other(rng, guess.name)
    if slots.get("things") in (None, guess.items, "coins"):
        slots["things"] = rng.choice([item for item in ITEMS if item not in (guess.items, "coins")])
    return replace(sentence, slots=slots)


def _after(step: Sentence, guess: Guess) -> Guess:
    """The guess after a step, in plain whole-number arithmetic on the numbers that stand in it."""
    kind, slots, value = step.kind, step.slots, guess.value
    items = {"sell": "coins", "pack": "bags", "trade": slots["things"]}.get(kind) or guess.items
    name = slots["o"] if kind in ("more_than", "fewer_than", "times_as_many") else guess.name
    if kind == "fraction" or kind.startswith("percent"):
        return Guess(name, items, value)
    a, b = int(slots["a"]), int(slots.get("b") or 1)
    if kind in ("loss", "fewer_than", "rate_loss", "spend"):
        value -= a * b
    elif kind in ("multiply", "times_as_many", "sell", "trade"):
        value *= a
    elif kind in ("share", "pack"):
        value //= a
    else:
        value += a * b
    return Guess(name, items, value)


def _fits(kind: str, guess: Guess) -> bool:
    """Whether a step can be about these things at all."""
    if kind == "spend":
        return guess.items == "coins"
    return kind not in ("sell", "pack", "trade") or guess.items not in ("coins", "bags")


def _number(rng: random.Random, kind: str, slot: str) -> str:
    """A number of the size that is usual there."""
    if kind == "start":
        return str(rng.randint(10, 60))
    if kind.startswith("percent"):
        return str(rng.choice(PERCENTS))
    small = slot == "b" or kind not in ("gain", "loss", "more_than", "fewer_than", "together")
    return str(rng.randint(2, 5) if small else rng.randint(2, 20))


def _mend_numbers(step: Sentence, guess: Guess, rng: random.Random) -> Sentence | None:
    """The step with numbers that look possible, or None where there are none."""
    slots = dict(step.slots)
    vague = [slot for slot in ("a", "b") if re.fullmatch(_VAGUE, slots.get(slot) or "")]
    if vague:
        return replace(step, slots=slots | {slot: _number(rng, step.kind, slot) for slot in vague})
    if step.kind in ("loss", "fewer_than") and int(slots["a"]) >= guess.value:
        if guess.value < 3:
            return None
        slots["a"] = str(rng.randint(1, guess.value - 1))
    if step.kind in ("share", "pack") and (int(slots["a"]) < 2 or guess.value % int(slots["a"])):
        divisors = [d for d in range(2, 10) if guess.value % d == 0]
        if not divisors:
            return None
        slots["a"] = str(rng.choice(divisors))
    return replace(step, slots=slots)


def _draw(kinds: tuple[str, ...], guess: Guess, rng: random.Random) -> Sentence:
    """A step of one of these kinds, in one of its wordings, with numbers drawn."""
    while True:
        kind = rng.choice([kind for kind in kinds if _fits(kind, guess)])
        wording = rng.choice(KINDS[kind].wordings)
        names = re.findall(r"{(\w+)}", wording)
        slots = {name: _number(rng, kind, name) for name in names if name in ("a", "b")}
        slots["He"] = guess.name if rng.random() < 1 / 3 else ""
        if "f" in names:
            slots["f"] = FRACTIONS[next((k for k in FRACTIONS if guess.value % k == 0), 2)]
        if step := _mend_numbers(Sentence(kind, wording, slots), guess, rng):
            return step


# What a story is made harder with.
_HARDER = ("gain", "loss", "multiply", "share", "fraction", "percent_loss", "more_than", "fewer_than", "times_as_many",
           "together", "rate_gain", "rate_loss", "packs", "sell", "pack", "trade")  # fmt: skip


def rewrite(question: str, direction: str, rng: random.Random) -> str:
    """Mend a question ("solvability"), or mend it and make it one step longer ("difficulty").

    Args:
        question: the text, anything.
        direction: "solvability" or "difficulty".
        rng: decides everything that is drawn; the same state gives the same rewrite.

    Returns:
        The rewritten text. A text in which fewer than two sentences, or less than half of them, are recognised
        comes back as it is.
    """
    if direction not in ("solvability", "difficulty"):
        raise ValueError(f"direction must be 'solvability' or 'difficulty', got {direction!r}")
    texts = re.split(r"(?<=[.?])\s+", question.strip())
    known = [(text, sentence) for text in texts if (sentence := _recognise(text))]
    if len(known) < 2 or 2 * len(known) < len(texts):
        return question
    start = next((sentence for _, sentence in known if sentence.kind == "start"), None)
    if start is None:
        items = next((s.slots["items"] for _, s in known if "items" in s.slots), rng.choice(ITEMS))
        start = Sentence("start", STARTS[0], {"n": _other(rng, ""), "items": items, "v": "some"})
    if not start.slots["v"].isdigit():
        start = replace(start, slots={**start.slots, "v": _number(rng, "start", "v")})
    guess = Guess(start.slots["n"], start.slots["items"], int(start.slots["v"]))
    out = [_set(start, guess, rng)]
    steps = [text for text, sentence in known if sentence.kind not in ("start", "question")]
    for text in steps + [""] * (direction == "difficulty"):
        step = _recognise(text, guess.name) or _draw(_HARDER, guess, rng)
        mended = _mend_numbers(step, guess, rng) if _fits(step.kind, guess) else None
        out.append(_set(mended or _draw(("gain", "multiply"), guess, rng), guess, rng))
        guess = _after(out[-1], guess)
    asked = [sentence for _, sentence in known if sentence.kind == "question"]
    out.append(_set(asked[-1] if asked else Sentence("question", rng.choice(QUESTIONS), {}), guess, rng))
    return " ".join(sentence.wording.format(**sentence.slots) for sentence in out)
