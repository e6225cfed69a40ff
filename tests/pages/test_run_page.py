"""The run page: what stages left is counted, measured and shown, whatever state their folders are in."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import ConfigError
from scalequest.evaluation.results import Result, write_results
from scalequest.evaluation.statistics import share_of
from scalequest.records import source_fingerprint
from scalequest.run_page import browser as browser_module
from scalequest.run_page import page as page_module
from scalequest.run_page.at_end import write_at_end
from scalequest.run_page.browser import Browser
from scalequest.run_page.curves import MOST_POINTS, read_curves
from scalequest.run_page.distributions import Measures, bin_edges
from scalequest.run_page.page import duration, gather, write_run_page
from scalequest.run_page.plots import save_plots
from scalequest.run_page.rows import Sample, StageRow
from scalequest.run_page.stages import StageFacts
from scalequest.stage.folder import Stage

Rows = Sequence[dict[str, Any]]
EVIL = "</script><script>document.title = 'owned'</script><!--"


def stage(
    folder: Path, name: str, kept: Rows, dropped: Rows = (), inputs: Sequence[Path] = (), **settings: Any
) -> Path:
    """A finished stage, left as a recipe leaves it."""
    used = {str(path): source_fingerprint(path) for path in inputs}
    made = Stage.open(
        folder, name=name, version=1, config=settings, fingerprint={"folder": folder.name}, inputs=used
    )
    made.blocks.cut(1, 1)
    lost = [({key: row[key] for key in row if key != "reason"}, row["reason"]) for row in dropped]
    made.blocks.write(0, list(kept), lost, tokens=7 * len(kept), seconds=2.0, prompt_tokens=3 * len(kept))
    made.finish(rows_in=len(kept) + len(dropped), card=name)
    made.close()
    return folder


def solved(n: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"q-{n}",
        "question": f"How many are {n} and {n}?",
        "generator": "a",
        "responses": [f"{n}+{n}\nis ${2 * n}$", f"{n}"],
        "answers": [str(2 * n), str(n)],
        "finish_reasons": ["stop", "length"],
        "tokens": [5, 9],
        "rewards": [1.5, -0.5 * n],
        "agreement": 0.5,
        "fail_rate": 0.5,
        **more,
    }


def evaluated(folder: Path, right: Sequence[bool]) -> Path:
    """A model's finished folder: an output for each problem, and its result."""
    rows = [
        {
            "benchmark": "sums",
            "id": str(n),
            "completion": EVIL,
            "extracted": f"{n}",
            "correct": one,
            "sample": 0,
        }
        for n, one in enumerate(right)
    ]
    stage(folder, "evaluate_model", rows)
    result = Result(
        **{
            "model": folder.name,
            "benchmark": "sums",
            "title": "Sums",
            "n": len(right),
            "correct": sum(right),
        },
        **{"accuracy": share_of(sum(right), len(right)), "truncated": 0.0, "no_answer": 0.0, "rules": {}},
        **{"tokens_mean": 1.0, "split": {}, "protocol": {"engine": "vllm"}, "fingerprint": "f"},
        **{"prompts_sha256": "", "model_fingerprint": "m", "commit": None},
    )
    write_results(folder, [result])
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Generated, filtered, solved, selected, trained on, evaluated."""
    root = tmp_path / "run"
    ids = [{"id": f"q-{n}", "question": f"How many are {n} and {n}?", "generator": "a"} for n in range(12)]
    made = stage(root / "generate", "generate_questions", ids)
    lost = [{**ids[0], "reason": "language"}, {**solved(1), "reason": "unsolvable"}]
    kept = stage(root / "filter", "filter_questions", [solved(n) for n in range(2, 12)], lost, [made])
    pairs = [
        {
            "id": f"q-{n}",
            "query": f"How many are {n} and {n}?",
            "response": f"{n}+{n}\nis ${2 * n}$",
            "reward": 1.5,
        }
        for n in range(3, 12)
    ]
    chosen = stage(root / "select", "select_solutions", pairs, [{**solved(2), "reason": EVIL}], [kept])
    used = {str(chosen): source_fingerprint(chosen)}
    sft = Stage.open(root / "sft", name="sft", version=1, config={}, fingerprint={}, inputs=used)
    (root / "sft/model.safetensors").write_bytes(b"weights")
    lines = [{"step": n, "loss": 1 / n, "learning_rate": 1e-5, "epoch": 1.0} for n in range(1, 6)]
    lines += [{"event": "finish", "step": 9, "loss": 9.0}, {"step": 5, "loss": 0.25}]
    (root / "sft/metrics.jsonl").write_text(
        "".join(f"{json.dumps(one)}\n" for one in lines) + '{"step": 7, "lo'
    )
    sft.finish_model(rows_in=9, kept=9, card="", seconds=30.0, tokens=900)
    sft.close()
    evaluated(root / "evaluate/before", [False, False, True, True])
    evaluated(root / "evaluate/after", [True, True, True, False])
    (root / "run.json").write_text(json.dumps({"stages": {"generate": {"seconds": 6.5}}}))
    return root


def blocks(page: Path) -> dict[str, Any]:
    """The facts and the unpacked data of a page, by the ids of their elements."""
    text = page.read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    for kind, name, content in re.findall(r'<script type="([^"]*)" id="([^"]*)">(.*?)</script>', text, re.S):
        packed = kind == "text/plain"
        found[name] = json.loads(gzip.decompress(base64.b64decode(content)) if packed else content)
    return found


def test_a_page_shows_what_every_stage_did(run: Path, tmp_path: Path) -> None:
    write_run_page(run, tmp_path / "page.html", title="A run")
    facts = blocks(tmp_path / "page.html")["facts"]
    assert facts["title"] == "A run"
    assert facts["notes"] == []
    by_folder = {one["folder"]: one for one in facts["stages"]}
    funnel = [one["folder"] for one in facts["stages"] if one["in_funnel"]]
    assert funnel == ["generate", "filter", "select", "sft"]
    assert by_folder["filter"]["dropped"] == {"language": 1, "unsolvable": 1}
    assert by_folder["filter"]["upstream"] == ["generate"]
    assert (by_folder["generate"]["wall"], by_folder["filter"]["wall"]) == (6.5, None)
    assert (by_folder["sft"]["trains"], by_folder["sft"]["tokens"]) == (True, 900)
    assert {"label": "questions generated", "value": "12"} in facts["tiles"]
    (loss, rate) = facts["curves"]["sft"]
    assert (loss["metric"], rate["metric"]) == ("loss", "learning_rate")
    assert loss["steps"] == [1, 2, 3, 4, 5]
    assert loss["values"][-1] == 0.25, "a step that was redone counts once"
    (before, after) = facts["benchmarks"]["intervals"]
    assert (after["model"], after["value"]) == ("after", 75.0) or (before["model"], before["value"]) == (
        "after",
        75.0,
    )
    assert "differences" in facts["benchmarks"]


def test_every_question_has_its_solutions_scores_and_fate(run: Path, tmp_path: Path) -> None:
    write_run_page(run, tmp_path / "page.html")
    found = blocks(tmp_path / "page.html")
    index, details = found["rows-index"], found["rows-0"]
    assert len(index["key"]) == found["facts"]["rows"]["count"] == len(details) == 12 + 4
    fates = dict(
        zip(index["key"], (index["fate"]["names"][code] for code in index["fate"]["codes"]), strict=True)
    )
    assert fates["q-0"] == "language"
    assert fates["q-1"] == "unsolvable"
    assert fates["q-2"] == EVIL
    assert fates["q-3"] == "kept"
    assert fates["sums/0"] == "right by some"
    place = index["key"].index("q-3")
    assert index["difficulty"][place] == 0.5
    assert index["reward"][place] == 1.5
    detail = details[place]
    names = [found["facts"]["stages"][event["stage"]]["folder"] for event in detail["events"]]
    assert names == ["generate", "filter", "select"]
    assert [one["answer"] for one in detail["events"][1]["solutions"]] == ["6", "3"]
    assert detail["events"][2]["solutions"][0]["text"] == detail["events"][1]["solutions"][0]["text"]
    assert detail["texts"][0] == ["3+3\nis $6$", 0]


def test_flips_are_found_between_any_two_models(run: Path, tmp_path: Path) -> None:
    write_run_page(run, tmp_path / "page.html")
    index = blocks(tmp_path / "page.html")["rows-index"]
    right = dict(zip(index["models"], index["right"], strict=True))
    problems = [place for place, key in enumerate(index["key"]) if key.startswith("sums/")]
    before, after = ([right[f"evaluate/{name}"][place] for place in problems] for name in ("before", "after"))
    assert (before, after) == ([0, 0, 1, 1], [1, 1, 1, 0])
    assert right["evaluate/before"][0] is None, "a question that no benchmark has"


def test_the_same_folder_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_run_page(run, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_hostile_texts_stay_in_their_blocks(run: Path, tmp_path: Path) -> None:
    write_run_page(run, tmp_path / "page.html", title=EVIL)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "owned'</script>" not in text
    assert text.count("<script") == text.count("</script>")


def test_what_is_shown_of_a_question_is_bounded_and_what_is_left_out_is_said() -> None:
    found = Browser()
    facts = StageFacts("solve", "", "solve_questions", finished=True)
    many = {"responses": [f"{n}" + "x" * 100_000 for n in range(40)], "answers": None}
    odd = {"question": "a\x00b \ud800 \u202e", "note": "n" * 5_000, **many}
    found.add(facts, 0, StageRow("/q", odd, None))
    chunks, lengths = found.chunks()
    ((detail,),) = (json.loads(gzip.decompress(base64.b64decode(chunk))) for chunk in chunks)
    assert detail["question"] == ["a\ufffdb \ufffd \ufffd", 0]
    assert len(detail["events"][0]["solutions"]) == browser_module.MOST_TEXTS
    assert detail["events"][0]["more"] == 40 - browser_module.MOST_TEXTS
    assert len(detail["texts"][0][0]) == lengths[1]
    assert len(detail["texts"][0][0]) + detail["texts"][0][1] == 100_001
    assert len(dict(detail["events"][0]["fields"])["note"]) <= browser_module.MOST_FIELD


def test_texts_get_shorter_until_the_page_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    draw = random.Random(0)
    monkeypatch.setattr(browser_module, "MOST_BYTES", 300_000)
    found = Browser()
    facts = StageFacts("solve", "", "solve_questions", finished=True)
    for n in range(300):
        texts = ["".join(draw.choices("abcdefghijkl \\{}", k=1_500)) for _ in range(2)]
        found.add(facts, 0, StageRow(f"/{n}", {"question": "q", "responses": texts}, None))
    chunks, lengths = found.chunks()
    assert lengths[1] < 1_000
    assert sum(map(len, chunks)) < 330_000


def test_a_page_that_is_full_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser_module, "MOST_BYTES", 1_000)
    monkeypatch.setattr(browser_module, "MOST_INDEX_BYTES", 1_000)
    found = Browser()
    facts = StageFacts("solve", "", "solve_questions", finished=True)
    for n in range(2 * browser_module.CHUNK):
        found.add(facts, 0, StageRow(f"/{n}", {"question": f"{n} " * 500, "responses": [f"{n}"]}, "lost"))
    _, second = (json.loads(gzip.decompress(base64.b64decode(chunk))) for chunk in found.chunks()[0])
    assert second[0]["left_out"]
    assert second[0]["events"] == [{"stage": 0, "reason": "lost", "fields": []}]
    index = json.loads(gzip.decompress(base64.b64decode(found.packed_index())))
    assert len(index["question"][0]) == browser_module.SEARCHED[-1]


def test_of_many_questions_the_same_sample_is_read_in_every_stage(run: Path) -> None:
    facts, browser = gather(run, most=6)
    assert 1 <= len(browser) < 12
    assert any("drawn by their ids" in note for note in facts.notes)
    sample = Sample(0.1)
    assert 800 < sum(sample.has(f"/{n}") for n in range(10_000)) < 1_200


def test_a_stage_that_is_not_finished_is_said_and_the_rest_is_shown(run: Path, tmp_path: Path) -> None:
    Stage.open(run / "late", name="solve_questions", version=1, config={}, fingerprint={}).close()
    facts = write_run_page(run, tmp_path / "page.html")
    assert "late: not finished; run it again to continue." in facts.notes
    assert not next(one for one in facts.stages if one.folder == "late").finished
    assert len(blocks(tmp_path / "page.html")["rows-0"]) == 16


def test_rows_that_are_gone_are_said(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "filter/data")
    facts = write_run_page(run, tmp_path / "page.html")
    assert any(note.startswith("filter: ") and "its rows are not shown" in note for note in facts.notes)


def test_an_old_receipt_is_enough(run: Path, tmp_path: Path) -> None:
    path = run / "generate/receipt.json"
    old = json.loads(path.read_text())
    for key in ("files", "tokens", "counts", "engine", "started", "ended", "seconds", "versions"):
        old.pop(key, None)
    path.write_text(json.dumps(old))
    facts = write_run_page(run, tmp_path / "page.html")
    (stage_facts,) = (one for one in facts.stages if one.folder == "generate")
    assert (stage_facts.kept, stage_facts.tokens, stage_facts.seconds) == (12, 0, None)
    assert len(blocks(tmp_path / "page.html")["rows-0"]) == 16


def test_several_runs_in_one_folder_keep_their_rows_apart(run: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for name in ("one", "two"):
        shutil.copytree(run, study / name)
    facts, browser = gather(study)
    assert len(browser) == 2 * 16
    assert {one.run for one in facts.stages} == {"one", "two"}
    assert {one.wall for one in facts.stages if one.stage == "generate_questions"} == {6.5}


def test_a_folder_without_a_stage_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no stage has a receipt"):
        write_run_page(tmp_path, tmp_path / "page.html")
    with pytest.raises(ConfigError, match="no such folder"):
        write_run_page(tmp_path / "none", tmp_path / "page.html")


def test_cost_is_known_by_a_servers_prices_or_by_the_hour(run: Path) -> None:
    rows = [{"id": "x", "question": "x?"}]
    prices = {"url": "http://localhost/v1", "price_in": 2.0, "price_out": 10.0}
    stage(run / "asked", "solve_questions", rows, server=prices)
    costs = {one.folder: one.cost for one in gather(run, price_per_hour=3600.0)[0].stages}
    assert costs["asked"] == pytest.approx((3 * 2.0 + 7 * 10.0) / 1e6)
    assert costs["generate"] == pytest.approx(6.5), "with its start-up"
    assert costs["filter"] == pytest.approx(2.0)
    assert costs["evaluate/before"] is None, "part of its evaluation's"


def test_distributions_are_before_and_after_a_stage_that_dropped_rows(run: Path) -> None:
    by_measure = {one.measure: one for one in gather(run)[0].distributions}
    assert "question_words" not in by_measure, "all are equally long, so there is nothing to see"
    rewards = by_measure["rewards"]
    assert [(one.name, one.n) for one in rewards.series] == [("filter: before", 22), ("filter: after", 20)]
    assert all(abs(sum(one.shares) - 1) < 1e-3 for one in rewards.series)
    assert "agreement" not in by_measure


def test_a_sample_equal_to_an_earlier_one_is_shown_once() -> None:
    measures = Measures()
    for name in ("filter", "solve"):
        facts = StageFacts(name, "", "solve_questions", finished=True)
        for n in range(10):
            measures.add(facts, StageRow(f"/{n}", {"agreement": n / 10}, None))
    ((only,),) = (one.series for one in measures.distributions())
    assert only.name == "filter"


def test_bins_are_round_and_hold_everything() -> None:
    assert bin_edges([1.0, 2.0, 3.0]) == [0.5, 1.5, 2.5, 3.5]
    assert bin_edges([4.0, 4.0]) == [4.0]
    edges = bin_edges([0.0, 0.2, 1.0])
    assert edges[0] == 0.0
    assert edges[-1] >= 1.0
    assert len({round(b - a, 9) for a, b in pairwise(edges)}) == 1
    long = bin_edges([*(float(n) for n in range(1000)), 1e9])
    assert long[-1] < 1_100, "one text of great length does not squeeze the others"
    assert len(long) <= 35


def test_curves_have_a_bounded_number_of_points(tmp_path: Path) -> None:
    lines = (
        json.dumps({"step": n, "loss": 1.0, "train_runtime": 1, "x": float("nan")}) for n in range(5_000)
    )
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    (only,) = read_curves(tmp_path)
    assert (only.metric, only.of) == ("loss", 5_000)
    assert len(only.steps) <= MOST_POINTS + 1
    assert only.steps[-1] == 4_999
    assert read_curves(tmp_path / "none") == []


def test_the_plots_are_the_same_each_time_and_take_names_as_text(run: Path, tmp_path: Path) -> None:
    facts, _ = gather(run)
    first, second = save_plots(facts, tmp_path / "a"), save_plots(facts, tmp_path / "b")
    names = {path.name for path in first}
    assert {
        "funnel.svg",
        "funnel.pdf",
        "benchmarks.svg",
        "training_sft.pdf",
        "distribution_rewards.svg",
    } <= names
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert "<script" not in (tmp_path / "a/funnel.svg").read_text(encoding="utf-8")


def test_wandb_gets_the_tables_and_plots_that_the_docs_name(run: Path, tmp_path: Path, root: Path) -> None:
    (run / "run.json").write_text(json.dumps({"stages": {}, "group": "tiny-1"}))
    command = [sys.executable, "eval/report.py", "--run", str(run), "--track", "wandb"]
    env = {name: value for name, value in os.environ.items() if name != "WANDB_RUN_GROUP"}
    subprocess.run(command, cwd=root, env={**env, "WANDB_MODE": "offline"}, check=True, timeout=600)
    lines = (run / "report/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["group"] == "tiny-1", "the report is in the group of the stages"
    keys = {one["name"] for one in events if one.get("event") in ("table", "image")}
    (offline,) = run.glob("report/wandb/offline-run-*")
    media = {path.name for path in offline.glob("files/media/**/*") if path.is_file()}
    assert any(fnmatch(name, "funnel_*.png") for name in media), "W&B's own copy of a picture"
    assert any(name.endswith(".table.json") for name in media)
    page = (root / "docs/run_page.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `report` \|.*$", page, re.MULTILINE)
    said = set(re.findall(r"`([\w/*]+)`", row)) - {"report"}
    assert {key for key in keys if not any(fnmatch(key, name) for name in said)} == set()
    assert {"funnel", "seconds", "plots/funnel", "plots/benchmarks", "plots/training_sft"} <= keys


def test_functions_of_the_users_are_named(run: Path, tmp_path: Path) -> None:
    path = run / "filter/receipt.json"
    named = {"my_filters.py:keep": "0123456789abcdef"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "functions": named}))
    write_run_page(run, tmp_path / "page.html")
    stages = blocks(tmp_path / "page.html")["facts"]["stages"]
    assert [(one["folder"], one["functions"]) for one in stages if one["functions"]] == [("filter", named)]


def test_a_run_ends_with_its_page_and_never_fails_by_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_at_end(tmp_path / "empty")
    assert capsys.readouterr() == ("", "")
    write_at_end(run)
    assert f"page:     {run}/index.html" in capsys.readouterr().out
    written = (run / "index.html").stat().st_mtime_ns
    write_at_end(run)
    assert (run / "index.html").stat().st_mtime_ns == written, "nothing has changed"
    (run / "index.html").unlink()

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no\nspace")

    monkeypatch.setattr(page_module, "write_run_page", broken)
    write_at_end(run)
    assert "the page of this run was not written: no space" in capsys.readouterr().err


def test_durations_are_said_as_a_person_says_them() -> None:
    assert [duration(seconds) for seconds in (48.2, 725, 12_000)] == ["48 s", "12 min 5 s", "3 h 20 min"]


def test_the_script_writes_page_and_plots(run: Path, tmp_path: Path, root: Path, quick_python: str) -> None:
    command = [quick_python, "scripts/run_page.py", str(run), "--output_file", str(tmp_path / "p.html")]
    command += ["--plots", str(tmp_path / "plots")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"written to {tmp_path}/p.html" in done.stdout
    assert (tmp_path / "plots/funnel.pdf").exists()
    wrong = subprocess.run(
        [*command[:2], str(tmp_path / "none")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_a_browser_shows_hostile_texts_as_text(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    rows = [
        {
            "id": "q",
            "question": f"{EVIL} \u05e9\u05dc\u05d5\u05dd \x00 $x^2$ ${'x' * 100_000}$",
            "generator": EVIL,
        },
    ]
    made = stage(tmp_path / "run/generate", "generate_questions", rows) / "receipt.json"
    made.write_text(json.dumps({**json.loads(made.read_text()), "functions": {"my.py:<b>": "0123"}}))
    page = tmp_path / "page.html"
    write_run_page(tmp_path / "run", page, title="A run")
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--virtual-time-budget=20000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
    assert "<title>A run</title>" in done.stdout
    assert 'data-ready="true"' in done.stdout
    assert "&lt;script&gt;document.title = 'owned'&lt;/script&gt;" in done.stdout
    assert "katex-html" in done.stdout
    assert "generate: with my.py:&lt;b&gt; (sha256 0123)." in done.stdout
    assert "more characters left out" in done.stdout
