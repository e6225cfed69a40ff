"""Write the page of a run, an evaluation or a folder of several runs: one HTML file to look at and pass on.

    python scripts/run_page.py runs/tiny                                        # writes runs/tiny/index.html
    python scripts/run_page.py runs/tiny/evaluate --output_file evaluation.html # of an evaluation alone
    python scripts/run_page.py runs/tiny --plots figures                        # and each plot as SVG and PDF
    python scripts/run_page.py runs/tiny --price_per_hour 2.5                   # what its hours cost

Shown: what each stage took in, dropped and cost; how long and hard the questions are, before and after each
stage; training curves; benchmark results beside the published ones; and every question with its solutions,
scores and fate, to search and filter. The page fetches nothing. Seconds on any machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scalequest.config import ConfigError
from scalequest.evaluation.published import load_published
from scalequest.installed import command_name
from scalequest.run_page.page import write_run_page

TABLE1 = Path(__file__).parents[1] / "eval/published/table1.yaml"


def main(args: argparse.Namespace) -> int:
    """Write the page, and the plots if they are asked for. Returns the exit status."""
    try:
        tables = [load_published(path) for path in args.published]
        output = Path(args.output_file or Path(args.run) / "index.html")
        facts = write_run_page(
            args.run, output, published=tables, title=args.title, price_per_hour=args.price_per_hour,
            published_as=dict(pair.split("=", 1) for pair in args.published_as),
        )  # fmt: skip
        print(f"written to {output} ({output.stat().st_size / 1e6:.1f} MB)")
        if args.plots:
            from scalequest.run_page.plots import save_plots

            print(f"{len(save_plots(facts, args.plots))} plots written to {args.plots}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or args.run}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _pair(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"expected LABEL=MODEL, got {text!r}")
    return text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=command_name(), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("run", help="folder of a run, of an evaluation, or of several runs")
    made.add_argument("--output_file", metavar="FILE", help="the page; default: index.html in that folder")
    made.add_argument("--plots", metavar="DIR", help="also write each plot there, as SVG and PDF")
    made.add_argument("--title", help="of the page; default: the folder's name")
    made.add_argument("--price_per_hour", type=float, metavar="X", help="money for an hour of the machine")
    made.add_argument(
        "--published", nargs="*", default=[TABLE1], metavar="FILE", help="tables of other people's numbers"
    )
    made.add_argument(
        "--published_as", nargs="*", default=[], type=_pair, metavar="LABEL=MODEL",
        help="which published model one of ours is",
    )  # fmt: skip
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
