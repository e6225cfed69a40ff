"""What the tests of data stages do: open a stage as its recipe does, and read what it left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scalequest.config import RunOptions
from scalequest.stage.folder import Stage
from scalequest.stage.script import open_stage


def opened(name: str, run: RunOptions, config: Any) -> Stage:
    return open_stage(name, 1, run, config, inputs={})


def killed_once_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a stage's process ends the moment its receipt says finished."""

    def end(stage: Stage) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "_clean_up", end)


def kept(folder: str | Path) -> list[dict[str, Any]]:
    return _rows(Path(folder) / "data")


def dropped(folder: str | Path) -> list[dict[str, Any]]:
    return _rows(Path(folder) / "dropped")


def receipt(folder: str | Path) -> dict[str, Any]:
    return json.loads((Path(folder) / "receipt.json").read_bytes())


def data_files(folder: str | Path) -> dict[str, bytes]:
    """Bytes of everything that has to be the same after a restart."""
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("d*/*.parquet"))}


def _rows(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
