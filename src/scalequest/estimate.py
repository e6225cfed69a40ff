"""What a training run needs: memory per process, and GPU-hours, by formula and before anything is started.

Memory is the sum of everything that is needed at the worst moment: weights, gradients, optimizer state
(spread as the topology says; ZeRO's stages: Rajbhandari et al., arXiv 1910.02054), buffers for what is
gathered, and activations (counted tensor by tensor for the Llama block, after Korthikanti et al., arXiv
2205.05198). Time
is a roofline: a micro-step takes as long as its arithmetic, its traffic or the host, whichever is longest.
The constants are named below, and `ASSUMPTIONS` puts them into words; print it with every number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scalequest.config import ConfigError, read_yaml

GIB = float(1 << 30)
# Under ZeRO-3 the host gathers and frees the weights of one module after another. On an H100 and an H200 a
# micro-batch of 4,096 tokens took 1.0 s at 1.5B and at 7B alike (bench/gpu_results.jsonl): 28 blocks each.
HOOKS = 0.034  # seconds per block and micro-batch under ZeRO-3, at least
LIVE_PARAMETERS = 1e9  # that ZeRO-3 keeps gathered: DeepSpeed's stage3_max_live_parameters
BUCKET = 5e8  # elements of DeepSpeed's reduce bucket
SUB_GROUP = 1e9  # weights that ZeRO-3 updates at a time: DeepSpeed's sub_group_size
CONTEXT = 1.5 * GIB  # CUDA, NCCL and kernels, before any tensor
FRAGMENTS = 0.08  # of all tensors, lost between them
START_SECONDS = 240  # imports, loading and saving, in which all GPUs wait
MFU = 0.32  # share of peak that arithmetic reaches: LoRA of 7B on an H100 (hfu in bench/gpu_results.jsonl)
QUANTISED = 0.516  # bytes per weight in NF4 with double quantisation
ASSUMPTIONS = (
    f"Assumed: {MFU:.0%} of peak in arithmetic (measured on an H100); a micro-step takes the longest of "
    "arithmetic, traffic and, under ZeRO-3, what the host needs "
    f"({1000 * HOOKS:.0f} ms per block, measured beside an H100); "
    f"{START_SECONDS // 60} minutes to load and save; {CONTEXT / GIB:.1f} GiB for CUDA and NCCL and "
    f"{FRAGMENTS:.0%} for fragmentation; ZeRO-3 keeps {LIVE_PARAMETERS / 1e9:.0f}B weights gathered; logits "
    "are never whole (TRL's fused head); attention under a mask costs the square of the sequence."
)


@dataclass(frozen=True)
class Device:
    """An accelerator.

    Attributes:
        name: of the card.
        memory: in GiB.
        peak: dense bf16 TFLOP/s.
        bandwidth: between cards, GB/s that a collective sees (assumed).
        reads: from its own memory, GB/s (the maker's data sheet).
        sequences: that vLLM runs at a time unless told otherwise.
        price: dollars per hour, None if not known here.
        mfu: share of `peak` that arithmetic reaches, recomputation counted as work.
    """

    name: str
    memory: float
    peak: float
    bandwidth: float
    reads: float
    sequences: int = 256
    price: float | None = None
    mfu: float = MFU


# The paper's card, at the price of its table 4: $323.8 for 251.0 hours.
A100_40G = Device("A100-40G PCIe", 40, 312, 20, 1555, price=1.29)
H100 = Device("H100-80G SXM", 80, 989, 300, 3350, 1024)
DEVICES = {
    "A100-40G": A100_40G,
    "A100-80G": Device("A100-80G SXM", 80, 312, 200, 2039),
    "H100": H100,
    "H200": Device("H200-141G SXM", 140, 989, 300, 4800, 1024),
}


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Llama-like decoder, by the names of its config.json."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool = False
    qkv_bias: bool = False

    @classmethod
    def of(cls, config: Any) -> Architecture:
        """Read a transformers config."""
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            config.vocab_size,
            bool(config.tie_word_embeddings),
            config.model_type == "qwen2",
        )

    @property
    def keys(self) -> int:
        """Numbers in the keys of a token and block, and as many in its values."""
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads

    @property
    def layer(self) -> int:
        """Weights in the matrices of one block."""
        attention = 2 * self.hidden_size * (self.hidden_size + self.keys)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and again of the head."""
        return self.vocab_size * self.hidden_size

    def parameters(self, head: bool = True) -> int:
        """All weights; without the head for a scorer, whose own is one row."""
        small = 2 * self.hidden_size + (self.hidden_size + 2 * self.keys if self.qkv_bias else 0)
        copies = 1 if self.tie_word_embeddings or not head else 2
        extra = 0 if head else self.hidden_size
        total = self.num_hidden_layers * (self.layer + small) + self.hidden_size
        return total + copies * self.embedding + extra

    def lora(self, rank: int) -> int:
        """Weights of an adapter of this rank on all matrices of all blocks."""
        hidden, inner = self.hidden_size, self.intermediate_size
        sides = 2 * (hidden + hidden) + 2 * (hidden + self.keys) + 3 * (hidden + inner)
        return self.num_hidden_layers * rank * sides


@dataclass(frozen=True)
class Topology:
    """How a run is spread: what an accelerate file says."""

    name: str = "one process"
    processes: int = 1
    machines: int = 1
    zero: Literal[0, 1, 2, 3] = 0
    fsdp: bool = False
    offload: bool = False

    @classmethod
    def of(cls, path: str | Path) -> Topology:
        """Read an accelerate file.

        Raises:
            ConfigError: it is not an accelerate file.
        """
        file = read_yaml(path)
        try:
            kind, processes = file["distributed_type"], int(file["num_processes"])
        except KeyError as error:
            raise ConfigError(f"{path}: no {error}: not an accelerate file") from None
        zero = file.get("deepspeed_config") or {}
        offload = "cpu" in (zero.get("offload_optimizer_device"), zero.get("offload_param_device"))
        machines = int(file.get("num_machines", 1))
        return cls(
            Path(path).stem, processes, machines, zero.get("zero_stage", 0), kind == "FSDP", bool(offload)
        )

    @classmethod
    def launched(cls, training_args: Any) -> Topology:
        """Read what the launcher told this process, and what the trainer's config made of it."""
        zero = zero_settings(training_args)
        devices = [zero.get(f"offload_{what}", {}).get("device") for what in ("optimizer", "param")]
        fsdp = os.environ.get("ACCELERATE_USE_FSDP") == "true"
        return cls(
            processes=training_args.world_size,
            zero=zero.get("stage", 0),
            fsdp=fsdp,
            offload="cpu" in devices or (fsdp and os.environ.get("FSDP_OFFLOAD_PARAMS") == "true"),
        )

    @property
    def spreads_weights(self) -> bool:
        """Whether each process holds a part of the weights only."""
        return self.zero == 3 or self.fsdp


def zero_settings(training_args: Any) -> dict[str, Any]:
    """DeepSpeed's `zero_optimization`, be it from an accelerate file or one of DeepSpeed's; else nothing."""
    plugin = getattr(training_args, "deepspeed_plugin", None)
    return dict(plugin.deepspeed_config.get("zero_optimization", {})) if plugin is not None else {}


@dataclass(frozen=True)
class Passes:
    """What a trainer computes for a row of its data. A stage's config class declares it as `passes`.

    Attributes:
        sides: sequences per row: 2 if rows are pairs.
        reference: whether a reference model computes each sequence, too.
        head: whether the model has a language model's head; a scorer's head has one row.
        whole_logits: whether the logits of all tokens are in memory together; TRL's fused head avoids that.
    """

    sides: int = 1
    reference: bool = False
    head: bool = True
    whole_logits: bool = False


@dataclass(frozen=True)
class Work:
    """What a process computes at a time, and how the model is trained.

    Attributes:
        rows: sequences of a forward pass (both sides of every pair).
        length: tokens of the longest of them.
        accumulation: forward passes per optimizer step.
        checkpointing: activations are computed twice.
        full_precision: weights are fp32 outside DeepSpeed (`dtype: float32`; `auto` is mostly bf16).
        mixed: arithmetic is bf16.
        lora: rank of the adapter, 0 if all weights are trained.
        quantised: weights of the blocks are 4-bit.
        reference: forward passes of a reference model for each one of the trained model.
        second: that model is held as a second copy, because no adapter is turned off for it and its
            log-probabilities were not computed beforehand.
        head: a language model's head; a scorer has one row.
        whole_logits: the logits of all tokens are in memory together.
    """

    rows: int
    length: int
    accumulation: int = 1
    checkpointing: bool = True
    full_precision: bool = False
    mixed: bool = True
    lora: int = 0
    quantised: bool = False
    reference: int = 0
    second: bool = False
    head: bool = True
    whole_logits: bool = False

    @classmethod
    def of(cls, training_args: Any, model_args: Any) -> Work:
        """Read the settings of a recipe.

        Args:
            training_args: the trainer's config, whose class declares its `Passes`.
            model_args: TRL's `ModelConfig`.
        """
        passes: Passes = training_args.passes
        beside = passes.reference and not model_args.use_peft
        return cls(
            rows=training_args.per_device_train_batch_size * passes.sides,
            length=training_args.max_length,
            accumulation=training_args.gradient_accumulation_steps,
            checkpointing=bool(training_args.gradient_checkpointing),
            full_precision=model_args.dtype == "float32",
            mixed=bool(training_args.bf16 or training_args.fp16),
            lora=model_args.lora_r if model_args.use_peft else 0,
            quantised=bool(model_args.load_in_4bit),
            reference=int(passes.reference),
            second=beside and training_args.precompute_ref_log_probs is False,
            head=passes.head,
            whole_logits=passes.whole_logits,
        )


@dataclass(frozen=True)
class Memory:
    """Bytes that one process needs on its device, by what for."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    step: float  # what the optimizer step takes beyond the room that gathered weights and activations left
    rest: float

    @property
    def total(self) -> float:
        """Everything."""
        return float(sum(vars(self).values()))

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in vars(self).items())
        return f"{self.total / GIB:.1f} GiB ({parts})"


def memory(model: Architecture, work: Work, spread: Topology, gpu: bool = True) -> Memory:
    """Estimate what one process holds at the worst moment."""
    weights, gradients, optimizer = _held(model, work, spread)
    bucket = _compute_bytes(work) * min(_trained(model, work), BUCKET) if spread.zero else 0.0
    gathered = bucket + _gathered(model, work, spread)
    activations = _activations(model, work)
    step = 0.0
    if spread.zero and not spread.offload:
        # When the optimizer steps, the backward pass's memory is free again, except for ZeRO-3's bucket.
        copies = _step_copies(model, work, spread) + (bucket if spread.zero == 3 else 0.0)
        step = max(0.0, copies - gathered - activations)
    held_all = weights + gradients + optimizer + gathered + activations + step
    rest = (CONTEXT if gpu else 0.0) + FRAGMENTS * held_all
    return Memory(weights, gradients, optimizer, gathered, activations, step, rest)


def _compute_bytes(work: Work) -> int:
    """Bytes of a number that the arithmetic is done in."""
    return 2 if work.mixed else 4


def _trained(model: Architecture, work: Work) -> int:
    """Number of weights that are trained."""
    return model.lora(work.lora) if work.lora else model.parameters(work.head)


def _held(model: Architecture, work: Work, spread: Topology) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer state that a process holds all the time."""
    everything, trained = model.parameters(work.head), _trained(model, work)
    compute, ranks = _compute_bytes(work), spread.processes
    # Bytes per weight
    if spread.zero:
        held, gradient, state = compute, compute, 12 if work.mixed else 8
    else:  # torch's AdamW keeps its state in the weights' own precision; FSDP2 makes trained ones float32
        whole = work.full_precision or not work.mixed or (spread.fsdp and not work.lora)
        held = 4 if whole else 2
        gradient, state = held, 2 * held
    # Weights of the model, of the adapter and of the reference
    weights = float(everything * held)
    if work.quantised:
        blocks = model.num_hidden_layers * model.layer
        weights = blocks * QUANTISED + (everything - blocks) * 2.0
    if work.lora and spread.zero:  # DeepSpeed trains an adapter as it trains any weight
        weights += float(held * trained)
    elif work.lora:  # PEFT makes an adapter fp32; over 4-bit weights, TRL's trainers make it bf16 again
        own = 2 if work.quantised else 4
        weights, gradient, state = weights + float(own * trained), own, 2 * own
    weights += everything * compute * work.second
    gradients, optimizer = float(trained * gradient), float(trained * state)
    # What the topology spreads over processes or keeps on the host
    if spread.spreads_weights:
        weights /= ranks
    if spread.zero >= 2 or spread.fsdp:
        gradients /= ranks
    if spread.zero or spread.fsdp:
        optimizer /= ranks
    if spread.offload:
        optimizer, weights = 0.0, 0.0 if spread.zero == 3 else weights
    return weights, gradients, optimizer


def _gathered(model: Architecture, work: Work, spread: Topology) -> float:
    """Bytes of what is put together for the arithmetic, without DeepSpeed's bucket."""
    compute, gathered = _compute_bytes(work), 0.0
    if spread.zero == 3:
        gathered += compute * min(model.parameters(work.head), LIVE_PARAMETERS)
    if spread.fsdp:
        gathered += compute * (2 * model.layer + model.embedding)
    if work.head and not work.lora and not work.whole_logits:
        gathered += 4.0 * model.embedding  # the fused head sums its gradient in fp32
    return gathered


def _activations(model: Architecture, work: Work) -> float:
    """Bytes of what the forward pass keeps for the backward pass."""
    compute, tokens = _compute_bytes(work), work.rows * work.length
    block = compute * tokens * (10 * model.hidden_size + 2 * model.keys + 4 * model.intermediate_size)
    block += compute * work.rows * work.length**2  # the mask
    kept = compute * tokens * model.hidden_size * model.num_hidden_layers
    # Logits, their log-probabilities, and the gradient of either
    logits = 3 * compute * tokens * model.vocab_size if work.whole_logits else 0
    return float((kept + block if work.checkpointing else model.num_hidden_layers * block) + logits)


def _step_copies(model: Architecture, work: Work, spread: Topology) -> float:
    """Bytes that DeepSpeed's optimizer step copies: gradients into one tensor, and that into an fp32 one."""
    share = _trained(model, work) / spread.processes
    applied = min(share, SUB_GROUP) if spread.zero == 3 else share
    compute = _compute_bytes(work)
    return applied * (compute + 4 if work.mixed else compute)


def gpu_hours(
    model: Architecture, work: Work, spread: Topology, device: Device, rows: float, tokens: float
) -> float:
    """Estimate the hours of all devices together.

    Args:
        model: its sizes.
        work: what a process does at a time.
        spread: over how many.
        device: on what.
        rows: sequences trained on, all epochs together: packed ones, or both sides of every pair.
        tokens: that they hold.
    """
    micro_steps = math.ceil(rows / (work.rows * spread.processes))
    forward = 2.0 * (model.parameters(work.head) - model.embedding)
    forward += 4.0 * work.length * model.hidden_size * model.num_hidden_layers
    passes = 1 + (1 if work.lora else 2) + int(work.checkpointing) + work.reference
    reached = device.peak * 1e12 * device.mfu
    arithmetic = tokens / (micro_steps * spread.processes) * forward * passes / reached
    share = (spread.processes - 1) / spread.processes
    whole = 2.0 * model.parameters(work.head)
    trained = 2.0 * model.lora(work.lora) if work.lora else whole
    traffic = 0.0
    if spread.spreads_weights:
        traffic = (2 + work.reference) * whole + trained
    elif spread.zero == 2:
        traffic = trained + trained / work.accumulation
    else:
        traffic = 2 * trained / work.accumulation
    hooks = HOOKS * model.num_hidden_layers if spread.zero == 3 else 0.0
    step = max(arithmetic, traffic * share / (device.bandwidth * 1e9), hooks)
    seconds = micro_steps * step + START_SECONDS
    return seconds * spread.processes / 3600


def spread_over(spread: Topology, work: Work, count: int) -> tuple[Topology, Work]:
    """The same global batch on at most `count` processes: on the most among which its parts can be shared."""
    parts = spread.processes * work.accumulation
    processes = max(number for number in range(1, min(count, parts) + 1) if parts % number == 0)
    return replace(spread, processes=processes), replace(work, accumulation=parts // processes)


def sequences_of(
    work: Work, rows: float, row_tokens: float, epochs: float, packed: bool
) -> tuple[Work, float, float]:
    """What `gpu_hours` takes for a data set: work at its sequences' length, their number and their tokens.

    Args:
        work: at the longest length, which memory is for.
        rows: of the data set.
        row_tokens: mean tokens of a row, both sides of a pair together.
        epochs: times that it is read.
        packed: whether rows fill sequences of the longest length.
    """
    tokens = rows * row_tokens * epochs
    if packed:
        return work, tokens / work.length, tokens
    # Padded rows are as long as a few rows' longest, not as the limit.
    sides = 2 if work.reference else 1
    return replace(work, length=round(row_tokens / sides)), tokens / row_tokens * sides, tokens


def remedies(model: Architecture, work: Work, spread: Topology, capacity: float) -> list[str]:
    """Say what to change, one after the other, until an estimate fits into `capacity` bytes.

    Returns:
        Settings to add to each other, in this order; the last says so if all of them do not help.
    """
    said = []
    for setting, work_then, spread_then in _changes(work, spread):
        work, spread = work_then, spread_then
        said.append(setting)
        if memory(model, work, spread).total <= capacity:
            return said
    return [*said, "a smaller max_length, more GPUs, or a smaller model"]


def _changes(work: Work, spread: Topology) -> Iterator[tuple[str, Work, Topology]]:
    if not work.checkpointing:
        work = replace(work, checkpointing=True)
        yield "gradient_checkpointing: true", work, spread
    sides = 2 if work.reference else 1
    if work.rows > sides:
        factor = work.rows // sides
        work = replace(work, rows=sides, accumulation=work.accumulation * factor)
        setting = f"per_device_train_batch_size: 1 with gradient_accumulation_steps: {work.accumulation}"
        yield setting, work, spread
    if spread.processes > 1 and not spread.spreads_weights and not work.quantised:
        spread = replace(spread, zero=3)
        yield "accelerate_configs/zero3.yaml", work, spread
    if not work.lora:
        work = replace(work, lora=64)
        yield "use_peft: true, lora_r: 64, lora_target_modules: all-linear", work, spread
    if not work.quantised and spread.processes == 1:
        work = replace(work, quantised=True)
        yield "load_in_4bit: true, use_bnb_nested_quant: true", work, spread
    if spread.zero == 3 and not spread.offload:
        yield "accelerate_configs/zero3_offload.yaml", work, replace(spread, offload=True)


def verdict(model: Architecture, work: Work, spread: Topology, capacity: float, gpu: bool = True) -> str:
    """One line: what a process is estimated to need, whether that fits, and what to change if not."""
    needs = memory(model, work, spread, gpu)
    line = (
        f"memory: estimated {needs} per process, of {capacity / GIB:.1f} GiB, on {spread.processes} x "
        f"{work.rows} sequences of {work.length} tokens"
    )
    if needs.total <= capacity:
        return f"{line}: fits"
    return (
        f"{line}: DOES NOT FIT; change, until it does: {'; '.join(remedies(model, work, spread, capacity))}"
    )
