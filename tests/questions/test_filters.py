from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.questions.filters import (
    Benchmark,
    ContaminationRule,
    DifficultyRule,
    FilterConfig,
    LanguageRule,
    SolvabilityRule,
    language,
    masked,
    normalised,
    outside_difficulty,
    read_text_steps,
    unsolvable,
    verdict,
)

ENGLISH = [
    "Ann has 3 apples and buys 4 more. How many apples does she have?",
    "José ate 2 of the 7 crêpes at the café. How many are left?",
    "Find the area of a circle with radius $r = 3π$ and angle θ = 30°.",
    "Let 𝑥 ∈ ℝ. What is the least value of 𝑥² − 4𝑥?",
    "Janet’s ducks lay 16 eggs — “fresh” ones. How many in a week?",
    "Solve $x^2 = 4$.",
]
FOREIGN = [
    "小明有3个苹果，又买了4个。他现在有多少个苹果？",
    "У Ани 3 яблока. Сколько яблок у неё?",
    "Ann hat 12 Äpfel und kauft noch 5 Äpfel. Wie viele Äpfel hat Ann jetzt?",
    "Ann a 12 pommes et en achete 5 de plus. Combien de pommes a-t-il maintenant ?",
    "Ann tiene 12 manzanas y compra 5 más. ¿Cuántas manzanas tiene Ann ahora?",
    "What is 3 plus 4? 答案是多少",
]


@pytest.mark.parametrize("question", ENGLISH)
def test_english_stays(question: str) -> None:
    assert language(question, LanguageRule()) is None


@pytest.mark.parametrize("question", FOREIGN)
def test_other_languages_go(question: str) -> None:
    assert language(question, LanguageRule()) == "language"


def test_paper_exact_is_the_ascii_rule() -> None:
    exact = LanguageRule(paper_exact=True)
    assert [language(question, exact) for question in ENGLISH] == [None, *["language"] * 4, None]
    assert language("Wie viele hat der Mann und die Frau?", exact) is None
    assert language(" \n", exact) == "empty"


def test_normalised_and_masked() -> None:
    assert normalised("  What IS\n 3 + 4 ?") == normalised("what is 3 + 4 ?")
    assert normalised("What is 3 + 4?") != normalised("What is 3 + 5?")
    assert masked("Ann has 3 apples, 1,200.5 in all.") == masked("Bob has 14 apples, 7 in all.")
    assert masked("Ann has 3 apples.") != masked("Ann has 3 pears.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The problem gives all it needs.\nConclusion: Yes", True),
        ("Conclusion: **No**", False),
        ("Yes, it is one. But the price is missing, so the verdict is No.", False),
        ("Let me see. There is no missing number. Conclusion: yes.", True),
        ("Yes. No condition is missing here", True),
        ("No, because the number of boxes is not given.", False),
        ("So it is \\boxed{Yes}", True),
        ("I should answer Yes or No. It depends", None),
        ("I answer Yes/No.", None),
        ("The answer is 42.", None),
        ("", None),
    ],
)
def test_the_last_explicit_verdict_counts(text: str, said: bool | None) -> None:
    assert verdict(text) is said


def test_paper_exact_verdict_is_yes_anywhere() -> None:
    assert verdict("Yesterday Ann had 3. Conclusion: No", paper_exact=True) is True
    assert verdict("No", paper_exact=True) is False
    assert verdict("", paper_exact=True) is False


def rows(*questions: str) -> list[dict[str, Any]]:
    return [{"id": f"q-{i}", "question": question} for i, question in enumerate(questions)]


def test_steps_run_in_the_order_given_and_the_first_of_equals_stays() -> None:
    config = FilterConfig(
        input=["x"],
        steps=["language", "duplicates", "contamination"],
        contamination=ContaminationRule(against=[Benchmark(source="tests.jsonl")]),
    )
    reasons, near = read_text_steps(
        rows(
            "What is 3 + 4?",
            "What  is 3 + 4?",
            "小明",
            "小明",
            "How old is Ann?",
            "What is 3 + 5?",
            "How old is Bob?",
        ),
        config,
        ["How old is Bob?", "what is 9 + 9?"],
    )
    assert reasons == [None, "duplicate", "language", "language", None, None, "contamination"]
    assert near == [True, True, False, False, True, True, True]


def test_reasons_of_the_model_steps() -> None:
    half = SolvabilityRule(min_agreement=0.5)
    assert unsolvable({"agreement": 0.5}, half) is None
    assert unsolvable({"agreement": 0.4}, half) == "unsolvable"
    judge = SolvabilityRule(judge="model", prompt="p.yaml")
    assert unsolvable({"verdict": True, "verdict_finish_reason": "stop"}, judge) is None
    assert unsolvable({"verdict": False, "verdict_finish_reason": "stop"}, judge) == "unsolvable"
    assert unsolvable({"verdict": None, "verdict_finish_reason": "stop"}, judge) == "verdict_unparsed"
    assert unsolvable({"verdict": None, "verdict_finish_reason": "length"}, judge) == "verdict_truncated"
    middle = DifficultyRule(min_fail_rate=0.2, max_fail_rate=0.8)
    measured = [outside_difficulty({"fail_rate": rate}, middle) for rate in (0.0, 0.2, 0.8, 1.0)]
    assert measured == ["too_easy", None, None, "too_hard"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": ["solvability", "language"]}, "before a step that needs none"),
        ({"steps": ["language", "language"]}, "twice"),
        ({"steps": ["contamination"]}, "contamination.against"),
        ({"steps": ["difficulty"], "model_name_or_path": None}, "model_name_or_path"),
        ({"steps": ["difficulty"], "samples": 1}, "samples"),
        ({"steps": ["solvability"], "solvability": SolvabilityRule(judge="model")}, "solvability.prompt"),
        (
            {
                "steps": ["solvability", "difficulty"],
                "solvability": SolvabilityRule(judge="model", prompt="p.yaml"),
            },
            "two stages",
        ),
    ],
)
def test_a_config_that_cannot_work_says_why(change: dict[str, Any], named: str) -> None:
    config = FilterConfig(input=["x"], steps=["language"], model_name_or_path="m", chat_format="tinymath")
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(config, **change)
