"""Decide which precision this machine computes natively, in one place for training and for engines.

A processor without bfloat16 instructions (most Intel processors before Sapphire Rapids, AMD processors before
Zen 4, most laptops) emulates bfloat16 on one thread: the first stage of the demo then runs at 120 tokens/s
instead of 3,200. Settings that are left open (`bf16: null`, `engine.dtype: auto` or `native`) therefore
follow the hardware. One log line says what was chosen and why, and fingerprints include it. Explicit settings
are obeyed.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scalequest.atomic_files import read_object
from scalequest.hardware import has_gpu

log = logging.getLogger(__name__)

BF16, FP16, FP32 = "bfloat16", "float16", "float32"
# Settings that determine the precision of a run, by their names in fingerprints.
SETTINGS = ("bf16", "fp16", "dtype", "engine.dtype")
COST = "this hardware emulates it on one thread, up to 27 times slower than float32"
_AMPERE, _VOLTA = (8, 0), (7, 0)  # compute capabilities whose tensor cores first support bf16 and fp16


@dataclass(frozen=True)
class Native:
    """The precision that a device computes without emulation.

    Attributes:
        device: "cpu", "cuda" or "mps".
        dtype: the fastest dtype that the device computes and that training is stable in.
        why: the reason in words, to follow "computing in <dtype>: ".
    """

    device: str
    dtype: str
    why: str

    @property
    def emulates_bf16(self) -> bool:
        """Return whether bfloat16 would be emulated."""
        return self.device == "cpu" and self.dtype == FP32


def native(*, cpu: bool = False) -> Native:
    """Return what this process's device computes natively.

    Args:
        cpu: consider only the processor, even if there is a GPU.
    """
    if not cpu:
        if has_gpu():
            return _gpu()
        if _mps():
            return Native("mps", FP32, "bfloat16 on Apple's GPUs is untested")
    return _cpu(os.environ.get("ONEDNN_MAX_CPU_ISA"))


@cache
def _cpu(_: str | None) -> Native:
    import torch

    # The first call says what oneDNN may use, subject to ONEDNN_MAX_CPU_ISA; it also accepts AVX512 without
    # bfloat16.
    allowed = (
        bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False
    )
    found = [name for name, has in _instructions().items() if has]
    if allowed and found:
        return Native("cpu", BF16, f"this CPU has {found[0]}")
    name = torch.backends.cpu.get_cpu_capability()
    return Native("cpu", FP32, f"this CPU ({name}) has no native bfloat16")


def _instructions() -> dict[str, bool]:
    """Return the names of instructions for bfloat16 and whether this processor has them."""
    import torch

    flags: set[str] = set()
    for line in _cpuinfo().splitlines():
        if line.startswith(("flags", "Features")):  # x86 and Arm
            flags = set(line.partition(":")[2].split())
            break
    capable = torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "DEFAULT", "SVE", "NEON"))
    return {
        "AMX": "amx_bf16" in flags and capable,
        "AVX512 BF16": "avx512_bf16" in flags and capable,
        "Arm's bfloat16": "bf16" in flags,
    }


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def _mps() -> bool:
    import torch

    return bool(torch.backends.mps.is_available())


@cache
def _gpu() -> Native:
    capability = _capability()
    if capability is None:
        return Native("cuda", BF16, "this GPU is not from NVIDIA and is assumed to support bfloat16")
    shown = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= _AMPERE:
        return Native("cuda", BF16, f"this GPU supports it ({shown})")
    if capability >= _VOLTA:
        return Native("cuda", FP16, f"this GPU has no native bfloat16 ({shown})")
    return Native("cuda", FP32, f"this GPU has neither bfloat16 nor fast float16 ({shown})")


def _capability() -> tuple[int, int] | None:
    """Return the lowest compute capability of the GPUs from the driver, without initialising a GPU."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    command = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return min(
            (int(major), int(minor)) for major, _, minor in (line.partition(".") for line in said.split())
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


# --------------------------------------------------------------------------------------------------- training


class ByHardware:
    """Gives a trainer's config the default `bf16: null`, "follow the hardware"; must be its first base."""

    def __post_init__(self) -> None:
        """Decide, before transformers reads `bf16`, `fp16` and `use_cpu`."""
        settle_training(self)
        super().__post_init__()  # type: ignore[misc]


def settle_training(args: Any) -> None:
    """Fill in the precision of a trainer's config, before its own `__post_init__`, if it was left open.

    `bf16: null` becomes true or false (and `fp16` becomes true on GPUs that only support that). Without a
    GPU, `use_cpu` is set, too, because transformers otherwise refuses bf16 on a CPU. A preset that
    says `bf16: true` is usually meant for GPUs, so without one it is refused unless it asks for the CPU, too.

    Args:
        args: a `TrainingArguments` whose `bf16` may be None.

    Raises:
        ValueError: `bf16: true` without a GPU and without `use_cpu`.
    """
    if args.bf16 and not args.use_cpu and native().device == "cpu":
        raise ValueError(
            "bf16: true, and this machine has no GPU; to train on the CPU, leave bf16 out (its default, "
            "null, follows the hardware) or add use_cpu: true"
        )
    if args.bf16 is not None:
        return
    if args.fp16:
        args.bf16 = False
        return
    found = native(cpu=args.use_cpu)
    args.bf16, args.fp16 = found.dtype == BF16, found.dtype == FP16
    args.use_cpu = args.use_cpu or found.device == "cpu"


def say_training(stage: str, args: Any) -> None:
    """Log the precision that a trainer computes in, and why; warn if it is emulated.

    Args:
        stage: the stage's name, for the start of the line.
        args: a `TrainingArguments`.
    """
    found = native(cpu=args.device.type == "cpu")
    chosen = BF16 if args.bf16 else FP16 if args.fp16 else FP32
    if args.bf16 and found.emulates_bf16:
        log.warning(
            "%s: WARNING bf16: true, but %s: %s; remove bf16 to let the hardware decide",
            stage, found.why, COST,
        )  # fmt: skip
    elif chosen == found.dtype:
        log.info("%s: computing in %s on %s: %s", stage, chosen, found.device, found.why)
    else:
        log.info("%s: computing in %s on %s, as configured", stage, chosen, found.device)


# ---------------------------------------------------------------------------------------------------- engines


def engine_dtype(
    asked: str, model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> str:
    """Return the dtype in which an engine loads a model, by a name that vLLM and transformers share.

    Args:
        asked: `auto` (the checkpoint's dtype, unless this device would emulate it), `native` (the dtype that
            this device computes fastest, whatever the checkpoint has) or the name of a dtype.
        model: a folder or hub id; for a LoRA adapter, the dtype of its base model counts.
        revision: the model's revision on the hub.
        trust_remote_code: the engine's setting.
    """
    if asked not in ("auto", "native"):
        return asked
    found = native()
    if asked == "native":
        return found.dtype
    saved = saved_dtype(model, revision=revision, trust_remote_code=trust_remote_code)
    # Apple's GPUs are untested, so the checkpoint's dtype is kept there, which takes half the memory.
    if saved == FP32 or found.dtype == BF16 or found.device == "mps":
        return saved
    return found.dtype


def say_engine(
    asked: str, model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> None:
    """Log the precision that an engine computes in, and why; warn if it is emulated.

    The arguments are those of `engine_dtype`.
    """
    found = native()
    dtype = engine_dtype(asked, model, revision=revision, trust_remote_code=trust_remote_code)
    if dtype in (BF16, FP16) and found.emulates_bf16:
        log.warning(
            "engine: WARNING dtype %s, but %s: %s; remove engine.dtype to let the hardware decide",
            dtype, found.why, COST,
        )  # fmt: skip
    elif asked in ("auto", "native") and dtype == found.dtype:
        log.info("engine: computing in %s on %s: %s", dtype, found.device, found.why)
    else:
        why = "as configured" if asked == "auto" else "as its settings say"
        log.info("engine: computing in %s on %s, %s", dtype, found.device, why)


@cache
def saved_dtype(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """Return the dtype of a checkpoint's weights from its config.json; float32 if it has none.

    Raises:
        OSError: the model does not exist or cannot be downloaded.
    """
    from scalequest.models import adapter_base

    model = adapter_base(model) or model
    path = Path(model).expanduser() / "config.json"
    if path.is_file():
        settings: Mapping[str, Any] = read_object(path)
    else:
        from transformers import AutoConfig

        loaded = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
        settings = loaded.to_dict()
    text = settings.get("text_config") or {}
    named = [source.get(key) for source in (settings, text) for key in ("dtype", "torch_dtype")]
    return str(next((name for name in named if name), FP32)).removeprefix("torch.")
