"""Download the training sets and benchmarks that the YAML files refer to, into the folder `SCALEQUEST_DATA`.

    python scripts/prepare_data.py --output_dir data                        # all of them, 12 MB
    python scripts/prepare_data.py --output_dir data --only gsm8k math      # some of them, by set or group
    python scripts/prepare_data.py --output_dir data --list                 # what there is, and what is there
    export SCALEQUEST_DATA=$PWD/data

Run the same command again to resume after an interruption; files that exist and are correct are left
unchanged. Every file is checked by its number of rows and their sha256. Upstream's commits, licences and
checksums are in src/scalequest/data/sources.yaml. Every data set keeps its own licence; some are for
evaluation or non-commercial use only, as the table printed at the end says.

Behind a firewall, `--mirror URL` replaces every host and `--mirror HOST=URL` replaces one; the rest of each
address is unchanged. The environment variable SCALEQUEST_MIRROR does the same, with several values separated
by spaces, and HF_ENDPOINT is supported, too. `--from DIR` uses no network: DIR contains the finished files,
or upstream's repositories as DIR/OWNER/NAME.

Two items are only prepared if requested by name:

    python scripts/prepare_data.py --only internlm2_tokenizer --model_dir DIR    # of score_responses.yaml
    python scripts/prepare_data.py --only authors_prompts --output_dir data      # the paper's own prompts

The first converts the SentencePiece file of internlm/internlm2-7b-reward (DIR is a snapshot of that model;
without it, the file comes from the hub) into the fast tokenizer that score.py loads, without running code
from that repository. The second writes the authors' three prompts to OUTPUT_DIR/authors_prompts in the format
of recipes/prompts.

Exit status: 0 if everything requested is there, 1 if something is missing, 2 after a mistake in the command.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from scalequest.config import ConfigError
from scalequest.data.authors_prompts import write_prompts
from scalequest.data.fetch import Patience
from scalequest.data.internlm2_tokenizer import write_tokenizer
from scalequest.data.prepare import Outcome, Places, alone, make, table_of, there
from scalequest.data.sources import DataSet, load_table
from scalequest.installed import command_name


def main(args: argparse.Namespace) -> int:
    """Prepare or list the requested data. Return the exit status."""
    try:
        return prepare(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or args.output_dir}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130


def prepare(args: argparse.Namespace) -> int:
    """Run the command step by step; raise an error for its mistakes."""
    # 1. What is requested, and where to look for it
    table = load_table(args.sources) if args.sources else load_table()
    sets, extras = table.chosen(args.only)
    output = Path(args.output_dir)
    mirrors = [*args.mirror, *os.environ.get("SCALEQUEST_MIRROR", "").split()]
    if endpoint := os.environ.get("HF_ENDPOINT"):
        mirrors.append(f"huggingface.co={endpoint}")
    local = Path(args.local) if args.local else None
    places = Places(table, output, local, mirrors, Patience(args.timeout, args.retries, args.wait))
    if args.list:
        print(table_of([_listed(one, output) for one in sets]))
        return 0

    # 2. One item after the other; a failure does not stop the others
    outcomes: list[Outcome] = []
    with alone(output):
        for number, one in enumerate(sets, 1):
            outcome = make(one, places, f"{number}/{len(sets)} {one.name}", _complain)
            print(
                f"{one.name}: {one.rows:,} rows, {one.licence}, {outcome.source}: {outcome.status}",
                flush=True,
            )
            outcomes.append(outcome)
        for extra in extras:
            if extra.name == "internlm2_tokenizer":
                model = Path(args.model_dir) if args.model_dir else None
                outcomes.append(write_tokenizer(extra, places, Path(args.tokenizer_dir), model, _complain))
            else:
                outcomes.append(write_prompts(extra, places, output / extra.name, _complain))

    # 3. The outcome
    print(f"\n{table_of(outcomes)}")
    missing = [one.name for one in outcomes if not one.done]
    if missing:
        print(
            f"error: missing: {', '.join(missing)}; run the same command again to retry them", file=sys.stderr
        )
    elif sets:
        print(f"\nexport SCALEQUEST_DATA={output.resolve()}")
    return 1 if missing else 0


def _listed(one: DataSet, output: Path) -> Outcome:
    wrong = there(one, output)
    status = "there" if wrong is None else "not there" if not wrong else "contains different rows"
    return Outcome(one.name, one.rows, one.licence, one.sources[0].label, status)


def _complain(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        prog=command_name(), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    add = made.add_argument
    add(
        "--output_dir",
        default="data",
        metavar="DIR",
        help="output folder, to which SCALEQUEST_DATA will point (data)",
    )
    add("--only", nargs="+", default=[], metavar="SET", help="sets or groups to prepare; default: all sets")
    add("--list", action="store_true", help="print the sets and their state without downloading anything")
    add("--mirror", nargs="+", default=[], metavar="[HOST=]URL", help="URL to use instead of a host")
    add("--from", dest="local", metavar="DIR", help="read a local copy instead of the network")
    add("--model_dir", metavar="DIR", help="internlm2_tokenizer: folder with a snapshot of the model")
    add(
        "--tokenizer_dir", default="models/internlm2-7b-reward-tokenizer", metavar="DIR",
        help="internlm2_tokenizer: output folder (models/internlm2-7b-reward-tokenizer)",
    )  # fmt: skip
    add(
        "--timeout",
        type=float,
        default=30.0,
        help="seconds without any data after which an attempt is aborted (30)",
    )
    add("--retries", type=int, default=5, help="number of retries (5)")
    add(
        "--wait",
        type=float,
        default=1.0,
        help="delay in seconds before the first retry, doubled each time (1)",
    )
    add("--sources", metavar="FILE", help="use a different table of sources")
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
