from __future__ import annotations

import ast
import random
import re
from pathlib import Path

import pytest

from tinymath import report, rewriter, world
from tinymath.oracle import judge
from tinymath.rewriter import rewrite

DIRECTIONS = ("solvability", "difficulty")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_success_lies_between_70_and_95_percent(direction):
    rng = random.Random(21)
    table = report.rewrites(report.mixture(rng, 600), direction, rng)
    print(direction, f"{report.success(table):.3f}", dict(table))
    assert 0.70 <= report.success(table) <= 0.95
    changed = table.total() - table["same"] - table["missed"]
    assert 0.70 <= table["done"] / changed <= 0.95


def test_rules_know_the_world_but_not_the_oracle():
    tree = ast.parse(Path(rewriter.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert modules == {"__future__", "random", "re", "dataclasses", "tinymath.world"}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_held_out_wording_is_written(direction):
    rng = random.Random(22)
    wordings = [kind.held_out for kind in world.KINDS.values()]
    wordings += [world.STARTS_HELD_OUT, world.QUESTION_HELD_OUT]
    held_out = [re.compile(re.sub(r"\\{\w+\\}", r"[\\w ]+?", re.escape(wording))) for wording in wordings]
    texts = report.mixture(rng, 300)
    texts += [world.problem(rng, 2, held_out=True).text for _ in range(100)]
    for text in texts:
        new = rewrite(text, direction, rng)
        if new != text:
            for sentence in re.split(r"(?<=[.?]) ", new):
                assert not any(pattern.fullmatch(sentence) for pattern in held_out), sentence


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_seed_decides(direction):
    texts = report.mixture(random.Random(23), 60)
    first, second = (
        [rewrite(text, direction, random.Random(i)) for i, text in enumerate(texts)] for _ in "ab"
    )
    assert first == second
    assert first != [rewrite(text, direction, random.Random(i + 1)) for i, text in enumerate(texts)]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "text", ["", "?", "Anna hat 12 Nüsse.", "Tom tiene 5 manzanas. ¿Cuántas tiene?", "2 + 2 = 4"]
)
def test_a_text_it_cannot_read_comes_back(text, direction):
    assert rewrite(text, direction, random.Random(0)) == text


def test_a_direction_it_does_not_know():
    with pytest.raises(ValueError, match="got 'style'"):
        rewrite("Tom has 5 nuts. How many nuts does Tom have?", "style", random.Random(0))


SOUND = "Tom has 20 nuts. He loses 5 of the nuts. How many nuts does Tom have now?"


@pytest.mark.parametrize(
    "broken",
    [
        "Tom has 20 nuts. He loses some of the nuts. How many nuts does Tom have now?",
        "Tom has 20 nuts. He loses 50 of the nuts. How many nuts does Tom have now?",
        "Tom has 20 nuts. He loses 5 of the nuts.",
        "Tom has 20 nuts. He loses 5 of the nuts. How many nuts has Tom? How many nuts does Tom have now?",
        "Tom has 20 nuts. Tom owns 23 nuts. He loses 5 of the nuts. How many nuts does Tom have now?",
        "Tom has 20 nuts. He loses 5 of the pens. How many nuts does Tom have now?",
        "Tom has 20 nuts. He loses 5 of the nuts. How many pens does Ben have now?",
        "Tom has 20 nuts. He shares the nuts equally among 3 boxes and keeps one box.",
        "Tom has 20 nuts. He loses 5 of the nuts. Then nuts the of. How many nuts does Tom have now?",
    ],
)
def test_single_faults_are_mended_on_the_spot(broken):
    assert not judge(broken).well_posed
    mended = rewrite(broken, "solvability", random.Random(3))
    assert judge(mended).well_posed, mended
    assert mended.startswith("Tom has 20 nuts. ")


def test_what_looks_right_is_left_alone():
    assert rewrite(SOUND, "solvability", random.Random(0)) == SOUND


def test_harder_means_one_step_before_the_question():
    for seed in range(20):
        harder = rewrite(SOUND, "difficulty", random.Random(seed))
        assert harder.startswith("Tom has 20 nuts. He loses 5 of the nuts. ")
        assert harder.count(".") == 3
        assert harder.endswith("?")
