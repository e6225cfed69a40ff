"""What every test runs under: no hub, data from `SCALEQUEST_DATA`, no silent skip where data is required."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models are small, and other tests run beside these

ROOT = Path(__file__).resolve().parents[1]
REQUIRE = "SCALEQUEST_REQUIRE_DATA"
# Files of half a minute and more, the longest first: what shares the files then ends at about the same time.
LONGEST = (
    *("test_loop.py", "pipeline/test_pipeline.py", "faults/test_synthesis_faults.py"),
    *("evaluation/test_evaluate.py", "training/test_ranks.py", "stage/test_stage_folder.py"),
    *("faults/test_training_faults.py", "test_data_recipes.py", "pipeline/test_slurm_chain.py"),
    *("test_chat.py", "engines/test_server.py", "training/test_presets.py", "training/test_grpo.py"),
    *("training/test_safety.py", "engines/test_generators.py", "pipeline/test_preload.py"),
    *(
        "pipeline/test_paper.py",
        "test_chat_template.py",
        "training/test_sft.py",
        "grading/test_robustness.py",
    ),
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: whole loops, minutes; run by `make test-slow`")
    config.addinivalue_line("markers", "data: needs the files of SCALEQUEST_DATA")
    config.addinivalue_line("markers", "hub: downloads from the hub; `make test` leaves it out")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    if _data_folder() is None:
        skip = pytest.mark.skip(reason="SCALEQUEST_DATA is not set to a folder")
        for item in items:
            if item.get_closest_marker("data"):
                item.add_marker(skip)


def _turn(item: pytest.Item) -> int:
    name = item.path.relative_to(ROOT / "tests").as_posix()
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI sets SCALEQUEST_REQUIRE_DATA=1 everything is there, so a skip is a failure."""
    return _no_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file, e.g. behind `importorskip`."""
    return _no_skip((yield))


def _no_skip(report: Any) -> Any:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(REQUIRE) == "1":
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason} ({REQUIRE}=1: a skip is a failure)"
    return report


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in YAML files are relative to the repository's root."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of `SCALEQUEST_DATA`; a test that uses it is marked `data`."""
    folder = _data_folder()
    if folder is None:
        pytest.skip("SCALEQUEST_DATA is not set to a folder")
    return folder


def _data_folder() -> Path | None:
    folder = Path(os.environ.get("SCALEQUEST_DATA") or "/nonexistent")
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def quick_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Python that has torch, transformers and TRL imported; see forked_python.py for when to use it."""
    from forked_python import interpreter

    with interpreter(tmp_path_factory.mktemp("python")) as executable:
        yield executable


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that writes questions and answers in TinyMath's markup, after seconds of training."""
    from tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def tiny_generator(tiny_model: Path) -> Iterator[Any]:
    """That model on the transformers engine."""
    from scalequest.engines.base import EngineConfig
    from scalequest.engines.loading import open_generator

    with open_generator(str(tiny_model), EngineConfig(name="transformers")) as generator:
        yield generator


@pytest.fixture(scope="session")
def tiny_chat(tiny_model: Path) -> Any:
    """TinyMath's format on its tokenizer."""
    from scalequest.chat import bind, load_format, load_tokenizer

    return bind(load_format("tinymath"), load_tokenizer(str(tiny_model)))
