"""Run a whole pipeline file, stage after stage, skipping what is finished.

    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny              # the demo: 2 CPU cores
    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny --dry-run    # only what would run
    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny --from sft   # from one stage on
    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny --to qpo     # up to one stage, and it
    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny --only qft   # one stage

    python recipes/run.py recipes/qwen2_math_7b/pipeline.yaml --output runs/qwen2_math_7b --launch slurm

Each stage is its own process, so that memory is returned between engine and trainer; what it prints goes to
OUTPUT/logs/<stage>.log. A terminal shows a live table. Without one (nohup, Slurm, CI) there is a line every
30 seconds with what is done, the rate and the time left, here and in the stage's log. Interrupt or kill it
at any point and run the same command again: it goes on where it stopped. Before the first stage runs, the
settings of all are read and the files that they name looked for.

With `--launch slurm` the stages become jobs of a cluster instead, each on the machines and GPUs of its
accelerate file, behind those that make its input; this command then ends. A job that is told to stop goes
back into the queue. The same command again submits what is neither finished nor in the queue: after a
failure, that is all there is to do. A stage with a model and no accelerate file asks for one GPU (on a
cluster without any: `--sbatch "--gpus-per-node=0"`). Everything has to lie where all machines see it. Not run
by us on a cluster: there was none.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from scalequest.config import ConfigError
from scalequest.pipeline.look_ahead import left_out, look_ahead
from scalequest.pipeline.runner import Failed, load, plan, run, variables, wanted
from scalequest.pipeline.slurm import chain
from scalequest.redaction import redacted


def main(args: argparse.Namespace) -> int:
    """Plan, and print or run. Returns the exit status."""
    output = Path(args.output)
    try:
        spec = load(args.pipeline)
        steps = plan(spec, output, limit=args.limit, fresh=args.fresh, source=args.pipeline)
        if args.dry_run:
            if given := redacted(variables(spec)):
                print(f"# environment: {shlex.join(f'{key}={value}' for key, value in given.items())}")
            for step in steps if args.launch == "local" else ():
                print(f"# {step.spec.name}\n{step.shown}")
            for line in left_out(steps):
                print(f"note: {line}; their data are not there", file=sys.stderr)
        ahead = look_ahead(wanted(steps, args.start, args.end, args.only), output)
        for fault in ahead.faults:
            print(f"{'not yet' if args.dry_run else 'error'}: {fault}", file=sys.stderr)
        if ahead.faults and not args.dry_run:
            return 2
        if args.launch == "slurm":
            chain(
                spec, steps, wanted(steps, args.start, args.end, args.only), output,
                fingerprints=ahead.fingerprints, extra=shlex.split(args.sbatch), dry_run=args.dry_run,
            )  # fmt: skip
            return 0
        if args.dry_run:
            return 0
        rerun = shlex.join(["python", *sys.argv])
        run(
            spec, steps, output, rerun=rerun, fingerprints=ahead.fingerprints,
            start=args.start, end=args.end, only=args.only,
        )  # fmt: skip
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Failed as failure:
        return failure.status
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("pipeline", help="a pipeline YAML file")
    made.add_argument(
        "--output", required=True, metavar="DIR", help="folder of the stages' folders, logs and run.json"
    )
    made.add_argument("--dry-run", "--dry_run", action="store_true", help="print the commands, run nothing")
    made.add_argument(
        "--launch", choices=("local", "slurm"), default="local", help="slurm: submit the stages as jobs"
    )
    made.add_argument(
        "--sbatch", default="", metavar="OPTIONS", help="slurm: further options of sbatch, as one text"
    )
    made.add_argument("--from", dest="start", metavar="STAGE", help="leave out the stages before this one")
    made.add_argument("--to", dest="end", metavar="STAGE", help="leave out the stages after this one")
    made.add_argument("--only", metavar="STAGE", help="run this stage alone")
    made.add_argument("--limit", type=int, metavar="N", help="every stage takes its first N inputs only")
    made.add_argument("--fresh", action="store_true", help="the stages that run start again from nothing")
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
