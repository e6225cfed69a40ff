"""What every test runs under: offline, markers, data from `SCALEQUEST_DATA`, and no silent skip where data is required."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]
REQUIRE = "SCALEQUEST_REQUIRE_DATA"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: whole loops, minutes; run by `make test-slow`")
    config.addinivalue_line("markers", "data: needs the files of SCALEQUEST_DATA")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _data_folder() is None:
        skip = pytest.mark.skip(reason="SCALEQUEST_DATA is not set to a folder")
        for item in items:
            if item.get_closest_marker("data"):
                item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI sets SCALEQUEST_REQUIRE_DATA=1 everything is there, so a skip is a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(REQUIRE) == "1":
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: {reason} ({REQUIRE}=1: a skip is a failure)"
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
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that writes questions and answers in TinyMath's markup, after seconds of training."""
    from tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))
