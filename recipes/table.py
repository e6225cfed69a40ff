"""Print every training run that has a preset: what it is, what it takes from whom, what it needs and costs.

    python recipes/table.py                                     # all of the paper's scale
    python recipes/table.py recipes/*_7b/qpo.yaml --sources     # these, and where each value comes from

Estimates come from scalequest/estimate.py, by the assumptions printed below the table; the paper's numbers,
where it gives any, stand beside them. Needs no GPU and no network.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from scalequest import estimate
from scalequest.cards import markdown_table
from scalequest.config import ConfigError, build, read_yaml

HERE = Path(__file__).parent
TAGS = re.compile(r"\b(P2|C|H|D|HF|X|ours)\b")


@dataclass(frozen=True)
class Preset:
    """A training preset, read: by its recipe's dataclasses, and by its comments.

    Attributes:
        path: of the file.
        stage: name of the recipe.
        topology: of the launch command in its head.
        settings: the file's keys.
        tags: key to the source that its comment names.
        rows: that it is for.
        tokens: of one row.
        paper_hours: GPU-hours on A100-40G that the paper gives, or None.
        parts: the recipe's dataclasses: data, trainer, model.
    """

    path: Path
    stage: str
    topology: estimate.Topology
    settings: dict[str, Any]
    tags: dict[str, str]
    rows: int
    tokens: float
    paper_hours: float | None
    parts: tuple[Any, ...]


def read_preset(path: Path) -> Preset:
    """Read a preset whole.

    Raises:
        ConfigError: a key is wrong, or the head comment lacks the launch command or the rows.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    head = " ".join(
        line.lstrip("# ") for line in lines[: next(n for n, x in enumerate(lines) if x[:1] != "#")]
    )
    command = re.search(r"(?:--config_file (\S+) .*?)?recipes/(\w+)\.py ", head)
    counted = re.search(r"Rows: ([\d,]+) of ([\d.,]+) tokens", head)
    if command is None or counted is None:
        raise ConfigError(f"{path}: its head comment needs the launch command and 'Rows: N of M tokens'")
    hours = re.search(r"Cost: ([\d.]+) GPU-hours", head)
    launch, stage = command.groups()
    settings = read_yaml(path)
    parts = build(import_module(stage).types(), {**settings, "use_cpu": True, "bf16": False}, str(path))
    parts[1].bf16 = settings.get("bf16", True)  # built for this machine, described for that one
    tags = {}
    for line in lines:
        found = re.match(r"(\w+):.*?\s# ?(.*)", line)
        tag = TAGS.search(found[2]) if found else None
        if found and tag:
            tags[found[1]] = tag[1]
    return Preset(
        path,
        stage,
        estimate.Topology.of(launch) if launch else estimate.Topology(),
        settings,
        tags,
        int(counted[1].replace(",", "")),
        float(counted[2].replace(",", "")),
        float(hours[1]) if hours else None,
        parts,
    )


def base_model(preset: Preset, outputs: dict[str, str]) -> str:
    """The hub id that a preset goes back to: its model, or that of the preset whose output it starts from."""
    model = str(preset.settings["model_name_or_path"])
    while model in outputs:
        model = outputs[model]
    return model


def row(preset: Preset, model: str, sizes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One line of the table."""
    if model not in sizes:
        raise ConfigError(f"{preset.path}: recipes/architectures.yaml knows no {model}; add its sizes")
    architecture, training = estimate.Architecture(**sizes[model]), preset.parts[1]
    work = estimate.Work.of(training, preset.parts[2])
    sides = 2 if work.reference else 1
    batch = work.rows // sides * work.accumulation * preset.topology.processes
    packed = getattr(training, "packing", False)
    tokens = preset.rows * preset.tokens * training.num_train_epochs
    length = training.max_length if packed else preset.tokens
    sequences = tokens / length * (1 if packed else sides)
    # Padded rows are as long as a few rows' longest, not as the limit; memory is for the limit all the same.
    in_time = work if packed else replace(work, length=round(preset.tokens / sides))
    needs = estimate.memory(architecture, work, preset.topology).total / estimate.GIB

    def hours(device: estimate.Device) -> str:
        made = estimate.gpu_hours(architecture, in_time, preset.topology, device, sequences, tokens)
        return f"{made:,.1f}" + ("" if needs <= device.memory else " (does not fit)")

    def tagged(key: str, value: Any) -> str:
        return f"{value} ({preset.tags.get(key, '?')})"

    return {
        "run": f"{preset.path.parent.name}/{preset.path.stem}",
        "model": model.rpartition("/")[2],
        "stage": preset.stage,
        "topology": f"{preset.topology.name} x {preset.topology.processes}",
        "batch": tagged("gradient_accumulation_steps", f"{batch} {'pairs' if sides == 2 else 'sequences'}"),
        "tokens a step": f"{round(batch * length):,}",
        "lr": tagged("learning_rate", f"{training.learning_rate:g}"),
        "epochs": tagged("num_train_epochs", f"{training.num_train_epochs:g}"),
        "GiB a GPU": f"{needs:.0f}",
        "A100-40G GPU-hours": hours(estimate.A100_40G),
        "H100 GPU-hours": hours(estimate.H100),
        "paper's GPU-hours": preset.paper_hours or "",
    }


def main(args: argparse.Namespace) -> int:
    """Read, compute, print. Returns the exit status."""
    stages = ("qft", "qpo", "difficulty", "sft*")
    everything = sorted(path for stage in stages for path in HERE.glob(f"*_*b/{stage}.yaml"))
    wanted = [Path(path) for path in args.presets] or [p for p in everything if "135m" not in p.parent.name]
    sizes = read_yaml(HERE / "architectures.yaml")
    try:
        made = [read_yaml(path) for path in everything]
        outputs = {str(one["output_dir"]): str(one["model_name_or_path"]) for one in made}
        presets = [read_preset(path) for path in wanted]
        rows = [row(preset, base_model(preset, outputs), sizes) for preset in presets]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(aligned(rows)))
    print("\nSources: P2 the paper, C its code, H that code's history, D DART-Math, HF cards; ours.")
    print(estimate.ASSUMPTIONS)
    for device in (estimate.A100_40G, estimate.H100):
        print(f"{device.name}: {device.peak:.0f} TFLOP/s bf16, {device.bandwidth:.0f} GB/s between cards.")
    if args.sources:
        for preset in presets:
            print(f"\n## {preset.path}\n")
            shown = [
                {"key": k, "value": v, "source": preset.tags.get(k, "")} for k, v in preset.settings.items()
            ]
            print("\n".join(markdown_table(shown, "key", "value", "source")))
    return 0


def aligned(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table that can be read as it is."""
    columns = list(rows[0])
    widths = {name: max(len(name), *(len(str(one[name])) for one in rows)) for name in columns}
    lines = [" | ".join(name.ljust(widths[name]) for name in columns)]
    lines.append(" | ".join("-" * widths[name] for name in columns))
    lines += [" | ".join(str(one[name]).ljust(widths[name]) for name in columns) for one in rows]
    return [f"| {line} |" for line in lines]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument(
        "presets", nargs="*", help="YAML files; all training presets of 7B and more without any"
    )
    made.add_argument("--sources", action="store_true", help="also where each value comes from")
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
