from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.questions.ranking import RankConfig, pair_questions, score_of
from scalequest.records import read_dropped, read_rows
from scalequest.stage.block_loop import Drop


def config(**settings: Any) -> RankConfig:
    return RankConfig(input=["x"], **{"score": {"solvable": 1.0, "fail_rate": 0.5}, **settings})


def question(number: int, words: int, solvable: bool | None, fail_rate: float = 0.0) -> dict[str, Any]:
    text = f"q{number:03d}" + " word" * words
    return {"id": f"q-{number}", "question": text, "solvable": solvable, "fail_rate": fail_rate}


def test_a_score_is_a_weighted_sum_and_needs_all_its_columns() -> None:
    weights = {"solvable": 1.0, "fail_rate": 0.5}
    assert score_of(question(0, 1, True, 0.4), weights) == pytest.approx(1.2)
    assert score_of(question(0, 1, None, 0.4), weights) is None
    with pytest.raises(ConfigError, match=r"row q-1: column fail_rate holds 'much'"):
        score_of({"id": "q-1", "solvable": True, "fail_rate": "much"}, weights)
    with pytest.raises(ConfigError, match="not a number"):
        score_of({"id": "q-1", "solvable": True, "fail_rate": float("nan")}, weights)


def test_the_best_of_a_group_is_paired_with_the_worst() -> None:
    rows = [question(0, 5, True, 0.2), question(1, 5, False), question(2, 5, True, 0.8), question(3, 5, True)]
    outcomes = pair_questions(rows, config(), seed=1)
    assert len(outcomes) == len(rows)
    pair = outcomes[2]
    assert not isinstance(pair, Drop)
    assert (pair["id"], pair["rejected_id"], pair["scores"]) == ("q-2", "q-1", [1.4, 0.0])
    assert [one.reason for one in outcomes if isinstance(one, Drop)] == ["between", "rejected", "between"]


def test_questions_are_compared_with_those_of_their_length() -> None:
    rows = [question(n, 3 if n % 2 else 40, n % 4 < 2) for n in range(16)]
    pairs = [one for one in pair_questions(rows, config(), seed=3) if not isinstance(one, Drop)]
    assert len(pairs) == 4
    assert all(len(pair["chosen"]) == len(pair["rejected"]) for pair in pairs)


def test_why_a_question_is_in_no_pair() -> None:
    again = {**question(2, 2, False), "question": question(0, 2, True)["question"].upper()}
    rows = [question(0, 2, True), question(1, 2, None), again, question(3, 2, True), question(4, 9, True)]
    rows += [question(5, 9, True), question(6, 30, True)]
    outcomes = pair_questions(rows, config(candidates=2), seed=1)
    same = "no_difference"
    reasons = [same, "no_score", "duplicate", same, same, same, "alone"]
    assert [one.reason for one in outcomes if isinstance(one, Drop)] == reasons
    close = [question(0, 2, True, 0.1), question(1, 2, True, 0.2)]
    assert isinstance(pair_questions(close, config(min_margin=0.5), 1)[1], Drop)
    assert not isinstance(pair_questions(close, config(min_margin=0.01), 1)[1], Drop)


def test_the_same_seed_gives_the_same_pairs_in_any_order_of_rows() -> None:
    rows = [question(n, 5, n % 3 == 0, n / 50) for n in range(40)]

    def pairs(order: list[dict[str, Any]], seed: int) -> set[tuple[str, str]]:
        found = pair_questions(order, config(), seed)
        return {(one["id"], one["rejected_id"]) for one in found if not isinstance(one, Drop)}

    assert pairs(rows, 1) == pairs(rows[::-1], 1)
    assert pairs(rows, 1) != pairs(rows, 2)


def test_the_stage(tmp_path: Path, quick_python: str) -> None:
    rows = [question(n, 5 + n % 2, n % 3 == 0, n / 50) for n in range(20)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--config", "recipes/tiny/rank_questions.yaml", "--input", f"[{tmp_path / 'in.jsonl'}]"]
    command = [quick_python, "recipes/rank_questions.py", *words, "--output_dir", str(tmp_path / "out")]
    subprocess.run(command, check=True, timeout=300)
    kept, dropped = read_rows(tmp_path / "out"), read_dropped(tmp_path / "out")
    assert len(kept) + len(dropped) == len(rows)
    assert kept
    assert {*kept[0]} >= {"chosen", "rejected", "scores"}
    assert (tmp_path / "out" / "pairs.html").exists()


def test_a_score_needs_a_column() -> None:
    with pytest.raises(ConfigError, match="score: name at least one column"):
        config(score={})
