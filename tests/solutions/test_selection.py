from __future__ import annotations

from typing import Any

import pytest

from scalequest.solutions.selection import SelectConfig, _shuffled, select
from scalequest.stage.block_loop import Drop

CONFIG = SelectConfig(input=["x"])


def solved(*samples: tuple[str, str | None] | tuple[str, str | None, str]) -> dict[str, Any]:
    full = [sample if len(sample) == 3 else (*sample, "stop") for sample in samples]
    return {
        "id": "q-1",
        "question": "What is 3 + 4?",
        "generator": "g",
        "responses": [response for response, _, _ in full],
        "answers": [answer for _, answer, _ in full],
        "finish_reasons": [reason for _, _, reason in full],
    }


def test_the_first_complete_response_with_the_majority_answer() -> None:
    row = solved(
        ("\\boxed{8}", "8"),
        ("cut \\boxed{7}", "7", "length"),
        ("a \\boxed{7}", "7"),
        ("b \\boxed{7.0}", "7.0"),
    )
    one = chosen(row, "majority")
    assert (one["response"], one["answer"], one["agreement"]) == ("a \\boxed{7}", "7", 0.5)
    assert one["query"] == "What is 3 + 4?"


def rewarded(*samples: tuple[str, str | None, float | None]) -> dict[str, Any]:
    return solved(*((response, answer) for response, answer, _ in samples)) | {
        "rewards": [reward for _, _, reward in samples]
    }


def chosen(row: dict[str, Any], rule: str, **options: Any) -> dict[str, Any]:
    outcome = select(row, SelectConfig(input=["x"], rule=rule, **options))
    assert not isinstance(outcome, Drop), outcome.reason
    return outcome


def test_rules_that_use_rewards() -> None:
    row = rewarded(
        ("a \\boxed{7}", "7", 0.5),
        ("b \\boxed{7}", "7", 1.5),
        ("c \\boxed{8}", "8", 3.0),
        ("d \\boxed{7.0}", "7.0", 1.5),
        ("e \\boxed{9}", "9", 2.9),
    )
    assert chosen(row, "majority")["response"].startswith("a")
    assert chosen(row, "reward")["response"].startswith("c")
    assert chosen(row, "reward")["margin"] == pytest.approx(0.1)
    best = chosen(row, "majority_reward")
    assert best["response"].startswith("b"), "the first of equal rewards"
    assert best["margin"] == pytest.approx(-1.5)
    assert chosen(row, "reward_vote")["response"].startswith("b"), "three fair rewards beat a high one"
    assert chosen(row, "majority")["margin"] == pytest.approx(3 / 5 - 1 / 5)
    assert chosen(row | {"reference": "9"}, "correct")["response"].startswith("e")
    assert chosen(solved(("\\boxed{7}", "7")), "majority")["margin"] is None
    silent = rewarded(("\\boxed{7}", "7", 1.0), ("I do not know", None, 9.0))
    assert [chosen(silent, rule)["margin"] for rule in ("majority", "reward")] == [None, None]


def test_a_reference_may_stand_at_the_end_of_a_solution() -> None:
    row = solved(("\\boxed{72}", "72")) | {"reference": "She sold 48/2 = <<48/2=24>>24.\n#### 72"}
    assert chosen(row, "correct")["answer"] == "72"
    assert isinstance(select(row, SelectConfig(input=["x"], rule="correct", answer_after="")), Drop)


def test_drops_of_rules_that_use_rewards() -> None:
    def reason(row: dict[str, Any], rule: str, **options: Any) -> str:
        outcome = select(row, SelectConfig(input=["x"], rule=rule, **options))
        assert isinstance(outcome, Drop)
        return outcome.reason

    row = rewarded(("\\boxed{7}", "7", None), ("no", None, 2.0))
    assert reason(row, "reward") == "no_reward"
    assert reason(row | {"reference": "8"}, "correct") == "no_correct"
    assert reason(rewarded(("\\boxed{7}", "7", 0.1)), "reward", min_reward=0.5) == "low_reward"
    assert "rewards" in SelectConfig(input=["x"], rule="reward").needed
    assert "reference" in SelectConfig(input=["x"], rule="correct").needed


def test_a_reward_that_is_no_number_wins_nothing() -> None:
    nan = float("nan")
    row = rewarded(("a \\boxed{7}", "7", nan), ("b \\boxed{7}", "7", 0.1), ("c \\boxed{8}", "8", nan))
    alone = rewarded(("\\boxed{7}", "7", nan))
    for rule in ("reward", "majority_reward", "reward_vote"):
        assert chosen(row, rule)["reward"] == 0.1, rule
        assert isinstance(select(alone, SelectConfig(input=["x"], rule=rule)), Drop)


def test_ties_go_to_the_answer_that_came_first() -> None:
    assert chosen(solved(("\\boxed{9}", "9"), ("\\boxed{7}", "7")), "majority")["answer"] == "9"


def test_every_drop_has_its_reason() -> None:
    def reason(row: dict[str, Any], **options: Any) -> str:
        outcome = select(row, SelectConfig(input=["x"], **options))
        assert isinstance(outcome, Drop)
        return outcome.reason

    assert reason(solved(("\\boxed{7}", "7", "length"))) == "all_truncated"
    assert reason(solved(("so", None), ("\\boxed{7}", "7", "length"))) == "no_answer"
    assert (
        reason(solved(("\\boxed{7}", "7"), ("no", None), ("no", None)), min_agreement=0.5) == "low_agreement"
    )
    assert reason(solved(("= 7", "7"))) == "no_answer_phrase"
    assert not isinstance(select(solved(("= 7", "7")), SelectConfig(input=["x"], answer_phrase=False)), Drop)
    assert not isinstance(select(solved(("The answer is 7.", "7")), CONFIG), Drop)


def test_shuffled_answers_are_a_permutation_without_a_fixed_point() -> None:
    kept = [{"id": str(i), "response": f"r{i}", "answer": str(i)} for i in range(9)]
    outcomes = [*kept[:4], Drop({"id": "x"}, "no_answer"), *kept[4:]]
    shuffled = _shuffled(outcomes, seed=1)
    pairs = [(row["id"], row["from_id"]) for row in shuffled if not isinstance(row, Drop)]
    assert [own for own, _ in pairs] == [row["id"] for row in kept]
    assert sorted(source for _, source in pairs) == [row["id"] for row in kept]
    assert all(own != source for own, source in pairs)
    assert isinstance(shuffled[4], Drop)
    assert shuffled == _shuffled(outcomes, seed=1) != _shuffled(outcomes, seed=2)


def test_the_first_response_with_an_answer_whatever_the_others_say() -> None:
    samples = [
        ("none", None, 9.0),
        ("a \\boxed{8}", "8", 0.5),
        ("b \\boxed{7}", "7", 1.0),
        ("c \\boxed{7}", "7", 2.0),
    ]
    row = rewarded(*samples)
    assert chosen(row, "first")["response"].startswith("a")
