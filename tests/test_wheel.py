"""The wheel: what is in it, and that its commands work in an empty environment, away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from scalequest.installed import FOLDERS

ROOT = Path(__file__).resolve().parents[1]
BUILD = ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "src")
# What grading imports; the wheel itself is installed without what it asks for.
GRADER = ("math-verify", "mpmath", "packaging", "psutil", "pydantic", "rich", "ruamel.yaml")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git tracks, so that the checkout is left as it is."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", *BUILD, *FOLDERS],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    (source / "recipes/__pycache__").mkdir()
    (source / "recipes/__pycache__/sft.cpython-311.pyc").touch()
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(source)],
        check=True, cwd=output,
    )  # fmt: skip
    (built,) = output.glob("*.whl")
    return built


def test_the_wheel_has_every_file_that_commands_use(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", "src", *FOLDERS],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        place = name.removeprefix("src/") if name.startswith("src/") else f"scalequest/files/{name}"
        assert place in held, f"{name} is not in the wheel"
    assert not [name for name in held if "__pycache__" in name]
    assert wheel.stat().st_size < 20e6, "the tiny models are 12 MB of it"


@pytest.mark.hub
def test_its_commands_work_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Needs a package index for seven small packages; torch is not among them."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    if subprocess.run([*pip, *GRADER]).returncode:
        pytest.skip("pip reaches no package index")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python.with_name("scalequest")), *words],
            capture_output=True, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip

    rows = [{"prediction": f"{n}/2", "reference": rf"\frac{{{n}}}{{2}}"} for n in range(10_000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    graded = run("grade", "rows.jsonl", "--output_dir", "graded")
    assert graded.returncode == 0, graded.stderr
    assert "10,000 of 10,000 correct" in graded.stdout
    examined = run("doctor")
    assert "packages [train]: missing: accelerate" in examined.stdout
    assert "fix: pip install 'scalequest[train]'" in examined.stdout
    assert examined.returncode == 1, "pyarrow is missing, which every stage needs"
    for name in ("run", "evaluate", "sft", "prepare-data", "doctor"):
        shown = run(name, "--help")
        assert shown.returncode == 0 or "which is not installed: pip install" in shown.stderr, shown.stderr
    assert (tmp_path / "venv") in Path(run("files", "recipes/tiny/models").stdout.strip()).parents


@pytest.mark.timeout(1800)
def test_a_pipeline_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has the libraries of this one, but not this checkout."""
    venv.create(tmp_path / "venv")
    python, empty = tmp_path / "venv/bin/python", tmp_path / "empty"
    empty.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, cwd=empty, env=environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    own = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(own, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth are not read
    assert own in run(str(python), "-c", "import scalequest; print(scalequest.__file__)")
    shown = run(str(python.with_name("scalequest")), "run", "recipes/tiny/smoke.yaml", "--output", "runs")
    assert "Every row is accounted for" in shown
    assert {path.name for path in empty.iterdir()} == {"runs"}
    receipt = json.loads((empty / "runs/evaluate/receipt.json").read_text())
    assert receipt["finished"]
