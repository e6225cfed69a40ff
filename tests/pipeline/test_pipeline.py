from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from scalequest.config import ConfigError
from scalequest.pipeline.runner import load, plan, read_state, wanted
from scalequest.stage.launch import STOP_SECONDS, STOP_VARIABLE

# A data stage as ours are, which can also leave a helper in a session of its own, as launchers do.
STAGE = """
import subprocess, sys, time
from dataclasses import dataclass
from scalequest.config import RunOptions, fingerprint_fields, option, to_dict
from scalequest.recipe import Recipe, run_recipe
from scalequest.records import read_rows, source_fingerprint
from scalequest.stage.folder import Stage

@dataclass(frozen=True)
class Numbers(RunOptions):
    source: str | None = option(None)
    rows: int = option(40)
    pause: float = option(0.0, fingerprint=False)
    die: bool = option(False, fingerprint=False)
    helper: bool = option(False, fingerprint=False)

def main(config):
    inputs = {config.source: source_fingerprint(config.source)} if config.source else {}
    stage = Stage.open(config.output_dir, name="numbers", version=1, config=to_dict(config),
                       fingerprint=fingerprint_fields(config), inputs=inputs, fresh=config.fresh)
    print("asked", file=open(config.output_dir + ".asked", "a"))
    if stage.finished:
        return
    if config.die:
        print("about to fail")
        raise SystemExit(3)
    rows = [{"id": f"n-{i}", "n": i} for i in range(config.rows)]
    rows = read_rows(config.source) if config.source else rows
    rows = rows[:config.limit]
    if config.helper:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    for index, block in stage.blocks.pending(len(rows), 4):
        time.sleep(config.pause)
        some = [dict(rows[i]) for i in block]
        dropped = [(row, "round") for row in some if row["n"] % 10 == 0]
        stage.blocks.write(index, [row for row in some if row["n"] % 10], dropped)
    stage.finish(rows_in=len(rows), card="numbers", tokens=1000, seconds=2.0)

RECIPE = Recipe("numbers", 1, "evaluation", lambda: (Numbers,), main)
if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, "counts"))
"""


# A stage of one block that takes a while, and says so as our engines do.
LONG = """
import sys, time
from scalequest import heartbeat
from scalequest.config import RunOptions, to_dict
from scalequest.engines.base import Completion
from scalequest.stage.block_loop import stream
from scalequest.recipe import Recipe, run_recipe
from scalequest.stage.script import open_stage

def answer(blocks):
    for index, numbers in blocks:
        for number in numbers:
            time.sleep(0.1)
            heartbeat.finished(tokens=50)
        yield index, [Completion(str(number), (), "stop", 3, 50) for number in numbers]

def main(run):
    stage = open_stage("long", 1, run, run, inputs={})
    heartbeat.now("loading the model")
    time.sleep(1)
    stream(stage, 40, 40, requests=lambda n: [n], generate=answer, row=lambda n, replies: {"id": str(n)})
    stage.finish(rows_in=40, card="long")

RECIPE = Recipe("long", 1, "evaluation", lambda: (RunOptions,), main)
if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, "long"))
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., Path]:
    """Write a pipeline of two stages and a report; keywords are the first stage's args."""
    return pipeline_in(tmp_path)


def pipeline_in(tmp_path: Path) -> Callable[..., Path]:
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "report.py").write_text("print('the report')\n")
    (tmp_path / "rows.yaml").write_text("rows: 40\n")
    (tmp_path / "more.yaml").write_text("seed: 1\n")

    def write(**args: Any) -> Path:
        path = tmp_path / "pipeline.yaml"
        stages = [
            {"name": "first", "script": "stage.py", "config": "rows.yaml", "args": args},
            {
                "name": "second",
                "script": "stage.py",
                "config": "more.yaml",
                "args": {"source": "${output}/first"},
            },
            {"name": "report", "script": "report.py", "always": True},
        ]
        for stage in stages:
            for key in ("script", "config"):
                if key in stage:
                    stage[key] = str(tmp_path / str(stage[key]))
        path.write_text(json.dumps({"name": "demo", "stages": stages}))  # JSON is YAML
        return path

    return write


def start(path: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "recipes/run.py", str(path), "--output", str(output), *more]
    return subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has them ignore it, and their children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def run(path: Path, output: Path, *more: str) -> tuple[int, str]:
    process = start(path, output, *more)
    text = process.communicate(timeout=300)[0]
    return process.returncode, text


def asked(output: Path, stage: str) -> int:
    file = output / f"{stage}.asked"
    return len(file.read_text().splitlines()) if file.exists() else 0


def data(output: Path) -> dict[str, bytes]:
    files = sorted(output.glob("*/data/*")) + sorted(output.glob("*/dropped/*"))
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


def wait_for(what: Callable[[], object], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def test_runs_shows_and_then_skips_without_starting_anything(
    pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    path, output = pipeline(), tmp_path / "runs"
    status, text = run(path, output)
    assert status == 0, text
    command = next(line for line in text.splitlines() if line.startswith("[1/3] first: "))
    assert shlex.split(command)[3:5] == [str(tmp_path / "stage.py"), "--config"]
    assert "first: done, 40 in, 36 kept, 4 dropped" in text
    assert "500 tokens/s" in text
    assert "the report" in text
    assert (asked(output, "first"), asked(output, "second")) == (1, 1)
    spent = {name: one["cpu_seconds"] for name, one in read_state(output)["stages"].items()}
    assert all(seconds > 0 for seconds in spent.values()), "a Python process takes more than 0.05 s to start"

    status, text = run(path, output)
    assert status == 0
    assert read_state(output)["stages"]["second"]["cpu_seconds"] == spent["second"]
    assert "second: finished before" in text
    assert "the report" in text
    assert (asked(output, "first"), asked(output, "second")) == (1, 1)

    # Neither other code nor what changes no row starts a stage; what changes rows does, and it refuses.
    (tmp_path / "stage.py").write_text(STAGE + "# other code\n")
    (tmp_path / "more.yaml").write_text("seed: 1\nblock_size: 256\n")
    status, text = run(path, output)
    assert (asked(output, "first"), asked(output, "second")) == (1, 1), text
    assert status == 0
    assert "first: finished before" in text
    (tmp_path / "more.yaml").write_text("seed: 2\n")
    status, text = run(path, output)
    assert status == 2, text
    assert "seed: 1 -> 2" in text


def test_a_stage_is_asked_again_if_what_it_reads_was_made_anew(
    pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    path, output = pipeline(), tmp_path / "runs"
    assert run(path, output)[0] == 0
    shutil.rmtree(output / "first")
    status, text = run(path, output)
    assert status == 0, text
    assert "first: done, 40 in" in text
    assert "second: finished before" in text
    assert (asked(output, "first"), asked(output, "second")) == (2, 2)
    shutil.rmtree(output / "first")
    status, text = run(pipeline(rows=20), output)
    assert status == 2
    assert "first: done, 20 in" in text
    assert "error: stage second ended" in text


def test_signs_of_life_without_a_terminal(
    pipeline: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEQUEST_LIFE_SECONDS", "0.5")
    path, output = tmp_path / "long.yaml", tmp_path / "runs"
    (tmp_path / "long.py").write_text(LONG)
    (tmp_path / "nothing.yaml").write_text("seed: 1\n")
    stage = {"name": "one", "script": str(tmp_path / "long.py"), "config": str(tmp_path / "nothing.yaml")}
    path.write_text(json.dumps({"name": "demo", "stages": [stage]}))
    began = time.monotonic()
    status, text = run(path, output)
    assert status == 0, text
    told = [line for line in text.splitlines() if line.startswith("[1/1] one: ")]
    block = r"0 of 40 rows, [1-9]\d? of 40 requests, [\d.]+ requests/s, \d+ tokens/s, 0:00:0\d left"
    assert any(re.fullmatch(rf"\[1/1\] one: {block}", line) for line in told), text
    assert any(re.fullmatch(r"\[1/1\] one: loading the model, \d s", line) for line in told), text
    assert len(told) <= 2 + (time.monotonic() - began) / 0.5
    log = (output / "logs/one.log").read_text()
    assert re.search(rf"^\d\d:\d\d:\d\d long: {block}$", log, re.MULTILINE), log
    assert [file.name for file in (output / "logs").iterdir()] == ["one.log"]


def test_signs_of_life_of_a_stage_that_says_nothing_itself(
    pipeline: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEQUEST_LIFE_SECONDS", "0.5")
    status, text = run(pipeline(pause=0.2, helper=True), tmp_path / "runs", "--to", "first")
    assert status == 0, text
    assert re.search(
        r"^\[1/3\] first: running, .*\d+ kept, \d+ dropped, [\d.]+ s, [\d.]+ rows/s$", text, re.M
    )
    monkeypatch.setenv("SCALEQUEST_LIFE_SECONDS", "often")
    status, text = run(pipeline(), tmp_path / "runs")
    assert (status, text.count("error:")) == (2, 1)
    assert "SCALEQUEST_LIFE_SECONDS: expected a number of seconds above 0, got 'often'" in text


def test_other_settings_are_refused_and_fresh_starts_again(
    pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    assert run(pipeline(), output)[0] == 0
    status, text = run(pipeline(rows=20), output)
    assert status == 2, text
    assert "40 -> 20" in text
    assert "go on from here:   python recipes/run.py" in text
    status, text = run(pipeline(rows=20), output, "--fresh")
    assert status == 0
    assert "first: done, 20 in" in text
    assert "second: done, 18 in" in text


def test_a_failed_stage_shows_its_last_lines_and_how_to_go_on(
    pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    status, text = run(pipeline(die=True), tmp_path / "runs")
    assert status == 3
    assert "about to fail" in text
    assert "stage first ended with exit status 3" in text
    alone = next(line for line in text.splitlines() if line.startswith("this stage alone:"))
    assert shlex.split(alone)[-4:] == ["--die", "true", "--output_dir", str(tmp_path / "runs/first")]
    assert run(pipeline(), tmp_path / "runs")[0] == 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the two stages, run in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(pipeline_in(folder)(), folder / "runs")[0] == 0
    return folder / "runs"


@pytest.mark.parametrize(
    ("who", "number"),
    [
        *[(who, signal.SIGKILL) for who in ("run", "group", "guard")],
        *[(who, number) for who in ("run", "group") for number in (signal.SIGTERM, signal.SIGINT)],
    ],
)
def test_nothing_outlives_a_killed_run_and_a_restart_goes_on(
    pipeline: Callable[..., Path], undisturbed: Path, tmp_path: Path, who: str, number: signal.Signals
) -> None:
    output = tmp_path / "runs"
    process = start(pipeline(pause=0.3, helper=True), output)
    parts = output / "first/parts"
    wait_for(lambda: len(list(parts.glob("*.jsonl"))) >= 2 if parts.exists() else False)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # guard, stage, and the stage's helper in its own session
    if who == "group":
        os.killpg(process.pid, number)
    else:
        os.kill(family[0].pid if who == "guard" else process.pid, number)
    text = process.communicate(timeout=200)[0]
    died = number == signal.SIGKILL and who != "guard"
    assert process.returncode == (-number if died else 128 + number), text
    wait_for(lambda: not any(one.is_running() and one.status() != "zombie" for one in family), 30)
    assert not (output / "first/data").exists()
    left = {file: file.stat().st_mtime_ns for file in parts.glob("*.jsonl")}

    status, text = run(pipeline(), output)
    assert status == 0, text
    assert data(output) == data(undisturbed)
    assert left  # the restart went on from these
    assert asked(output, "first") == 2


def test_a_second_run_on_the_folder_is_refused(pipeline: Callable[..., Path], tmp_path: Path) -> None:
    path, output = pipeline(pause=3.0), tmp_path / "runs"
    first = start(path, output)
    try:
        wait_for(lambda: asked(output, "first"))
        status, text = run(path, output)
        assert status == 2
        assert "another run is at work here" in text
    finally:
        first.terminate()
        first.communicate(timeout=200)


def test_from_and_only(pipeline: Callable[..., Path], tmp_path: Path) -> None:
    path, output = pipeline(), tmp_path / "runs"
    status, text = run(path, output, "--only", "second")
    assert (status, text.count("error:")) == (2, 1)
    assert "stage 'second' needs 'first', which is not finished" in text
    assert run(path, output, "--only", "first")[0] == 0
    assert asked(output, "second") == 0
    assert run(path, output, "--from", "second")[0] == 0
    assert (asked(output, "first"), asked(output, "second")) == (1, 1)
    with pytest.raises(ConfigError, match=r"--from: no stage .* there are first, second, report"):
        wanted(plan(load(path), output), start="third")


def test_to_is_the_last_stage(pipeline: Callable[..., Path], tmp_path: Path) -> None:
    path, output = pipeline(), tmp_path / "runs"
    status, text = run(path, output, "--to", "second")
    assert (status, asked(output, "second")) == (0, 1)
    assert "report: left out" in text
    assert "the report" not in text
    status, text = run(path, output, "--from", "second", "--to", "second")
    assert status == 0
    assert "first: left out" in text
    status, text = run(path, output, "--from", "second", "--to", "first")
    assert (status, text.count("error:")) == (2, 1)
    assert "--to: 'first' runs before 'second'" in text
    with pytest.raises(ConfigError, match="--to: no stage is called 'third'"):
        wanted(plan(load(path), output), end="third")


def test_dry_run_prints_commands_and_touches_nothing(pipeline: Callable[..., Path], tmp_path: Path) -> None:
    output = tmp_path / "runs"
    status, text = run(pipeline(rows=8), output, "--dry-run", "--limit", "5")
    assert status == 0
    commands = [shlex.split(line) for line in text.splitlines() if not line.startswith("#")]
    assert commands[0][1:] == [
        *(str(tmp_path / "stage.py"), "--config", str(tmp_path / "rows.yaml"), "--rows", "8"),
        *("--output_dir", str(output / "first"), "--limit", "5"),
    ]
    assert commands[2][1:] == [str(tmp_path / "report.py")]
    assert not output.exists()


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_DATA", "/d")
    monkeypatch.delenv("SOME_MODELS", raising=False)
    for name in ("s.py", "c.yaml", "zero3.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: p\nvars: {models: '${SOME_MODELS:-${output}/models}'}\nstages:\n- name: a\n  script: s.py\n"
        "  config: c.yaml\n  launch: zero3.yaml\n  args:\n"
        "    input: ['${SOME_DATA}/x.jsonl', two words]\n    top: null\n"
        "    sampling: {temperature: 2e-1, at: '${SOME_DATA}'}\n"
        "    model: ${models}/m\n"
    )
    (step,) = plan(load(path), Path("out"))
    at = step.command.index("launch")
    assert list(step.command[at:]) == [
        *("launch", "--config_file", "zero3.yaml", "s.py", "--config", "c.yaml"),
        *("--input", "/d/x.jsonl", "two words", "--top", "null"),
        *("--sampling", '{"temperature": 0.2, "at": "/d"}'),
        *("--model", "out/models/m", "--output_dir", "out/a"),
    ]
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(ConfigError, match="environment variable SOME_DATA is not set"):
        plan(load(path), Path("out"))


def test_a_stage_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"s.py": "", "a.yaml": "rows: 1\nm: {x: 1}\n", "b.yaml": "m: {y: 2}\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text("{name: p, stages: [{name: a, script: s.py, config: [a.yaml, b.yaml]}]}")
    (step,) = plan(load("p.yaml"), Path("out"))
    assert list(step.command[1:]) == ["s.py", "--config", "a.yaml", "b.yaml", "--output_dir", "out/a"]
    Path("b.yaml").unlink()
    with pytest.raises(ConfigError, match=r"stage 'a': config: no file b\.yaml"):
        load("p.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: p\nstages: []\n", "needs at least one"),
        ("name: p\nstage: []\n", "did you mean 'stages'"),
        ("name: p\nstages: [{name: a, script: s.py, confg: c.yaml}]\n", "did you mean 'config'"),
        ("name: p\nstages: [{name: a, script: t.py}]\n", "no file t.py"),
        ("name: p\nstages: [{name: a, script: s.py}, {name: a, script: s.py}]\n", "duplicate stage name 'a'"),
        (
            "name: p\nstages: [{name: a, script: s.py, needs: [b]}, {name: b, script: s.py}]\n",
            "no earlier stage",
        ),
        (
            "name: p\nstages: [{name: a, script: s.py, args: {i: '${output}/b'}}, {name: b, script: s.py}]\n",
            "after",
        ),
        (
            "name: p\nvars: {v: 'x${v}'}\nstages: [{name: a, script: s.py, args: {i: '${v}'}}]\n",
            "refers to itself",
        ),
    ],
)
def test_a_wrong_pipeline_file_is_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.py").write_text("")
    (tmp_path / "p.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        plan(load("p.yaml"), Path("out"), source="p.yaml")
    assert "p.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "...",
            "../up",
            "a/b",
            "/abs",
            "a\\b",
            ".hidden",
            "-option",
            "a.",
            "a ",
            " a",
            "~",
            "$HOME",
        ),
        *("a\n", "a\x00b", "a\tb", "\x1b[2J", "a\u202eb", "ａ", "é", "x" * 129, "x" * 5000),
        *("logs", "Logs", "LOGS", "run.json", "Run.JSON", ".lock", "imports", ".run.json.tmp"),
        *("con", "NUL", "aux.txt", "Com1", "lpt9.log", "prn", "a:b", "a*", "a?", "a|b", 'a"b', "<a>"),
    ],
)
def test_a_stage_name_that_is_no_folder_of_its_own_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.py").write_text("")
    stages = [{"name": "first", "script": "s.py"}, {"name": name, "script": "s.py"}]
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "stages": stages}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load("p.yaml")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250
    assert str(caught.value).startswith("p.yaml: stage ")


def test_stage_names_that_are_one_folder_where_case_does_not_count_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.py").write_text("")
    stages = [{"name": name, "script": "s.py"} for name in ("sft", "sft_2", "log", "a.b-c_D", "SFT")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "stages": stages}))
    with pytest.raises(ConfigError, match="stages 'sft' and 'SFT' differ only by case"):
        load("p.yaml")
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "stages": stages[:-1]}))
    assert len(load("p.yaml").stages) == 4


def test_help_imports_nothing_heavy() -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "recipes/run.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--dry-run" in shown.stdout
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "scalequest.pipeline.runner" in imported
    assert not imported & {"torch", "transformers", "vllm", "wandb", "datasets", "pyarrow"}


SLOW_TO_STOP = """
import os, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
def save(number, frame):
    time.sleep(6)  # longer than the guard waits for what a stage leaves behind
    out.with_suffix(".saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
out.write_text(os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
time.sleep(300)
"""


@pytest.mark.parametrize("theirs", [None, "1200"])
def test_a_stage_that_is_told_to_stop_has_time_to_save(
    theirs: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its launcher allows its ranks as long as Slurm's does or the caller says; the run waits for it."""
    monkeypatch.delenv(STOP_VARIABLE, raising=False)
    if theirs:
        monkeypatch.setenv(STOP_VARIABLE, theirs)
    (tmp_path / "slow.py").write_text(SLOW_TO_STOP)
    path, seen = tmp_path / "slow.yaml", tmp_path / "seen"
    stage = {"name": "slow", "script": str(tmp_path / "slow.py"), "args": {"out": str(seen)}}
    path.write_text(json.dumps({"name": "slow", "stages": [stage]}))
    process = start(path, tmp_path / "runs")
    wait_for(lambda: seen.exists() and seen.read_text())
    assert seen.read_text() == (theirs or str(STOP_SECONDS))
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=100)[0]
    assert seen.with_suffix(".saved").exists(), text
    assert process.returncode == 128 + signal.SIGTERM
