"""Imports point one way: read from the source, so that none can hide behind a branch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
STAGES = ("questions", "solutions", "training", "evaluation")
ASKING = ("grading.grader", "grading.worker", "grading.audit", "grading.extraction")  # the face of the grader

# package or module of scalequest: what it may not import
FORBIDDEN = {
    "config": ("records", "stage", "chat", "engines", "grading", *STAGES),
    "hardware": ("config", "records", "stage", "chat", "engines", "grading", *STAGES),
    "atomic_files": ("records", "stage", "chat", "engines", "grading", *STAGES),
    "receipts": ("records", "stage", "chat", "engines", "grading", *STAGES),
    "records": ("stage", "chat", "engines", "grading", *STAGES),
    "models": ("records", "stage", "chat", "engines", "grading", *STAGES),
    "tracking": ("stage", "chat", "engines", "grading", *STAGES),
    "chat": ("stage", "engines", "grading", *STAGES),
    "pages": ("stage", "chat", "engines", "grading", *STAGES),
    "grading": ("stage", "chat", "engines", *STAGES),
    "grading/latex": ("grading.compare", *ASKING, "grading.options"),
    "grading/compare": ASKING,
    "engines": ("stage", "grading", *STAGES),
    "data": ("stage", "engines", "grading", *STAGES),
    "stage": ("chat", "grading", "pipeline", "recipe", *STAGES),
    "stage/folder": ("engines",),
    "stage/block_files": ("engines",),
    "stage/script": ("engines",),
    "pipeline": ("chat", "grading", *STAGES),
    "questions": ("training", "evaluation", "pipeline"),
    "solutions": ("training", "evaluation", "pipeline"),
    "evaluation": ("training", "pipeline"),
    "training": ("questions", "solutions", "evaluation", "pipeline"),
    "run_page": ("stage", "chat", "engines", "training", "pipeline", "recipe"),
}
INSTRUMENTS = ("tinymath.oracle", "tinymath.world")


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def starts(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def test_nothing_in_src_imports_the_scripts() -> None:
    scripts = {"recipes", "scripts", "eval", "bench", "tests"} | {
        path.stem for path in sources("recipes", "scripts", "eval", "bench")
    }
    for path in sources("src"):
        assert not [name for name in imported(path) if name.partition(".")[0] in scripts], path


@pytest.mark.parametrize("part", sorted(FORBIDDEN))
def test_arrows_point_one_way(part: str) -> None:
    base = SRC / "scalequest" / part
    files = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    assert files
    for path in files:
        for name in imported(path):
            wrong = [other for other in FORBIDDEN[part] if starts(name, f"scalequest.{other}")]
            assert not wrong, f"{path.relative_to(ROOT)} imports {name}"


def test_training_takes_nothing_from_the_engines() -> None:
    """But for rewards of rollouts, which ask models as the data stages do."""
    for path in sources("src/scalequest/training"):
        if path.name != "rollout_rewards.py":
            assert not [name for name in imported(path) if starts(name, "scalequest.engines")], path


def test_no_package_imports_in_a_circle() -> None:
    """Modules beside each other and packages count as one place each, whatever is imported late."""
    arrows: dict[str, set[str]] = {}
    for path in sources("src/scalequest"):
        place = path.relative_to(SRC / "scalequest").parts[0].removesuffix(".py")
        inner = (name.split(".")[1] for name in imported(path) if name.startswith("scalequest."))
        arrows.setdefault(place, set()).update(name for name in inner if name != place)
    arrows.pop("__init__")
    left = {place: {other for other in others if other in arrows} for place, others in arrows.items()}
    while leaves := [place for place, others in left.items() if not others & left.keys()]:
        for place in leaves:
            del left[place]
    assert not left, f"these import each other: {left}"


def test_the_library_does_not_know_tinymath() -> None:
    for path in sources("src/scalequest"):
        assert not [name for name in imported(path) if starts(name, "tinymath")], path


def test_only_tinymaths_own_scripts_see_its_oracle() -> None:
    # the script writes into docs/demo.md how the oracle fares beside a reader
    allowed = (ROOT / "src/tinymath", ROOT / "recipes/tiny", ROOT / "scripts/demo_results.py")
    for path in sources("src", "recipes", "scripts", "eval", "bench"):
        if not any(path.is_relative_to(place) for place in allowed):
            seen = [name for name in imported(path) if any(starts(name, one) for one in INSTRUMENTS)]
            assert not seen, f"{path.relative_to(ROOT)} imports {seen}"


def test_the_rule_rewriter_does_not_ask_the_oracle() -> None:
    path = SRC / "tinymath/rewriter.py"
    assert not [name for name in imported(path) if starts(name, INSTRUMENTS[0])]


def test_importing_the_filters_does_not_load_the_instruments() -> None:
    """The same, at run time, for what imports might be reached through others."""
    code = (
        "import sys, scalequest.questions.filters, scalequest.questions.rewriting\n"
        "import scalequest.solutions.selection\n"
        f"print([name for name in {INSTRUMENTS!r} if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert out.stdout.strip() == "[]"
