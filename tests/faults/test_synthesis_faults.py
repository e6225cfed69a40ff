"""Faults in the data stages and in an evaluation, and what they cost: nothing. Each is killed twice or more.

pytest tests/faults --kills 100 -n0        # over all stages, those of training too
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthesis_support import blocks, finish, questions, start, until

from fault_server import Answer, Asked, FaultServer, completion
from stage_support import data_files, dropped, kept, receipt

STAGES = (
    *("generate_questions", "optimize_questions", "solve_questions", "filter_questions", "score"),
    *("select_solutions", "assemble_dataset", "evaluate"),
)
ROWS, BLOCK = 96, 4
BLOCKS = ROWS // BLOCK
SMALLER = {"select_solutions": 2, "assemble_dataset": 2}  # rows a block, of stages that take milliseconds
MADE_BY = {"select_solutions": "solve_questions", "assemble_dataset": "select_solutions"}
ALL_KEPT = ("score", "assemble_dataset", "evaluate")
MARKERS = {"solvability": "FINAL QUESTION:", "difficulty": "#Finally Rewritten Problem#:"}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    """Rewrites every question, one in ten badly; takes its time over it."""

    def behaviour(one: Asked) -> Answer:
        text = " ".join(one.text.split()[-12:])
        marker = MARKERS["solvability" if "VERIFICATION" in one.text else "difficulty"]
        answer = completion("no idea" if len(text) % 10 == 0 else f"{marker} {text} And one more?")
        return Answer(content=answer.content, seconds=0.01)

    with FaultServer(behaviour).running() as running:
        yield running


@pytest.fixture(scope="module")
def scorer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A difficulty scorer on the tiny model's body."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("scorer")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1, pad_token_id=0)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def work(
    tiny_model: Path, scorer: Path, server: FaultServer, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Settings of a stage that writes into a folder; some are given the folder of the stage before them."""
    source = questions(tmp_path_factory.mktemp("input") / "questions.jsonl", ROWS)
    model = {
        "model_name_or_path": str(tiny_model),
        "chat_format": "tinymath",
        "engine": {"name": "transformers"},
    }
    own: dict[str, dict[str, Any]] = {
        "generate_questions": {**model, "num_questions": ROWS, "sampling": {"max_tokens": 14}},
        "optimize_questions": {
            "input": [str(source)],
            "rewriter": "server",
            "server": {"url": server.url, "model": "m", "concurrency": 6},
            "prompts": {way: f"recipes/prompts/{way}_rewrite.yaml" for way in MARKERS},
            "sampling": {"temperature": 0.0, "max_tokens": 64},
        },
        "solve_questions": {
            **model,
            "input": [str(source)],
            "samples": 2,
            "until_agree": 2,
            "max_samples": 4,
            "sampling": {"temperature": 0.7, "max_tokens": 22},
        },
        "filter_questions": {
            **model,
            "input": [str(source)],
            "steps": ["duplicates", "solvability"],
            "samples": 2,
            "solvability": {"judge": "agreement", "min_agreement": 0.6},
            "sampling": {"temperature": 0.7, "max_tokens": 22},
        },
        "score": {
            "input": [str(source)],
            "what": "question",
            "model_name_or_path": str(scorer),
            "engine": {"name": "transformers"},
        },
        "select_solutions": {"rule": "majority", "answer_phrase": False, "min_agreement": 0.9},
        "assemble_dataset": {"one_box": False},
        "evaluate": {
            "models": {"one": str(tiny_model)},
            "only": "one",
            "benchmarks": ["eval/benchmarks/tinymath_test.yaml"],
            "chat_format": "tinymath",
            "engine": {"name": "transformers"},
            "sampling": {"temperature": 0.0, "max_tokens": 12},
            "limit": ROWS,
        },
    }  # fmt: skip

    def settings(stage: str, folder: Path, before: Path | None = None) -> dict[str, Any]:
        given = {
            "output_dir": str(folder),
            "block_size": SMALLER.get(stage, BLOCK),
            "track": "none",
            **own[stage],
        }
        if stage == "select_solutions":
            given["input"] = [str(before)]
        if stage == "assemble_dataset":
            given["parts"] = [{"source": str(before)}]
        return given

    return settings


def written_to(stage: str, folder: Path) -> Path:
    """Where a stage's own files lie: an evaluation has a folder per model."""
    return folder / "one" if stage == "evaluate" else folder


@pytest.fixture(scope="module")
def undisturbed(work: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A stage's folder after a run in one go."""
    made: dict[str, Path] = {}

    def folder(stage: str) -> Path:
        if stage not in made:
            before = folder(MADE_BY[stage]) if stage in MADE_BY else None
            out = tmp_path_factory.mktemp("undisturbed") / stage
            finish(stage, work(stage, out, before))
            made[stage] = written_to(stage, out)
            assert kept(made[stage])
            assert dropped(made[stage]) or stage in ALL_KEPT
        return made[stage]

    return folder


def same(folder: Path, other: Path) -> None:
    """Byte for byte the same rows, each once, and the same counts."""
    assert data_files(folder) == data_files(other)
    mine, theirs = receipt(folder), receipt(other)
    assert mine["finished"]
    for key in ("rows_in", "kept", "dropped", "tokens"):
        assert mine[key] == theirs[key], key
    rows = [row["id"] for row in kept(folder) + dropped(folder)]
    assert len(rows) == len(set(rows)) == mine["rows_in"]
    assert not (folder / "parts").exists()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", STAGES)
def test_kills(
    stage: str, work: Any, undisturbed: Any, server: FaultServer, tmp_path: Path, kills: Any, kill_table: Any
) -> None:
    """`kill -9` at chosen moments, again and again on one folder until it is done, then on the next."""
    mine = kills(stage)
    rng = random.Random(f"{stage} {len(mine)}")
    reference = undisturbed(stage)
    before = undisturbed(MADE_BY[stage]) if stage in MADE_BY else None
    size = SMALLER.get(stage, BLOCK)
    total = -(-receipt(reference)["rows_in"] // size)
    folders, left = 0, False
    asked_before = len(server.asked)
    for number in mine:
        if not left:
            folders += 1
            out = tmp_path / f"run{folders}"
            folder = written_to(stage, out)
        process = start(stage, work(stage, out, before))
        have = blocks(folder)
        # four of five between the first block and the last, the others at the start or in the merge
        early = rng.random() < 0.2
        target = have if early else min(total - 1, max(1, have + rng.randint(0, 4)))
        alive = until(process, lambda: blocks(folder) >= target)  # noqa: B023
        time.sleep(rng.uniform(0.0, 0.3 if early else 0.01))
        if alive:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        done = blocks(folder)
        finished = bool((folder / "receipt.json").exists() and receipt(folder)["finished"])
        moment = "finished" if finished else f"{done} of {total} blocks"
        kill_table.append((number, stage, moment, done > 0 and not finished))
        left = not finished
        if finished:
            same(folder, reference)
        elif done >= total - 4 or number == mine[-1]:
            finish(stage, work(stage, out, before))
            same(folder, reference)
            left = False
    if stage == "optimize_questions":  # what was in flight when it was killed is all that was asked twice
        assert len(server.asked) - asked_before <= folders * ROWS + 6 * len(mine)


def test_sigterm_ends_it_and_it_goes_on(work: Any, undisturbed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    given = work("generate_questions", folder)
    process = start("generate_questions", given)
    assert until(process, lambda: blocks(folder) >= 5)
    process.terminate()
    process.join(30)
    assert process.exitcode == -signal.SIGTERM
    assert 5 <= blocks(folder) < BLOCKS
    finish("generate_questions", given)
    same(folder, undisturbed("generate_questions"))


def test_a_worker_that_vanishes_and_comes_back(work: Any, undisturbed: Any, tmp_path: Path) -> None:
    """Worker 1 of 2 is killed; worker 0 waits for its blocks; the launcher starts it again."""
    folder = tmp_path / "out"
    given = work("solve_questions", folder)
    places = [
        {"RANK": str(n), "WORLD_SIZE": "2", "LOCAL_RANK": str(n), "LOCAL_WORLD_SIZE": "2"} for n in (0, 1)
    ]
    first = start("solve_questions", given, **places[0])
    second = start("solve_questions", given, **places[1])
    odd = [folder / f"parts/{number:06d}.jsonl" for number in (1, 3, 5)]
    assert until(second, lambda: all(path.exists() for path in odd))
    os.kill(second.pid, signal.SIGKILL)
    second.join()
    assert until(first, lambda: blocks(folder) > BLOCKS // 2)
    assert not receipt(folder)["finished"]
    finish("solve_questions", given, **places[1])
    first.join(120)
    assert first.exitcode == 0
    same(folder, undisturbed("solve_questions"))


def test_a_second_run_on_one_folder_refuses(work: Any, undisturbed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    given = work("generate_questions", folder)
    first = start("generate_questions", given)
    assert until(first, lambda: blocks(folder) >= 1)
    second = start("generate_questions", given)
    second.join(60)
    assert second.exitcode == 2
    assert "another run is writing here" in Path(f"{folder}.log").read_text()
    first.join(120)
    assert first.exitcode == 0
    same(folder, undisturbed("generate_questions"))


def test_a_cut_part_is_named_and_made_again(work: Any, undisturbed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    given = work("generate_questions", folder)
    process = start("generate_questions", given)
    assert until(process, lambda: blocks(folder) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    part = folder / "parts/000001.jsonl"
    part.write_bytes(part.read_bytes()[:-15])
    finish("generate_questions", given)
    assert f"{part}: damaged" in Path(f"{folder}.log").read_text()
    same(folder, undisturbed("generate_questions"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("stage", ["generate_questions", "optimize_questions"])
def test_a_full_disk(
    stage: str, work: Any, undisturbed: Any, small_disk: Path, server: FaultServer, tmp_path: Path
) -> None:
    folder = small_disk / "out"
    given, reference = work(stage, folder), undisturbed(stage)
    filler = small_disk / "filler"
    if os.path.ismount(small_disk):
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler.write_bytes(b"x" * (free - 48 * 1024))
    else:  # no right to mount: a block whose temporary file is the device that is always full
        (folder / "parts").mkdir(parents=True)
        (folder / "parts/.000007.jsonl.tmp").symlink_to("/dev/full")
    before = len(server.asked)
    process = start(stage, given)
    process.join(120)
    assert process.exitcode == 2
    assert "No space left on device" in Path(f"{folder}.log").read_text()
    assert blocks(folder) < BLOCKS
    filler.unlink(missing_ok=True)
    finish(stage, given)
    same(folder, reference)
    if stage == "optimize_questions":
        assert len(server.asked) - before <= ROWS + 6, "only what was in flight is asked for again"
