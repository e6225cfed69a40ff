"""Every training preset parses, names its sources, and fits; every pipeline's stages parse."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_support import RECIPES, recipe

from scalequest import estimate
from scalequest.chat import load_format
from scalequest.config import build, read_yaml

ROOT = RECIPES.parent
TRAINING = ("qft", "qpo", "difficulty", "sft")
PRESETS = sorted(path for name in (*TRAINING, "sft_*") for path in RECIPES.glob(f"*/{name}.yaml"))
LARGE = [path for path in PRESETS if path.parent.name.endswith(("7b", "8b"))]
PAPER_LR = {"qwen2_math_7b": 1e-5, "deepseek_math_7b": 5e-5, "mistral_7b": 1e-5, "llama3_8b": 5e-5}


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def stage_of(path: Path) -> str:
    return path.stem.partition("_")[0]


@pytest.fixture(scope="module")
def table() -> Any:
    sys.path.insert(0, str(RECIPES))
    try:
        yield import_module("table")
    finally:
        sys.path.remove(str(RECIPES))


@pytest.mark.parametrize("path", [*PRESETS, RECIPES / "qwen2_math_7b/reward.yaml"], ids=name_of)
def test_every_preset_is_read_by_its_recipe(path: Path) -> None:
    settings = {**read_yaml(path), "use_cpu": True}
    args, training_args, _ = build(recipe(stage_of(path)).types(), settings, str(path))
    load_format(args.chat_format)
    assert training_args.output_dir == f"runs/{path.parent.name.removesuffix('_135m')}/{path.stem}"


@pytest.mark.parametrize("path", LARGE, ids=name_of)
def test_every_value_names_its_source(path: Path, table: Any) -> None:
    preset = table.read_preset(path)
    assert preset.stage == stage_of(path)
    assert preset.topology.processes == 1 or preset.settings["ddp_timeout"] >= 3600
    untold = {"output_dir", "input"} - set(preset.tags)
    assert set(preset.settings) - set(preset.tags) <= untold | {"columns"}
    assert f"recipes/{path.parent.name}/{path.stem}.yaml" in path.read_text().partition("\n\n")[0]


@pytest.mark.parametrize("path", LARGE, ids=name_of)
def test_every_run_fits_the_card_that_its_head_names(path: Path, table: Any) -> None:
    import re

    preset = table.read_preset(path)
    outputs = {read_yaml(p)["output_dir"]: read_yaml(p)["model_name_or_path"] for p in LARGE}
    sizes = read_yaml(RECIPES / "architectures.yaml")[table.base_model(preset, outputs)]
    model, work = estimate.Architecture(**sizes), estimate.Work.of(*preset.parts[1:])
    card = int(re.search(r"of (\d+) GB", path.read_text())[1])  # type: ignore[index]
    assert estimate.memory(model, work, preset.topology).total <= card * 1e9


def test_the_papers_values() -> None:
    for profile, lr in PAPER_LR.items():
        sft = read_yaml(RECIPES / profile / "sft.yaml")
        assert (sft["learning_rate"], sft["num_train_epochs"], sft["max_length"]) == (lr, 3, 4096)
        assert 8 * sft["per_device_train_batch_size"] * sft["gradient_accumulation_steps"] == 64
    for profile in ("qwen2_math_7b", "deepseek_math_7b"):
        qft, qpo = (read_yaml(RECIPES / profile / f"{name}.yaml") for name in ("qft", "qpo"))
        assert (qft["learning_rate"], qft["num_train_epochs"]) == (2e-5, 1)
        tokens = (
            8 * qft["max_length"] * qft["per_device_train_batch_size"] * qft["gradient_accumulation_steps"]
        )
        assert tokens == 32 * 256, "not as many tokens a step as the paper's code"
        assert (qpo["learning_rate"], qpo["num_train_epochs"], qpo["beta"]) == (5e-7, 1, 0.1)
        assert 8 * qpo["per_device_train_batch_size"] * qpo["gradient_accumulation_steps"] == 128


@pytest.mark.parametrize(
    ("profile", "count", "source"), [("qwen2_math_7b", 6, "hub:"), ("mistral_7b", 3, "runs/")]
)
def test_the_comparisons_differ_in_their_data_alone(profile: str, count: int, source: str) -> None:
    base = read_yaml(RECIPES / profile / "sft.yaml")
    others = sorted((RECIPES / profile).glob("sft_400k*.yaml"))
    assert len(others) == count
    for path in others:
        other = read_yaml(path)
        changed = {key for key in {*base, *other} if base.get(key) != other.get(key)}
        assert changed - {"columns", "draw"} == {"input", "output_dir"}, path
        assert other["input"][0].startswith(source)


def test_the_table_has_a_row_a_run(table: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(table.parser().parse_args(["--sources"])) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| ") and "_7b/" in line.split("|")[1]]
    assert len(rows) == sum("_7b" in path.parent.name for path in LARGE)
    assert any("qwen2_math_7b/qft" in row and row.rstrip(" |").endswith("1.9") for row in rows)
    assert estimate.ASSUMPTIONS in out


MODELS = ["Qwen/Qwen2-Math-7B", "mistralai/Mistral-7B-v0.1", "meta-llama/Meta-Llama-3-8B"]


@pytest.mark.parametrize("name", [*MODELS, "deepseek-ai/deepseek-math-7b-base"])
def test_the_formula_counts_the_weights_of_the_real_architecture(name: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        LlamaConfig,
        MistralConfig,
        Qwen2Config,
    )

    sizes = read_yaml(RECIPES / "architectures.yaml")[name]
    config = {"Qwen": Qwen2Config, "mistralai": MistralConfig}.get(name.partition("/")[0], LlamaConfig)(
        **{key: value for key, value in sizes.items() if key != "qkv_bias"}, tie_word_embeddings=False
    )
    model = estimate.Architecture(**sizes)
    assert estimate.Architecture.of(config) == model
    with torch.device("meta"):
        real = AutoModelForCausalLM.from_config(config)
        config.num_labels = 1
        scorer = AutoModelForSequenceClassification.from_config(config)
        assert model.parameters() == sum(weight.numel() for weight in real.parameters())
        assert model.parameters(head=False) == sum(weight.numel() for weight in scorer.parameters())
        adapted = get_peft_model(real, LoraConfig(r=8, target_modules="all-linear"))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert trained == model.lora(8)


def test_what_does_not_fit_is_told_what_to_change() -> None:
    model = estimate.Architecture(**read_yaml(RECIPES / "architectures.yaml")["Qwen/Qwen2-Math-7B"])
    work = estimate.Work(rows=4, length=4096, checkpointing=False)
    ddp, zero3 = (estimate.Topology.of(ROOT / f"accelerate_configs/{name}.yaml") for name in ("ddp", "zero3"))
    said = estimate.verdict(model, work, ddp, 40 * estimate.GIB)
    assert "DOES NOT FIT" in said
    assert "gradient_checkpointing: true" in said
    assert "zero3.yaml" in said
    small = replace(work, rows=1, checkpointing=True)
    assert estimate.verdict(model, small, zero3, 40 * estimate.GIB).endswith("fits")
    one = estimate.remedies(model, work, estimate.Topology(), 24 * estimate.GIB)
    assert one[-1].startswith("load_in_4bit") or one[-1].startswith("use_peft")


def test_spreading_costs_a_rank_less() -> None:
    model = estimate.Architecture(**read_yaml(RECIPES / "architectures.yaml")["Qwen/Qwen2-Math-7B"])
    work = estimate.Work(rows=1, length=1024)
    needs = [
        estimate.memory(model, work, estimate.Topology.of(ROOT / f"accelerate_configs/{name}.yaml")).total
        for name in ("zero2", "zero3", "zero3_offload")
    ]
    assert needs == sorted(needs, reverse=True)


def test_what_is_held_besides_is_counted() -> None:
    """FSDP2's float32 weights, though they were loaded in bf16; a reference model that is held, too."""
    model = estimate.Architecture(**read_yaml(RECIPES / "architectures.yaml")["Qwen/Qwen2-Math-7B"])
    work = estimate.Work(rows=2, length=1024)
    fsdp = estimate.Topology.of(ROOT / "accelerate_configs/fsdp2.yaml")
    bf16, fp32 = (
        estimate.memory(model, replace(work, full_precision=whole), fsdp) for whole in (False, True)
    )
    assert bf16 == fp32
    assert bf16.weights == 4 * model.parameters() / 8
    adapter = estimate.memory(model, replace(work, lora=8), fsdp)
    assert adapter.weights < bf16.weights, "what is frozen stays as it was loaded"
    zero3 = estimate.Topology.of(ROOT / "accelerate_configs/zero3.yaml")
    alone, beside = (estimate.memory(model, replace(work, second=second), zero3) for second in (False, True))
    assert beside.weights == 2 * alone.weights
    settings = {**read_yaml(RECIPES / "qwen2_math_7b/qpo.yaml"), "use_cpu": True}
    for choice, held in ((True, False), (False, True), (None, False)):
        _, *parts = build(recipe("qpo").types(), {**settings, "precompute_ref_log_probs": choice})
        assert estimate.Work.of(*parts).second == held


def test_the_optimizer_step_is_counted_where_it_is_the_peak() -> None:
    """DeepSpeed copies gradients: one sub-group at a time under ZeRO-3, a rank's whole share otherwise."""
    model = estimate.Architecture(**read_yaml(RECIPES / "architectures.yaml")["Qwen/Qwen2-Math-7B"])
    work, everything = estimate.Work(rows=1, length=1024), model.parameters()

    def needs(zero: Any, ranks: int, work: estimate.Work = work, offload: bool = False) -> estimate.Memory:
        spread = estimate.Topology(processes=ranks, zero=zero, offload=offload)
        return estimate.memory(model, work, spread)

    def at_step(memory: estimate.Memory) -> float:
        return memory.gathered + memory.activations + memory.step

    assert at_step(needs(3, 1)) == at_step(needs(3, 2)) == 6e9 + 2 * 5e8, "and the bucket, which stays"
    assert needs(3, 1).step > needs(3, 8).step
    assert at_step(needs(2, 2)) == 6 * everything / 2
    assert needs(3, 1, estimate.Work(rows=8, length=4096)).step == 0, "the backward pass needs more"
    assert needs(3, 1, offload=True).step == 0, "on the host"
    assert needs(0, 2).step == 0
    full = estimate.Work(rows=1, length=1024, mixed=False)
    assert at_step(needs(2, 2, full)) == 4 * everything / 2, "no copy in another precision"


@pytest.mark.parametrize("four_bits", [False, True])
def test_an_adapter_is_counted_as_it_is_held(four_bits: bool, model_dir: Path, tmp_path: Path) -> None:
    """By PEFT and TRL as they are installed; no step is trained."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    loaded = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    loaded.is_loaded_in_4bit = four_bits  # all that TRL looks at, and there is no GPU to quantise on
    trainer = SFTTrainer(
        model=loaded,
        args=SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
        train_dataset=Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [[1, 2, 3]]}),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        peft_config=LoraConfig(r=8, target_modules="all-linear"),
    )
    adapter = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    held = {weight.dtype.itemsize for weight in adapter}
    assert held == {2 if four_bits else 4}
    model = estimate.Architecture.of(loaded.config)
    work = estimate.Work(rows=1, length=64, lora=8, quantised=four_bits)
    alone = estimate.memory(model, replace(work, lora=0), estimate.Topology())
    needs = estimate.memory(model, work, estimate.Topology())
    trained = sum(weight.numel() for weight in adapter)
    assert needs.weights - alone.weights == needs.gradients == held.pop() * trained
    assert needs.optimizer == 2 * needs.gradients
    spread = estimate.memory(model, work, estimate.Topology(processes=2, zero=2))
    assert spread.gradients == 2 * trained / 2
    assert spread.optimizer == 12 * trained / 2


def test_the_optimizer_on_the_host_is_built_without_a_cuda_toolkit() -> None:
    """As the head of zero3_offload.yaml says of DeepSpeed on a machine with GPUs."""
    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator
    from deepspeed.ops.op_builder.builder import CUDAOpBuilder

    builder = CUDA_Accelerator().get_op_builder("CPUAdamBuilder")
    assert not issubclass(builder, CUDAOpBuilder)
    assert all(source.endswith(".cpp") for source in builder().sources())
    assert issubclass(CUDA_Accelerator().get_op_builder("FusedAdamBuilder"), CUDAOpBuilder)
    assert "no CUDA toolkit" in (ROOT / "accelerate_configs/zero3_offload.yaml").read_text()


def test_the_topology_is_deepspeeds_own_where_it_has_a_file_of_its_own() -> None:
    """With such a file accelerate sets no variable for the stage."""
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}}
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": zero})
    found = estimate.Topology.launched(SimpleNamespace(world_size=8, deepspeed_plugin=plugin))
    assert (found.zero, found.offload, found.processes) == (3, True, 8)
    alone = estimate.Topology.launched(SimpleNamespace(world_size=1, deepspeed_plugin=None))
    assert (alone.zero, alone.offload, alone.fsdp) == (0, False, False)


TOKENIZERS = {
    "qwen2_math_7b": "qwen2",
    "qwen2_5_math_7b": "qwen2",  # the fifth family: one preset and one chat format
    "deepseek_math_7b": "deepseek",
    "llama3_8b": "llama3",
    "mistral_7b": "mistral",
}


@pytest.mark.data
@pytest.mark.parametrize("path", [p for p in LARGE if p.stem in ("qft", "qpo", "sft")], ids=name_of)
def test_presets_render_real_rows_token_exactly(path: Path, tmp_path: Path) -> None:
    """The recipe's own rendering, on the family's real tokenizer, of GSM8K, MATH and the published pairs."""
    import real_tokenizers
    from scalequest.chat import bind, load_tokenizer
    from scalequest.records import read_inputs
    from scalequest.training import data

    settings = read_yaml(path)
    tokenizer = load_tokenizer(str(real_tokenizers.build(TOKENIZERS[path.parent.name], tmp_path)))
    tokenizer.add_special_tokens({"pad_token": load_format(settings["chat_format"]).pad})
    chat = bind(load_format(settings["chat_format"]), tokenizer)
    assert chat.pad_id not in {*chat.question_stop_ids[:1], *chat.solve_stop_ids[:1], None}
    limit = settings["max_length"]
    if path.stem == "sft":
        rows = read_inputs(["$SCALEQUEST_DATA/scalequest_samples.jsonl.gz"], "query", "response")
        made = [data.solution(row, chat, max_length=limit) for row in rows]
        for row, ids in zip(rows, made, strict=True):
            masked = ids["labels"].count(data.IGNORED)
            assert ids["input_ids"][:masked] == chat.solve_prompt_ids(row["query"])
            assert ids["labels"][masked:] == ids["input_ids"][masked:]
            assert ids["labels"][-1] == chat.solve_stop_ids[0]
            assert chat.decode(ids["labels"][masked:]) == row["response"].strip()
    else:
        sources = [
            "$SCALEQUEST_DATA/gsm8k_train.jsonl.gz[:100]",
            "$SCALEQUEST_DATA/math_train.jsonl.gz[:100]",
        ]
        rows = read_inputs(sources, "question", columns={"question": "problem"})
        made = [data.question(row, chat, max_length=limit) for row in rows]
        for row, ids in zip(rows, made, strict=True):
            pair = {"id": "p", "chosen": row["question"], "rejected": " ".join(row["question"].split()[::-1])}
            both = data.preference(pair, chat, max_length=limit)
            assert ids["labels"] == ids["input_ids"] == both["prompt_ids"] + both["chosen_ids"]
            assert both["prompt_ids"] == chat.question_prefix_ids
            assert ids["labels"][-1] == chat.question_stop_ids[0]
    assert all(ids["input_ids"].count(chat.bos_id) == (chat.bos_id is not None) for ids in made)


PIPELINES = sorted(
    path
    for pattern in ("pipeline", "from_*", "controls", "smoke")
    for path in RECIPES.glob(f"*/{pattern}.yaml")
)


@pytest.mark.parametrize("path", PIPELINES, ids=name_of)
def test_every_training_stage_of_a_pipeline_parses(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from scalequest.config import parse
    from scalequest.pipeline import load, plan

    monkeypatch.setenv("SCALEQUEST_DATA", str(tmp_path))
    steps = plan(load(path), tmp_path / "out")
    assert steps
    for step in steps:
        script = Path(step.spec.script)
        if script.parent.name == "recipes" and script.stem in TRAINING:
            argv = list(step.command[step.command.index(step.spec.script) + 1 :])
            parse(*recipe(script.stem).types(), argv=[*argv, "--use_cpu", "true", "--bf16", "false"])


def test_pipelines_can_start_in_the_middle() -> None:
    starts = {path.stem for path in PIPELINES if path.parent.name == "qwen2_math_7b"}
    assert starts >= {"from_generators", "from_dataset", "from_questions"}
