from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from fractions import Fraction

import pytest

from tinymath import faults, lessons, world
from tinymath.oracle import judge


def stories(count: int, *, held_out: bool = False) -> list[world.StoryProblem]:
    rng = random.Random(f"stories {held_out}")
    found = [world.problem(rng, 1 + i % 3, held_out=held_out) for i in range(count)]
    return [story for story in found if faults.no_one_returns(story)]


@pytest.mark.parametrize("held_out", [False, True])
def test_sound_stories_are_sound(held_out: bool) -> None:
    told = stories(200, held_out=held_out)
    assert len(told) > 150
    assert all(judge(story.text).well_posed for story in told)


@pytest.mark.parametrize("fault", list(faults.FAULTS))
def test_a_broken_story_cannot_be_answered(fault: str) -> None:
    rng, found = random.Random(fault), 0
    for held_out in (False, True):
        for story in stories(250, held_out=held_out):
            broken = faults.break_story(rng, story, fault)
            if broken is None:
                continue
            found += 1
            assert broken.fault == fault
            assert broken.text != story.text
            assert not judge(broken.text).well_posed, broken.text
    assert found >= 10


def test_some_fault_fits_every_story_and_all_of_them_come() -> None:
    rng = random.Random(1)
    seen = Counter(faults.break_story(rng, story).fault for story in stories(600))  # type: ignore[union-attr]
    assert set(seen) == set(faults.FAULTS)
    assert seen["inexact"] > seen["two_questions"]  # what takes arithmetic comes more often


def test_an_unknown_fault_is_an_error() -> None:
    with pytest.raises(KeyError):
        faults.break_story(random.Random(0), stories(5)[0], "typo")


def test_notes_follow_the_story_and_end_with_what_is_asked() -> None:
    for story in stories(50):
        *held, asked = faults.notes(story)
        last = story.states[-1]
        assert len(held) == len(story.told)
        assert held[-1].endswith(f"{last.name} {last.items} {last.value}.")
        assert all(line in " ".join(held) for line in story.lines)
        assert asked.endswith(f": {last.name} {last.items} {story.answer}.")


@pytest.mark.parametrize("held_out", [False, True])
def test_a_verdict_is_what_the_oracle_finds(held_out: bool) -> None:
    rng = random.Random(f"verdicts {held_out}")
    drawn = [lessons.judging(rng, (1, 2, 3), held_out=held_out) for _ in range(400)]
    for lesson in drawn:
        assert lesson.reply.endswith("\nNo." if lesson.fault else "Yes."), lesson
        assert judge(lesson.question).well_posed == (lesson.fault is None), lesson.question
    assert 0.35 < sum(lesson.fault is None for lesson in drawn) / len(drawn) < 0.6


def test_a_rewritten_question_is_sound_and_a_harder_one_is_one_step_longer() -> None:
    rng = random.Random(7)
    for _ in range(200):
        repaired = lessons.rewriting(rng, "solvability", (1, 2, 3))
        target = repaired.reply.partition(f"{lessons.MARKER} ")[2]
        assert judge(target).well_posed
        assert (target == repaired.question) == (repaired.fault is None)
        assert lessons.MORE not in repaired.reply
        harder = lessons.rewriting(rng, "difficulty", (1, 2))
        after = judge(harder.reply.partition(f"{lessons.MARKER} ")[2])
        assert after.well_posed
        before = judge(harder.question)
        assert before.well_posed == (harder.fault is None)
        if before.steps and after.steps and harder.fault is None:
            assert after.steps > before.steps
        *before_it, added, _, _ = harder.reply.split("\n")  # the last two: the question's note, the question
        assert added.startswith(lessons.MORE)
        assert not any(lessons.MORE in line for line in before_it)


def test_lessons_repeat() -> None:
    def draw() -> list[lessons.Lesson]:
        rng = random.Random(3)
        return [lessons.judging(rng, (1, 2)), lessons.rewriting(rng, "difficulty", (1, 2))]

    assert draw() == draw()


def test_training_texts_hold_no_wording_that_is_kept_for_tests() -> None:
    rng = random.Random(11)
    openings = [
        kind.held_out.split("{")[0] for kind in world.KINDS.values() if len(kind.held_out.split("{")[0]) > 8
    ]
    for _ in range(300):
        lesson = lessons.judging(rng, (1, 2, 3))
        assert not any(opening in lesson.question for opening in openings)
        assert world.STARTS_HELD_OUT.split("{")[0] not in lesson.question


def test_drilled_calculations_are_right_and_say_if_there_is_no_result() -> None:
    lines = [line for line in lessons.drills(random.Random(5), 1000).splitlines() if line[0].isdigit()]
    odd = 0
    for line in lines:
        done = re.fullmatch(r"(.+?) (= (-?\d+)|is not whole|is less than 0)\.", line)
        assert done, line
        first, sign, second = re.fullmatch(r"(\d+) (/|-|percent of) (\d+)", done[1]).groups()  # type: ignore[union-attr]
        one, other = int(first), int(second)
        values = {"-": one - other, "/": Fraction(one, other), "percent of": Fraction(one * other, 100)}
        value = values[sign]
        if done[3] is not None:
            assert value == int(done[3]) >= 0, line
        else:
            assert value < 0 if "less" in line else value.denominator > 1, line
            odd += 1
    assert 0.4 * len(lines) < odd < 0.6 * len(lines)


def test_drilled_look_ups_fail_exactly_if_the_line_names_something_else() -> None:
    lines = lessons.drills(random.Random(6), 1000).splitlines()
    people = {*world.MALE, *world.FEMALE}
    failed = 0
    pairs = [(one, two) for one, two in itertools.pairwise(lines) if ":" in two]
    for held, line in pairs:
        name, items, _ = held.split()
        named, reply = line.split(": ")
        words = named.split()
        he = "He" if name in world.MALE else "She"
        gives = len(words) == 4  # an actor, a number, things and somebody else, in any order
        if gives:
            actor, other = [word for word in words if word[0].isalpha() and word not in world.ITEMS]
            wrong = name == actor and other in (name, he.replace("He", "him").replace("She", "her"))
        else:
            wrong = bool({*words} & people - {name}) or bool({*words} & {*world.ITEMS} - {items})
            wrong = wrong or bool({*words} & {"He", "She"} - {he})
        failed += wrong
        if not wrong:
            assert reply == held
        elif gives:
            assert reply == f"{name} and {name}."
        else:
            assert reply.startswith(f"{name} {items}, not ")
            assert reply[:-1].split()[-1] in words
    assert 0.4 * len(pairs) < failed < 0.6 * len(pairs)
