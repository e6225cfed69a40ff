from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from evaluation_support import command, environment

from fault_server import Answer, Asked, FaultServer, completion, error
from scalequest.atomic_files import StageError
from scalequest.config import ConfigError, RunOptions, build
from scalequest.evaluation.benchmarks import LoadedBenchmark
from scalequest.evaluation.comparison import read_outputs
from scalequest.evaluation.export import write_lm_eval
from scalequest.evaluation.harness import SavedSubmission, check_same_questions, submissions_of
from scalequest.evaluation.output_grading import Submission
from scalequest.evaluation.problems import AnswerRule, BenchmarkProblem
from scalequest.evaluation.prompts import EvalPrompt
from scalequest.evaluation.results import read_results, write_results
from scalequest.evaluation.settings import EvaluationConfig
from scalequest.evaluation.statistics import share_of
from scalequest.records import read_rows

Script = Callable[..., "subprocess.CompletedProcess[str]"]

LIMIT = 20


def words(model: Path, output: Path, *more: object) -> list[str]:
    """An evaluation of one model under two labels on two splits, on transformers."""
    benchmarks = ["eval/benchmarks/tinymath_test.yaml", "eval/benchmarks/tinymath_longer.yaml"]
    models = f"{{one: {model}, the other: {model}}}"
    given = [
        "--models",
        models,
        "--benchmarks",
        *benchmarks,
        "--chat_format",
        "tinymath",
        "--output_dir",
        output,
    ]
    given += [
        "--engine.name",
        "transformers",
        "--sampling.max_tokens",
        12,
        "--limit",
        LIMIT,
        "--block_size",
        4,
    ]
    return [str(word) for word in [*given, "--track", "none", *more]]


@pytest.fixture(scope="module")
def evaluated(
    root: Path, model_dir: Path, quick_python: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Folder of an undisturbed evaluation, and what it printed."""
    output = tmp_path_factory.mktemp("evaluated")
    done = subprocess.run(
        [quick_python, *command(root, "evaluate.py", *words(model_dir, output))[1:]],
        capture_output=True,
        text=True,
        env=environment(root),
        cwd=root,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


def test_every_completion_is_kept(evaluated: tuple[Path, str]) -> None:
    rows = read_rows(evaluated[0] / "one")
    assert [row["benchmark"] for row in rows] == ["tinymath_test"] * LIMIT + ["tinymath_longer"] * LIMIT
    assert len({row["prompt_sha256"] for row in rows}) == 2 * LIMIT
    assert {"completion", "finish_reason", "tokens", "extracted", "rule", "correct"} <= set(rows[0])
    assert rows == read_rows(evaluated[0] / "the other")


def test_results_say_how_they_came_about(evaluated: tuple[Path, str]) -> None:
    output, shown = evaluated
    results = read_results(output / "one" / "results.json")
    rows = read_rows(output / "one")
    assert [result.benchmark for result in results] == ["tinymath_test", "tinymath_longer"]
    for result in results:
        mine = [row for row in rows if row["benchmark"] == result.benchmark]
        assert result.n == LIMIT
        assert result.accuracy == share_of(sum(row["correct"] for row in mine), LIMIT)
        assert result.timeouts == 0
        assert {"question words", "output tokens"} <= set(result.split)
        assert result.truncated == sum(row["finish_reason"] == "length" for row in mine) / LIMIT
        assert result.no_answer == sum(row["extracted"] is None for row in mine) / LIMIT
        assert sum(estimate.n for estimate in result.split["steps"].values()) == LIMIT
        protocol = result.protocol
        assert (protocol["engine"], protocol["dtype"], protocol["limit"]) == (
            "transformers",
            "float32",
            LIMIT,
        )
        assert protocol["engine_version"]
        assert list(protocol["prompts"]) == ["question"]
        assert protocol["grading"]["units"] == "optional"
        assert len(protocol["commit"]) >= 40
        assert protocol["grader"].startswith("scalequest-")
        assert protocol["sampling"] == {"temperature": 0.0, "top_p": 1.0, "max_tokens": 12}
    other = read_results(output / "the other" / "results.json")
    assert [result.fingerprint for result in other] == [result.fingerprint for result in results]
    assert "TinyMath longer" in shown
    assert len(read_rows(output)) == 4
    assert json.loads((output / "receipt.json").read_text())["finished"]


def test_it_is_not_done_twice(evaluated: tuple[Path, str], script: Script, model_dir: Path) -> None:
    output, shown = evaluated
    before = (output / "one" / "receipt.json").stat().st_mtime_ns
    again = script("evaluate.py", *words(model_dir, output))
    assert "already finished" in again.stdout
    assert again.stdout.splitlines()[-1] == shown.splitlines()[-1]
    assert (output / "one" / "receipt.json").stat().st_mtime_ns == before
    other = script("evaluate.py", *words(model_dir, output, "--truncated", "graded"), check=False)
    assert other.returncode == 2
    assert 'truncated: "wrong" -> "graded"' in other.stderr


@pytest.mark.parametrize("killed", ["starter", "group", "subreaper"])
def test_killed_and_started_again_it_gives_the_same_rows(
    killed: str, evaluated: tuple[Path, str], root: Path, model_dir: Path, tmp_path: Path, script: Script
) -> None:
    process = subprocess.Popen(
        command(root, "evaluate.py", *words(model_dir, tmp_path)),
        env=environment(root),
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    parts, deadline = tmp_path / "one" / "parts", time.monotonic() + 120
    while not list(parts.glob("0*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3, "the subreaper, the model's process and its grading process"
    if killed == "starter":
        process.kill()
    elif killed == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        family[0].kill()
    process.wait(60)
    assert list(parts.glob("0*.jsonl"))
    _, left = psutil.wait_procs(family, timeout=20)
    assert not left
    assert not json.loads((tmp_path / "one" / "receipt.json").read_text())["finished"], "it ran to its end"
    assert not (tmp_path / "the other").exists()
    if killed == "subreaper":  # once to its end without a fork
        plain = command(root, "evaluate.py", *words(model_dir, tmp_path))
        subprocess.run(plain, env=environment(root), cwd=root, check=True, stdout=subprocess.DEVNULL)
    else:
        script("evaluate.py", *words(model_dir, tmp_path))
    for label in ("one", "the other"):
        assert read_rows(tmp_path / label) == read_rows(evaluated[0] / label)
        whole, resumed = (
            read_results(folder / label / "results.json") for folder in (evaluated[0], tmp_path)
        )
        for old, new in zip(whole, resumed, strict=True):
            assert replace(new, protocol=old.protocol, fingerprint=old.fingerprint, commit=old.commit) == old


@pytest.mark.slow
def test_an_engine_in_a_process_of_its_own_is_gone_after_a_kill(
    root: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """vLLM's engine does not notice that its starter is gone, and would keep the memory."""
    pytest.importorskip("vllm")
    given = words(tiny_model, tmp_path)
    for key, value in (("--engine.name", "vllm"), ("--limit", "1500"), ("--sampling.max_tokens", "100")):
        given[given.index(key) + 1] = value
    process = subprocess.Popen(
        command(root, "evaluate.py", *given),
        env={**environment(root), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        cwd=root,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    engine, deadline = False, time.monotonic() + 500
    while not engine and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.5)
        family = psutil.Process(process.pid).children(recursive=True)
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                engine = engine or "EngineCore" in " ".join(one.cmdline())
    assert engine
    os.killpg(process.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(family, timeout=20)
    assert not left


def test_a_removed_models_folder_is_made_again(
    evaluated: tuple[Path, str], model_dir: Path, tmp_path: Path, script: Script
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(evaluated[0], whole)
    shutil.rmtree(whole / "the other")
    kept = (whole / "one" / "receipt.json").read_bytes()
    script("evaluate.py", *words(model_dir, whole))
    assert read_rows(whole / "the other") == read_rows(evaluated[0] / "the other")
    assert len(read_rows(whole)) == 4
    assert (whole / "one" / "receipt.json").read_bytes() == kept


def test_fresh_leaves_nothing_that_a_report_could_take_for_new(
    evaluated: tuple[Path, str], model_dir: Path, tmp_path: Path, script: Script
) -> None:
    """Not even of a model that is no longer asked, and not where the new run fails at its start."""
    before = tmp_path / "whole"
    shutil.copytree(evaluated[0], before)
    for name in ("audit.html", "notes.txt"):
        (before / "the other" / name).write_text("of before")
    given = words(model_dir, before, "--fresh", "--engine.extra", "{typo: 1}")
    given[1] = f"{{one: {model_dir}}}"
    done = script("evaluate.py", *given, check=False)
    assert done.returncode != 0
    assert sorted(str(path.relative_to(before)) for path in before.rglob("*.json")) == [
        "one/receipt.json", "receipt.json", "the other/receipt.json",
    ]  # fmt: skip
    assert not json.loads((before / "the other/receipt.json").read_text())["finished"]
    assert not [path for path in before.rglob("*") if path.suffix in (".html", ".parquet")]
    assert (before / "the other/notes.txt").read_text() == "of before"


@pytest.mark.parametrize("place", ["{output}", "{output}/one", "{output}/deeper/sft"])
def test_fresh_does_not_remove_the_model_that_is_asked(
    model_dir: Path, tmp_path: Path, script: Script, place: str
) -> None:
    output = tmp_path / "out"
    model = Path(place.format(output=output))
    shutil.copytree(model_dir, model)
    before = {path: path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()}
    done = script("evaluate.py", *words(model, output, "--fresh"), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "which this stage reads" in done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_saved_outputs_are_graded_again(evaluated: tuple[Path, str], script: Script, tmp_path: Path) -> None:
    before, after = evaluated[0], tmp_path / "again"
    done = script("evaluate.py", "--regrade", before, "--output_dir", after)
    assert "one: graded 40 outputs again, 0 verdicts changed" in done.stdout
    assert read_rows(after / "one") == read_rows(before / "one")
    old, new = (read_results(folder / "one" / "results.json") for folder in (before, after))
    assert [r.fingerprint for r in new] == [r.fingerprint for r in old]
    assert [r.model_fingerprint for r in new] == [r.model_fingerprint for r in old]
    stricter = script(
        *("evaluate.py", "--regrade", before, "--output_dir", tmp_path / "cut", "--truncated", "graded")
    )
    assert " outputs again" in stricter.stdout
    (one, _) = read_results(tmp_path / "cut" / "one" / "results.json")
    assert one.protocol["truncated"] == "graded"
    for same in (("--regrade", before, "--output_dir", before), (f"--regrade={before}", "--fresh", "true")):
        receipt = (before / "receipt.json").read_bytes()
        done = script("evaluate.py", *same, check=False)
        assert done.returncode == 2
        assert "output_dir: must differ from the folder of the outputs" in done.stderr
        assert (before / "receipt.json").read_bytes() == receipt


def test_one_process_of_a_launch_grades_again(
    evaluated: tuple[Path, str], root: Path, tmp_path: Path
) -> None:
    given = command(root, "evaluate.py", "--regrade", evaluated[0], "--output_dir", tmp_path / "again")
    other = {**environment(root), "RANK": "1", "WORLD_SIZE": "2"}
    done = subprocess.run(given, capture_output=True, text=True, env=other, cwd=root)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "again").exists()


def test_a_folder_that_was_moved_is_graded_elsewhere(
    evaluated: tuple[Path, str], root: Path, tmp_path: Path
) -> None:
    """Its settings name the old folder, which may be another evaluation's by now."""
    add_saved_settings = runpy.run_path(str(root / "eval/evaluate.py"))["add_saved_settings"]
    config = ["--config", str(tmp_path / "config.yaml")]
    moved = str(tmp_path)
    assert add_saved_settings(["--regrade", moved]) == [*config, "--output_dir", moved, "--regrade", moved]
    assert add_saved_settings([f"--regrade={moved}"]) == [
        *config,
        "--output_dir",
        moved,
        f"--regrade={moved}",
    ]
    there = ["--regrade", moved, "--output_dir=new"]
    assert add_saved_settings(there) == [*config, *there]
    for kept in (["--regrade"], ["--config", "c.yaml", "--regrade", moved], ["--models", "{}"]):
        assert add_saved_settings(kept) == kept


def test_outputs_are_not_graded_against_other_questions(
    evaluated: tuple[Path, str], script: Script, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    shutil.copytree(evaluated[0], before)
    path = before / "one" / "results.json"
    old = read_results(path)
    write_results(
        path.parent, [replace(r, protocol={**r.protocol, "benchmark_sha256": "0" * 64}) for r in old]
    )
    done = script("evaluate.py", "--regrade", before, "--output_dir", tmp_path / "after", check=False)
    assert done.returncode == 2
    assert "regrade: tinymath_test differs from the original evaluation in benchmark_sha256 " in done.stderr
    assert "instead of 000000000000" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "after" / "one").exists()
    more = ("--regrade", evaluated[0], "--output_dir", tmp_path / "after", "--fresh", "true", "--limit", 30)
    assert "limit 30 instead of 20" in script("evaluate.py", *more, check=False).stderr


def test_a_benchmark_that_was_not_asked_is_not_regraded(evaluated: tuple[Path, str]) -> None:
    """Without outputs, it would be reported as 0 %."""
    config = EvaluationConfig(models={"one": "x"}, benchmarks=[], chat_format="tinymath")
    problem = BenchmarkProblem("1", "?", "7")
    more = LoadedBenchmark("more", "More", (problem,), "0" * 64)
    with pytest.raises(ConfigError, match="regrade: the original evaluation did not ask more"):
        check_same_questions(read_results(evaluated[0] / "one" / "results.json"), config, [more])


def test_other_scores_are_another_input(root: Path, tmp_path: Path) -> None:
    """Else a finished folder would keep the best@k of the old ones."""
    given = runpy.run_path(str(root / "eval/evaluate.py"))["open_folder"]
    scores, settings = tmp_path / "s.jsonl", {"temperature": 0.7, "top_p": 1.0, "max_tokens": 8}
    config = build(
        (EvaluationConfig,),
        {
            **{"models": {"m": "name"}, "benchmarks": [], "server": {"url": "http://x"}, "samples": 2},
            **{"sampling": settings, "score": "reward", "scores": {"m": str(scores)}},
        },
    )[0]
    run = RunOptions(output_dir=str(tmp_path / "out"))
    scores.write_text('{"reward": 1}\n')
    stage = given("evaluate_model", run, config, ["m"], [])
    assert list(stage.receipt["inputs"]) == ["name", str(scores)]
    assert stage.receipt["fingerprint_fields"]["inputs"][0] == "server:name"
    stage.close()
    scores.write_text('{"reward": 2}\n')
    with pytest.raises(StageError, match="inputs"):
        given("evaluate_model", run, config, ["m"], [])


def test_the_audit_is_a_page(evaluated: tuple[Path, str], script: Script, model_dir: Path) -> None:
    """Of the finished evaluation, with every output that the two graders judge otherwise."""
    done = script("evaluate.py", *words(model_dir, evaluated[0]), "--audit", "true")
    said = re.search(r"one: math-verify judges (\d+) of 40 outputs differently", done.stdout)
    assert said
    assert int(said[1]) <= 2  # noise of an untrained model
    page = (evaluated[0] / "one" / "audit.html").read_text()
    assert f"{said[1]} of 40 rows differ" in page
    assert page.count("tinymath-test-") + page.count("tinymath-longer-") == int(said[1])


def test_a_server_is_asked_and_graded(script: Script, tmp_path: Path) -> None:
    """Messages instead of ids; what the server does not answer counts as wrong."""

    def behave(one: Asked) -> Answer:
        if one.number == 0:
            return error(400, "too long")
        return completion("\\boxed{53}", "length" if one.number == 1 else "stop")

    with FaultServer(behave).running() as server:
        given = ["--models", "{remote: m}", "--server.url", server.url, "--server.concurrency", "1"]
        given += ["--benchmarks", "eval/benchmarks/tinymath_test.yaml", "--limit", "6", "--track", "none"]
        given += ["--server.extra", "{top_k: 5}"]
        script("evaluate.py", *given, "--output_dir", tmp_path)
        asked = [one.text for one in server.asked]
    assert len(asked) == 6
    assert all(text.endswith("put your final answer within \\boxed{}.") for text in asked)
    (result,) = read_results(tmp_path / "remote" / "results.json")
    rows = read_rows(tmp_path / "remote")
    assert len(rows) == 5
    assert result.n == 6
    assert result.correct == sum(row["reference"] == "53" and not row["truncated"] for row in rows)
    assert (result.truncated, result.no_answer) == (1 / 6, 1 / 6)
    assert (result.protocol["engine"], result.protocol["chat_format"]) == ("server", "the server's")
    assert result.protocol["request"] == {"top_k": 5}
    every = read_outputs(tmp_path / "remote")
    assert (len(every), sum(row["correct"] for row in every)) == (6, result.correct)
    script("evaluate.py", "--regrade", tmp_path, "--output_dir", tmp_path / "again")
    assert read_outputs(tmp_path / "again" / "remote") == every
    assert read_results(tmp_path / "again" / "remote" / "results.json")[0].accuracy == result.accuracy


def test_outputs_are_handed_in_as_when_they_came(root: Path, tmp_path: Path) -> None:
    """For math-verify and for grading again: prompt stops, opened reasoning, several references."""
    text = (root / "src/scalequest/chat/families/tinymath.yaml").read_text()
    given = "<|user|>{question}<|end|><|assistant|>"
    assert f"solve:\n  prompt: {given}\n" in text
    opening = text.replace(f"  prompt: {given}\n", f"  prompt: {given}<think>\n")
    (tmp_path / "thinking.yaml").write_text(opening)
    models = {"plain": "x", "thinking": "y"}
    formats = {"thinking": str(tmp_path / "thinking.yaml")}
    config = EvaluationConfig(models=models, benchmarks=[], chat_format="tinymath", chat_formats=formats)
    prompt = EvalPrompt(name="p", text="{question}", stops=["\nProblem:"])
    problem = BenchmarkProblem("1", "?", "7", also=("8",))
    benchmark = LoadedBenchmark("b", "B", (problem,), "0" * 64, prompts=(prompt,))
    row = {"benchmark": "b", "id": "1", "prompt": "p", "sample": 0, "finish_reason": "length"}
    texts = ["So 7.</think>It is 8.\nProblem: 5", "It is 8.\nProblem: 5", "It is 8"]
    rows = [{**row, "completion": one} for one in texts]

    def handed(label: str) -> list[tuple[str, bool]]:
        found = submissions_of(rows, config, label, [benchmark])
        assert all(one.submission.references == ("7", "8") for one in found)
        return [(one.submission.text, one.truncated) for one in found]

    assert handed("plain") == [("It is 8.", False), ("It is 8.", False), ("It is 8", True)]
    assert handed("thinking") == [("It is 8.", False), ("", True), ("", True)]


def test_a_models_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_MODELS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"a": "$SOME_MODELS/a", "b": "~/b", "c": "./c", "d": "owner/d"}
    config = EvaluationConfig(models=given, benchmarks=[], chat_format="tinymath")
    assert list(config.swept().models.values()) == [f"{tmp_path}/a", f"{tmp_path}/b", "./c", "owner/d"]
    monkeypatch.delenv("SOME_MODELS")
    with pytest.raises(ConfigError, match="SOME_MODELS is not set"):
        config.swept()


def test_a_sweep_is_in_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (100, 20, 3):
        (tmp_path / f"checkpoint-{number}").mkdir()
    given = {"models": {"sft": f"{tmp_path}/checkpoint-*"}, "chat_formats": {"sft": "alpaca"}}
    config = build((EvaluationConfig,), {**given, "benchmarks": [], "chat_format": "tinymath"})[0].swept()
    assert list(config.models) == [f"sft checkpoint-{number}" for number in (3, 20, 100)]
    assert config.format_of("sft checkpoint-20") == "alpaca"


def test_a_model_that_fails_stops_everything_in_one_line(script: Script, tmp_path: Path) -> None:
    done = script("evaluate.py", *words(tmp_path / "nothing", tmp_path / "out"), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"only": "missing"}, "no model has the label 'missing'; the labels are one"),
        ({"chat_formats": {"missing": "llama3"}}, "chat_formats: no model has the label 'missing'"),
        ({"revisions": {"a": "b"}}, "revisions: no model has the label 'a'"),
        ({"models": {"a/b": "x"}}, "label 'a/b' cannot be used as a folder name: it contains '/'"),
        ({"models": {"data": "x"}}, "label 'data' cannot be used as a folder name"),
        ({"sampling": {"max_token": 5}}, "did you mean 'sampling.max_tokens'"),
        ({"samples": 4}, "greedy outputs are all identical"),
        ({"chat_format": None}, "chat_format: missing; it can be omitted only if server"),
        ({"scores": {"one": "x"}}, "scores: name the score column with score"),
        ({"score": "reward", "scores": {"oen": "x"}}, "scores: no file with 'reward' for 'one'"),
    ],
)
def test_mistakes(more: dict[str, object], message: str) -> None:
    given = {"models": {"one": "x"}, "benchmarks": [], "chat_format": "tinymath", "output_dir": "out"}
    with pytest.raises(ConfigError, match=message):
        build((RunOptions, EvaluationConfig), {**given, **more})


LABELS = [
    *(
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "a\\b",
        ".hidden",
        "-option",
        "a.",
        "a ",
        " a",
        "a\n",
        "a\x00b",
        "\x1b[2J",
    ),
    *("a\u202eb", "a\u200bb", "x" * 129, "é" * 65, "nul", "Con.txt", "COM²", "a:b", "a*b", "a?", "a|b"),
    *(
        "data",
        "Data",
        "dropped",
        "parts",
        "PARTS",
        "a.tmp",
        "receipt.json",
        "README.md",
        "config.yaml",
        "wandb",
    ),
]


@pytest.mark.parametrize("label", LABELS, ids=ascii)
def test_a_label_that_is_no_folder_of_its_own_is_refused(label: str) -> None:
    given = {"models": {"one": "x", label: "y"}, "benchmarks": [], "chat_format": "tinymath"}
    with pytest.raises(ConfigError, match=r"models: label .* cannot be used as a folder name: ") as caught:
        build((EvaluationConfig,), given)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("other", ["ONE", "One é", "one e\u0301", "ONE É"])
def test_labels_that_are_one_folder_on_some_systems_are_refused(other: str) -> None:
    models = {"one": "x", "one é": "x", other: "y"}
    with pytest.raises(ConfigError, match="differ only in case"):
        build((EvaluationConfig,), {"models": models, "benchmarks": [], "chat_format": "tinymath"})


def test_labels_as_people_write_them_are_taken() -> None:
    labels = [
        "tiny-base + SFT",
        "untuned solver's questions",
        "Qwen2.5 (7B), 8 shots",
        "数学",
        "a_b.c",
        "x" * 128,
    ]
    given = {"models": dict.fromkeys(labels, "x"), "benchmarks": [], "chat_format": "tinymath"}
    assert list(build((EvaluationConfig,), given)[0].models) == labels


def test_a_sweep_does_not_take_the_label_of_another_model(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    models = {"sft checkpoint-3": "x", "sft": f"{tmp_path}/checkpoint-*"}
    config = build((EvaluationConfig,), {"models": models, "benchmarks": [], "chat_format": "tinymath"})[0]
    with pytest.raises(ConfigError, match="duplicate label 'sft checkpoint-3'"):
        config.swept()


@pytest.mark.parametrize(("model", "benchmark"), [("..", "b"), (".", "b"), ("m", "../b"), ("m", "x" * 200)])
def test_an_export_stays_in_its_folder(
    evaluated: tuple[Path, str], tmp_path: Path, model: str, benchmark: str
) -> None:
    """A result file may be somebody else's."""
    results = [replace(read_results(evaluated[0] / "one/results.json")[0], model=model, benchmark=benchmark)]
    receipt = json.loads((evaluated[0] / "one/receipt.json").read_text())
    with pytest.raises(ConfigError, match="cannot be used as a file name"):
        write_lm_eval(tmp_path / "inner", results, [], receipt)
    assert not list(tmp_path.iterdir())


def test_two_benchmarks_of_one_title_are_refused(script: Script, root: Path, tmp_path: Path) -> None:
    first = root / "eval/benchmarks/tinymath_test.yaml"
    text = first.read_text().replace("source: ", f"source: {first.parent}/")
    (tmp_path / "b.yaml").write_text(text.replace("name: tinymath_test", "name: again"))
    given = ("--models", "{one: x}", "--chat_format", "tinymath", "--benchmarks", first, tmp_path / "b.yaml")
    done = script("evaluate.py", *given, "--output_dir", tmp_path / "out", check=False)
    assert done.returncode == 2
    assert "'tinymath_test' and 'again' have the same title, 'TinyMath'" in done.stderr


def test_a_page_shows_no_whole_output(root: Path) -> None:
    audited_row_of = runpy.run_path(str(root / "eval/evaluate.py"))["audited_row_of"]
    config = EvaluationConfig(models={"one": "x"}, benchmarks=[], chat_format="tinymath")
    saved = SavedSubmission({}, False, Submission("It is 7.", ("7",), AnswerRule()))

    def shown(answer: str | None) -> str | None:
        row = audited_row_of({"extracted": answer, "truncated": False}, saved, config)
        return row["extracted"] and f"{len(row['extracted'])} {row['extracted'][:1]}"

    assert (shown(None), shown("7"), shown("7" * 5_000)) == (None, "1 7", "300 7")


def test_nothing_to_evaluate_is_one_line(script: Script, tmp_path: Path) -> None:
    given = ("--chat_format", "tinymath", "--benchmarks", "eval/benchmarks/tinymath_test.yaml")
    done = script("evaluate.py", "--models", "{}", *given, "--output_dir", tmp_path / "out", check=False)
    assert (done.returncode, done.stderr) == (2, "error: models: give at least one\n")


@pytest.mark.parametrize("name", ["evaluate.py", "report.py", "recipes/tiny/measure_questions.py"])
def test_help_imports_no_torch(name: str, root: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{name!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({command(root, name)[1]!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'transformers', 'vllm', 'trl', 'datasets', 'sympy', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(root), cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert "--output_dir" in done.stdout
