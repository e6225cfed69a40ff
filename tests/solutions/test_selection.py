from __future__ import annotations

from typing import Any

from scalequest.engines.stream import Drop
from scalequest.solutions.selection import SelectConfig, _shuffled, select

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
    chosen = select(row, CONFIG)
    assert not isinstance(chosen, Drop)
    assert (chosen["response"], chosen["answer"], chosen["agreement"]) == ("a \\boxed{7}", "7", 0.5)
    assert chosen["query"] == "What is 3 + 4?"


def test_ties_go_to_the_answer_that_came_first() -> None:
    chosen = select(solved(("\\boxed{9}", "9"), ("\\boxed{7}", "7")), CONFIG)
    assert not isinstance(chosen, Drop)
    assert chosen["answer"] == "9"


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
