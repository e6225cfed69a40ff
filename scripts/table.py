"""Print every training run that has a preset: its settings with their sources, its requirements and cost.

    python scripts/table.py                                     # all of the paper's scale
    python scripts/table.py recipes/*_7b/qpo.yaml --sources     # these, and where each value comes from

Estimates are computed by scalequest/estimate.py with the assumptions printed below the table; the paper's
numbers, if it gives any, are printed next to them. This needs no GPU and no network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from scalequest import estimate
from scalequest.config import ConfigError, PresetFacts, build, read_configs, read_facts, read_yaml
from scalequest.pages.cards import markdown_table
from scalequest.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Preset:
    """A training preset: its settings, and what it says about itself.

    Attributes:
        paths: its files, later ones overriding earlier ones.
        topology: the topology of its launch command.
        settings: the keys of the files.
        facts: the content of `preset`.
        parts: the recipe's dataclasses: data, trainer, model.
    """

    paths: tuple[Path, ...]
    topology: estimate.Topology
    settings: dict[str, Any]
    facts: PresetFacts
    parts: tuple[Any, ...]

    @property
    def stage(self) -> str:
        """The name of the recipe, after which a profile's file is named."""
        return self.paths[0].stem

    @property
    def name(self) -> str:
        """The profile and the file, with any variants."""
        first, *others = self.paths
        folder = first.parent
        if len(others) == 1 and others[0].parent == folder:
            return f"{folder.name}/{others[0].stem}"
        return f"{folder.name}/{'+'.join(path.stem for path in self.paths)}"

    @property
    def shown(self) -> str:
        """The files in the form for `--config`."""
        return " ".join(map(str, self.paths))


def combinations(path: Path) -> list[tuple[Path, ...]]:
    """Return the files to read together: a preset alone, or a variant on top of each of its bases.

    Raises:
        ConfigError: the file's `preset` section is wrong.
    """
    bases = read_facts(path).base
    return [(RECIPES.parent / base, path) for base in bases] if bases else [(path,)]


@cache
def stage_of(preset: Path) -> Recipe:
    """Return the recipe of the same name as the preset.

    Raises:
        ConfigError: there is no such recipe.
    """
    recipe = load_recipe(RECIPES / f"{preset.stem}.py")
    if recipe is None:
        raise ConfigError(
            f"{preset}: recipes/{preset.stem}.py defines no recipe; name each preset after its stage"
        )
    return recipe


def read_preset(paths: Sequence[Path]) -> Preset:
    """Read a complete preset.

    Raises:
        ConfigError: a key is wrong, or the preset does not say its number of rows and of tokens per row.
    """
    facts, settings = read_facts(*paths), read_configs(*paths)
    name = " and ".join(map(str, paths))
    if facts.rows is None or facts.tokens is None:
        raise ConfigError(f"{name}: preset: set rows and tokens, which the cost is computed from")
    here = {**settings, "use_cpu": True, "bf16": False}
    parts = build(stage_of(paths[0]).configs(), here, name)
    parts[1].bf16 = settings.get("bf16", True)  # built on this machine, but for another one
    topology = estimate.Topology.of(RECIPES.parent / facts.launch) if facts.launch else estimate.Topology()
    return Preset(tuple(paths), topology, settings, facts, parts)


def base_model(preset: Preset, outputs: dict[str, str]) -> str:
    """Return the hub id behind a preset: its model, or that of the preset whose output it starts from."""
    model = str(preset.settings["model_name_or_path"])
    while model in outputs:
        model = outputs[model]
    return model


def row(preset: Preset, model: str, sizes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return one line of the table."""
    if model not in sizes:
        raise ConfigError(
            f"{preset.shown}: recipes/architectures.yaml does not contain {model}; add its sizes"
        )
    architecture, training = estimate.Architecture(**sizes[model]), preset.parts[1]
    work = estimate.Work.of(training, preset.parts[2])
    sides = 2 if work.reference else 1
    batch = work.rows // sides * work.accumulation * preset.topology.processes
    packed = getattr(training, "packing", False)
    rows, row_tokens = preset.facts.rows or 0, preset.facts.tokens or 0.0
    tokens = rows * row_tokens * training.num_train_epochs
    length = training.max_length if packed else row_tokens
    sequences = tokens / length * (1 if packed else sides)
    # Padded rows are as long as the longest of a few rows, not as the limit; the memory must suffice for the
    # limit.
    in_time = work if packed else replace(work, length=round(row_tokens / sides))
    needs = estimate.memory(architecture, work, preset.topology).total / estimate.GIB

    def hours(device: estimate.Device) -> str:
        made = estimate.gpu_hours(architecture, in_time, preset.topology, device, sequences, tokens)
        return f"{made:,.1f}" + ("" if needs <= device.memory else " (does not fit)")

    def tagged(key: str, value: Any) -> str:
        return f"{value} ({preset.facts.source.get(key, '?')})"

    return {
        "run": preset.name,
        "model": model.rpartition("/")[2],
        "stage": preset.stage,
        "topology": f"{preset.topology.name} x {preset.topology.processes}",
        "batch": tagged("gradient_accumulation_steps", f"{batch} {'pairs' if sides == 2 else 'sequences'}"),
        "tokens per step": f"{round(batch * length):,}",
        "lr": tagged("learning_rate", f"{training.learning_rate:g}"),
        "epochs": tagged("num_train_epochs", f"{training.num_train_epochs:g}"),
        "GiB per GPU": f"{needs:.0f}",
        "A100-40G GPU-hours": hours(estimate.A100_40G),
        "H100 GPU-hours": hours(estimate.H100),
        "paper's GPU-hours": preset.facts.a100_hours or "",
    }


def main(args: argparse.Namespace) -> int:
    """Read the presets, compute, and print. Return the exit status."""
    recipes = [load_recipe(path) for path in sorted(RECIPES.glob("*.py"))]
    stages = [recipe.name for recipe in recipes if recipe is not None and recipe.kind == "training"]
    everything = [path for stage in stages for path in sorted(RECIPES.glob(f"*_*b/{stage}*.yaml"))]
    large = [path for path in everything if "135m" not in path.parent.name]
    large += sorted(RECIPES.glob("variants/*"))
    sizes = read_yaml(RECIPES / "architectures.yaml")
    try:
        found = [files for path in map(Path, args.presets or large) for files in combinations(path)]
        if not args.presets:  # a preset without facts has no cost
            found = [files for files in found if files[0].stem in stages and read_facts(*files).rows]
        presets = [read_preset(files) for files in found]
        made = [read_configs(path) for path in everything if not read_facts(path).base]
        outputs = {str(one["output_dir"]): str(one["model_name_or_path"]) for one in made}
        rows = [row(preset, base_model(preset, outputs), sizes) for preset in presets]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(aligned(rows)))
    print("\nThe sources in brackets are explained in recipes/README.md.")
    print(estimate.ASSUMPTIONS)
    for device in (estimate.A100_40G, estimate.H100):
        print(f"{device.name}: {device.peak:.0f} TFLOP/s bf16, {device.bandwidth:.0f} GB/s between GPUs.")
    if args.sources:
        for preset in presets:
            print(f"\n## {preset.shown}\n")
            shown = [
                {"key": k, "value": v, "source": preset.facts.source.get(k, "")}
                for k, v in preset.settings.items()
            ]
            print("\n".join(markdown_table(shown, "key", "value", "source")))
    return 0


def aligned(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a Markdown table that is also readable as text."""
    columns = list(rows[0])
    widths = {name: max(len(name), *(len(str(one[name])) for one in rows)) for name in columns}
    lines = [" | ".join(name.ljust(widths[name]) for name in columns)]
    lines.append(" | ".join("-" * widths[name] for name in columns))
    lines += [" | ".join(str(one[name]).ljust(widths[name]) for name in columns) for one in rows]
    return [f"| {line} |" for line in lines]


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument(
        "presets",
        nargs="*",
        help="YAML files, variants after their base; default: all training presets from 7B, without variants",
    )
    made.add_argument("--sources", action="store_true", help="also print the source of each value")
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
