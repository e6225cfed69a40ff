r"""Add evaluation results to the card of the model that they are of.

    python scripts/add_results.py --model runs/tiny/sft --results runs/tiny/evaluate/tiny-base_SFT

One process on any machine; seconds. `--results` takes folders of eval/evaluate.py, of one model or of
several; results of other models are skipped, and it is an error if none is of this one.

Result: MODEL/README.md with the results in its header, as `model-index` in the form that the hub shows, and
in a table with intervals and protocol. Results on the same benchmark are replaced, so it may be run again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from scalequest.config import required
from scalequest.recipe import Recipe, run_recipe


@dataclass(frozen=True)
class AddResultsConfig:
    """The model and its results."""

    model: str = required("the model's folder, whose README.md is changed")
    results: list[str] = required("folders of eval/evaluate.py that hold results.json, or folders above them")


def main(config: AddResultsConfig) -> None:
    """Read the results, and put them into the card."""
    from scalequest.evaluation.card_results import add_to_card
    from scalequest.evaluation.results import RESULTS, read_results
    from scalequest.records import expand, model_fingerprint

    folder = expand(config.model)
    digest = model_fingerprint(folder)
    files = [file for one in config.results for file in sorted(expand(one).rglob(RESULTS))]
    found = [result for file in files for result in read_results(file)]
    own = {one.benchmark: one for one in found if one.model_fingerprint == digest}
    add_to_card(folder, list(own.values()))
    print(f"{folder / 'README.md'}: {', '.join(own)}; {len(found) - len(own)} results left aside")


RECIPE = Recipe("add_results", 1, "tool", lambda: (AddResultsConfig,), main)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__))
