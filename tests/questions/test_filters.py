from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.questions.contamination import BenchmarkSource, ContaminationRule, TestQuestion
from scalequest.questions.difficulty import (
    DifficultyRule,
    outside_difficulty,
    rank_correlation,
    select_difficulty,
)
from scalequest.questions.filters import FilterConfig, Filtering, read_text
from scalequest.questions.judges import Said
from scalequest.questions.prompts import Prompt
from scalequest.questions.solvability import (
    SolvabilityRule,
    judged,
    unsolvable,
    verdict,
    voted,
)
from scalequest.stage.block_loop import Drop


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
        (r"Conclusion: $\boxed{\text{No}}$.", False),
        (r"Therefore \(\boxed{Yes}\)", True),
        ("Conclusion: `No`", False),
        ("Conclusion: **No** – the price is missing", False),
        ("Conclusion: Yes (both hold)", True),
        ("No because the price is missing", False),
        ("Conclusion: Yes, there is no (other) root – no – none", True),
        ("(Yes / No)", None),
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


def test_votes_need_more_than_half_of_the_verdicts_given() -> None:
    assert voted(["Yes.", "No.", "Yes."]) is True
    assert voted(["Yes.", "No."]) is False
    assert voted(["Yes.", "hm"]) is True
    assert voted(["hm", ""]) is None


def cut(text: str) -> Said:
    return Said(text, finish_reason="length")


def test_rows_on_which_the_two_rules_disagree() -> None:
    rule = SolvabilityRule(judge="model", prompt="p.yaml")
    for text, disagree in (
        ("Yes.", False),
        ("No.", False),
        ("Yesterday. No.", True),
        ("Yes we can tell", True),
    ):
        assert judged([Said(text)], rule)["rules_disagree"] is disagree, text
    exact = dataclasses.replace(rule, paper_exact=True)
    assert judged([Said("Yesterday. No.")], exact)["verdict"] is True
    assert judged([Said("Yesterday. No.")], exact)["rules_disagree"]
    votes = judged(list(map(Said, ("Yesterday. No.", "Yesterday. No.", "No."))), exact)
    assert (votes["verdict"], votes["rules_disagree"]) == (True, True), "votes under the paper's rule, too"


def test_a_reply_that_was_cut_has_no_vote() -> None:
    """A yes or no in half a reply is a step on the way; the authors' code counts it."""
    rule = SolvabilityRule(judge="model", prompt="p.yaml")
    half = judged([cut("Is the price given? Yes. Is the")], rule)
    assert (half["verdict"], half["verdict_finish_reason"]) == (None, "length")
    assert unsolvable(half, rule) == "verdict_truncated"
    assert half["rules_disagree"], "the paper's rule keeps it"
    voted_on = judged([cut("Yes. But"), Said("So no."), cut("Yes. And")], rule)
    assert (voted_on["verdict"], voted_on["verdicts"]) == (False, [None, False, None])
    assert judged([cut("Yes. But"), Said("hm")], rule)["verdict_finish_reason"] == "stop"
    exact = dataclasses.replace(rule, paper_exact=True)
    assert judged([cut("Yes. But")], exact)["verdict"] is True


def rows(*questions: str) -> list[dict[str, Any]]:
    return [{"id": f"q-{i}", "question": question} for i, question in enumerate(questions)]


def test_steps_run_in_the_order_given_and_the_first_of_equals_stays() -> None:
    config = FilterConfig(
        input=["x"],
        steps=["language", "duplicates", "contamination"],
        contamination=ContaminationRule(against=[BenchmarkSource(source="tests.jsonl")]),
    )
    questions = rows(
        "What is 3 + 4?",
        "What  is 3 + 4 ?",
        "小明",
        "小明",
        "How old is Ann if she is twice as old as Bob, who is 7 years old?",
        "What is 3 + 5?",
        "How old is Bob?",
        "How old is Ann if she is now twice as old as Bob, who is 7 years old?",
    )
    tests = [TestQuestion("b", "0", "how OLD is Bob"), TestQuestion("b", "1", "x")]
    found = read_text(questions, config.made(tests))
    assert found.reasons == [
        *(None, "duplicate", "language", "language", None, None, "contamination", "near_duplicate"),
    ]
    assert found.columns[6] == {"matches": "b/0", "matches_by": "exact"}
    assert [found.columns[n] for n in (1, 7)] == [{"duplicate_of": "q-0"}, {"duplicate_of": "q-4"}]
    assert found.outcomes["contamination"].found.clean == [
        {"benchmark": "b", "questions": 2, "met": 1, "clean": 0.5}
    ]

    # flagged rows go on only when told to
    told = dataclasses.replace(config, contamination=dataclasses.replace(config.contamination, drop=False))
    marked = read_text(questions, told.made([TestQuestion("b", "0", "How old is Bob?")]))
    assert marked.reasons[6] is None
    assert marked.columns[6]["matches"] == "b/0"


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
    # 1 - agreement is a hair off the rate that a bound names
    middle = DifficultyRule(min_fail_rate=0.2, max_fail_rate=0.3)
    assert [outside_difficulty({"fail_rate": 1 - share}, middle) for share in (0.8, 0.7)] == [None, None]
    sampled = scored(1 - 0.8, 0.5)
    by_rate = DifficultyRule(columns=["difficulty"], edges=[0.2], target=[0.0, 1.0])
    assert select_difficulty(sampled, by_rate, seed=0) == [None, None]


def test_a_rank_correlation_has_its_interval() -> None:
    rank, low, high = rank_correlation([1, 2, 3, 4, 5, 6, 7], [1, 3, 2, 4, 5, 7, 6])
    assert -1 < low < rank < high < 1
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])[0] == pytest.approx(1)


def scored(*values: float, generator: str = "a") -> list[dict[str, Any]]:
    return [{"id": f"{generator}-{n}", "generator": generator, "difficulty": v} for n, v in enumerate(values)]


def test_difficulty_by_a_cut_hits_one_generator_only() -> None:
    questions = scored(0.1, 0.9, 0.2, 0.8) + scored(0.0, 1.0, generator="b")
    rule = DifficultyRule(columns=["difficulty"], drop_easiest=0.25, drop_hardest=0.25, generators=["a"])
    assert select_difficulty(questions, rule, 1) == ["too_easy", "too_hard", None, None, None, None]
    ranked = DifficultyRule(columns=["difficulty", "fail_rate"], drop_easiest=0.5)
    both = [row | {"fail_rate": fail} for row, fail in zip(scored(0.1, 0.9), (1.0, 0.1), strict=True)]
    assert sum(reason == "too_easy" for reason in select_difficulty(both, ranked, 1)) == 1
    with pytest.raises(ConfigError, match=r"a-0 has no number in 'fail_rate'"):
        select_difficulty(scored(0.1), ranked, 1)


def test_a_number_of_the_hardest_is_kept_exactly_or_refused() -> None:
    questions = scored(0.1, 0.9, 0.2, 0.8, 0.5) + scored(0.0, generator="b")
    rule = DifficultyRule(columns=["difficulty"], keep=2, generators=["a"])
    assert select_difficulty(questions, rule, 1) == ["too_easy", None, "too_easy", None, "too_easy", None]
    cut = DifficultyRule(columns=["difficulty"], keep=2, drop_hardest=0.2, generators=["a"])
    assert select_difficulty(questions, cut, 1) == ["too_easy", "too_hard", "too_easy", None, None, None]
    with pytest.raises(ConfigError, match=r"difficulty\.keep asks for 6 rows, and 5 are left"):
        select_difficulty(questions, DifficultyRule(columns=["difficulty"], keep=6, generators=["a"]), 1)
    tried_out = DifficultyRule(columns=["difficulty"], keep=6)
    assert select_difficulty(questions[:3], tried_out, 1, limit=3) == [None, None, None]
    with pytest.raises(ConfigError, match="keep: it decides alone"):
        DifficultyRule(columns=["difficulty"], keep=2, drop_easiest=0.5)
    with pytest.raises(ConfigError, match="columns"):
        DifficultyRule(keep=2)


def test_a_target_distribution_is_met_by_the_largest_set_that_has_it() -> None:
    questions = scored(*[0.1] * 60, *[0.5] * 20, *[0.9] * 20)
    rule = DifficultyRule(columns=["difficulty"], edges=[0.3, 0.7], target=[0.25, 0.25, 0.5])
    reasons = select_difficulty(questions, rule, 1)
    kept = [row["difficulty"] for row, reason in zip(questions, reasons, strict=True) if reason is None]
    assert [kept.count(value) for value in (0.1, 0.5, 0.9)] == [10, 10, 20]
    assert set(reasons) == {None, "off_target"}
    turned = select_difficulty(questions[::-1], rule, 1)[::-1]
    assert turned == reasons, "the order of the rows does not matter"
    assert select_difficulty(questions, rule, 2) != reasons


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": ["solvability", "language"]}, "before one that does not"),
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


def test_difficulty_by_columns_asks_no_model() -> None:
    rule = DifficultyRule(columns=["fail_rate"], min_fail_rate=0.3)
    config = FilterConfig(input=["x"], steps=["difficulty"], difficulty=rule)
    assert not config.asks_model
    questions = [row | {"fail_rate": rate} for row, rate in zip(rows("a", "b"), (0.2, 0.4), strict=True)]
    found = read_text(questions, config.made())
    assert found.reasons == ["too_easy", None]
    assert found.outcomes["difficulty"].found == ([0.2, 0.4], [0.4])
    with pytest.raises(ConfigError, match="rising edges"):
        DifficultyRule(columns=["x"], target=[0.5, 0.5], edges=[2, 1])
    with pytest.raises(ConfigError, match="columns"):
        DifficultyRule(drop_easiest=0.1)


def test_a_model_step_judges_the_columns_without_a_folder() -> None:
    """And what a text step dropped is not asked for."""
    config = FilterConfig(
        input=["x"], steps=["duplicates", "solvability"], model_name_or_path="m", chat_format="tinymath",
        solvability=SolvabilityRule(judge="model", prompt="p.yaml", votes=2),
    )  # fmt: skip
    questions = rows("What is 3 + 4?", "What is 3 + 4?")
    steps = config.made(prompt=Prompt("{question}"))
    found = read_text(questions, steps)
    hooks = Filtering(questions, found, [steps["solvability"]])  # type: ignore[list-item]
    assert [request.key for request in hooks.requests(0)] == ["q-0/0", "q-0/1"]  # type: ignore[union-attr]
    assert hooks.requests(1) == Drop(questions[1] | {"duplicate_of": "q-0"}, "duplicate")
    made = hooks.row(0, [Said("Yes.", tokens=3)] * 2)
    assert not isinstance(made, Drop)
    assert (made["verdict"], made["verdicts"], made["verdict_tokens"]) == (True, [True, True], 6)
    dropped = hooks.row(0, [cut("Yes.")] * 2)
    assert isinstance(dropped, Drop)
    assert dropped.reason == "verdict_truncated"
    lost = hooks.row(0, [Said("", "no_reply"), Said("Maybe.")])
    assert isinstance(lost, Drop)
    assert lost.reason == "no_reply", "a vote that never came is no No"
    half = hooks.row(0, [Said("", "no_reply"), Said("Yes.")])
    assert not isinstance(half, Drop)
