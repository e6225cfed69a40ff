from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.evaluation.benchmarks import LoadedBenchmark
from scalequest.evaluation.export import lm_eval_samples_of, write_lm_eval
from scalequest.evaluation.harness import add_scores
from scalequest.evaluation.problems import BenchmarkProblem
from scalequest.evaluation.results import (
    Result,
    group_answers,
    read_results,
    summarise,
    thirds_of,
    write_results,
)
from scalequest.evaluation.settings import EvaluationConfig
from scalequest.evaluation.statistics import share_of
from scalequest.records import read_rows
from scalequest.stage.folder import Stage

PROTOCOL = {
    **{"engine": "vllm", "dtype": "bfloat16", "limit": None, "seed": 42, "shots": 0},
    **{"sampling": {"temperature": 0.7, "top_p": 1.0, "max_tokens": 64}},
    **{"chat_format": "tinymath", "chat_format_sha256": "0" * 64},
}


def row(id: str, sample: int, extracted: str | None, correct: bool, **more: Any) -> dict[str, Any]:
    return {
        **{"benchmark": "b", "id": id, "prompt": "question", "sample": sample, "metadata": "{}"},
        **{"reference": "1", "prompt_sha256": "0" * 64, "completion": "…", "finish_reason": "stop"},
        **{"tokens": 10, "truncated": False, "extracted": extracted, "rule": "boxed", "correct": correct},
        **{"layer": "text", "timeout": False, **more},
    }


BENCHMARK = LoadedBenchmark(
    "b",
    "B",
    (
        BenchmarkProblem("x", "one two three", "1", {"level": 1}),
        BenchmarkProblem("y", "one two three four", "1", {"level": 2}),
    ),
    "0" * 64,
)
ROWS = [
    *(row("x", 0, "1", True, reward=0.1), row("x", 1, "1.0", True, reward=0.2)),
    *(row("x", 2, "2", False, reward=0.9), row("x", 3, "3", False, reward=0.3)),
    *(row("y", 0, "2", False, reward=0.1), row("y", 1, "2.0", False, reward=0.2)),
    *(row("y", 2, None, False, reward=0.3), row("y", 3, "1", True, truncated=False, reward=0.4)),
]


def summary(rows: list[dict[str, Any]], **more: Any) -> Result:
    given = {"label": "m", "prompts": ["question"], "samples": 4, "cut_counts": False, **more}
    return summarise(rows, BENCHMARK, protocol=PROTOCOL, model_fingerprint="f", commit="c" * 40, **given)


def test_several_samples() -> None:
    result = summary(ROWS, score="reward")
    assert (result.n, result.correct, result.samples) == (2, 3, 4)
    assert result.accuracy.value == pytest.approx((2 / 4 + 1 / 4) / 2)
    values = {name: one.value for name, one in result.metrics.items()}
    assert values == {
        "pass@1": pytest.approx(3 / 8),
        "pass@2": pytest.approx((5 / 6 + 1 / 2) / 2),
        "pass@4": 1.0,
        "maj@4": 0.5,  # x: 1 twice, 2 and 3 once; y: 2 twice, of three answers
        "avg@4": pytest.approx(3 / 8),
        "best@4 by reward": 0.5,
    }
    assert result.by_sample == [0.5, 0.5, 0.0, 0.5]
    assert result.sample_spread == pytest.approx(0.25)
    assert result.no_answer == 1 / 8
    assert result.explained == pytest.approx(1 / 5)


def test_what_was_never_asked_counts_as_wrong() -> None:
    result = summary([ROWS[0]], samples=1)
    assert result.accuracy == share_of(1, 2)
    assert (result.no_answer, result.explained) == (0.5, 1.0)
    assert result.split["level"] == {"1": share_of(1, 1), "2": share_of(0, 1)}
    assert result.metrics == {}


def test_a_cut_sample_has_no_vote() -> None:
    cut = [{**one, "truncated": True} if one["extracted"] in ("2", "2.0") else one for one in ROWS]
    value = summary(cut).metrics["maj@4"].value
    assert value == 1.0


def test_prompts_have_a_spread() -> None:
    rows = [row("x", 0, "1", True), row("y", 0, "1", True)]
    rows += [{**row("x", 0, "1", True), "prompt": "other"}, {**row("y", 0, "2", False), "prompt": "other"}]
    result = summary(rows, samples=1, prompts=["question", "other"])
    assert {name: one.value for name, one in result.by_prompt.items()} == {"question": 1.0, "other": 0.5}
    assert result.accuracy.value == 0.75
    assert result.prompt_spread == pytest.approx(0.5 / 2**0.5)


def test_equal_answers_are_one_group() -> None:
    assert group_answers(ROWS[:4]) == [-1, -1, 0, 1]
    halves = [row("x", n, text, False) for n, text in enumerate(["1/2", "0.5", "\\frac{1}{2}", "2"])]
    assert group_answers(halves) == [0, 0, 0, 1]


def test_scores_come_from_another_file(tmp_path: Path) -> None:
    outputs = [{key: value for key, value in one.items() if key != "reward"} for one in ROWS]
    path = tmp_path / "scored.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in ROWS))
    config = EvaluationConfig(
        models={"m": "x"},
        benchmarks=[],
        chat_format="tinymath",
        score="reward",
        scores={"m": str(path)},
    )
    assert add_scores([dict(one) for one in outputs], config, "m") == ROWS
    path.write_text("".join(json.dumps(one) + "\n" for one in ROWS[1:]))
    with pytest.raises(ConfigError, match="no 'reward' for b, x, sample 0"):
        add_scores(outputs, config, "m")
    for odd in (float("nan"), "0.5"):
        path.write_text("".join(json.dumps(one) + "\n" for one in [ROWS[0], {**ROWS[1], "reward": odd}]))
        with pytest.raises(ConfigError, match=r"scored.jsonl: row 2: reward: .* is not a finite number"):
            add_scores(outputs, config, "m")


def test_thirds() -> None:
    names = thirds_of({f"p{n}": n for n in range(9)})
    assert list(dict.fromkeys(names.values())) == ["0 to 2", "3 to 5", "6 to 8"]
    assert set(thirds_of({"a": 4, "b": 4}).values()) == {"4 to 4"}
    assert sorted(thirds_of({"a": 1.2, "b": 1.3, "c": 1.4}).values()) == [
        "1.2 to 1.2",
        "1.3 to 1.3",
        "1.4 to 1.4",
    ]


def test_parts_stand_in_the_order_of_their_numbers() -> None:
    problems = tuple(BenchmarkProblem(f"p{n}", "word " * n, "1", {"steps": n}) for n in (10, 9, 100))
    benchmark = replace(BENCHMARK, problems=problems)
    given = {"label": "m", "prompts": ["question"], "samples": 1, "cut_counts": False}
    rows = [row(problem.id, 0, "1", True) for problem in problems]
    result = summarise(rows, benchmark, protocol=PROTOCOL, model_fingerprint="f", commit=None, **given)
    assert list(result.split["steps"]) == ["9", "10", "100"]
    assert list(result.split["question words"]) == ["9 to 9", "10 to 10", "100 to 100"]


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    result = summary(ROWS)
    path = write_results(tmp_path, [result])
    assert read_results(path) == [result]
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(ConfigError, match="format 1, expected 2; run the evaluation again"):
        read_results(path)


def test_results_that_were_altered_are_noticed(tmp_path: Path) -> None:
    """By the receipt beside them; an older receipt, or none, does not have their hash."""
    stage = Stage.open(tmp_path, name="evaluate_model", version=1, config={}, fingerprint={})
    stage.blocks.write(0, ROWS)
    stage.finish(rows_in=len(ROWS), card="")
    receipt, before = tmp_path / "receipt.json", (tmp_path / "receipt.json").read_bytes()
    path = write_results(tmp_path, [summary(ROWS)])
    noted = json.loads(receipt.read_text())["files"]["results.json"]
    assert noted == {
        "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()
    }  # fmt: skip
    assert read_rows(tmp_path) == ROWS
    changed = receipt.stat().st_mtime_ns
    write_results(tmp_path, [summary(ROWS)])
    assert receipt.stat().st_mtime_ns == changed, "the same results leave the receipt alone"
    path.write_text(path.read_text().replace('"correct": 3', '"correct": 8'))
    with pytest.raises(
        ConfigError, match=r"changed since its stage finished: results.json .* --fresh"
    ) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)
    receipt.write_bytes(before)
    assert read_results(path)[0].correct == 8
    assert write_results(tmp_path, [summary(ROWS)])
    assert read_results(path) == [summary(ROWS)]


def test_lm_evals_layout(tmp_path: Path) -> None:
    result = summary([row("x", 0, "1", True), row("y", 0, "2", False)], samples=1)
    receipt = {"ended": "2026-01-02T03:04:05+00:00", "seconds": 7.5, "inputs": {"models/m": "f"}}
    rows = [row("x", 0, "1", True), row("y", 0, "2", False)]
    path = write_lm_eval(tmp_path, [result], rows, receipt)
    assert path == tmp_path / "m" / "results_2026-01-02T03-04-05.000000.json"
    content = json.loads(path.read_text())
    assert content["results"]["b"]["exact_match,none"] == 0.5
    assert content["results"]["b"]["exact_match_stderr,none"] == pytest.approx(0.5)
    assert content["n-samples"] == {"b": {"original": 2, "effective": 2}}
    assert content["n-shot"] == {"b": 0}
    assert content["higher_is_better"] == {"b": {"exact_match": True}}
    assert content["configs"]["b"]["metadata"]["fingerprint"] == result.fingerprint
    lines = (tmp_path / "m" / "samples_b_2026-01-02T03-04-05.000000.jsonl").read_text().splitlines()
    assert [json.loads(line)["exact_match"] for line in lines] == [1.0, 0.0]


def test_lm_evals_layout_holds_what_was_dropped(tmp_path: Path) -> None:
    lost = {
        key: row("y", 0, None, False)[key] for key in ("benchmark", "id", "prompt", "metadata", "reference")
    }
    entries = lm_eval_samples_of([ROWS[0], {**lost, "correct": False, "extracted": None}])
    assert [(one["doc"]["id"], one["exact_match"]) for one in entries] == [("x", 1.0), ("y", 0.0)]
    assert (entries[1]["resps"], entries[1]["prompt_hash"]) == ([[""]], None)


def test_lm_evals_error_is_over_problems(tmp_path: Path) -> None:
    """Of each problem's mean, where there are several samples; one problem has none."""
    receipt = {"ended": "2026-01-02T03:04:05+00:00", "seconds": 7.5, "inputs": {}}
    for rows, error in ((ROWS, (1 / 4) / 2**0.5 / 2**0.5), (ROWS[:4], "N/A")):
        path = write_lm_eval(tmp_path, [summary(ROWS)], rows, receipt)
        found = json.loads(path.read_text())["results"]["b"]["exact_match_stderr,none"]
        assert found == (error if error == "N/A" else pytest.approx(error))


def test_lm_evals_samples_are_one_entry_a_problem() -> None:
    entries = lm_eval_samples_of(ROWS)
    assert [(one["doc_id"], one["exact_match"]) for one in entries] == [(0, 0.5), (1, 0.25)]
    assert [len(one["resps"][0]) for one in entries] == [4, 4]
    assert entries[1]["filtered_resps"] == ["2", "2.0", None, "1"]
