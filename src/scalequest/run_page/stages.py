"""The stages of a run: the rows that each read, kept and dropped, and its cost, read from receipts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalequest import atomic_files
from scalequest.config import ConfigError, read_yaml
from scalequest.evaluation.funnel import NOT_DATA, read_stages
from scalequest.receipts import read_receipt


@dataclass(frozen=True)
class StageFacts:
    """A stage of a run.

    Attributes:
        folder: its folder, relative to the folder that is shown; unique.
        run: the closest folder above it in which a pipeline ran, also relative; empty for the folder shown.
        stage: the name of the stage, e.g. `filter_questions`.
        finished: whether it is finished according to its receipt. Otherwise, the numbers are preliminary.
        trains: whether it produced a model rather than rows.
        upstream: folders of the stages from which it read rows or a model.
        rows_in, kept: numbers of rows.
        dropped: number of rows by reason, most frequent first.
        tokens: tokens generated or trained on. `prompt_tokens`: input tokens.
        seconds: seconds of work. `wall`: including the start of its process, if a pipeline measured it.
        cost: money, from the prices in its settings or the price per hour; None if neither is known.
        started: the time in its receipt, in UTC.
        engine: name and version of the engine, if it used one.
        functions: the functions of the user's that it called, with the hashes of their files.
        note: what is wrong with the stage; empty if nothing is.
    """

    folder: str
    run: str
    stage: str
    finished: bool
    trains: bool = False
    upstream: tuple[str, ...] = ()
    rows_in: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float | None = None
    wall: float | None = None
    cost: float | None = None
    started: str = ""
    engine: str = ""
    functions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def in_funnel(self) -> bool:
        """Whether rows pass through it, so that it does more than measure or evaluate."""
        return self.stage not in NOT_DATA and (self.finished or bool(self.rows_in))

    @property
    def makes_rows(self) -> bool:
        """Whether it wrote rows that can be read."""
        return self.finished and not self.trains


def read_run(folder: Path, price_per_hour: float | None = None) -> list[StageFacts]:
    """Return all stages below a folder: finished ones in the order of their rows, then unfinished ones.

    Args:
        folder: the folder of a run, of an evaluation, or of several runs.
        price_per_hour: the price of this machine per hour, for stages whose settings name no prices.

    Raises:
        ConfigError: the folder does not exist, or a receipt cannot be read.
    """
    records = read_stages(folder)
    runs = _runs_in(folder)
    found = []
    for record in records:
        measured = record.damage and f"{record.damage}: its rows are not shown"
        found.append(
            _facts_of(folder, record.folder, record.receipt, runs, price_per_hour)
            | {"trains": record.trains, "upstream": record.upstream, "note": measured or ""}
        )
    known = {record.folder for record in records}
    for path in sorted(folder.rglob("receipt.json"), key=str):
        name = str(path.parent.relative_to(folder))
        if name not in known and (receipt := read_receipt(path.parent)) is not None:
            note = "not finished; run it again to continue"
            found.append(_facts_of(folder, name, receipt, runs, price_per_hour) | {"note": note})
    return [StageFacts(**facts) for facts in found]


def _facts_of(
    root: Path,
    folder: str,
    receipt: Mapping[str, Any],
    runs: Mapping[str, Mapping[str, Any]],
    price: float | None,
) -> dict[str, Any]:
    counts = receipt.get("counts") or {}
    run = max((name for name in runs if _lies_in(folder, name)), key=len, default="")
    own_name = folder.removeprefix(f"{run}/")
    wall = (runs.get(run, {}).get(own_name) or {}).get("seconds")
    seconds = receipt.get("seconds")
    facts: dict[str, Any] = {
        "folder": folder,
        "run": run,
        "stage": str(receipt.get("stage") or "?"),
        "finished": bool(receipt.get("finished")),
        "rows_in": int(receipt.get("rows_in") or 0),
        "kept": int(receipt.get("kept") or 0),
        "dropped": dict(sorted((receipt.get("dropped") or {}).items(), key=lambda item: (-item[1], item[0]))),
        "tokens": int(receipt.get("tokens") or 0),
        "prompt_tokens": int(counts.get("prompt_tokens") or 0),
        "seconds": None if seconds is None else float(seconds),
        "wall": wall if wall is None else float(wall),
        "started": str(receipt.get("started") or ""),
        "engine": str(receipt.get("engine") or ""),
        "functions": dict(receipt.get("functions") or {}),
    }
    return facts | {"cost": _cost_of(root / folder, facts, price)}


def _lies_in(folder: str, run: str) -> bool:
    return run in ("", ".") or folder.startswith(f"{run}/")


def _runs_in(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return what each pipeline recorded about its stages, by its folder; "" is the folder that is shown."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.rglob("run.json"), key=str):
        name = str(path.parent.relative_to(folder))
        try:
            found["" if name == "." else name] = atomic_files.read_object(path).get("stages") or {}
        except ConfigError:
            continue
    return found


def _cost_of(folder: Path, facts: Mapping[str, Any], price_per_hour: float | None) -> float | None:
    """Return the cost from the prices of the server that a stage asked, or else from its time."""
    try:
        settings = read_yaml(folder / "config.yaml")
    except (ConfigError, OSError):
        settings = {}
    engine = settings.get("engine")
    for prices in (settings.get("server"), engine.get("server") if isinstance(engine, dict) else None):
        if isinstance(prices, dict) and (prices.get("price_in") or prices.get("price_out")):
            read, made = float(prices.get("price_in") or 0), float(prices.get("price_out") or 0)
            return float(facts["prompt_tokens"] * read + facts["tokens"] * made) / 1e6
    taken: float | None = facts["seconds"] if facts["wall"] is None else facts["wall"]
    if price_per_hour is None or taken is None or facts["stage"] == "evaluate_model":  # its evaluation has it
        return None
    return taken / 3600 * price_per_hour
