from __future__ import annotations

from pathlib import Path

import pytest

from scalequest.config import ConfigError
from scalequest.questions.levels import LEVELS, read_level, read_topic
from scalequest.questions.prompts import Prompt, load_prompt
from scalequest.questions.solvability import verdict
from scalequest.solutions.judged_scores import read_marks

PROMPTS = Path(__file__).parents[2] / "recipes" / "prompts"

# The markers of the authors' code, in their order (paper, section 1.2).
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
    [
        ("solvability_rewrite", SOLVABILITY),
        ("difficulty_rewrite", DIFFICULTY),
        ("solvability_judge", ()),
        ("difficulty_judge", ()),
        ("topic_judge", ()),
    ],
)
def test_the_prompts_we_carry(name: str, markers: tuple[str, ...]) -> None:
    prompt = load_prompt(PROMPTS / f"{name}.yaml")
    assert prompt.markers == markers
    filled = prompt.fill("What is $\\frac{1}{2}$ of {8, 9}?")
    assert filled.endswith("What is $\\frac{1}{2}$ of {8, 9}?")
    assert "{question}" not in filled
    if markers:  # a reply in the form that the prompt asks for is one that parses
        assert any(marker in prompt.template for marker in markers)


def test_a_judge_who_keeps_to_its_prompt_is_understood() -> None:
    """What each prompt shows as the end of a reply is read; what it lists to choose from is not."""
    level = load_prompt(PROMPTS / "difficulty_judge.yaml").fill("What is 2 + 2?")
    assert read_level(level) is None, "a judge that repeats its prompt has said nothing"
    for name in LEVELS:
        assert f"- {name}:" in level
        assert read_level(level.replace("<one of the five levels>", name)) == name
    topic = load_prompt(PROMPTS / "topic_judge.yaml", ("question", "topics"))
    filled = topic.fill("Is {topics} a word?", topics=["algebra", "geometry"])
    assert "algebra, geometry" in filled
    assert filled.endswith("Is {topics} a word?")
    assert read_topic(filled, ["algebra", "geometry"]) is None
    assert read_topic(filled.replace("the topic</TOPIC>", "geometry</TOPIC>"), ["geometry"]) == "geometry"
    marks = load_prompt(PROMPTS / "solution_judge.yaml", ("question", "response"))
    assert marks.fill("{response}", response="{question}").endswith("{response}\n\nThe solution:\n{question}")
    assert read_marks("All of it is right.\nScore: 4") == 4
    solvable = load_prompt(PROMPTS / "solvability_judge.yaml").fill("What is 2 + 2?")
    assert verdict("Conclusion: Yes") is True
    assert '"Conclusion: Yes"' in solvable


def test_only_what_is_given_is_filled_in() -> None:
    assert Prompt("{question} {response} {topics} {x}").fill("Q") == "Q {response} {topics} {x}"


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
