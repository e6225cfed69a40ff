"""How good TinyMath's instruments are: `python -m tinymath.report --cases tests/tinymath/oracle_cases.yaml`.

Three tables: the oracle against hand-written texts, the oracle against the stories that the world writes (sound ones and
broken ones), and how often the rules of the rewriter do what they should. Needs no accelerator; a minute or two.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalequest.config import load_yaml
from tinymath import world
from tinymath.oracle import FAULTS, judge
from tinymath.rewriter import rewrite

VERDICTS = ("sound", "unread", *FAULTS)
_SHORT = {"contradiction": "clash", "negative": "minus", "too_large": "large"}


def read_cases(path: str | Path) -> list[dict[str, Any]]:
    """The hand-written texts: maps with text, verdict, half, and for sound ones answer and steps."""
    return list(load_yaml(path))


def verdict(text: str) -> str:
    """The oracle's verdict in one word: sound, unread or a fault."""
    found = judge(text)
    return "sound" if found.well_posed else found.fault or "unread"


def confusion(cases: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """How often a text of one verdict was given another; a sound one counts as "wrong" if its numbers are."""
    table: Counter[tuple[str, str]] = Counter()
    for case in cases:
        found, said = judge(case["text"]), verdict(case["text"])
        right = (found.answer, found.steps) == (case.get("answer"), case.get("steps"))
        table[case["verdict"], "wrong" if said == case["verdict"] == "sound" and not right else said] += 1
    return table


def people_return(story: world.Problem) -> bool:
    """Whether somebody else than the holder acts who was in the story before.

    The world forgets such people: it may compare one with a second number, or let one give away more than is left. A
    careful reader then finds a contradiction, and so does the oracle.
    """
    seen = {story.states[0].name}
    for sentence, state in zip(story.sentences[1:], story.states, strict=False):
        others = set(re.findall("[A-Z][a-z]+", sentence)) & {*world.MALE, *world.FEMALE} - {state.name}
        if others & seen:
            return True
        seen |= others
    return False


def agreement(seed: int, count: int) -> dict[str, tuple[int, int]]:
    """(agreed, of) for sound stories whose people stay apart, for those in which somebody returns, and for each fault.

    Sound stories have one to four steps, half of them held-out wordings, and agree where answer and steps are right.
    """
    rng = random.Random(seed)
    found: dict[str, tuple[int, int]] = {}

    def add(name: str, agreed: bool) -> None:
        right, total = found.get(name, (0, 0))
        found[name] = (right + agreed, total + 1)

    for i in range(count):
        story = world.problem(rng, 1 + i % 4, held_out=i % 8 > 3)
        told = judge(story.text)
        group = "somebody returns" if people_return(story) else "people stay apart"
        add(group, told.well_posed and (told.answer, told.steps) == (story.answer, len(story.kinds)))
    for fault in world.FAULTS:
        for i in range(count // len(world.FAULTS)):
            add(fault, verdict(world.corrupt(rng, fault, 1 + i % 3)) == fault)
    return found


def mutilate(rng: random.Random, text: str) -> str:
    """Lose, double, swap or change one word or two, as a small model does."""
    words = text.split()
    for _ in range(rng.randint(1, 2)):
        i = rng.randrange(1, len(words))
        slip = rng.randrange(4)
        if slip == 0 and len(words) > 2:
            del words[i]
        elif slip == 1:
            words.insert(i, words[i])
        elif slip == 2:
            words[i - 1], words[i] = words[i], words[i - 1]
        else:
            end = "." if words[i].endswith(".") else ""
            words[i] = rng.choice((*world.ITEMS, *world.MALE, *world.FEMALE)) + end
    return " ".join(words)


def mixture(rng: random.Random, count: int) -> list[str]:
    """Questions to rewrite: a third as the world writes them, a third with a known fault, a third mutilated."""
    texts = []
    for i in range(count):
        steps = 1 + i // 3 % 3
        sound = world.problem(rng, steps).text
        fault = world.FAULTS[i // 3 % len(world.FAULTS)]
        texts.append((sound, world.corrupt(rng, fault, steps), mutilate(rng, sound))[i % 3])
    return texts


def rewrites(texts: Sequence[str], direction: str, rng: random.Random) -> Counter[str]:
    """What became of texts: `same` (not counted as success or failure if sound), `done`, or what is wrong instead.

    A rewrite for solvability is done if the oracle finds it well posed; one for difficulty if it has more steps, too.
    A text that was broken and came back as it was is `missed`.
    """
    table: Counter[str] = Counter()
    for text in texts:
        new, before = rewrite(text, direction, rng), judge(text)
        after = judge(new)
        if new == text:
            table["same" if before.well_posed else "missed"] += 1
        elif not after.well_posed:
            table[after.fault or "unread"] += 1
        else:
            harder = (after.steps or 0) > (before.steps or 0)
            table["done" if direction == "solvability" or harder else "not harder"] += 1
    return table


def success(table: Counter[str]) -> float:
    """The share done of all that was changed or should have been."""
    return table["done"] / max(1, table.total() - table["same"])


def main() -> None:
    """Print the three tables."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--cases", help="YAML file of hand-written texts with their verdicts")
    parser.add_argument(
        "--half", choices=("tune", "held"), default="held", help="which half of the texts to use"
    )
    parser.add_argument(
        "--count", type=int, default=20_000, help="number of stories generated from the world"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console = Console(width=max(100, Console().width))
    if options.cases:
        cases = [case for case in read_cases(options.cases) if case["half"] == options.half]
        found = confusion(cases)
        right = sum(n for (meant, said), n in found.items() if meant == said)
        title = f"Oracle on hand-written texts ({options.half} half): {right} of {len(cases)} correct"
        table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
        columns = [said for said in (*VERDICTS, "wrong") if any(key[1] == said for key in found)]
        table.add_column("meant", no_wrap=True)
        for column in columns:
            table.add_column(_SHORT.get(column, column.split("_")[0]), justify="right", no_wrap=True)
        for meant in VERDICTS:
            table.add_row(
                _SHORT.get(meant, meant.split("_")[0]), *(str(found[meant, said] or "") for said in columns)
            )
        console.print(table)
    table = Table("TinyMath stories", "agreed", "of", "%", title="Oracle on the world's own texts")
    for name, (agreed, of) in agreement(options.seed, options.count).items():
        table.add_row(name, str(agreed), str(of), f"{100 * agreed / max(1, of):.2f}")
    console.print(table)
    table = Table("direction", "changed", "success %", "results of rewriting", title="Rule rewriter")
    rng = random.Random(options.seed)
    texts = mixture(rng, max(30, options.count // 5))
    for direction in ("solvability", "difficulty"):
        counts = rewrites(texts, direction, rng)
        changed = counts.total() - counts["same"] - counts["missed"]
        rest = ", ".join(f"{name} {n}" for name, n in counts.most_common())
        table.add_row(direction, f"{changed} of {len(texts)}", f"{100 * success(counts):.1f}", rest)
    console.print(table)


if __name__ == "__main__":
    main()
