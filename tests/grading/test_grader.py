from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from scalequest.config import build, fingerprint_fields
from scalequest.grading import Grader, GraderOptions, Verdict, equivalent
from scalequest.grading.audit import audit
from scalequest.grading.compare.equivalence import compare
from scalequest.grading.worker import Worker

HARD = ("\\sqrt{50}", "5\\sqrt{2}")


def test_layers() -> None:
    layers = {
        ("1/2", "1/2"): "text",
        ("$0.50", "\\frac12"): "exact",
        ("(1, 2)", "(1, 2.0)"): "structure",
        HARD: "numeric",
        ("\\int_0^1 x\\,dx", "\\frac12"): "symbolic",
    }
    with Grader() as grader:
        for pair, layer in layers.items():
            verdict = grader.grade(*pair)
            assert verdict.correct
            assert verdict.layer == layer or layer == "structure"
            assert 0 <= verdict.seconds < 10


def test_a_comparison_that_overruns_is_killed_and_the_worker_replaced() -> None:
    grader = Grader(GraderOptions(cpu_seconds=0.15, wall_seconds=30))
    slow = (
        r"\sum_{i=1}^{50}\sum_{j=1}^{50} \sin(x i^j)",
        r"\sum_{j=1}^{50}\sum_{i=1}^{50} \sin(x i^j) + 10^{-60}",
    )
    verdict = grader.grade(*slow)
    assert verdict == Verdict(False, "timeout", verdict.seconds, timed_out=True)
    assert grader.timeouts == [slow]
    began = time.monotonic()
    assert grader.grade(*HARD).correct
    assert time.monotonic() - began < 5
    assert grader.grade(*slow).timed_out
    assert len(grader.timeouts) == 1, "remembered"
    grader.close()


def test_memory_is_limited() -> None:
    worker = Worker(GraderOptions())
    worker.start()
    assert worker.process is not None
    limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
    assert str(GraderOptions().memory_mib << 20) in limits
    worker.close()


def test_a_worker_that_was_killed_from_outside_is_replaced() -> None:
    worker = Worker(GraderOptions())
    assert worker.ask(*HARD) == (True, "numeric")
    assert worker.process is not None
    os.killpg(worker.process.pid, 9)
    assert worker.ask(*HARD) in (None, (True, "numeric"))
    assert worker.ask(*HARD) == (True, "numeric")
    worker.close()


def test_no_worker_outlives_its_owner() -> None:
    code = (
        "import os\nfrom scalequest.grading import Grader\ng = Grader(workers=2)\ng.start()\n"
        "workers = [g._take() for _ in range(2)]\nprint(*[w.process.pid for w in workers], flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, pids))


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie, which waits for the process that adopted it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_threads_share_workers() -> None:
    pairs = [(f"\\sqrt{{{n * n * 2}}}", f"{n + n % 2}\\sqrt{{2}}") for n in range(1, 41)]
    with Grader(workers=2) as grader, ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda pair: grader.grade(*pair).correct, pairs))
        assert [v.correct for v in grader.grade_all(pairs)] == verdicts
    assert verdicts == [n % 2 == 0 for n in range(1, 41)]


def _in_child(grader: Grader) -> bool:
    return grader.grade(*HARD).correct and equivalent(*HARD)


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_daemonic_processes_may_grade(how: str) -> None:
    """As DataLoader's workers are: daemons, which `multiprocessing` forbids to start processes."""
    with Grader() as grader, multiprocessing.get_context(how).Pool(2) as pool:
        assert grader.grade(*HARD).correct
        assert pool.map(_in_child, [grader] * 4) == [True] * 4
        assert grader.grade("\\sqrt{8}", "2\\sqrt{2}").correct
    assert pickle.loads(pickle.dumps(grader)).options == grader.options


def test_another_thread_may_forget_what_was_remembered() -> None:
    class Forgetting(dict[object, object]):
        def __contains__(self, key: object) -> bool:
            return True  # and gone when it is fetched

    with Grader() as grader:
        grader._known = Forgetting()  # type: ignore[assignment]
        assert grader.grade(*HARD).correct


def test_what_can_change_a_verdict_is_in_the_fingerprint() -> None:
    before = fingerprint_fields(GraderOptions())
    for more in ({"cpu_seconds": 0.1}, {"wall_seconds": 0.1}, {"memory_mib": 400}):
        assert fingerprint_fields(replace(GraderOptions(), **more)) != before


def test_options_decide() -> None:
    pairs = {
        ("10 cm", "10"): GraderOptions(units="required"),
        ("25\\%", "25"): GraderOptions(percent="hundredth"),
        ("33.3", "\\frac{100}{3}"): GraderOptions(rounding_digits=0),
        ("33.31", "\\frac{100}{3}"): None,
        ("1, 2", "2, 1"): GraderOptions(list_order="fixed"),
        ("(1, 2)", "1, 2"): GraderOptions(list_brackets="required"),
        ("2 + 3 = 5", "5"): GraderOptions(equations="whole"),
        ("She has 5 apples now.", "5"): GraderOptions(sentences="text", units="required"),
        ("1,22", "1.22"): GraderOptions(decimal_comma=False),
        ("x^2 + C", "x^2 + k"): GraderOptions(constants="named"),
    }
    for pair, options in pairs.items():
        assert compare(*pair, GraderOptions())[0] == (options is not None), pair
        assert options is None or not compare(*pair, options)[0], pair
    (built,) = build((GraderOptions,), {"rounding_digits": 4}, "a test")
    assert built == GraderOptions(rounding_digits=4)


def test_a_file_is_graded(tmp_path: Path, root: Path) -> None:
    rows = [
        {"output": "so \\boxed{\\sqrt{8}}", "answer": "2\\sqrt2", "known": True},
        {"output": "The answer is 7.", "answer": "8", "known": False},
        {"output": "no idea", "answer": "8", "known": True},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out" / "graded.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        sys.executable,
        "eval/grade.py",
        str(source),
        "--completion",
        "output",
        "--reference",
        "answer",
    ]
    done = subprocess.run(
        [*command, "--label", "known", "--output_dir", str(target.parent)],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    graded = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["correct"] for row in graded] == [True, False, False]
    assert [row["extraction_rule"] for row in graded] == ["boxed", "phrase", "none"]
    assert graded[0]["layer"] == "numeric"
    assert graded[0]["extracted"] == "\\sqrt{8}"
    assert "0 false positives, 1 false negatives" in done.stdout
    wrong = subprocess.run(
        [*command, "--output_dir", str(target.parent), "--label", "nowhere"], capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert "nowhere" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1


def test_no_answer_is_a_wrong_answer(tmp_path: Path, root: Path, quick_python: str) -> None:
    """An evaluation's own rows have null if nothing was found."""
    source, target = tmp_path / "in.jsonl", tmp_path / "graded.jsonl"
    rows = [{"extracted": None, "reference": "8"}, {"extracted": "8.0", "reference": "8"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [quick_python, "eval/grade.py", str(source), "--output_dir", str(tmp_path), "--prediction"]
    done = subprocess.run([*command, "extracted"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["correct"] for line in target.read_text().splitlines()] == [False, True]
    absent = subprocess.run([*command, "answer"], capture_output=True, text=True, cwd=root)
    assert "no 'answer'" in absent.stderr


def test_the_audit_shows_what_differs_escaped(tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    rows = [
        {"completion": "The answer is \\boxed{7}.", "references": ("5", "7"), "correct": True, "id": "same"},
        {
            "completion": "<script>alert(1)</script> \\boxed{\\frac{1}{2006!}}",
            "references": ("\\frac{1}{2004!}",),
            "correct": False,
            "extracted": "\\frac{1}{2006!}",
            "rule": "boxed",
            "layer": "exact",
            "id": "other",
        },
        # Right by a rule of the benchmark, as it was marked
        {
            **{"completion": "\\boxed{4.3}", "references": ("4.2",), "correct": True, "id": "near"},
            **{"extracted": "4.3", "rule": "boxed", "layer": "tolerance"},
        },
    ]
    differing = audit(rows, page)
    assert [(row["row"], row["id"], row["ours"], row["math-verify"]) for row in differing] == [
        (2, "other", "wrong", "right"),
        (3, "near", "right", "wrong"),
    ]
    assert differing[1]["layer"] == "tolerance"
    text = page.read_text()
    assert "&lt;script&gt;" in text
    assert "<script" not in text
