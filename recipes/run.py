"""Run the stages of a pipeline file one after the other, skipping finished ones.

    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny              # the demo: 2 CPU cores
    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny --dry-run    # only what would run
    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny --from sft   # from one stage on
    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny --to qpo     # up to one stage, and it
    python recipes/run.py recipes/tiny/pipeline.yaml --output runs/tiny --only qft   # one stage
    python recipes/run.py recipes/paper/table3.yaml --output runs/paper --set profile=tiny    # a variable

    python recipes/run.py recipes/qwen2_math_7b/pipeline.yaml --output runs/qwen2_math_7b --launch slurm

Each stage is a separate process, so its memory is freed between engine and trainer; its output goes to
OUTPUT/logs/<stage>.log. In a terminal, a live table shows the progress. Otherwise (nohup, Slurm, CI), a line
every 30 seconds gives what is done, the rate and the time left, here and in the stage's log. You can
interrupt or kill it at any time; run the same command again to resume. Before the first stage, the settings
of all stages are read, and the files that they name must exist. When the run ends, OUTPUT/index.html shows
its stages, distributions, curves, benchmarks and every row.

With `--launch slurm`, the stages become jobs on a cluster. Each job asks for the nodes and GPUs of its
accelerate file and starts after the jobs that make its inputs; this command then ends. A job that is told to
stop is requeued. Run the same command again to submit what is neither finished nor in the queue, for example
after a failure. A stage with a model but without an accelerate file asks for one GPU (on a cluster without
GPUs: `--sbatch "--gpus-per-node=0"`). All files must be on a file system that every node can see. We had no
cluster to try this on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from scalequest.config import ConfigError
from scalequest.installed import command_name, command_words
from scalequest.pipeline.look_ahead import left_out, look_ahead
from scalequest.pipeline.runner import Failed, load, plan, run, variables, wanted
from scalequest.pipeline.slurm import chain
from scalequest.redaction import redacted
from scalequest.run_page.at_end import write_at_end

PUBLISHED = Path(__file__).parents[1] / "eval/published/table1.yaml"


def main(args: argparse.Namespace) -> int:
    """Plan the stages, and print or run them. Return the exit status."""
    output = Path(args.output)
    try:
        spec = load(args.pipeline, dict(args.set))
        steps = plan(spec, output, limit=args.limit, fresh=args.fresh, source=args.pipeline)
        if args.dry_run:
            if given := redacted(variables(spec)):
                print(f"# environment: {shlex.join(f'{key}={value}' for key, value in given.items())}")
            for step in steps if args.launch == "local" else ():
                print(f"# {step.spec.name}\n{step.shown}")
            for line in left_out(steps):
                print(f"note: {line}; their data are missing", file=sys.stderr)
        ahead = look_ahead(wanted(steps, args.start, args.end, args.only), output, fork=True)
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
        rerun = shlex.join([*command_words(), *sys.argv[1:]])
        run(
            spec, steps, output, rerun=rerun, fingerprints=ahead.fingerprints,
            start=args.start, end=args.end, only=args.only,
        )  # fmt: skip
        write_at_end(output, [PUBLISHED])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Failed as failure:
        return failure.status
    return 0


def variable(text: str) -> tuple[str, str]:
    """What `--set` gives."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=TEXT, e.g. profile=tiny")
    return name, value


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        prog=command_name(), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("pipeline", help="pipeline YAML file")
    made.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="output folder for the stages' folders, the logs and run.json",
    )
    made.add_argument(
        "--set", action="append", default=[], type=variable, metavar="NAME=TEXT",
        help="a variable of the pipeline, over its file's; can be given several times",
    )  # fmt: skip
    made.add_argument(
        "--dry-run", "--dry_run", action="store_true", help="print the commands without running them"
    )
    made.add_argument(
        "--launch", choices=("local", "slurm"), default="local", help="slurm: submit the stages as jobs"
    )
    made.add_argument(
        "--sbatch", default="", metavar="OPTIONS", help="slurm: more options for sbatch, as one string"
    )
    made.add_argument("--from", dest="start", metavar="STAGE", help="skip the stages before this one")
    made.add_argument("--to", dest="end", metavar="STAGE", help="skip the stages after this one")
    made.add_argument("--only", metavar="STAGE", help="run only this stage")
    made.add_argument("--limit", type=int, metavar="N", help="every stage uses only its first N inputs")
    made.add_argument("--fresh", action="store_true", help="start the stages again from scratch")
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
