from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError, RunOptions
from scalequest.questions.contamination import BenchmarkSource, ContaminationRule, TestQuestion
from scalequest.solutions.assembly import AssembleConfig, Part, assemble, check, cost_lines, parses
from scalequest.solutions.overview import answer_type, lines, overview, topic
from stage_support import dropped, kept, killed_once_sealed, opened, receipt

CONFIG = AssembleConfig(parts=[Part(source="a"), Part(source="b", rows=3)])


@pytest.mark.parametrize(
    ("answer", "holds"),
    [
        ("42", True),
        (r"\frac{1}{2}", True),
        (r"\left[0, 1\right)", True),
        (r"x = 3 \text{ or } x = 4", True),
        (r"\{1, 2\}", True),
        (r"\frac{1}{2", False),
        (r"\left(1, 2)", False),
        ("3 +", False),
        ("", False),
        ("the answer depends on how many apples the farmer has sold before", False),
    ],
)
def test_what_parses(answer: str, holds: bool) -> None:
    assert parses(answer) is holds


def pair(number: int, query: str, response: str = "So \\boxed{7}.", **more: Any) -> dict[str, Any]:
    return {"id": f"q-{number}", "query": query, "response": response, "answer": "7", "part": 0, **more}


def test_every_check_has_its_reason() -> None:
    assert check(pair(0, "What?"), CONFIG) is None
    assert check(pair(0, " "), CONFIG) == "empty"
    assert check(pair(0, "What?", "7"), CONFIG) == "no_box"
    assert check(pair(0, "What?", "\\boxed{7}, no, \\boxed{8}"), CONFIG) == "several_boxes"
    assert check(pair(0, "What?", "\\boxed{\\frac{1}{2}+}"), CONFIG) == "answer_does_not_parse"


def built(
    folder: Path,
    rows: list[dict[str, Any]],
    seed: int = 1,
    quota: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    run = RunOptions(output_dir=str(folder), block_size=4, track="none", seed=seed, limit=limit)
    rule = ContaminationRule(against=[BenchmarkSource(source="t")])
    config = AssembleConfig(parts=[Part(source="a"), Part(source="b", rows=quota)], contamination=rule)
    tests = [TestQuestion("held <b>out</b>", "0", "How old is Ann?")]
    stage = opened("assemble_dataset", run, config)
    return assemble(stage, rows, config, run, tests=tests, funnel=["## How it was made", "", "By hand."])


def test_parts_are_mixed_checked_and_shuffled_and_every_row_is_accounted_for(tmp_path: Path) -> None:
    rows = [pair(n, f"What is {n} + {n}?", generator="one") for n in range(12)]
    rows += [pair(20 + n, f"What is {n} times {n + 1}?", generator="two", part=1) for n in range(5)]
    rows += [
        pair(30, "What is 3 + 3 ?", part=1),
        pair(31, "how old is ANN", part=0),
        pair(32, "What is this?", "7"),
    ]
    receipt = built(tmp_path / "one", rows, quota=3)
    assert receipt["dropped"] == {"contamination": 1, "duplicate": 1, "no_box": 1, "over_quota": 2}
    assert receipt["rows_in"] == len(rows) == receipt["kept"] + sum(receipt["dropped"].values())
    written = kept(tmp_path / "one")
    assert [row["id"] for row in written] != sorted(row["id"] for row in written)
    assert sum(row["generator"] == "two" for row in written) == 3
    assert {row["source"] for row in written} == {"a", "b"}
    assert next(row for row in dropped(tmp_path / "one") if row["reason"] == "duplicate")["id"] == "q-30"

    built(tmp_path / "again", [*rows[16::-1], *rows[17:]], quota=3)
    again = kept(tmp_path / "again")
    assert [row["id"] for row in again] == [row["id"] for row in written], "the order is the seed's alone"
    built(tmp_path / "other", rows, seed=2, quota=3)
    assert [row["id"] for row in kept(tmp_path / "other")] != [row["id"] for row in written]


def test_a_quota_is_exact_or_an_error(tmp_path: Path) -> None:
    rows = [pair(n, f"What is {n} + {n}?", part=n % 2) for n in range(8)]
    assert built(tmp_path / "exact", rows, quota=4)["kept"] == 8
    with pytest.raises(
        ConfigError, match="parts: b asks for 5 rows, and 4 are left: take that many or fewer"
    ):
        built(tmp_path / "short", rows, quota=5)
    rows[1]["response"] = "no box"
    with pytest.raises(ConfigError, match="b asks for 4 rows, and 3 are left"):
        built(tmp_path / "checked", rows, quota=4)
    assert built(tmp_path / "tried", rows, quota=600, limit=4)["kept"] == 7


def test_two_parts_with_one_id_are_refused(tmp_path: Path) -> None:
    rows = [pair(0, "What is 1 + 1?"), pair(1, "What is 2 + 2?"), pair(1, "What is 3 + 3?", part=1)]
    with pytest.raises(ConfigError) as refused:
        built(tmp_path, rows)
    assert str(refused.value) == (
        "parts: a and b both have a row 'q-1'; generate one of the sources with another `seed` or "
        "`id_prefix`, or leave one out"
    )


def test_the_dataset_loads_and_its_card_and_page_say_what_it_is(tmp_path: Path) -> None:
    from datasets import load_dataset

    built(tmp_path, [pair(n, f"What is {n} + <script>{n}?") for n in range(4)] + [pair(9, "How old is Ann?")])
    loaded = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 4
    assert {"query", "response", "source", "generator"} <= set(loaded.column_names)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nconfigs:")
    assert "By hand." in card
    assert "clean ratio" in card
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == 4


def test_a_sealed_folder_has_its_licence_and_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_once_sealed(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path, [pair(n, f"What is {n} + {n}?") for n in range(4)])
    assert receipt(tmp_path)["finished"]
    assert (tmp_path / "README.md").read_text().startswith("---\nlicense: apache-2.0\nconfigs:")
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == 4
    assert "Where every row went" in (tmp_path / "report.html").read_text()


def test_the_card_sums_up_what_the_stages_cost() -> None:
    stage = {"stage": "solve_questions", "rows_in": 1200, "kept": 1100, "dropped": {"no_answer": 100}}
    told = cost_lines([{**stage, "tokens": 1500, "seconds": 61.0}, {**stage, "tokens": 500, "seconds": 2.0}])
    assert "| solve\\_questions | 1,200 | 1,100 | no\\_answer 100 | 1,500 | 61 |" in told
    assert "| all |  |  |  | 2,000 | 63 |" in told
    assert cost_lines([]) == []


def test_nothing_to_mix_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to mix"):
        AssembleConfig(parts=[])


# --------------------------------------------------------------------------------------------------- overview


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("42", "integer"),
        ("-1,200", "integer"),
        ("0.5", "decimal"),
        (r"\$12.50", "percent or money"),
        (r"15\%", "percent or money"),
        (r"\frac{3}{4}", "fraction"),
        ("3/4", "fraction"),
        ("(1, 2)", "tuple, set or interval"),
        (r"12 \text{ cm}", "number with a unit"),
        ("x = 4", "equation or inequality"),
        (r"\text{Sunday}", "text"),
        (r"2\sqrt{3}", "expression"),
        (None, "none"),
    ],
)
def test_answer_types(answer: str | None, kind: str) -> None:
    assert answer_type(answer) == kind


def test_an_overview_counts_what_is_there() -> None:
    rows = [
        {"query": "Find the area of a circle of radius 3.", "response": "\\boxed{9\\pi}", "reward": 1.5},
        {"query": "Find the area of a circle of radius 4.", "response": "\\boxed{16\\pi}", "reward": 0.5},
        {"query": "find the area of a circle of RADIUS 4", "response": "\\boxed{16\\pi}"},
        {"query": "Combien de pommes a-t-il maintenant ?", "response": "\\boxed{3}"},
    ]
    tests = [TestQuestion("b", "0", "Find the area of a circle of radius 3")]
    found = overview(rows, tests, ContaminationRule(rules=["exact"]), ["gone"])
    facts = found.facts
    assert facts["topics"] == {"geometry": 3, "other": 1}
    assert facts["answer_types"] == {"expression": 3, "integer": 1}
    assert facts["duplicates"] == {"duplicate": 1, "templates_with_other_numbers": 1}
    assert facts["not_english"] == 1
    assert facts["contamination"]["clean"][0]["clean"] == 0
    assert found.samples["reward"] == [1.5, 0.5]
    assert [label for label, _, _ in found.flagged] == ["row 1: exact, b/0"]
    assert dict(lines(facts))["rows"] == "4"
    assert dict(lines(facts))["benchmarks skipped, data missing"] == "gone"
    assert topic("Hello there") == "other"
