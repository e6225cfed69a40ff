"""What only a GPU can show, in a few minutes of one card: `python bench/gpu.py --output_dir DIR`.

Each check prints one JSON line, is bounded in time, and the next one runs if it fails; the most valuable ones
come first:

    env        versions, the card, which precision was chosen and why
    tiny       the recipes qft and qpo of the tiny profile on the card, beside the same on the CPU
    resume     SIGTERM at a checkpoint, status 75, then the losses of an undisturbed run
    cpu        the tiny recipes on two cores of this machine, in bfloat16 and in float32
    head       TRL's fused head, which GPUs use, against plain logits at the vocabulary of Qwen2-7B
    attention  packed rows: one mask over the square, or each document alone (bench/attention.py)
    lora       recipes/variants/lora.yaml over qwen2_math_7b/sft.yaml, at its shape: memory, tokens/s, MFU
    full       all weights of a 1.5B shape under ZeRO-3 on one rank; of 7B on a card of 130 GiB or more
    zero3      sft and qpo at a 0.5B shape under ZeRO-3, from loading to the saved model, side by side
    qlora      recipes/variants/qlora.yaml, likewise

Weights are random and the tokenizer is the tiny one: ids stay below 640, the vocabulary has its real size.
`tiny`, `resume` and `cpu` measure no speed of the card and run side by side. What was measured, on what and
when, is kept in bench/gpu_results.jsonl; `--small` runs every check on a CPU, at sizes that say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "recipes/tiny/models/tiny-solver"
GIB = 1 << 30
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, by the maker
SHAPES: dict[str, dict[str, int]] = {
    "small": {
        **{"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "vocab_size": 2048},
        **{"num_attention_heads": 8, "num_key_value_heads": 2},
    },
    "qwen2_0.5b": {
        **{"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151936},
        **{"num_attention_heads": 14, "num_key_value_heads": 2},
    },
    "qwen2_1.5b": {
        **{"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "vocab_size": 151936},
        **{"num_attention_heads": 12, "num_key_value_heads": 2},
    },
    "qwen2_7b": {
        **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064},
        **{"num_attention_heads": 28, "num_key_value_heads": 4},
    },
}
# Runs a recipe and keeps, each second, the peaks of torch's allocator: the recipe may be killed at any time.
WATCHED = """
import json, os, runpy, sys, threading, time
import torch
def peaks():
    while True:
        time.sleep(1)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            free, total = torch.cuda.mem_get_info()
            peak = [torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), total - free]
            with open(os.environ["PEAKS"] + ".tmp", "w") as file:
                json.dump(peak, file)
            os.replace(os.environ["PEAKS"] + ".tmp", os.environ["PEAKS"])
threading.Thread(target=peaks, daemon=True).start()
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Place:
    """The folder for files, whether sizes are for a CPU, and the time at which everything has to be over."""

    folder: Path
    small: bool
    deadline: float

    @property
    def left(self) -> float:
        """Seconds."""
        return max(self.deadline - time.monotonic(), 1.0)

    def shape(self, name: str) -> str:
        """The shape itself, or the one for a CPU."""
        return "small" if self.small else name

    def pick(self, large: Any, small: Any) -> Any:
        """One of the two."""
        return small if self.small else large


def say(check: str, **found: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps({"check": check, **found}, default=str), flush=True)


# ------------------------------------------------------------------------------------------------- material


_MAKING = threading.Lock()


def model(place: Place, name: str) -> Path:
    """A folder of a Qwen2 of this shape: random bfloat16 weights, the tiny tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    folder = place.folder / f"model_{name}"
    with _MAKING:
        if (folder / "config.json").exists():
            return folder
        config = Qwen2Config(
            **SHAPES[name], max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0
        )
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        made.save_pretrained(folder, max_shard_size="4GB")
        AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
        del made
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return folder


def rows(place: Place, count: int, words: int) -> dict[str, Path]:
    """Files of solutions, questions and pairs, of about this many words a row."""
    files = {}
    for name in ("solutions", "questions", "pairs"):
        files[name] = place.folder / f"{name}_{count}_{words}.jsonl"
        lines = []
        for n in range(count):
            a, b = n % 30 + 2, n % 20 + 3
            question = f"Ann has {a} apples and buys {b} more. How many apples are there?"
            steps = " ".join([f"{a} + {b} = {a + b}."] * max(1, words // 5))
            row = {
                **{"id": f"r{n}", "question": question, "query": question},
                "response": f"{steps} The answer is {a + b}.",
                "chosen": f"{question} Ben has twice as many. How many does he have?",
                "rejected": question,
            }
            lines.append(json.dumps(row) + "\n")
        files[name].write_text("".join(lines))
    return files


def recipe(
    place: Place,
    name: str,
    stage: str,
    config: str,
    *words: Any,
    launch: str | None = None,
    stop_at: int | None = None,
    steps: int | None = None,
    limit: float = 300,
    cores: str | None = None,
) -> dict[str, Any]:
    """Run a recipe as a user would and read its log, its metrics and its peaks.

    Args:
        place: where.
        name: of the run and its folder.
        stage: the recipe's name.
        config: its YAML file, or several with spaces between.
        words: settings over it.
        launch: an accelerate file; without one, plain python.
        stop_at: send SIGTERM once the checkpoint of this step is whole.
        steps: kill it once it has logged so many steps: what follows, the saving, is not what is measured.
        limit: seconds.
        cores: run on these processor cores alone, and on no GPU.
    """
    watched = place.folder / "watched.py"
    watched.write_text(WATCHED)
    folder, log, peaks = place.folder / name, place.folder / f"{name}.log", place.folder / f"{name}.peaks"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        **{"PEAKS": str(peaks), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "WANDB_MODE": "disabled"},
    }
    start = [sys.executable]
    if launch is not None:
        start += ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / launch)]
        start += [
            "--num_processes",
            "1",
            "--main_process_port",
            "0",
            *(["--cpu", "--mixed_precision", "no"] if place.small else []),
        ]
    if cores is not None:
        start = ["taskset", "-c", cores, *start]
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(len(cores.split(",")))}
    command = [
        *start,
        *(
            str(watched),
            str(ROOT / f"recipes/{stage}.py"),
            "--config",
            *(str(ROOT / file) for file in config.split()),
        ),
        *("--output_dir", str(folder), "--track", "none", *map(str, words)),
    ]
    before = _used()
    began = time.monotonic()
    limit = min(limit if not place.small else 600, place.left)
    with log.open("a") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
        )
        status: int | str | None = None
        stopped = False
        while (status := process.poll()) is None and time.monotonic() - began < limit:
            if stop_at and not stopped and (folder / f"checkpoint-{stop_at}/complete.json").exists():
                process.send_signal(signal.SIGTERM)
                stopped = True
            if steps and len(list(logged(folder))) >= steps:
                time.sleep(2)  # the peaks are written each second
                status = "measured"
                break
            time.sleep(0.2)
        if process.poll() is None:
            _kill(process)
            status = status or f"killed after {limit:.0f} s"
    text = log.read_text(errors="replace")
    found: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
    for line in text.splitlines():
        for what in ("memory: ", "computes in ", "attention: "):
            if what in line and what.strip(": ") not in found:
                found[what.strip(": ")] = line.partition(what)[2][:220]
    entries = list(logged(folder))
    found["losses"] = [round(entry["loss"], 4) for entry in entries][:12]
    if entries and "rewards/margins" in entries[0]:
        found["first_rewards"] = [entries[0]["rewards/chosen"], entries[0]["rewards/rejected"]]
    if rates := [entry["tokens_per_second"] for entry in entries if entry.get("tokens_per_second")]:
        found["tokens_per_second"] = round(statistics.median(rates[1:] or rates))
    if peaks.is_file():
        allocated, reserved, used = json.loads(peaks.read_text())
        peak = {"allocated": allocated, "reserved": reserved, "device": used - before}
        found |= {f"{what}_gib": round(size / GIB, 2) for what, size in peak.items()}
    if status not in (0, 75, "measured"):
        found["tail"] = text[-900:]
    return found


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a recipe and all that it started: ranks of a launcher have sessions of their own."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=20)
    process.wait()


def _used() -> int:
    """Bytes of the card that are taken already, by this process's own context for one."""
    import torch

    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def logged(folder: Path) -> Iterator[dict[str, Any]]:
    """The steps that a run has logged."""
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # being written
            continue
        if "loss" in entry:
            yield entry


def utilisation(
    shape: str, length: int, rate: float | None, *, lora: bool, checkpointing: bool
) -> dict[str, Any]:
    """Share of the card's peak that training reached.

    Args:
        shape: of the model.
        length: tokens of a sequence; attention is counted over the whole of it, as the estimate does.
        rate: tokens per second.
        lora: no gradients of the frozen weights are computed.
        checkpointing: activations are computed twice, which counts as work in `hfu` and not in `mfu`.
    """
    import torch

    if rate is None or not torch.cuda.is_available():
        return {}
    from scalequest.estimate import Architecture

    sizes = Architecture(**SHAPES[shape], qkv_bias=True)
    forward = 2.0 * (sizes.parameters() - sizes.embedding)
    forward += 4.0 * length * sizes.hidden_size * sizes.num_hidden_layers
    name = torch.cuda.get_device_name()
    peak = next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
    if peak is None:
        return {}
    passes = 2 if lora else 3
    return {
        "mfu": round(rate * forward * passes / peak, 3),
        "hfu": round(rate * forward * (passes + checkpointing) / peak, 3),
    }


# --------------------------------------------------------------------------------------------------- checks


def env(place: Place) -> None:
    """Versions, the card, the precision."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from scalequest.precision import native

    found: dict[str, Any] = {"python": platform.python_version(), "precision": str(native())}
    found["cpu_precision"] = str(native(cpu=True))
    for name in (
        "torch",
        "triton",
        "transformers",
        "trl",
        "accelerate",
        "peft",
        "datasets",
        "pyarrow",
        "deepspeed",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    for name in ("bitsandbytes", "vllm", "flash_attn"):
        try:
            found[name] = __import__(name).__version__
        except Exception as error:  # an import can fail in any way
            found[name] = f"{type(error).__name__}: {error}"[:100]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gib": round(properties.total_memory / GIB, 1)}
        found["driver"] = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
    say("env", **found)


def tiny(place: Place) -> None:
    """The tiny profile's qft and qpo as they are; the first loss of DPO has to be log 2, both rewards 0."""
    pairs = rows(place, 400, 10)["pairs"]
    words = [
        "--limit",
        place.pick(1200, 60),
        "--logging_steps",
        5,
        "--sample_every",
        0,
        "--save_strategy",
        "no",
    ]
    qft = recipe(place, "tiny_qft", "qft", "recipes/tiny/qft.yaml", *words)
    say("tiny_qft", **qft)
    words = ["--model_name_or_path", TINY, "--input", pairs, "--limit", place.pick(200, 40), "--holdout", 8]
    words += ["--logging_steps", 1, "--sample_every", 0, "--save_strategy", "no"]
    qpo = recipe(place, "tiny_qpo", "qpo", "recipes/tiny/qpo.yaml", *words)
    first = qpo["losses"][0] if qpo["losses"] else None
    say("tiny_qpo", first_loss_is_log_2=first is not None and abs(first - 0.6931) < 0.02, **qpo)


def resume(place: Place) -> None:
    """Told to stop after a checkpoint, it leaves with status 75, and goes on as if nothing had happened."""
    words = ["--model_name_or_path", TINY, "--input", rows(place, 400, 10)["solutions"], "--limit", 160]
    words += [
        "--num_train_epochs",
        place.pick(4, 1),
        "--save_steps",
        4,
        "--logging_steps",
        1,
        "--sample_every",
        0,
    ]

    def run(name: str, **more: Any) -> dict[str, Any]:
        return recipe(place, name, "sft", "recipes/tiny/sft.yaml", *words, **more)

    with ThreadPoolExecutor(2) as side_by_side:
        undisturbed = side_by_side.submit(run, "resume_undisturbed")
        first = run("resume", stop_at=4)
        then = run("resume")
        whole = undisturbed.result()
    pairs = list(zip(whole["losses"], then["losses"], strict=False))
    say(
        "resume",
        stopped_with=first["status"],
        ended_with=then["status"],
        largest_difference=max((abs(one - other) for one, other in pairs), default=None),
        steps=[len(whole["losses"]), len(then["losses"])],
        **({"tail": then["tail"]} if "tail" in then else {}),
    )


def cpu(place: Place) -> None:
    """Two cores of this machine's processor, the chosen precision beside the other one."""
    cores = sorted(os.sched_getaffinity(0))[-2:]
    model_name = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    words = [
        "--limit",
        place.pick(800, 40),
        "--logging_steps",
        5,
        "--sample_every",
        0,
        "--save_strategy",
        "no",
    ]
    for bf16 in place.pick(("false", "true"), ("false",)):
        on = ",".join(map(str, cores))
        name = "bfloat16" if bf16 == "true" else "float32"
        given = [*words, "--bf16", bf16, "--use_cpu", "true"]
        found = recipe(place, f"cpu_{name}", "qft", "recipes/tiny/qft.yaml", *given, cores=on)
        say("cpu", dtype=name, cores=len(cores), processor=model_name, **found)


def head(place: Place) -> None:
    """TRL's fused head against plain logits over one layer: loss, gradient, memory and time of a step."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config
    from trl.trainer.utils import add_fused_lm_head

    from scalequest.training.cpu import add_plain_head

    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    sizes = {**SHAPES[place.shape("qwen2_7b")], "num_hidden_layers": 1}
    tokens = place.pick(4096, 64)
    found: dict[str, Any] = {
        "tokens": tokens,
        "vocabulary": sizes["vocab_size"],
        "hidden": sizes["hidden_size"],
    }
    for way, add in (("fused", add_fused_lm_head), ("plain", add_plain_head)):
        torch.manual_seed(0)
        with torch.device(device):
            made = AutoModelForCausalLM.from_config(Qwen2Config(**sizes), dtype=dtype)
        add(made, outputs=("log_probs", "entropy", "is_top1"))
        torch.manual_seed(1)
        ids = torch.randint(0, sizes["vocab_size"], (1, tokens), device=device)
        times = []
        for _ in range(5):
            made.zero_grad(set_to_none=True)
            if gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            began = time.monotonic()
            loss = made(input_ids=ids, labels=ids, fused_lm_head=True).loss
            loss.backward()
            if gpu:
                torch.cuda.synchronize()
                found[f"{way}_gib"] = round((torch.cuda.max_memory_allocated() - before) / GIB, 2)
            times.append(time.monotonic() - began)
        found[f"{way}_ms"] = round(1000 * statistics.median(times[2:]), 1)
        found[f"{way}_loss"] = loss.item()
        found[f"{way}_gradient"] = float(made.lm_head.weight.grad.float().norm())
        del made, loss
        gc.collect()  # its forward holds it
        if gpu:
            torch.cuda.empty_cache()
    found["loss_difference"] = abs(found["fused_loss"] / found["plain_loss"] - 1)
    found["gradient_difference"] = abs(found["fused_gradient"] / found["plain_gradient"] - 1)
    say("head", **found)


def attention(place: Place) -> None:
    """bench/attention.py, whose lines come as they are."""
    command = [sys.executable, str(ROOT / "bench/attention.py"), *(["--small"] if place.small else [])]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=min(120, place.left),
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    print(done.stdout, end="", flush=True)
    say("attention", status=done.returncode, **({"tail": done.stderr[-900:]} if done.returncode else {}))


def _adapter(place: Place, kind: str, length: int) -> None:
    name = place.shape("qwen2_7b")
    data = rows(place, place.pick(1500, 40), place.pick(200, 20))["solutions"]
    words = ["--model_name_or_path", model(place, name), "--chat_format", "tinymath", "--input", data]
    words += [
        "--max_length",
        place.pick(length, 256),
        "--gradient_accumulation_steps",
        2,
        "--logging_steps",
        1,
    ]
    words += [
        "--save_strategy",
        "no",
        "--sample_every",
        0,
        *place.pick([], ["--bf16", "false", "--use_cpu", "true"]),
    ]
    config = f"recipes/qwen2_math_7b/sft.yaml recipes/variants/{kind}.yaml"
    found = recipe(place, kind, "sft", config, *words, steps=place.pick(8, 2), limit=150)
    rate = found.get("tokens_per_second")
    share = utilisation(name, length, rate, lora=True, checkpointing=True)
    say(kind, shape=name, length=place.pick(length, 256), **found, **share)


def lora(place: Place) -> None:
    """The adapter's preset at its real shape, at 4,096 tokens."""
    _adapter(place, "lora", 4096)


def qlora(place: Place) -> None:
    """The same with weights of four bits; bitsandbytes has no way to train so on a CPU that we use."""
    if place.small:
        return say("qlora", left_out="needs a GPU")
    _adapter(place, "qlora", 4096)


def full(place: Place) -> None:
    """All weights under ZeRO-3 on one rank, 16 bytes each: 7B takes 113 GiB, so 1.5B on smaller cards."""
    import torch

    big = torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory > 130 * GIB
    name = place.shape("qwen2_7b" if big else "qwen2_1.5b")
    data = rows(place, place.pick(1500, 40), place.pick(200, 20))["solutions"]
    words = ["--model_name_or_path", model(place, name), "--chat_format", "tinymath", "--input", data]
    words += ["--max_length", place.pick(4096, 256), "--gradient_accumulation_steps", 2, "--logging_steps", 1]
    words += ["--save_strategy", "no", *place.pick([], ["--bf16", "false", "--use_cpu", "true"])]
    config, launch = "recipes/qwen2_math_7b/sft.yaml", "accelerate_configs/zero3.yaml"
    found = recipe(place, "full", "sft", config, *words, launch=launch, steps=place.pick(8, 2), limit=200)
    share = utilisation(name, 4096, found.get("tokens_per_second"), lora=False, checkpointing=True)
    say("full", shape=name, length=place.pick(4096, 256), **found, **share)


def zero3(place: Place) -> None:
    """ZeRO-3 from loading to saving: SFT with the fused head, QPO with its reference computed first."""
    name = place.shape("qwen2_0.5b")
    data = rows(place, 256, 60)
    words = ["--model_name_or_path", model(place, name), "--chat_format", "tinymath", "--dtype", "bfloat16"]
    words += [
        "--gradient_checkpointing",
        "true",
        "--logging_steps",
        1,
        "--save_strategy",
        "no",
        "--sample_every",
        0,
    ]
    words += place.pick(["--bf16", "true"], ["--bf16", "false", "--use_cpu", "true"])
    config, launch = "recipes/tiny/{}.yaml", "accelerate_configs/zero3.yaml"
    given = ["--input", data["solutions"], "--max_length", place.pick(2048, 256), "--num_train_epochs", 1]
    given += ["--per_device_train_batch_size", 1, "--max_steps", place.pick(12, 3)]
    pairs = ["--input", data["pairs"], "--holdout", 8, "--limit", 72, "--per_device_train_batch_size", 8]

    def run(stage: str, *more: Any) -> dict[str, Any]:
        name = f"zero3_{stage}"
        return recipe(place, name, stage, config.format(stage), *words, *more, launch=launch, limit=120)

    with ThreadPoolExecutor(place.pick(2, 1)) as side_by_side:
        sft, qpo = side_by_side.submit(run, "sft", *given), side_by_side.submit(run, "qpo", *pairs)
        say("zero3_sft", shape=name, **sft.result())
        found = qpo.result()
    first = found["losses"][0] if found["losses"] else None
    say(
        "zero3_qpo", shape=name, first_loss_is_log_2=first is not None and abs(first - 0.6931) < 0.02, **found
    )


Check = Callable[[Place], None]
CHECKS: tuple[Check, ...] = (env, tiny, resume, cpu, head, attention, lora, full, zero3, qlora)
SIDE_BY_SIDE: tuple[Check, ...] = (tiny, resume, cpu)


def one(check: Check, place: Place) -> None:
    """Run a check; whatever it raises is its result."""
    began = time.monotonic()
    try:
        if place.deadline - began < 10:
            say(check.__name__, left_out="no time left")
            return
        check(place)
    except Exception:
        say(check.__name__, failed=traceback.format_exc()[-900:])
    say(check.__name__, took=round(time.monotonic() - began, 1))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks. Returns 0: what failed stands in the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        required=True,
        help="output folder for models, logs and runs; needs much space",
    )
    parser.add_argument("--small", action="store_true", help="use sizes for a CPU")
    parser.add_argument(
        "--seconds",
        type=float,
        default=460,
        help="time limit in seconds for all checks together (default: 460)",
    )
    parser.add_argument(
        "checks", nargs="*", metavar="CHECK", help="checks to run; default: all, in the order above"
    )
    args = parser.parse_args(argv)
    known = {check.__name__ for check in CHECKS}
    if unknown := set(args.checks) - known:
        parser.error(
            f"unknown checks {', '.join(sorted(unknown))}; expected some of {', '.join(sorted(known))}"
        )
    sys.path.insert(0, str(ROOT / "src"))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    place = Place(args.output_dir.resolve(), args.small, time.monotonic() + args.seconds)
    chosen = [check for check in CHECKS if not args.checks or check.__name__ in args.checks]
    beside = [check for check in chosen if check in SIDE_BY_SIDE]
    for check in chosen:
        if check is env:
            one(check, place)
    with ThreadPoolExecutor(3 if not args.small else 1) as pool:
        for done in [pool.submit(one, check, place) for check in beside]:
            done.result()
    for check in chosen:
        if check is not env and check not in beside:
            one(check, place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
