from __future__ import annotations

from pathlib import Path

import pytest

from scalequest.config import ConfigError
from scalequest.questions.prompts import Prompt, load_prompt

PROMPTS = Path(__file__).parents[2] / "recipes" / "prompts"

# The markers of the authors' code, in their order (paper, section 2.3).
SOLVABILITY = (
    "**FINAL QUESTION**:",
    "**FINAL QUESTION:**",
    "FINAL QUESTION:",
    "### FINAL QUESTION:",
    "### FINAL QUESTION",
)
DIFFICULTY = (
    "#Finally Rewritten Problem#:",
    "**Finally Rewritten Problem**:",
    "**Finally Rewritten Problem:**",
    "Finally Rewritten Problem:",
    "### Finally Rewritten Problem:",
    "### Finally Rewritten Problem",
)


@pytest.mark.parametrize(
    ("name", "markers"),
    [("solvability_rewrite", SOLVABILITY), ("difficulty_rewrite", DIFFICULTY), ("solvability_judge", ())],
)
def test_the_prompts_we_carry(name: str, markers: tuple[str, ...]) -> None:
    prompt = load_prompt(PROMPTS / f"{name}.yaml")
    assert prompt.markers == markers
    filled = prompt.fill("What is $\\frac{1}{2}$ of {8, 9}?")
    assert filled.endswith("What is $\\frac{1}{2}$ of {8, 9}?")
    assert "{question}" not in filled
    if markers:  # a reply in the form that the prompt asks for is one that parses
        assert any(marker in prompt.template for marker in markers)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("CREATED QUESTION: a\nFINAL QUESTION: What is 2? ", "What is 2?"),
        ("FINAL QUESTION: first\nFINAL QUESTION: second", "second"),
        ("**FINAL QUESTION**: bold\n### FINAL QUESTION: later", "bold\n### FINAL QUESTION: later"),
        ("### FINAL QUESTION\nWhat is 3?", "What is 3?"),
        ("FINAL QUESTION:", ""),
        ("Final question: no", None),
    ],
)
def test_the_first_marker_found_in_order_is_cut_at_its_last_occurrence(reply: str, text: str | None) -> None:
    assert Prompt("{question}", SOLVABILITY).parse(reply) == text


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("template: no place\n", "{question}"),
        ("template: '{question} {question}'\n", "exactly once"),
        ("templat: '{question}'\n", "templat"),
        ("template: '{question}'\nmarkers: FINAL\n", "list of str"),
    ],
)
def test_a_broken_prompt_file_is_named(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "prompt.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"prompt\.yaml") as caught:
        load_prompt(path)
    assert named in str(caught.value)
