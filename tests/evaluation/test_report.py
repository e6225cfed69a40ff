from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scalequest.evaluation.benchmarks import sha256_of_rows
from scalequest.evaluation.funnel import build_funnel, read_stages, table_of_seconds
from scalequest.evaluation.results import Result, write_results
from scalequest.evaluation.statistics import share_of
from scalequest.pages.markup import inline
from scalequest.records import source_fingerprint
from scalequest.stage.folder import Stage

Script = Callable[..., "subprocess.CompletedProcess[str]"]


def stage(
    folder: Path, name: str, kept: int, dropped: Sequence[str] = (), inputs: Sequence[Path] = ()
) -> Path:
    """A finished stage of rows."""
    used = {str(path): source_fingerprint(path) for path in inputs}
    made = Stage.open(
        folder, name=name, version=1, config={}, fingerprint={"folder": folder.name}, inputs=used
    )
    made.blocks.cut(1, 1)
    rows = [{"id": f"q-{n:08d}", "question": f"Question {n} of {folder.name}?"} for n in range(kept)]
    lost = [({"id": f"d-{n}", "question": "What"}, reason) for n, reason in enumerate(dropped)]
    made.blocks.write(0, rows, lost, tokens=7 * kept, seconds=2.0)
    made.finish(rows_in=kept + len(dropped), card=name)
    return folder


def model(folder: Path, name: str, rows: int, data: Path) -> Path:
    """A finished stage that saved a model."""
    used = {str(data): source_fingerprint(data)}
    made = Stage.open(folder, name=name, version=1, config={}, fingerprint={}, inputs=used)
    (folder / "model.safetensors").write_bytes(b"weights")
    made.finish_model(rows_in=rows, kept=rows, card="", seconds=30.0, tokens=900)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A pipeline's folder: two generators, two filters, solutions, pairs, two models."""
    first = stage(tmp_path / "first", "generate_questions", 8, ["truncated"] * 2)
    second = stage(tmp_path / "second", "generate_questions", 9, ["empty"])
    text = stage(
        tmp_path / "text", "filter_questions", 12, ["language"] * 3 + ["duplicate"] * 2, [first, second]
    )
    solvable = stage(tmp_path / "solvable", "filter_questions", 10, ["unsolvable"] * 2, [text])
    solved = stage(tmp_path / "solved", "solve_questions", 9, ["no_answer"], [solvable])
    pairs = stage(tmp_path / "pairs", "select_solutions", 9, [], [solved])
    model(tmp_path / "sft", "sft", 9, pairs)
    model(tmp_path / "qft", "qft", 8, stage(tmp_path / "seeds", "filter_questions", 8))
    return tmp_path


def test_the_funnel_follows_rows_from_stage_to_stage(run: Path) -> None:
    records = read_stages(run)
    (table,), gaps = build_funnel(records)
    assert not gaps
    rows = {row[0]: row for row in table.rows}
    assert rows["first"][3:] == ("10", "truncated 2", "8")
    assert rows["text"][2:] == ("first, second", "17", "language 3, duplicate 2", "12")
    order = [row[0] for row in table.rows]
    assert order.index("solved") < order.index("pairs") < order.index("sft")
    line = next(note for note in table.notes if note.startswith("pairs: "))
    assert line == ("pairs: 20 generated → 10 kept → 9 answered → 9 selected → 9 pairs trained on (sft).")
    assert table.notes[-1] == "Every row is accounted for."


def test_pairs_that_went_into_a_set_are_followed_to_the_model(run: Path) -> None:
    whole = stage(run / "set", "assemble_dataset", 7, ["over_quota"] * 2, [run / "pairs"])
    model(run / "student", "sft", 7, whole)
    (table,), gaps = build_funnel(read_stages(run))
    assert not gaps
    line = next(note for note in table.notes if note.startswith("pairs: "))
    assert line.endswith(" → 9 selected → 9 pairs trained on (sft) → 7 pairs trained on (student).")


def test_the_first_rows_of_a_stage_have_come_from_it(run: Path) -> None:
    used = {f"{run / 'pairs'}[:5]": source_fingerprint(f"{run / 'pairs'}[:5]")}
    made = Stage.open(run / "few", name="select_solutions", version=1, config={}, fingerprint={}, inputs=used)
    made.blocks.cut(1, 1)
    made.blocks.write(0, [{"id": f"q-{n}"} for n in range(5)])
    made.finish(rows_in=5, card="")
    (table,), gaps = build_funnel(read_stages(run))
    assert not gaps
    rows = {row[0]: row for row in table.rows}
    assert rows["few"][2:] == ("pairs[:5]", "5", "–", "5")
    assert any(note.startswith("few: 20 generated → ") for note in table.notes)
    path = run / "few" / "receipt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows_in": 6, "kept": 6}))
    assert build_funnel(read_stages(run))[1] == ["few: 6 rows in, but the stages before it kept 5"]


def test_a_lost_row_is_said(run: Path) -> None:
    path = run / "solved" / "receipt.json"
    receipt = json.loads(path.read_text())
    path.write_text(json.dumps({**receipt, "kept": 8}))
    (table,), gaps = build_funnel(read_stages(run))
    assert gaps[0] == "solved: 10 rows in, but 8 kept + 1 dropped"
    assert gaps[1] == "pairs: 9 rows in, but the stages before it kept 8"
    assert table.notes[-1].startswith("ROWS ARE LOST: solved")


@pytest.mark.parametrize(
    ("rows", "fields", "gap"),
    [
        (5, {}, True),
        (5, {"limit": 5}, False),
        (5, {"limit": None, "draw": 5}, False),
        (5, {"limit": 7}, True),
        (9, {"limit": 20}, False),
        (10, {}, True),
    ],
)
def test_rows_that_did_not_arrive_are_lost_unless_a_limit_says_so(
    run: Path, rows: int, fields: dict[str, int | None], gap: bool
) -> None:
    used = {str(run / "pairs"): source_fingerprint(run / "pairs")}
    made = Stage.open(run / "few", name="score", version=1, config={}, fingerprint=fields, inputs=used)
    made.blocks.write(0, [{"id": f"q-{n}"} for n in range(rows)])
    made.finish(rows_in=rows, card="")
    (table,), gaps = build_funnel(read_stages(run))
    assert gaps == ([f"few: {rows} rows in, but the stages before it kept 9"] if gap else [])
    assert ("ROWS ARE LOST" in table.notes[-1]) == gap


def test_rows_that_are_no_longer_there_are_lost(run: Path) -> None:
    (run / "sft/model.safetensors").unlink()  # a model takes room, and none of the rows
    assert not build_funnel(read_stages(run))[1]
    (run / "pairs/data/train-00000-of-00001.parquet").unlink()
    (run / "text/data/train-00000-of-00001.parquet").write_bytes(b"")
    (table,), gaps = build_funnel(read_stages(run))
    assert [gap.split(" ")[0] for gap in gaps] == ["text:", "pairs:"]
    assert "data/train-00000-of-00001.parquet with 9 rows is missing" in gaps[1]
    assert table.notes[-1].startswith("ROWS ARE LOST: text")


def test_unfinished_stages_are_left_out(run: Path) -> None:
    made = Stage.open(run / "more", name="solve_questions", version=1, config={}, fingerprint={})
    made.close()
    assert "more" not in [record.folder for record in read_stages(run)]


def test_seconds(run: Path) -> None:
    table = table_of_seconds(read_stages(run), {"sft": 41.5})
    rows = {row[0]: row for row in table.rows}
    assert rows["sft"][4:] == ("900", "30.0", "41.5", "30")
    assert rows["first"][4:] == ("56", "2.0", "–", "28")


def test_the_report_of_a_run(run: Path, script: Script) -> None:
    shown = script(
        "report.py", "--run", run, "--published", "eval/published/table3.yaml", "--show_published", "true"
    )
    assert "20 generated → 10 kept" in shown.stdout
    report = json.loads((run / "report" / "report.json").read_text())
    assert [table["name"] for table in report["tables"]] == ["funnel", "published_table3", "seconds"]
    assert len(report["stages"]) == 9
    assert not report["gaps"]
    page = (run / "report" / "report.md").read_text()
    assert "## Where every row went" in page
    assert "Published, not ours" in page
    assert (run / "report" / "funnel.csv").read_text().startswith("folder,stage,rows from,in,dropped,kept\n")
    assert (run / "report" / "seconds.tex").read_text().startswith("\\begin{table}")


def test_the_report_fails_where_rows_are_lost(run: Path, script: Script) -> None:
    path = run / "solved" / "receipt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kept": 8}))
    done = script("report.py", "--run", run, check=False)
    assert done.returncode == 1
    assert "rows are lost: solved" in done.stderr


def test_the_papers_table_is_the_default(script: Script, tmp_path: Path) -> None:
    """Where nothing was run there are no columns of ours, and nothing looks like ours."""
    shown = script("report.py", "--output_dir", tmp_path, "--track", "wandb").stdout
    assert "Mistral-7B-ScaleQuest" in shown
    assert "Published, not ours" in shown
    lines = (tmp_path / "published_table1.csv").read_text().splitlines()
    assert len(lines) == 29
    row = next(line for line in lines if line.startswith("Qwen2-Math-7B-ScaleQuest"))
    assert row == "Qwen2-Math-7B-ScaleQuest,Qwen2-Math-7B-Ins,89.7,73.4,50.0,38.5,62.9,P2"
    assert "(ours)" not in shown
    assert (tmp_path / "published_table1.tex").exists()
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (table,) = [line for line in logged if line.get("event") == "table"]
    assert (table["name"], len(table["rows"])) == ("published_table1", 28)


def test_equal_labels_of_two_evaluations_stay_apart(script: Script, tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b"), 1):
        (tmp_path / name / "evaluate" / "mine").mkdir(parents=True)
        one = Result(
            **{"model": "mine", "benchmark": "gsm8k", "title": "GSM8K", "n": 200, "correct": 10 * number},
            **{"accuracy": share_of(10 * number, 200), "truncated": 0.0, "no_answer": 0.0, "rules": {}},
            **{"tokens_mean": 1.0, "split": {}, "protocol": {"engine": "vllm"}, "fingerprint": "f"},
            **{"prompts_sha256": "", "model_fingerprint": "m", "commit": None},
        )
        write_results(tmp_path / name / "evaluate" / "mine", [one])
    both = [tmp_path / name for name in ("a", "b")]
    script("report.py", "--evaluations", *both, "--output_dir", tmp_path / "out")
    lines = (tmp_path / "out" / "published_table1.csv").read_text().splitlines()[-2:]
    assert [line.split(",")[0] for line in lines] == [f"mine ({folder}/evaluate)" for folder in both]
    assert ["5.0 [" in line for line in lines] == [True, False]
    page = (tmp_path / "out" / "report.md").read_text()
    assert all(f"## Benchmarks ({inline(str(folder))}/evaluate)" in page for folder in both)
    theirs = {f"mine ({both[0]}/evaluate)": "Qwen2-Math-7B-ScaleQuest"}
    words = ("--evaluations", *both, "--output_dir", tmp_path / "named", "--published_as")
    script("report.py", *words, json.dumps(theirs))
    own = [(tmp_path / "named" / f"benchmarks_{n}.csv").read_text().splitlines() for n in (1, 2)]
    assert own[0] == ["model,GSM8K,GSM8K (published)", 'mine,"5.0 [2.7, 9.0]",89.7']
    assert own[1][0] == "model,GSM8K"
    done = script("report.py", *words, json.dumps({"nime": "Qwen2-Math-7B-ScaleQuest"}), check=False)
    assert done.stderr.startswith("error: published_as: no result is of 'nime'; there are mine (")
    done = script("report.py", *words, json.dumps({"mine": "Qwen2-Math-7B-ScaleQest"}), check=False)
    assert done.stderr.endswith("did you mean 'Qwen2-Math-7B-ScaleQuest'?\n")


def result(model: str, benchmark: str) -> Result:
    return Result(
        **{"model": model, "benchmark": benchmark, "title": benchmark, "n": 2, "correct": 1},
        **{"accuracy": share_of(1, 2), "truncated": 0.0, "no_answer": 0.0, "rules": {}},
        **{"tokens_mean": 1.0, "split": {}, "protocol": {"engine": "vllm"}, "fingerprint": "f"},
        **{"prompts_sha256": "", "model_fingerprint": "m", "commit": None},
    )


def outputs(folder: Path, benchmark: str) -> Path:
    """A model's finished folder: two outputs."""
    made = Stage.open(folder, name="evaluate_model", version=1, config={}, fingerprint={})
    made.blocks.cut(1, 1)
    rows = [{"benchmark": benchmark, "id": f"{n}", "correct": n == 1, "extracted": "1"} for n in range(2)]
    made.blocks.write(0, rows)
    made.finish(rows_in=2, card="")
    made.close()
    write_results(folder, [result(folder.name, benchmark)])
    return folder


def test_a_half_finished_evaluation_says_so(script: Script, tmp_path: Path) -> None:
    Stage.open(tmp_path, name="evaluate", version=1, config={}, fingerprint={"labels": ["a", "b"]}).close()
    outputs(tmp_path / "a", "x")
    assert "Warning: not finished: b; run" in script("report.py", "--evaluations", tmp_path).stdout


def test_altered_results_are_one_line(script: Script, tmp_path: Path) -> None:
    path = outputs(tmp_path / "a", "x") / "results.json"
    path.write_text(path.read_text().replace('"correct": 1', '"correct": 2'))
    done = script("report.py", "--evaluations", tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    folder = tmp_path / "a"
    assert done.stderr.startswith(f"error: {folder}: changed since its stage finished: results.json has")
    (folder / "receipt.json").unlink()  # results that somebody put together
    assert script("report.py", "--evaluations", tmp_path).returncode == 0


def test_nothing_to_compare_is_one_line(script: Script, tmp_path: Path) -> None:
    one, other = outputs(tmp_path / "one", "x"), outputs(tmp_path / "other", "y")
    done = script("report.py", "--compare", one, other, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: compare: one and other share no benchmark")
    (tmp_path / "empty").mkdir()
    done = script("report.py", "--evaluations", tmp_path / "empty", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no results.json here or below" in done.stderr


def test_mistakes_are_one_line(script: Script, tmp_path: Path) -> None:
    done = script("report.py", "--compare", tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = script("report.py", "--compare", tmp_path, tmp_path, check=False)
    assert "has no results.json; give a model's folder, EVALUATION/LABEL" in done.stderr
    (tmp_path / "file").touch()
    done = script("report.py", "--output_dir", tmp_path / "file", check=False)
    assert (done.returncode, done.stderr) == (2, f"error: output_dir: {tmp_path / 'file'}: File exists\n")
    (tmp_path / "out" / "report.md").mkdir(parents=True)
    done = script("report.py", "--output_dir", tmp_path / "out", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith("Is a directory\n")
    done = script("report.py", "--run", tmp_path / "none", check=False)
    assert "no such folder" in done.stderr


def test_our_leakage_stands_beside_the_published_one(script: Script, tmp_path: Path) -> None:
    """A set with one of gsm8k's ten problems in it; accuracies stay out of this table."""
    problems = [" ".join(f"word{n}{place}" for place in range(14)) for n in range(10)]
    rows = [{"question": text, "answer": "1"} for text in problems]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hashed = sha256_of_rows(rows, "question", "answer")
    (tmp_path / "gsm8k.yaml").write_text(f"name: gsm8k\nsource: gsm8k.jsonl\nrows: 10\nsha256: {hashed}\n")
    pairs = [{"query": problems[9], "response": "9"}, {"query": "Something else entirely", "response": "1"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    script(
        *("scripts/dataset_statistics.py", "--input", tmp_path / "pairs.jsonl"),
        *("--contamination.benchmarks", tmp_path / "gsm8k.yaml", "--output_dir", tmp_path / "set"),
    )
    (tmp_path / "eval/mine").mkdir(parents=True)
    write_results(tmp_path / "eval/mine", [result("mine", "gsm8k")])
    script(
        *("report.py", "--leakage", f"{{MetaMath: {tmp_path}/set, Our set: {tmp_path}/set}}"),
        *("--published", "eval/published/table6.yaml", "--evaluations", tmp_path / "eval"),
        *("--output_dir", tmp_path / "out"),
    )
    lines = (tmp_path / "out/published_table6.csv").read_text().splitlines()
    assert lines[0].startswith("model,GSM8K (published),GSM8K (ours),MATH (published),MATH (ours),")
    assert lines[1] == 'MetaMath,99.8,"90.0 [59.6, 98.2]",92.2,,100.0,,99.7,,97.9,,P2'
    assert lines[6] == 'Our set,,"90.0 [59.6, 98.2]",,,,,,,,,ours'
    assert len(lines) == 7  # and no row of the evaluation
    assert (tmp_path / "out/leakage.csv").read_text().splitlines()[1] == 'MetaMath,"90.0 [59.6, 98.2]"'


def test_an_accuracy_is_no_clean_ratio(script: Script, tmp_path: Path) -> None:
    (tmp_path / "eval/mine").mkdir(parents=True)
    write_results(tmp_path / "eval/mine", [result("mine", "gsm8k")])
    words = ("--evaluations", tmp_path / "eval", "--output_dir", tmp_path / "out", "--published")
    assert script("report.py", *words, "eval/published/table6.yaml").returncode == 0
    assert not (tmp_path / "out/published_table6.csv").exists()
    assert (
        script("report.py", *words, "eval/published/table6.yaml", "--show_published", "true").returncode == 0
    )
    assert (tmp_path / "out/published_table6.csv").read_text().splitlines()[0].startswith("model,GSM8K,MATH,")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "no such file; give the output folder of scripts/dataset_statistics.py"),
        ({"contamination": {"clean": []}}, "no benchmark was compared with the set"),
        ({"contamination": {"clean": [{"benchmark": "gsm8k", "questions": 3, "met": 4}]}}, "cannot be read"),
    ],
)
def test_leakage_that_cannot_be_read_is_one_line(
    script: Script, tmp_path: Path, content: object, error: str
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(json.dumps(content))
    done = script("report.py", "--leakage", f"{{MetaMath: {tmp_path}}}", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert error in done.stderr
