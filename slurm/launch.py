r"""Write a stage's batch script for Slurm, with the topology of an accelerate file, and submit it.

    python slurm/launch.py accelerate_configs/zero3.yaml recipes/sft.py --config recipes/mistral_7b/sft.yaml
    python slurm/launch.py --nodes 4 --sbatch "--partition=gpu --time=24:00:00" --submit \
        accelerate_configs/multi_node.yaml recipes/sft.py --config recipes/mistral_7b/sft.yaml

Without `--submit` the script is printed, `<secret>` in the place of any secret. Machines and GPUs a machine
are those of the accelerate file, or as many machines as `--nodes` says. A training preset's batch is that of
one machine: on several, gradient_accumulation_steps goes down by as much, so that the global batch stays what
it was. The processes of a data stage or of eval/evaluate.py share one folder and nothing else.

A GPU gets eight cores (`--sbatch "--cpus-per-task=N"` for others). A whole pipeline file as a chain of such
jobs: `python recipes/run.py PIPELINE --output DIR --launch slurm`.

The run is told to stop (SIGTERM) ten minutes before its time is over or when the job is preempted: it saves a
sealed checkpoint and leaves status 75, or `stopped.json` in its folder where a launcher puts its own status
in the place of it, and the script puts the job back into the queue. So it does with a data stage that was
told to stop, whose finished blocks are kept. A run that failed is not put back. The folder has to lie where
all machines see it. Data: `--prepare_only --use_cpu` first, without GPUs.

Not run by us: there was no Slurm. What the script says is tested, and that its signal reaches the ranks.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from scalequest.config import ConfigError
from scalequest.installed import command_name, locate
from scalequest.pipeline.slurm import script, shown, submit


def main(args: argparse.Namespace) -> int:
    """Print or submit. Returns the exit status."""
    try:
        extra = shlex.split(args.sbatch)
        args.launch, command = locate(args.launch), [locate(args.recipe), *args.settings]
        if args.submit:
            print(f"submitted as job {submit(script(args.launch, command, args.nodes, extra))}")
        else:
            print(script(args.launch, shown(command), args.nodes, extra), end="")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=command_name(), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("--nodes", type=int, help="machines, where not those of the accelerate file")
    made.add_argument(
        "--sbatch", default="", metavar="OPTIONS", help="further options of sbatch, as one text"
    )
    made.add_argument("--submit", action="store_true", help="hand it to sbatch")
    made.add_argument("launch", help="an accelerate file")
    made.add_argument("recipe", help="a recipe")
    made.add_argument("settings", nargs=argparse.REMAINDER, help="its settings")
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
