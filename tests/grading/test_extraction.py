from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scalequest.grading import equivalent, extract
from scalequest.grading.compare.equivalence import quick
from scalequest.grading.extraction import reference_in
from scalequest.grading.latex.normalise import LONGEST
from scalequest.questions.language import _words
from scalequest.solutions.assembly import _BOX


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        ("so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}", "boxed"),
        ("first \\boxed{3}, no: \\boxed{4}", "4", "boxed"),
        ("\\boxed{\\left\\{1, 2\\right\\}}", "\\left\\{1, 2\\right\\}", "boxed"),
        ("\\boxed{\\boxed{5}}", "5", "boxed"),
        ("\\fbox{7}", "7", "boxed"),
        ("The answer is 18 dollars for all of the 3 boxes.", "18", "phrase"),
        ("The answer is 42 which is the product of 6 and 7.", "42", "phrase"),
        ("The answer is 7 (see step 3 above for the reason).", "7", "phrase"),
        ("The answer is 12 divided by 4 which is equal to 3.", "3", "phrase"),
        ("Final answer: the volume of the box is 120", "120", "phrase"),
        ("The answer is $2$ or $3$.", "2, 3", "phrase"),
        ("The answer is $x=2$, $y=3$.", "x=2, y=3", "phrase"),
        ("The answer is $5$, and $x$ is the number of apples.", "5", "phrase"),
        ("<answer>6</answer> or so <answer>", "6", "phrase"),
        ("$\\boxed 9$", "9", "boxed"),
        ("\\boxed{}", None, "none"),
        ("\\boxed{12} and then \\boxed{13", "12", "boxed"),  # cut in the middle of a box
        ("12 + 7 = 19\n19 * 3 = 57\nThe answer is \\boxed{57}.", "57", "boxed"),
        ("6 * 3 = <<6*3=18>>18\n#### 18", "18", "hash"),
        ("The answer is 72, in total, so the farmer earns that much.", "72", "phrase"),
        ("The answer is 1,450,000.", "1,450,000", "phrase"),
        ("Final Answer: The final answer is $5r^5$. I hope it is correct.", "5r^5", "phrase"),
        ("**Answer:** 25 days", "25 days", "phrase"),
        ("He has 3.\nA: 90,000", "90,000", "phrase"),
        ("Final answer: The volume of the tall box is 120. I hope it is correct.", "120", "phrase"),
        ("the answer is 3. No, the answer is 4.", "4", "phrase"),
        ("so she pays $5.50 in 2 weeks and has 1,000.99 left", "1,000.99", "number"),
        ("the chance is 2/3. Done", "2/3", "number"),
        ("it is -4", "-4", "number"),
        ("$\\boxed{1}$ and $\\boxed{-2}$.", "1, -2", "boxed"),
        ("\\boxed{k = 45} \\quad \\text{and} \\quad \\boxed{n = 2}", "k = 45, n = 2", "boxed"),
        ("\\boxed{5} is wrong, it is \\boxed{6} or \\boxed{7}", "6, 7", "boxed"),
        ("\\boxed{5}\n\n$\\boxed{5}$", "5", "boxed"),
        ("it costs 2,74", "2,74", "number"),
        ("<think>maybe \\boxed{1}</think> The answer is 2.", "2", "phrase"),
        ("so \\boxed{1}</think>\n\\boxed{2}", "2", "boxed"),
        ("<think>maybe \\boxed{1}", None, "none"),
        ("\\boxed{1} <think>again", None, "none"),
        ("✅ Final Answer: **73**", "73", "phrase"),
        ("The correct option is (B) 24.", "(B) 24", "phrase"),
        ("the answer is therefore 5.", "5", "phrase"),
        ("the answer is `7`.", "7", "phrase"),
        ("<think>hm</think><answer> 3/8 </answer>", "3/8", "phrase"),
        ("答案：$\\frac{1}{2}$", "\\frac{1}{2}", "phrase"),
        ("The answer is 18.<|endoftext|>Paris has 2 million people.", "18", "phrase"),
        ("The answer is 18.\n\nQ: How many?\nA: The answer is 3.", "18", "phrase"),
        ("**Problem:** add.\n\nQuestion: 1+1? The answer is 2.", "2", "phrase"),
        ("Hence $x = 2\\sqrt{5}$.", "x = 2\\sqrt{5}", "number"),
        ("$\\frac{3}{4}$", "$\\frac{3}{4}$", "number"),
        ("(3, 4)", "(3, 4)", "number"),
        ("#### Step 1\nadd\n#### Step 2\ndouble\n\nThe answer is 14.", "14", "phrase"),
        ("The answer must be D because A is too small.", "D", "phrase"),
        ("The answer is \\boxed{7}. Note: the \\boxed environment is used here.", "7", "boxed"),
        ("Mark your solution with \\boxed \nThe answer is 12.", "12", "phrase"),
        ("$\\boxed\\frac{1}{2}$", "\\frac{1}{2}", "boxed"),
        ("$\\boxed\\frac12$ of it", "\\frac12", "boxed"),
        ("\\boxed \\left\\{1, 2\\right\\} holds", "\\left\\{1, 2\\right\\}", "boxed"),
        ("#### 7 apples I could not use \\boxed here.", "7", "hash"),
        ("Put your answer in \\boxed{}. The answer is 4.", "4", "phrase"),
        ("Use \\boxed{\\text{your answer}}. The answer is 4.", "4", "phrase"),
        ("\\boxed(7), not \\boxed", "(7)", "boxed"),
        ("we choose \\boxed A.", "A", "boxed"),
        ("the \\boxed A students know: the answer is 3", "3", "phrase"),
        ("\\\\boxed{7}", "7", "boxed"),
        ("Answer\n7\n\nin 3 steps", "7", "phrase"),
        ("### Final Answer\n\n**42**\n\nin 2 steps", "42", "phrase"),
        ("Answer:\n- 7\n\nin 3 steps", "7", "phrase"),
        ("Answer => 7", "7", "phrase"),
        ("Answer: 7 (since 3 + 4 = 7)", "7", "phrase"),
        ("Answer: 7 (mod 12)", "7 (mod 12)", "phrase"),
        ("答：7 个苹果。因为 3 + 4", "7", "phrase"),
        ("no idea", None, "none"),
        ("", None, "none"),
    ],
)
def test_finds(text: str, answer: str | None, rule: str) -> None:
    found = extract(text)
    assert (found.answer, found.rule) == (answer, rule)


def test_thoughts_and_boxes() -> None:
    assert extract("\\boxed{1} and \\boxed{2}", boxes="last").answer == "2"
    assert extract("<thinking>\\boxed{1}").answer is None
    assert extract("\\boxed{1}", thinking=True).answer is None
    assert extract("wait</think>\\boxed{2}", thinking=True).answer == "2"


def test_a_long_output_without_an_answer_is_read_quickly() -> None:
    assert extract("the answer is " * 20_000).rule in ("none", "phrase")
    assert extract("\\boxed{" * 2_000).rule == "none"
    assert extract("1," * 50_000).answer == "1"
    started = time.process_time()
    for lines in ("\n", " \n", "\n\nQuestion" + " " * 50, "\\[", "<answer>", "$\\x"):
        assert extract(f"The answer is 5.{lines * 20_000} Done").answer is not None
    assert time.process_time() - started < 10  # a second; any of them alone took minutes


_TOKENS = r"""
\ \\ $ $$ # #### { } \{ \} ( ) [ ] \( \) \[ \] \boxed \boxed{ \boxed{7} \fbox \text{ \frac \left \quad \dot
\phantom{ answer Answer: answer: **answer** 答案： 答 ans. 7 1, 0. 1,000 1/ , . ... … 。 - + = => ^ * ** _ `
``` " ! ? % / ~ & | < > ; : <answer> </answer> <think> </think> <|im_end|> </s> a word not therefore because é
七 √ ²
"""
_SPACED = (
    " ",
    "\t",
    "\n",
    " \n",
    "\n\n",
    "\nQ:",
    "\nA:",
    "\n- ",
    "The answer is ",
    "final answer ",
    "not but ",
)
TOKENS = (*_TOKENS.split(), *_SPACED)


def seconds_of(call: Callable[[str], object], text: str) -> float:
    started = time.process_time()
    call(text)
    return time.process_time() - started


@pytest.mark.parametrize("call", [extract, _BOX.findall, _words], ids=["extract", "boxes", "language"])
def test_long_runs_cost_linear_time(call: Callable[[str], object]) -> None:
    """No token that a pattern knows, alone or in turn with another, makes a long output slow."""
    mixed = [
        left + right for left, right in zip(TOKENS, random.Random(0).sample(TOKENS, len(TOKENS)), strict=True)
    ]
    for lead, units, length in (
        ("", TOKENS, 60_000),
        ("The answer is ", TOKENS, 20_000),
        ("\\boxed", TOKENS, 20_000),
        ("", mixed, 20_000),
    ):
        for unit in units:
            assert seconds_of(call, lead + unit * (length // len(unit))) < 3, (lead, unit)


@pytest.mark.parametrize("unit", TOKENS)
def test_runs_in_answers_are_bounded(unit: str) -> None:
    """What the caller's own process does with an answer has no other limit than its length."""
    text = (unit * LONGEST)[: LONGEST - 20]
    assert seconds_of(lambda answer: quick(f"7{answer}x", "7"), text) < 2
    assert equivalent(text * 20, "7") is False


@pytest.mark.data
def test_labelled_outputs(data_dir: Path) -> None:
    rows = [json.loads(line) for line in (data_dir / "extraction_cases_dev.jsonl").read_text().splitlines()]
    wrong = []
    for row in rows:
        answer = extract(row["output"]).answer
        if (answer is not None and equivalent(answer, row["reference"])) != row["label"]:
            wrong.append((answer, row["reference"]))
    assert 1 - len(wrong) / len(rows) >= 0.99, wrong


@pytest.mark.parametrize(
    ("solution", "marker", "reference"),
    [
        ("3 + 4 = <<3+4=7>>7\n#### 7", "####", "7"),
        ("#### a heading\nso 8\n####  1,000 ", "####", "1,000"),
        (" 12 ", "####", "12"),
        ("Answer: 5", "Answer:", "5"),
        ("x #### 5", "", "x #### 5"),
    ],
)
def test_the_reference_in_a_reference_solution(solution: str, marker: str, reference: str) -> None:
    assert reference_in(solution, marker) == reference
