"""Widen the two tiny models to the shape of a 1.5B model that computes the same function.

    python recipes/proof/make_models.py --output_dir runs/proof/models
    python recipes/proof/make_models.py --output_dir runs/small/models --shape small   # for tests on a CPU

A model of that size with random weights would write noise, and the filters would leave nothing for the later
stages. The tiny model's weights therefore fill one corner of every matrix, as in Net2Net (function-preserving
growth, arXiv 1511.05641), but with zeros instead of copies:

- Matrices that write to the residual stream (embedding, o_proj, down_proj) have zeros for the new hidden
dimensions; o_proj and down_proj also have zeros for the new heads, neurons and layers.
- Matrices that read from it (q, k, v, gate, up) have random numbers there, so every weight learns after a few
steps.
- RMSNorm averages over more dimensions, which its weights and its eps compensate.

The head dimension is unchanged, because RoPE and the attention scale depend on it. So is the vocabulary,
because padded tokens would take probability from the others. Matrices are written in bfloat16, and RMSNorm's
weights in float32, because bfloat16 would round the factor that they are multiplied by. This takes seconds on
a GPU and half a minute on a CPU; each model of shape 1.5b is a file of 2.9 GB.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalequest.config import ConfigError, option, parse, required
from scalequest.config.ranges import SEED

TINY = Path(__file__).resolve().parents[1] / "tiny" / "models"
MODELS = {"tiny-base": "wide-base", "tiny-solver": "wide-solver"}
READS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


@dataclass(frozen=True)
class Shape:
    """The target shape: hidden dimensions, layers, inner neurons of the MLP."""

    hidden: int
    layers: int
    intermediate: int


SHAPES = {
    "1.5b": Shape(
        hidden=1536, layers=28, intermediate=8960
    ),  # Qwen2-1.5B's shape, but with as many k and v heads as q heads
    "small": Shape(hidden=512, layers=6, intermediate=1408),
}


@dataclass(frozen=True)
class MakeConfig:
    """The output folder and the shape."""

    output_dir: str = required("output folder; each of the two models gets its own folder in it")
    shape: Literal["1.5b", "small"] = option("1.5b", "1.5b for a GPU, small for tests on a CPU")
    seed: int = option(42, "seed of the weights that are initialised at random", within=SEED)


def main(config: MakeConfig) -> None:
    """Write both models, each atomically; an existing one is left unchanged."""
    for tiny, wide in MODELS.items():
        folder = Path(config.output_dir) / wide
        if folder.is_dir():
            print(f"{folder} already exists")
            continue
        work = folder.with_name(f".{wide}")
        shutil.rmtree(work, ignore_errors=True)
        parameters = write(TINY / tiny, work, SHAPES[config.shape], config.seed)
        work.rename(folder)
        print(f"{folder}: {parameters / 1e6:,.0f} M parameters")


def write(source: Path, folder: Path, shape: Shape, seed: int) -> int:
    """Widen the model in `source` and write it to `folder`; return its number of parameters."""
    import torch
    from safetensors.torch import save_file

    from scalequest.engines.transformers_engine import device

    torch.manual_seed(seed)
    config = widened(source, shape)
    weights = widen(source, config, torch.device(device()))
    folder.mkdir(parents=True)
    # In the layout of `save_pretrained`; the head is tied to the embedding and not written twice.
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    for file in COPIED:
        shutil.copyfile(source / file, folder / file)
    return sum(weight.numel() for weight in weights.values())


def widened(source: Path, shape: Shape) -> Any:
    """Return the config of a tiny Llama, widened.

    Args:
        source: the tiny model's folder.
        shape: a shape at least as large as the tiny model's, with an integer number of heads.

    Raises:
        ConfigError: the shape is smaller, or its number of heads is not an integer.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source)
    tiny = Shape(config.hidden_size, config.num_hidden_layers, config.intermediate_size)
    if any(getattr(shape, part) < getattr(tiny, part) for part in ("hidden", "layers", "intermediate")):
        raise ConfigError(
            f"shape: {shape} is smaller than {source.name}, which is {tiny}; choose a larger one"
        )
    if shape.hidden % config.head_dim:
        raise ConfigError(
            f"shape: hidden size {shape.hidden} is not a multiple of {source.name}'s "
            f"head_dim, {config.head_dim}; choose a multiple"
        )
    config.update(
        {
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "intermediate_size": shape.intermediate,
            "num_attention_heads": shape.hidden // config.head_dim,
            "num_key_value_heads": shape.hidden // config.head_dim,
            "rms_norm_eps": config.rms_norm_eps * tiny.hidden / shape.hidden,
        }
    )
    return config


def widen(source: Path, config: Any, device: Any) -> dict[str, Any]:
    """Return the weights of a tiny Llama, widened.

    Args:
        source: the tiny model's folder.
        config: the config returned by `widened`.
        device: the device on which the new weights are created.

    Returns:
        The weights by name, on `device`.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    tiny = load_file(source / "model.safetensors", device=str(device))
    # RMSNorm averages over more dimensions, of which the new ones are zero at first.
    shrink = (tiny["model.norm.weight"].numel() / config.hidden_size) ** 0.5
    made = {}
    for name, slot in empty.named_parameters():
        part = tiny.get(name)  # None in a new layer
        if slot.dim() == 1:
            weight = torch.full(slot.shape, shrink, device=device)
            if part is not None:
                weight[: len(part)] = part.float() * shrink
        else:
            weight = torch.zeros(slot.shape, dtype=torch.bfloat16, device=device)
            if name.split(".")[-2] in READS:
                weight.normal_(std=config.initializer_range)
            if part is not None:
                weight[: part.shape[0], : part.shape[1]] = part
        made[name] = weight
    return made


if __name__ == "__main__":
    try:
        main(*parse(MakeConfig, description=__doc__ or ""))
    except ConfigError as error:
        sys.exit(f"error: {error}")
