"""What the launcher reads: accelerate files, and one recipe on two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_support import RECIPES, write_yaml

CONFIGS = RECIPES.parent / "accelerate_configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path: Path) -> None:
    from accelerate.commands.config import load_config_from_file

    config = load_config_from_file(str(path))
    nodes = 2 if path.stem == "multi_node" else 1
    assert (config.num_machines, config.num_processes) == (
        nodes,
        1 if path.stem in ("cpu", "one_gpu") else 8 * nodes,
    )
    if path.stem.startswith("zero3") or path.stem == "multi_node":
        assert config.deepspeed_config["zero3_save_16bit_model"], "the saved model would be in pieces"
    if path.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
        assert not config.fsdp_config["fsdp_activation_checkpointing"], (
            "the recipe's gradient_checkpointing does it"
        )


def test_every_topology_has_its_file() -> None:
    wanted = {"cpu", "one_gpu", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2", "multi_node"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == wanted


def test_zero3_on_two_ranks_saves_a_whole_model(
    settings: dict[str, Any], rows: dict[str, Path], tmp_path: Path
) -> None:
    """DeepSpeed ZeRO-3 over gloo: weights are spread over two CPU ranks, the saved model is one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {
        **settings,
        "input": [str(rows["solutions"])],
        "bf16": True,
        "dtype": "bfloat16",
        "save_strategy": "steps",
    }
    config = write_yaml(tmp_path / "sft.yaml", {**given, "save_steps": 2, "per_device_train_batch_size": 1})
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(CONFIGS / "zero3.yaml"),
    ]
    command += [
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        str(RECIPES / "sft.py"),
        "--config",
        str(config),
    ]
    # DeepSpeed compiles an operator at its first start. Killed while it does, it leaves a lock in the usual
    # place, for which every later run would wait for ever.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=540)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es) x batch 1 x accumulation 1 = 2 sequences a step" in done.stdout
    out = Path(settings["output_dir"])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert all(weight.numel() for weight in model.parameters())
    ids = tokenizer("<s><|user|>How many?", add_special_tokens=False, return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=4).shape[1] > ids.shape[1]
    assert json.loads((out / "receipt.json").read_text())["kept"] == 40
    assert list(out.glob("checkpoint-4/complete.json"))
