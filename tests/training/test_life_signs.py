"""What a run says between two logs, on real trainers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalequest import heartbeat

RATE = r"[\d,]+ tokens/s, 0:00:\d\d left"


@pytest.fixture
def speaking(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], object]], list[str]]:
    """Run something with a sign of life every few milliseconds; gives its lines."""
    monkeypatch.setenv(heartbeat.SECONDS, "0.01")

    def run(work: Callable[[], object]) -> list[str]:
        caplog.set_level(logging.INFO, "scalequest")
        with heartbeat.signs(speaks=True):
            work()
        return [record.message for record in caplog.records if record.name == "scalequest.heartbeat"]

    return run


@pytest.mark.parametrize("packing", [True, False])
def test_steps_that_are_longer_than_the_interval(
    speaking: Any, train: Any, settings: dict[str, Any], rows: dict[str, Path], packing: bool
) -> None:
    """Nothing is logged before the end, and a step is eight micro-batches."""
    given = {**settings, "max_steps": 3, "gradient_accumulation_steps": 8, "logging_steps": 100}
    given |= {"per_device_train_batch_size": 1, "input": [str(rows["solutions"])], "packing": packing}
    lines = speaking(lambda: train("sft", given))
    assert any(re.fullmatch(rf"sft: step [012]/3, micro-batch [1-7]/8, {RATE}", line) for line in lines), (
        lines
    )
    assert any(line.startswith(f"sft: loading {settings['model_name_or_path']}, ") for line in lines)
    assert any(line.startswith("sft: saving the model, ") for line in lines)


def test_the_reference_and_the_evaluation_are_counted(
    speaking: Any, train: Any, settings: dict[str, Any], rows: dict[str, Path]
) -> None:
    given = {**settings, "max_steps": 16, "logging_steps": 4}  # a log postpones the next line
    given |= {"input": [str(rows["pairs"])], "holdout": 20, "per_device_eval_batch_size": 1}
    lines = speaking(lambda: train("qpo", given))
    reference = r"qpo: computing the reference's log-probabilities of the train rows: \d+ of 10 batches, "
    assert any(re.match(reference, line) for line in lines), lines
    assert any(re.match(r"qpo: evaluating: \d+ of 20 batches, .* left", line) for line in lines), lines
    assert any(re.fullmatch(rf"qpo: step \d+/16, loss [\d.]+, {RATE}", line) for line in lines), lines
