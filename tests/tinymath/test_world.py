from __future__ import annotations

import itertools
import random
import re

import pytest

from tinymath import world


def looks_like(wording: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{\w+\\}", r"[\\w ]+?", re.escape(wording)))


HELD_OUT = [looks_like(kind.held_out) for kind in world.KINDS.values()]
HELD_OUT += [looks_like(wording) for wording in (world.STARTS_HELD_OUT, world.QUESTION_HELD_OUT)]


def held_out_sentences(story: world.StoryProblem) -> list[str]:
    told = (*story.sentences, story.question)
    return [sentence for sentence in told if any(pattern.fullmatch(sentence) for pattern in HELD_OUT)]


def calculate(line: str) -> tuple[int, int]:
    """What a line of a solution comes to, and what it says it comes to."""
    left, right = line.split(" = ")
    if match := re.fullmatch(r"(\d+) percent of (\d+)", left):
        share = int(match[1]) * int(match[2])
        assert share % 100 == 0
        return share // 100, int(right)
    a, sign, b = left.split(" ")
    if sign == "/":
        assert int(a) % int(b) == 0
    values = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) // int(b)}
    return values[sign], int(right)


@pytest.fixture(scope="module")
def training() -> list[world.StoryProblem]:
    rng = random.Random(1)
    return [world.problem(rng, 1 + i % 4) for i in range(1000)]


@pytest.fixture(scope="module")
def combinations() -> list[world.StoryProblem]:
    rng = random.Random(2)
    return [world.problem(rng, 1 + i % 4, held_out=True) for i in range(500)]


def test_same_seed_same_stories():
    def texts(seed: int) -> list[str]:
        rng = random.Random(seed)
        drawn = [world.problem(rng, 1 + i % 4, held_out=i % 2 > 0).text for i in range(50)]
        return [*drawn, *(world.corrupt(rng, fault) for fault in world.FAULTS), world.narrative(rng, 3)]

    assert texts(7) == texts(7)
    assert texts(7) != texts(8)


def test_enough_kinds_and_wordings(training):
    assert len(world.KINDS) >= 12
    assert all(len(kind.wordings) >= 2 for kind in world.KINDS.values())
    assert {kind for story in training for kind in story.kinds} == set(world.KINDS)


def test_training_stories_hold_nothing_out(training):
    for story in training:
        assert not held_out_sentences(story), story.text
        assert not set(itertools.pairwise(story.kinds)) & world.HELD_OUT_PAIRS


def test_held_out_stories_have_a_new_wording_and_a_new_pair(combinations):
    for story in combinations:
        assert held_out_sentences(story), story.text
        assert len(story.kinds) == 1 or set(itertools.pairwise(story.kinds)) & world.HELD_OUT_PAIRS


def test_every_kind_stands_in_a_held_out_pair():
    assert {kind for pair in world.HELD_OUT_PAIRS for kind in pair} == set(world.KINDS)


def test_values_are_small_and_whole(training, combinations):
    for story in (*training, *combinations):
        assert len(story.states) == len(story.kinds) + 1 == len(story.sentences)
        assert all(
            isinstance(state.value, int) and 1 <= state.value <= world.LARGEST for state in story.states
        )
        assert re.fullmatch(r"[A-Za-z0-9 ,.]+\?", story.text), story.text


def test_solutions_are_true(training, combinations):
    for story in (*training, *combinations):
        results = [calculate(line) for line in story.lines]
        assert all(true == said for true, said in results), story.solution
        assert results[-1][1] == story.answer
        assert story.solution.endswith(f"\nThe answer is \\boxed{{{story.answer}}}.")


def test_bare_arithmetic_is_true():
    rng = random.Random(3)
    for line in world.arithmetic(rng, 2000).splitlines():
        true, said = calculate(line)
        assert true == said, line


def test_narrative_says_what_is_held_and_asks_nothing():
    text = world.narrative(random.Random(4), 3)
    assert text.count("Now ") >= 3
    assert "?" not in text


@pytest.mark.parametrize("fault", world.FAULTS)
def test_a_broken_story_is_no_training_story(fault):
    rng = random.Random(5)
    texts = [world.corrupt(rng, fault, 1 + i % 3) for i in range(40)]
    assert all(text.count("?") == {"no_question": 0, "two_questions": 2}.get(fault, 1) for text in texts)
    assert all(" some " in text for text in texts) or fault != "missing_number"


def test_an_unknown_fault_is_named():
    with pytest.raises(ValueError, match="unknown fault 'typo'; expected one of missing_number"):
        world.corrupt(random.Random(0), "typo")


def test_problems_have_different_texts():
    texts = [story.text for story in world.problems(random.Random(6), 300, (1, 2))]
    assert len(set(texts)) == 300
