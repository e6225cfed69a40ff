from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/plan.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {name}")]
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_the_plan_says_the_papers_hours_on_the_papers_machine() -> None:
    done = run("--clusters", "8xA100-40G")
    assert done.returncode == 0, done.stderr
    assert "2M questions, 5M responses" in done.stdout
    for name, rows, hours in (
        ("question gen", "2M", "38.4"),
        ("responses", "5M", "251.0"),
        ("reward", "5M", "112.0"),
    ):
        cells = row(done.stdout, name)
        assert cells[1] == rows
        assert cells[-3] == cells[-1] == hours
    assert row(done.stdout, "responses")[-2] == "31.4", "on eight GPUs"
    # the judge's reply stands beside every question, and a scored row has all its responses
    disk = [row(done.stdout, name)[6] for name in ("question gen", "solvability", "responses", "reward")]
    assert disk == ["1.2 GB", "6.4 GB", "13.7 GB", "13.7 GB"]


def test_more_and_faster_gpus_take_less_time(tmp_path: Path) -> None:
    done = run("--clusters", "64xH100")
    hours, clock = (float(row(done.stdout, "responses")[place]) for place in (-3, -2))
    assert 251.0 / 3 < hours < 251.0
    assert abs(clock - hours / 64) < 0.06
    assert "Assumed" in done.stdout
    # a measured rate takes the place of the paper's
    receipt = {"stage": "solve_questions", "finished": True, "rows_in": 1000, "seconds": 3600.0,
               "fingerprint_fields": {"samples": 5}}  # fmt: skip
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    done = run("--clusters", "8xA100-40G", "--rate", str(tmp_path / "receipt.json"))
    assert row(done.stdout, "responses (your")[-3] == "1,000.0"


def test_a_machine_that_is_none_is_refused() -> None:
    done = run("--clusters", "8xTPU")
    assert done.returncode == 2
    assert done.stderr.startswith("error: clusters: '8xTPU'")


def test_rates_are_read_from_the_receipts_that_the_stages_write(tmp_path: Path) -> None:
    def planned(name: str, **fields: object) -> str:
        path = tmp_path / f"{name}.json"
        receipt = {"stage": name, "finished": True, "rows_in": 1000, "seconds": 3600.0,
                   "fingerprint_fields": {}, **fields}  # fmt: skip
        path.write_text(json.dumps(receipt))
        done = run("--clusters", "8xA100-40G", "--rate", str(path))
        return done.stdout or done.stderr

    assert row(planned("filter_questions"), "solvability")[-3] == "2,000.0"
    # five responses a question, as the profiles ask for, or as many as the receipt counts
    assert row(planned("score", fingerprint_fields={"what": "responses"}), "reward")[-3] == "1,000.0"
    assert row(planned("score", counts={"responses": 2000}), "reward")[-3] == "2,500.0"
    assert "scored questions" in planned("score", fingerprint_fields={"what": "question"})
    assert "expected the receipt" in planned("select_solutions")
