"""The path to Table 1 of docs/reproduce.md, command by command, with a mirror on this machine."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest

from file_server import FileServer
from scalequest.records import read_rows
from test_prepare_data import (
    OURS,
    ROOT,
    environment,
    model_folder,
    path_of,
    upstream,
    without_parquet_sums,
)

REWARD_MODEL = "/internlm/internlm2-7b-reward/resolve/main"


def commands() -> list[str]:
    """The commands for Table 1 at both sizes; the first one installs."""
    text = (ROOT / "docs/reproduce.md").read_text().partition("## Table 1 on one node")[2]
    blocks = re.findall(r"```bash\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def mirrored(data_dir: Path, model: Path) -> dict[str, bytes]:
    """All files that the commands ask for, by their paths on the hosts."""
    files = {
        path_of(one.sources[0]): upstream(read_rows(data_dir / one.file), one, one.sources[0])
        for one in OURS.sets
    }
    names = ("tokenizer.model", "tokenizer_config.json")
    return files | {f"{REWARD_MODEL}/{name}": (model / name).read_bytes() for name in names}


def checkout(folder: Path) -> Path:
    """A folder with this repository's files, and nothing that anybody made in it."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("data", "models", "runs"):
            (folder / path.name).symlink_to(path)
    python = folder / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder


def shell(lines: list[str], folder: Path, mirror: str) -> subprocess.CompletedProcess[str]:
    """What a user types, one line after the other, until one fails."""
    variables = {name: value for name, value in environment().items() if name != "SCALEQUEST_DATA"}
    variables |= {"PATH": f"{folder}/bin:{variables['PATH']}", "SCALEQUEST_MIRROR": mirror, "COLUMNS": "200"}
    variables |= {"PYTHONPATH": f"{ROOT}/src", "WANDB_MODE": "offline"}
    return subprocess.run(
        ["bash", "-ec", "\n".join(lines)],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_page_has_these_commands() -> None:
    scripts = [re.findall(r"(?:scripts|recipes)/[\w/]+\.(?:py|yaml)", line) for line in commands()[1:]]
    assert scripts == [
        ["scripts/prepare_data.py"],
        ["scripts/prepare_data.py"],
        *[["recipes/run.py", "recipes/paper/table1.yaml"]] * 3,
    ]
    assert commands()[3].endswith("--dry-run")
    assert commands()[5].endswith("--set profile=tiny")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(1800)
def test_from_nothing_to_a_dry_run_without_a_fault(data_dir: Path, tmp_path: Path) -> None:
    """The hosts' files in their own layouts; the sums of parquet files depend on who writes them."""
    folder = checkout(tmp_path / "checkout")
    with FileServer(mirrored(data_dir, model_folder(tmp_path / "model"))).running() as server:
        prepare, tokenizer, dry_run = commands()[1:4]
        before = shell([dry_run], folder, server.url)
        assert "not yet: " in before.stderr
        sources = f"prepare_data.py --sources {without_parquet_sums(tmp_path)}"
        done = shell([prepare.replace("prepare_data.py", sources), tokenizer, dry_run], folder, server.url)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "not yet: " not in done.stderr
    for one in OURS.sets:
        made, given = (
            gzip.decompress((place / one.file).read_bytes()) for place in (folder / "data", data_dir)
        )
        assert made == given, one.file
    assert (folder / "models/internlm2-7b-reward-tokenizer/tokenizer.json").exists()
    named = re.findall(r"^# (\w+)$", done.stdout, re.M)
    assert [name for name in named if name.startswith("sft_")] == [
        f"sft_{student}_own" for student in ("mistral", "llama3", "deepseek", "qwen2")
    ]
    assert named[-2:] == ["evaluate_own", "report_own"]
    assert not (folder / "runs").exists(), "a dry run makes nothing"


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_tiny_run_of_table_1(tmp_path: Path) -> None:
    """All stages of Table 1 and its report, from the models that the repository carries."""
    folder = checkout(tmp_path / "checkout")
    done = shell([commands()[5]], folder, "http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = folder / "runs/small/report_own"
    ours = (report / "benchmarks.csv").read_text().splitlines()
    assert ours[0] == "model,TinyMath"
    students = [line.partition(",")[0] for line in ours[1:]]
    assert students == [
        f"{base}-ScaleQuest" for base in ("Mistral-7B", "Llama3-8B", "DeepSeekMath-7B", "Qwen2-Math-7B")
    ]
    published = (report / "published_table1.csv").read_text()
    assert "GSM8K,MATH" in published, "ours are of another benchmark, so that no column of ours stands here"
    assert all(f"\n{student}," in published for student in students)
