"""Write a run's page at the end of a pipeline, so that no further command is needed to look at the run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

PAGE = "index.html"


def write_at_end(run: Path, published: Sequence[Path] = ()) -> None:
    """Write RUN/index.html unless it is newer than all receipts, and print its path or why it is missing.

    A run does not fail because its page cannot be written. Modules are imported only if there is something to
    show.

    Args:
        run: the folder of a pipeline run.
        published: YAML files of published tables.
    """
    page = run / PAGE
    receipts = [path.stat().st_mtime for path in run.glob("*/**/receipt.json")]
    if not receipts:
        return
    try:
        if not page.exists() or page.stat().st_mtime <= max(receipts):
            from scalequest.evaluation.published import load_published
            from scalequest.run_page.page import write_run_page

            write_run_page(run, page, published=[load_published(path) for path in published])
        print(f"page:     {page}")
    except Exception as error:
        print(f"note: the page of this run was not written: {' '.join(str(error).split())}", file=sys.stderr)
