r"""Write a stage's batch script for Slurm, with the topology of an accelerate file, and submit it.

    python slurm/launch.py accelerate_configs/zero3.yaml recipes/sft.py --config recipes/mistral_7b/sft.yaml
    python slurm/launch.py --nodes 4 --sbatch "--partition=gpu --time=24:00:00" --submit \
        accelerate_configs/multi_node.yaml recipes/sft.py --config recipes/mistral_7b/sft.yaml

Without `--submit` the script is printed. Machines and GPUs a machine are those of the accelerate file, or as
many machines as `--nodes` says. A training preset's batch is that of one machine: on several,
gradient_accumulation_steps goes down by as much, so that the global batch stays what it was. The processes of
a data stage or of eval/evaluate.py share one folder and nothing else.

A GPU gets eight cores (`--sbatch "--cpus-per-task=N"` for others).

The run is told to stop (SIGTERM) ten minutes before its time is over or when the job is preempted: it saves a
sealed checkpoint and leaves status 75, or `stopped.json` in its folder where a launcher puts its own status
in the place of it, and the script puts the job back into the queue. A run that failed is not put back. The
folder has to lie where all machines see it. Data: `--prepare_only --use_cpu` first, without GPUs.

Not run by us: there was no Slurm. What the script says is tested, and that its signal reaches the ranks.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise, takewhile

from scalequest.config import ConfigError, read_configs
from scalequest.estimate import Topology
from scalequest.recipe import load_recipe
from scalequest.stage.launch import STOP_SECONDS, STOP_VARIABLE

TOLD_SECONDS = STOP_SECONDS + 60  # before the end: time for one step and one checkpoint, then for the script
PORT = 29500
CORES = 8  # a GPU; without a word, Slurm gives one to the one task of a machine, and so to all its ranks


def script(launch: str, command: Sequence[str], nodes: int | None, extra: Sequence[str]) -> str:
    """Text of the batch script.

    Args:
        launch: the accelerate file.
        command: the recipe and its settings.
        nodes: machines, where not those of the file.
        extra: further options of sbatch.

    Raises:
        ConfigError: the settings name no folder, or the global batch cannot stay.
    """
    spread = Topology.of(launch)
    machines = nodes or spread.machines
    gpus = spread.processes // spread.machines
    # As the recipes read `--key=value`; what follows changes or adds to words.
    words = [part for word in command for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    settings = given(words)
    if "output_dir" not in settings:
        raise ConfigError("output_dir: neither the config nor the command names it")
    recipe = load_recipe(words[0])
    if recipe is None:
        raise ConfigError(f"{words[0]}: not a recipe: it defines no RECIPE")
    name = recipe.name
    if machines > 1 and recipe.kind == "training":  # a data stage has no batch
        steps = int(settings.get("gradient_accumulation_steps", 1))
        kept, rest = divmod(steps, machines)
        if rest:
            raise ConfigError(
                f"gradient_accumulation_steps: {steps} on one machine cannot be shared by {machines}; take a "
                "number of machines that divides it, or lower per_device_train_batch_size and raise it"
            )
        if "--gradient_accumulation_steps" in words:
            words[words.index("--gradient_accumulation_steps") + 1] = str(kept)
        else:
            words += ["--gradient_accumulation_steps", str(kept)]
    accelerate = [
        "accelerate", "launch", "--config_file", launch, "--num_machines", str(machines),
        "--num_processes", str(machines * gpus), "--main_process_port", str(PORT),
    ]  # fmt: skip
    stopped = shlex.quote(f"{settings['output_dir']}/stopped.json")
    inner = f'exec {shlex.join(accelerate)} --machine_rank "$SLURM_NODEID" --main_process_ip "$HEAD_NODE" '
    inner += shlex.join(words)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --nodes={machines}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={gpus}",
        f"#SBATCH --cpus-per-task={CORES * gpus}",
        f"#SBATCH --signal=B:TERM@{TOLD_SECONDS}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=%x-%j.log",
        *(f"#SBATCH {option}" for option in extra),
        "set -u",
        "# srun no longer takes this from the job.",
        'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
        "# Time that a launcher leaves its ranks to save in, before it kills them.",
        f'export {STOP_VARIABLE}="${{{STOP_VARIABLE}:-{STOP_SECONDS}}}"',
        'HEAD_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export HEAD_NODE",
        "told=0",
        f"rm -f {stopped}  # of an earlier stop",
        f"srun --kill-on-bad-exit=0 bash -c {shlex.quote(inner)} &",
        "step=$!",
        "# To the ranks, through Slurm: srun itself would answer SIGTERM by killing them.",
        """trap 'told=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM""",
        'wait "$step"; status=$?',
        "# A trapped signal ends the first wait early.",
        'if [ "$told" = 1 ]; then wait "$step"; status=$?; fi',
        f'if [ "$status" = 75 ] || [ -f {stopped} ]; then',
        '  echo "stopped in time: back into the queue"',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "  exit 0",
        "fi",
        'exit "$status"',
    ]
    return "\n".join(lines) + "\n"


def given(command: Sequence[str]) -> dict[str, object]:
    """The settings of a recipe's command line: its configs, and what stands after them."""
    after = iter(command[command.index("--config") + 1 :] if "--config" in command else ())
    settings = read_configs(*takewhile(lambda word: not word.startswith("--"), after))
    pairs = pairwise(command)
    return settings | {key[2:]: value for key, value in pairs if key.startswith("--") and key != "--config"}


def main(args: argparse.Namespace) -> int:
    """Print or submit. Returns the exit status."""
    try:
        text = script(args.launch, [args.recipe, *args.settings], args.nodes, shlex.split(args.sbatch))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not args.submit:
        print(text, end="")
        return 0
    return subprocess.run(["sbatch"], input=text, text=True, check=False).returncode


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
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
