r"""Attention over packed rows: what a mask costs on this GPU, and what computing each document alone saves.

    PYTHONPATH=src python bench/attention.py          # one GPU, under a minute
    PYTHONPATH=src python bench/attention.py --small  # a CPU, seconds: only to see that it runs

One JSON line per measurement, on standard output. A way that fails leaves a line with its error, and the next
one goes on; so does a measurement that would begin after `--seconds`.

The ways, all through transformers' own models:

- `sdpa_mask`: `attn_implementation: sdpa` under the block-diagonal mask made from `position_ids`.
- `varlen`: torch's flash kernel for sequences of various lengths, by `scalequest.training.attention`.
- `one_by_one`: one call of `sdpa` per document in a loop, by the same module.
- `apart`: the documents, equally long, as a batch without a mask. Not packing; what the best kernel does.
- `causal`: the row as one document. Wrong; what the flash kernel takes for the whole triangle.
- `flex_attention`: transformers' own, compiled; comes last, because compiling takes most of the time.

`kind: op` is the attention of one layer, forward and backward; `kind: model` is four layers with random
weights and a small vocabulary. `error_out` and `error_grad` are norms of differences over norms, against
float32 with the documents apart. `peak_gib` is memory above what weights, their gradients and inputs take.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2Config, Qwen2ForCausalLM
from transformers.masking_utils import create_causal_mask

from scalequest.training import attention

BEGAN = time.monotonic()
VOCABULARY = 2048
SHAPES = {  # of a layer: hidden size, intermediate size, heads, key heads, by config.json on the hub
    "qwen2_7b": (3584, 18944, 28, 4),
    "qwen2_1.5b": (1536, 8960, 12, 2),
    "small": (64, 128, 4, 2),
}
ROWS = {
    **{"4096=8x512": (8, 512), "4096=2x2048": (2, 2048), "2048=4x512": (4, 512), "1024=4x256": (4, 256)},
    "24=3x8": (3, 8),
}
WAYS = ("sdpa_mask", "varlen", "one_by_one", "apart", "causal", "flex_attention")


@dataclass(frozen=True)
class Job:
    """What is measured on what.

    Attributes:
        shape: a key of `SHAPES`.
        row: a key of `ROWS`.
        device: "cuda" or "cpu".
        dtype: of weights and inputs.
        layers: of the model.
        turns: timed repetitions.
    """

    shape: str
    row: str
    device: str
    dtype: torch.dtype
    layers: int
    turns: int

    @property
    def documents(self) -> tuple[int, int]:
        """How many, and tokens in each."""
        return ROWS[self.row]


def say(**found: Any) -> None:
    """One measurement, one line."""
    print(json.dumps({**found, "at_s": round(time.monotonic() - BEGAN, 1)}), flush=True)


def settings(job: Job, name: str) -> Any:
    """A config of the job's shape, under an attention of transformers' name."""
    hidden, intermediate, heads, key_heads = SHAPES[job.shape]
    config = Qwen2Config(
        hidden_size=hidden, intermediate_size=intermediate, num_attention_heads=heads,
        num_key_value_heads=key_heads, num_hidden_layers=job.layers, vocab_size=VOCABULARY,
        max_position_embeddings=8192, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    config._attn_implementation = name
    return config


def spelled(way: str) -> str:
    """The name under which transformers finds what computes a way."""
    return {"sdpa_mask": "sdpa", "apart": "sdpa", "causal": "sdpa"}.get(way, way)


def inputs(job: Job, way: str, ids: torch.Tensor) -> dict[str, Any]:
    """What a model is given: the row of `ids` (1, tokens), with what says where its documents are."""
    count, length = job.documents
    if way == "apart":
        return {"input_ids": ids.view(count, length)}
    if way == "causal":
        return {"input_ids": ids}
    given = {"input_ids": ids, "position_ids": torch.arange(length, device=job.device).repeat(count)[None]}
    if way in ("varlen", "one_by_one"):
        given |= attention.boundaries([[length] * count], count * length)
    return {key: value.to(job.device) if torch.is_tensor(value) else value for key, value in given.items()}


def one_by_one(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> tuple[Any, None]:
    """`attention.attend` without the flash kernel."""
    flat = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    out = attention.one_by_one(*flat, kwargs["cu_seq_lens_q"], kwargs["scaling"])
    return out.unflatten(0, (query.shape[0], query.shape[2])), None


def wait(job: Job) -> None:
    """Until the GPU has done what it was given."""
    if job.device == "cuda":
        torch.cuda.synchronize()


def timed(job: Job, step: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of the first call, compiling included; milliseconds of later ones; peak memory."""
    wait(job)
    began = time.perf_counter()
    step()
    wait(job)
    found: dict[str, Any] = {"first_s": round(time.perf_counter() - began, 3)}
    step()
    wait(job)
    if job.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    took = []
    for _ in range(job.turns):
        began = time.perf_counter()
        step()
        wait(job)
        took.append(1000 * (time.perf_counter() - began))
    found |= {"ms": round(statistics.median(took), 3), "ms_least": round(min(took), 3)}
    if job.device == "cuda":
        found["peak_gib"] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)
    return found


def kernels(job: Job, step: Callable[[], Any]) -> list[str]:
    """The six kernels (on a CPU, operations) of one step that took most of its time, with their share."""
    from torch.profiler import ProfilerActivity, profile

    cuda = job.device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        step()
        wait(job)
    took: dict[str, float] = {}
    for event in seen.key_averages():
        on_device = str(getattr(event, "device_type", "")).endswith("CUDA")
        if cuda and not on_device:
            continue
        own = getattr(event, "self_device_time_total", 0) if cuda else event.self_cpu_time_total
        took[event.key] = took.get(event.key, 0) + float(own)
    total = sum(took.values()) or 1
    most = sorted(took.items(), key=lambda item: -item[1])[:6]
    return [f"{100 * own / total:.0f} % {name[:110]}" for name, own in most if own]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm of the second."""
    other = other.flatten()
    return float(f"{float((one.flatten().float() - other).norm() / other.norm()):.3g}")


# ---------------------------------------------------------------------------------------------- one operation


def operation(job: Job, way: str, truth: dict[str, Any]) -> dict[str, Any]:
    """The attention of one layer, as transformers calls it; fills `truth` in if it is empty."""
    count, length = job.documents
    config = settings(job, spelled(way))
    heads, groups = config.num_attention_heads, config.num_attention_heads // config.num_key_value_heads
    size = config.hidden_size // heads
    torch.manual_seed(0)
    full = [
        torch.randn(1, count * length, n, size, device=job.device)
        for n in (heads, config.num_key_value_heads, config.num_key_value_heads, heads)
    ]
    # Rounded, so that both types are given the same numbers.
    query, key, value, weight = (each.to(job.dtype).float() for each in full)
    batch = (count, length) if way == "apart" else (1, count * length)

    def states(dtype: torch.dtype, batch: tuple[int, int]) -> list[torch.Tensor]:
        return [
            each.to(dtype).view(*batch, each.shape[2], size).detach().requires_grad_()
            for each in (query, key, value)
        ]

    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = groups, True  # type: ignore[assignment]
    module.config = config
    given = inputs(job, way, torch.zeros(1, count * length, dtype=torch.long, device=job.device))
    extra = {name: given[name] for name in ("cu_seq_lens_q", "max_length_q") if name in given}
    mask = create_causal_mask(
        config, torch.empty(*batch, 1, device=job.device, dtype=job.dtype), None, None,
        position_ids=given.get("position_ids"),
    )  # fmt: skip
    function = AttentionInterface()[spelled(way)]

    def attend(function: Any, states: list[torch.Tensor], mask: Any, **extra: Any) -> torch.Tensor:
        out, _ = function(
            module, *(each.transpose(1, 2) for each in states), mask, dropout=0.0, scaling=size**-0.5, **extra
        )
        return out

    if not truth:
        true = states(torch.float32, (count, length))
        out = attend(AttentionInterface()["sdpa"], true, None)
        (out * weight.view_as(out)).sum().backward()
        truth |= {"out": out.detach(), "grads": [each.grad for each in true]}
    used = states(job.dtype, batch)
    out = attend(function, used, mask, **extra)
    (out * weight.to(job.dtype).view_as(out)).sum().backward()
    found = {
        "error_out": apart(out.detach(), truth["out"]),
        "error_grad": max(apart(each.grad, true) for each, true in zip(used, truth["grads"], strict=True)),
    }
    push = weight.to(job.dtype).view_as(out)

    def step() -> None:
        for each in used:
            each.grad = None
        attend(function, used, mask, **extra).backward(push)

    return {**timed(job, step), **found, "kernels": kernels(job, step)}


# --------------------------------------------------------------------------------------------- a whole model


def model(job: Job, way: str, truth: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward of a few layers on one packed row; fills `truth` in, and `kept` with the model."""
    count, length = job.documents
    if kept.get("shape") != job.shape:
        kept.clear()
        torch.manual_seed(0)
        with torch.device(job.device):
            made = Qwen2ForCausalLM(settings(job, "sdpa")).to(job.dtype).train()
        kept |= {"shape": job.shape, "model": made}
    made = kept["model"]
    torch.manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (1, count * length), device=job.device)

    def step(model: Any, given: dict[str, Any]) -> torch.Tensor:
        model.zero_grad(set_to_none=False)
        hidden = model.model(**given).last_hidden_state
        # Every token has the same target, so that no label has to be masked where documents meet.
        scores = model.lm_head(hidden).flatten(0, 1)
        targets = ids.flatten().roll(1)
        torch.nn.functional.cross_entropy(scores.float(), targets).backward()
        return hidden.detach()

    def grads(model: Any) -> torch.Tensor:
        return torch.cat([each.grad.flatten() for each in model.parameters()])

    if not truth:
        made.zero_grad(set_to_none=True)
        made.set_attn_implementation("sdpa")
        true = copy.deepcopy(made).float()
        truth["out"] = step(true, inputs(job, "apart", ids))
        truth["grads"] = grads(true)
        del true
    made.set_attn_implementation(spelled(way))
    given = inputs(job, way, ids)
    began = time.perf_counter()
    out = step(made, given)
    wait(job)
    cold = round(time.perf_counter() - began, 3)
    found = {"error_out": apart(out, truth["out"]), "error_grad": apart(grads(made), truth["grads"])}
    del out
    took = timed(job, lambda: step(made, given))
    took["first_s"] = cold
    took["tokens_per_second"] = round(1000 * count * length / took["ms"])
    return {**took, **found}


# -------------------------------------------------------------------------------------------------- all of it


def plan(small: bool) -> Iterator[tuple[str, str, str]]:
    """Kind, shape and row."""
    if small:
        yield from (("op", "small", "24=3x8"), ("model", "small", "24=3x8"))
        return
    rows = [row for row in ROWS if row != "24=3x8"]
    for shape in ("qwen2_7b", "qwen2_1.5b"):
        for kind in ("op", "model"):
            yield from ((kind, shape, row) for row in rows)


def main() -> int:
    """Measure; 0 even if a way failed, because its line says so."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--small", action="store_true", help="use a tiny shape, for a CPU")
    parser.add_argument(
        "--seconds",
        type=float,
        default=55,
        help="do not start a measurement after this many seconds (default 55)",
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="run only these")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="run only these")
    args = parser.parse_args()
    attention.register()
    AttentionInterface.register("one_by_one", one_by_one)
    AttentionMaskInterface.register("one_by_one", attention.mask)
    cuda = torch.cuda.is_available()
    found: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__}
    if cuda:
        found |= {"gpu": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability()}
    with contextlib.suppress(Exception):
        from torch.nn.attention import varlen

        found["varlen_attn"] = str(inspect.signature(varlen.varlen_attn))[:600]
    say(kind="env", **found)
    truths: dict[tuple[str, str, str], dict[str, Any]] = {}
    kept: dict[str, Any] = {}
    planned = [each for each in plan(args.small or not cuda) if each[2] in args.rows]
    planned = [(*each, way) for each in planned for way in args.ways if way != "flex_attention"]
    if cuda and "flex_attention" in args.ways:  # last; it has no backward pass on a CPU
        planned += [(*each, "flex_attention") for each in sorted(plan(args.small)) if each[2] in args.rows]
    for kind, shape, row, way in planned:
        line: dict[str, Any] = {"kind": kind, "shape": shape, "row": row, "way": way}
        if time.monotonic() - BEGAN > args.seconds:
            say(**line, skipped="out of time")
            continue
        job = Job(
            shape, row, "cuda" if cuda else "cpu", torch.bfloat16 if cuda else torch.float32,
            4 if cuda else 2, 10 if kind == "op" else 5,
        )  # fmt: skip
        truth = truths.setdefault((kind, shape, row), {})
        try:
            say(**line, **(operation(job, way, truth) if kind == "op" else model(job, way, truth, kept)))
        except Exception as error:
            say(**line, error=f"{type(error).__name__}: {error}"[:400])
        if cuda:
            with contextlib.suppress(Exception):
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
