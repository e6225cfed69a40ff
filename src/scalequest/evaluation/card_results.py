"""Add results to the card of the model that they are of, in the hub's terms and as a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalequest import atomic_files
from scalequest.config import ConfigError
from scalequest.evaluation.results import Result
from scalequest.evaluation.statistics import Estimate
from scalequest.pages.cards import markdown_table
from scalequest.records import model_fingerprint

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_BEGIN, _END = "<!-- results -->", "<!-- end of results -->"
_HEADING = re.compile(r"^## Evaluation\n+", re.MULTILINE)
_NONE_YET = re.compile(r"^Not evaluated yet: .*\n", re.MULTILINE)
_SECTION = re.compile(rf"{_BEGIN}.*?{_END}\n*", re.DOTALL)


def add_to_card(folder: Path, results: Sequence[Result]) -> None:
    """Add results to README.md, in its `model-index` and its section on evaluation.

    Results on the same benchmark that are there already are replaced.

    Args:
        folder: the model's.
        results: of this model.

    Raises:
        ConfigError: there is no card, or the results are of another model.
    """
    from huggingface_hub import ModelCard

    path, digest = folder / "README.md", model_fingerprint(folder)
    if not results:
        raise ConfigError(f"{folder}: no results of this model were given")
    for result in results:
        if result.model_fingerprint != digest:
            raise ConfigError(
                f"{folder}: the results of '{result.model}' on {result.benchmark} are of another model, or "
                "of this one before it was trained again"
            )
    try:
        card = ModelCard.load(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a model card: {error}") from None
    fresh = [one for result in results for one in hub_results(result)]
    named = {result.benchmark for result in results}
    kept = [one for one in card.data.eval_results or [] if one.dataset_type not in named]
    card.data.eval_results = [*kept, *fresh]
    card.data.model_name = card.data.model_name or folder.resolve().name
    card.text = _with_table(card.text, card.data.eval_results)
    atomic_files.write(path, str(card).encode())


def hub_results(result: Result) -> Iterator[EvalResult]:
    """Yield a benchmark's accuracy and its metrics over samples as entries of a `model-index`.

    Values and intervals are shares from 0 to 1; `n` is the number of problems.
    """
    from huggingface_hub import EvalResult

    measured: dict[str, Estimate] = {"accuracy": result.accuracy, **result.metrics}
    for name, estimate in measured.items():
        if estimate.value is not None:
            yield EvalResult(
                task_type="text-generation",
                task_name="mathematical reasoning",
                dataset_type=result.benchmark,
                dataset_name=result.title,
                metric_type=name,
                metric_name=name,
                metric_value=round(estimate.value, 4),
                metric_args={
                    "n": result.n,
                    "samples": result.samples,
                    "low_95": None if estimate.low is None else round(estimate.low, 4),
                    "high_95": None if estimate.high is None else round(estimate.high, 4),
                    "protocol": result.fingerprint,
                },
            )


def _with_table(text: str, results: Sequence[EvalResult]) -> str:
    """Return a card's text with a table of all results at the head of its section on evaluation."""
    rows = [
        {
            "benchmark": one.dataset_name,
            "metric": one.metric_type,
            "value": f"{100 * one.metric_value:.1f}",
            "95 % interval": _interval(one),
            "n": (one.metric_args or {}).get("n"),
            "protocol": (one.metric_args or {}).get("protocol"),
        }
        for one in results
    ]
    table = markdown_table(rows, "benchmark", "metric", "value", "95 % interval", "n", "protocol")
    section = "\n".join(["## Evaluation", "", _BEGIN, "", *table, "", _END, "", ""])
    text = _NONE_YET.sub("", _SECTION.sub("", text))
    if not _HEADING.search(text):
        text = f"{text.rstrip()}\n\n## Evaluation\n"
    return _HEADING.sub(lambda match: section, text, count=1)


def _interval(result: EvalResult) -> str:
    given = result.metric_args or {}
    ends = [f"{100 * given[end]:.1f}" for end in ("low_95", "high_95") if given.get(end) is not None]
    return " to ".join(ends)
