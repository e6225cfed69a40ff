from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from scalequest.config import ConfigError
from scalequest.evaluation.published import build_published_table, load_published, published_scores_of
from scalequest.evaluation.results import Result
from scalequest.evaluation.statistics import Estimate, share_of
from scalequest.evaluation.tables import (
    Table,
    format_csv,
    format_latex,
    format_markdown,
    format_percent,
    print_tables,
    tables_of_parts,
    tables_of_results,
)


def result(model: str, benchmark: str, correct: int, fingerprint: str = "f", **protocol: object) -> Result:
    return Result(
        model=model,
        benchmark=benchmark,
        title=benchmark.upper(),
        n=200,
        correct=correct,
        accuracy=share_of(correct, 200),
        truncated=0.0,
        no_answer=0.0,
        rules={"boxed": 190, "number": 10},
        tokens_mean=30.0,
        split={},
        protocol={"engine": "vllm", "chat_format": "tinymath", "chat_format_sha256": "0" * 64, **protocol},
        fingerprint=fingerprint,
        prompts_sha256="",
        model_fingerprint="m",
        commit=None,
    )


def test_models_by_benchmarks() -> None:
    main, details = tables_of_results(
        [result("base", "gsm8k", 10), result("tuned", "gsm8k", 150), result("tuned", "math", 60)]
    )
    assert main.columns == ("model", "GSM8K", "MATH")
    assert main.rows[0] == ("base", "5.0 [2.7, 9.0]", "–")
    assert main.rows[1][1] == "75.0 [68.6, 80.5]"
    assert "GSM8K all 200, MATH all 200" in main.notes[0]
    assert details.rows[0][:4] == ("base", "GSM8K", "200", "10")
    assert len(details.rows) == 3


def test_another_protocol_is_marked_and_said() -> None:
    odd = result("odd", "gsm8k", 100, "g", chat_format="alpaca", chat_format_sha256="1" * 64)
    main, details = tables_of_results([result("a", "gsm8k", 10), result("b", "gsm8k", 20), odd])
    assert main.rows[2][1].endswith(" [a]")
    assert not main.rows[0][1].endswith(" [a]")
    assert (
        "[a] a different protocol from the rest of its column: chat_format alpaca instead of tinymath."
        in main.notes
    )
    assert details.rows[2][4].endswith(" [a]")


def test_cut_and_answerless_outputs_are_said() -> None:
    main, _ = tables_of_results([replace(result("a", "gsm8k", 10), truncated=0.34, no_answer=0.5)])
    assert any(
        "34 % of the outputs were cut" in note and "50 % contained no answer" in note for note in main.notes
    )


def test_a_part_of_a_benchmark_is_said() -> None:
    main, _ = tables_of_results([result("base", "gsm8k", 10, limit=200)])
    assert "GSM8K the first 200." in main.notes[0]


def test_answers_that_were_only_guessed_are_said() -> None:
    """A model that names no answer has the last number of its output taken for it, and is near zero."""
    main, _ = tables_of_results([replace(result("a", "gsm8k", 10), rules={"number": 120, "boxed": 80})])
    assert "a on GSM8K: 60 % of the outputs stated no answer, so their last number was taken." in main.notes
    main, _ = tables_of_results([result("a", "gsm8k", 10)])
    assert len(main.notes) == 1


def test_what_explains_an_accuracy_is_said() -> None:
    cut = replace(result("a", "gsm8k", 10), truncated=0.34, timeouts=0.06, explained=0.6)
    main, _ = tables_of_results([cut])
    (note,) = [note for note in main.notes if note.startswith("Warning: a on")]
    assert "6 % could not be compared within the time limit" in note
    assert note.endswith("this explains 60 % of its wrong outputs.")


def test_only_what_differs_of_the_graders_options_is_said() -> None:
    rest = [result(m, "gsm8k", 10, grading={"units": "optional", "percent": "number"}) for m in "ab"]
    odd = result("c", "gsm8k", 10, "g", grading={"units": "required", "percent": "number"})
    main, _ = tables_of_results([*rest, odd])
    assert any("grading.units required instead of optional." in note for note in main.notes)
    assert not any("percent" in note for note in main.notes)


def test_samples_prompts_and_parts_have_tables() -> None:
    one = replace(
        result("a", "gsm8k", 10),
        samples=2,
        metrics={"pass@2": share_of(30, 200)},
        by_sample=[0.1, 0.2],
        by_prompt={"p": share_of(10, 200), "q": share_of(30, 200)},
        split={"level": {"1": share_of(5, 50), "2": share_of(5, 150)}},
    )
    _, _, samples, prompts = tables_of_results([one, result("b", "gsm8k", 5)])
    assert samples.rows == (("a", "GSM8K", "15.0 [10.7, 20.6]", "7.07"),)
    assert [row[2] for row in prompts.rows] == ["p", "q", "all"]
    assert prompts.rows[-1][-1] == "7.07"
    (parts,) = tables_of_parts([one])
    assert parts.rows[0][:3] == ("level", "1", "50")


def test_ours_stand_beside_theirs(root: Path) -> None:
    table = load_published(root / "eval/published/table1.yaml")
    mine = [replace(result("mine", b, 180), title=b) for b in table.benchmarks]
    few = replace(result("other", "gsm8k", 20, limit=200), title="GSM8K")
    shown = build_published_table(table, [*mine, few], {"mine": "Qwen2-Math-7B-ScaleQuest"})
    row = next(row for row in shown.rows if row[0] == "Qwen2-Math-7B-ScaleQuest")
    assert row[2:4] == ("89.7", "90.0 [85.1, 93.4]")
    assert row[-3:] == ("62.9", "90.0", "P2")
    assert shown.rows[-1][0] == "other"
    assert shown.rows[-1][3] == "10.0 [6.6, 14.9] of the first 200"
    assert shown.rows[-1][-2:] == ("", "ours")
    assert all("ours" not in row[-1] for row in shown.rows[:-1])


def test_other_protocols_are_marked_beside_published_numbers(root: Path) -> None:
    table = load_published(root / "eval/published/table1.yaml")
    one, two = result("one", "gsm8k", 10, limit=200), result("two", "gsm8k", 20, "g", engine="transformers")
    shown = build_published_table(table, [one, two])
    assert [row[3] for row in shown.rows[-2:]] == ["5.0 [2.7, 9.0] of the first 200", "10.0 [6.6, 14.9] [a]"]
    assert any(
        note.startswith("[a] a different protocol from the rest of its column") for note in shown.notes
    )


def test_nothing_is_cut_where_a_table_is_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = load_published(root / "eval/published/table1.yaml")
    mine = [replace(result("mine", b, 180), title=b) for b in table.benchmarks]
    print_tables([build_published_table(table, mine)])
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert printed.count("OlympiadBench ") >= 2
    assert printed.count("Qwen2-Math-7B-Ins ") == 4


def test_models_of_one_protocol_are_all_named(root: Path) -> None:
    table = load_published(root / "eval/published/table1.yaml")
    both = [result(model, "gsm8k", 10) for model in ("one", "two")]
    note = build_published_table(table, both).notes[-1]
    assert note.endswith(f"one on GSM8K, two on GSM8K: {both[0].fingerprint}.")


def test_published_numbers_stand_in_their_own_column(root: Path) -> None:
    published = [load_published(root / "eval/published/table1.yaml")]
    ours = [result("mine", "gsm8k", 180), result("mistral-7b-scalequest", "gsm8k", 176)]
    as_published = {"mine": "Qwen2-Math-7B-ScaleQuest"}
    main, _ = tables_of_results(
        ours, *published_scores_of(published, [one.model for one in ours], as_published)
    )
    assert main.columns == ("model", "GSM8K", "GSM8K (published)")
    assert [row[2] for row in main.rows] == ["89.7", "88.5"]
    assert "not ours" in main.notes[-1]
    assert "Table 1" in main.notes[-1]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("table1", 28),
        ("table2", 4),
        ("table3", 3),
        ("table5", 4),
        ("table6", 5),
        ("table8", 2),
        ("table9", 3),
        ("table10", 2),
        ("table11", 5),
        ("table12", 12),
    ],
)
def test_published_tables(root: Path, name: str, rows: int) -> None:
    """Averages agree with their rows, but for the one that the paper prints otherwise, which has a note."""
    table = load_published(root / f"eval/published/{name}.yaml")
    assert (len(table.rows), table.tag) == (rows, "P2")
    assert table.source.endswith(f"Table {name.removeprefix('table')}")
    for row in table.rows:
        if row.average is not None:
            off = abs(sum(row.scores.values()) / len(row.scores) - row.average)
            assert off <= 0.0501 or (row.note is not None and row.model == "DeepSeekMath-7B-RL")
    shown = build_published_table(table)
    assert len(shown.rows) == rows
    assert "not ours" in shown.notes[0]


@pytest.mark.parametrize(
    ("name", "rows", "tag"),
    [("fig1", 20, "P1"), ("fig1_left", 7, "P1"), ("fig4", 3, "P2"), ("fig5", 4, "P2"), ("fig7", 1, "P2")],
)
def test_published_figures_hold_what_is_certain(root: Path, name: str, rows: int, tag: str) -> None:
    table = load_published(root / f"eval/published/{name}.yaml")
    assert (len(table.rows), table.tag) == (rows, tag)
    assert f"Fig. {name.removeprefix('fig')[0]}" in table.source
    assert build_published_table(table).rows


def test_the_ablation_ends_at_table_1(root: Path) -> None:
    last = load_published(root / "eval/published/fig5.yaml").rows[-1]
    one = load_published(root / "eval/published/table1.yaml")
    assert last.scores == next(row for row in one.rows if row.model == "Llama3-8B-ScaleQuest").scores


def test_the_papers_contradiction_is_noted(root: Path) -> None:
    one, twelve = (load_published(root / f"eval/published/table{n}.yaml") for n in (1, 12))
    ours = [
        next(row for row in table.rows if row.model == "Mistral-7B-ScaleQuest") for table in (one, twelve)
    ]
    assert [row.scores["olympiadbench"] for row in ours] == [26.8, 28.8]
    assert "contradict" in (ours[1].note or "")


def test_two_of_ours_cannot_stand_in_one_place(root: Path) -> None:
    table = load_published(root / "eval/published/table1.yaml")
    both = [result("one", "gsm8k", 180), result("two", "gsm8k", 20)]
    with pytest.raises(ConfigError, match="table1: GSM8K: both 'one' and 'two' are qwen2-math-7b-scalequest"):
        build_published_table(table, both, dict.fromkeys(("one", "two"), "Qwen2-Math-7B-ScaleQuest"))
    assert [row[0] for row in build_published_table(table, both).rows[-2:]] == ["one", "two"]


def test_a_published_score_without_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    head = "{name: t, title: t, source: s, tag: P2, protocol: p, benchmarks: [gsm8k]"
    path.write_text(head + ", rows: [{model: m, scores: {gsm: 1.0}}]}")
    with pytest.raises(ConfigError, match="m: benchmark 'gsm' is not in benchmarks"):
        load_published(path)


def test_texts_are_escaped_everywhere() -> None:
    table = Table("t", "A & B", ("model", "100 %"), (("<b>x|y_z</b>", "1.0"), ("a\\b", "–")), ("100 % [a]",))
    page = format_markdown([table], "T")
    assert "&lt;b&gt;x\\|y\\_z" in page
    assert re.search(r"\| --- \| ---: \|", page)
    text = format_latex(table)
    assert "x\\textbar{}y\\_z\\textless{}" in text
    assert "A \\& B" in text
    assert "100 \\%" in text
    assert format_csv(table).splitlines()[1] == "<b>x|y_z</b>,1.0"


def test_what_a_model_answered_stays_text() -> None:
    rows = (("[3, 4]", "$x$ &lt; [y](http://z)"), ("a → b", "\\frac{1}{2}"))
    table = Table("t", "T", ("answered", "against answered"), rows)
    page = format_markdown([table])
    assert "| [3, 4] | \\$x\\$ &amp;lt; [y\\](http\\://z) |" in page  # no formula, no entity, no link
    text = format_latex(table)
    assert "\n{[}3, 4] & \\$x\\$" in text  # "\\\\ [3, 4]" would be the length of a line break
    assert "a $\\to$ b & \\textbackslash{}frac\\{1\\}\\{2\\}" in text


def test_small_numbers_are_numbers_and_a_value_may_lack_its_interval() -> None:
    table = Table("t", "T", ("model", "p"), (("a", "2.1e-28 [a]"), ("b", "0.5")))
    assert "| --- | ---: |" in format_markdown([table])
    assert format_percent(Estimate(0.5, None, None, 1)) == "50.0"
