"""Every training preset parses, alone or over its base, names its sources, and fits; pipelines parse too."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_support import RECIPES, recipe

from scalequest import estimate
from scalequest.chat import load_format
from scalequest.config import build, read_configs, read_facts, read_yaml

ROOT = RECIPES.parent
TRAINING = ("qft", "qpo", "difficulty", "sft")
FILES = sorted(path for name in (*TRAINING, "sft_*") for path in RECIPES.glob(f"*/{name}.yaml"))
VARIANTS = sorted(RECIPES.glob("variants/*.yaml"))
# The words that name a source: recipes/README.md.
SOURCE = re.compile(r"(paper|authors' code|DART-Math|model card|ours)\b")
PAPER_LR = {"qwen2_math_7b": 1e-5, "deepseek_math_7b": 5e-5, "mistral_7b": 1e-5, "llama3_8b": 5e-5}


def combinations(path: Path) -> list[tuple[Path, ...]]:
    """The file alone, or over each of its bases."""
    return [(ROOT / base, path) for base in read_facts(path).base] or [(path,)]


PRESETS = [files for path in [*FILES, *VARIANTS] for files in combinations(path) if files[0].stem in TRAINING]
LARGE = [files for files in PRESETS if files[0].parent.name.endswith(("7b", "8b"))]


def name_of(path: Path | tuple[Path, ...]) -> str:
    return "+".join(f"{one.parent.name}-{one.stem}" for one in (path if isinstance(path, tuple) else (path,)))


def is_shared(files: tuple[Path, ...]) -> bool:
    """Over bases of several profiles, whose folder it cannot know."""
    return files[-1] in VARIANTS


@pytest.fixture(scope="module")
def table() -> Any:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        yield import_module("table")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.parametrize("files", [*PRESETS, (RECIPES / "qwen2_math_7b/reward.yaml",)], ids=name_of)
def test_every_preset_is_read_by_its_recipe(files: tuple[Path, ...]) -> None:
    from scalequest.config import parse

    folder = f"runs/{files[0].parent.name.removesuffix('_135m')}"
    own = ["--output_dir", f"{folder}/{files[-1].stem}"] if is_shared(files) else []
    argv = ["--config", *map(str, files), *own, "--use_cpu", "--bf16", "false"]
    args, training_args, _ = parse(*recipe(files[0].stem).types(), argv=argv)
    load_format(args.chat_format)
    assert training_args.output_dir == f"{folder}/{files[-1].stem}"


@pytest.mark.parametrize("path", [path for path in [*FILES, *VARIANTS] if read_facts(path).base], ids=name_of)
def test_a_variant_holds_only_what_differs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is refused alone, or, if it does not know its folder, without one."""
    from scalequest.config import parse

    own = read_configs(path)
    for base in read_facts(path).base:
        settings = read_configs(ROOT / base)
        assert not [key for key in own if key in settings and own[key] == settings[key]], base
    assert "output_dir" in own or read_facts(path).needs
    base = ROOT / read_facts(path).base[0]
    if base.stem not in TRAINING:
        return
    for files in [[path], *([[base, path]] if path in VARIANTS else [])]:
        with pytest.raises(SystemExit):
            parse(*recipe(base.stem).types(), argv=["--config", *map(str, files)])
        said = capsys.readouterr().err
        assert said.startswith(
            f"error: {path}: " + ("contains only" if len(files) == 1 else "set --output_dir")
        )


@pytest.mark.parametrize("files", LARGE, ids=name_of)
def test_every_value_names_its_source(files: tuple[Path, ...], table: Any) -> None:
    preset = table.read_preset(files)
    assert preset.topology.processes == 1 or preset.settings["ddp_timeout"] >= 3600
    assert set(preset.settings) - set(preset.facts.source) == {"output_dir"}
    assert set(preset.facts.source) <= set(preset.settings)
    untold = [
        text for text in preset.facts.source.values() for one in text.split("; ") if not SOURCE.match(one)
    ]
    assert not untold


@pytest.mark.parametrize(
    "path", [path for path in RECIPES.glob("*/*.yaml") if "models" not in path.parts], ids=name_of
)
def test_the_command_in_a_head_is_one_that_runs(path: Path) -> None:
    """Its files are there, the file itself is one of them, and its topology is the preset's."""
    lines = path.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if line[:1] != "#")
    head = re.sub(r"\\ #\s+", "", " ".join(lines[:end]))
    named = re.findall(r"\b(?:recipes|eval|accelerate_configs|slurm)/[\w/.]+\.(?:yaml|py)\b", head)
    assert [file for file in named if not (ROOT / file).is_file()] == []
    facts = read_facts(path)
    if facts.launch or facts.base:
        assert str(path.relative_to(ROOT)) in named
        launch = {file for file in named if file.startswith("accelerate_configs/")}
        bases = [read_facts(ROOT / base, path).launch for base in facts.base] or [facts.launch]
        assert launch == {file for file in bases if file}


@pytest.mark.parametrize("files", LARGE, ids=name_of)
def test_every_run_fits_the_card_that_it_names(files: tuple[Path, ...], table: Any) -> None:
    preset = table.read_preset(files)
    alone = [files[0] for files in LARGE if len(files) == 1]
    outputs = {read_yaml(p)["output_dir"]: read_yaml(p)["model_name_or_path"] for p in alone}
    sizes = read_yaml(RECIPES / "architectures.yaml")[table.base_model(preset, outputs)]
    model, work = estimate.Architecture(**sizes), estimate.Work.of(*preset.parts[1:])
    assert estimate.memory(model, work, preset.topology).total <= preset.facts.gpu_memory * 1e9


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
    base = read_configs(RECIPES / profile / "sft.yaml")
    others = sorted((RECIPES / profile).glob("sft_400k*.yaml"))
    assert len(others) == count
    for path in others:
        other = read_configs(RECIPES / profile / "sft.yaml", path)
        changed = {key for key in {*base, *other} if base.get(key) != other.get(key)}
        assert changed - {"columns", "draw"} == {"input", "output_dir"}, path
        assert other["input"][0].startswith(source)


def test_the_table_has_a_row_a_run(table: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(table.parser().parse_args(["--sources"])) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| ") and "_7b/" in line.split("|")[1]]
    assert len(rows) == sum("_7b" in files[0].parent.name for files in LARGE)
    assert any("mistral_7b/sft+qlora" in row for row in rows)
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
    settings = {**read_configs(RECIPES / "qwen2_math_7b/qpo.yaml"), "use_cpu": True}
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
    head = (ROOT / "accelerate_configs/zero3_offload.yaml").read_text().replace("\n# ", " ")
    assert "no CUDA toolkit" in head


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


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str | None], Any]:
    """The tokenizer of a family with a pad token, loaded once."""
    import real_tokenizers
    from scalequest.chat import load_tokenizer

    @cache
    def find(family: str, pad: str | None) -> Any:
        tokenizer = load_tokenizer(str(real_tokenizers.built(family, tmp_path_factory.getbasetemp())))
        tokenizer.add_special_tokens({"pad_token": pad})
        return tokenizer

    return find


@pytest.mark.data
@pytest.mark.parametrize(
    "path", [f[0] for f in LARGE if len(f) == 1 and f[0].stem in ("qft", "qpo", "sft")], ids=name_of
)
def test_presets_render_real_rows_token_exactly(path: Path, padded: Callable[[str, str | None], Any]) -> None:
    """The recipe's own rendering, on the family's real tokenizer, of GSM8K, MATH and the published pairs."""
    from scalequest.chat import bind
    from scalequest.records import read_inputs
    from scalequest.training import data

    settings = read_yaml(path)
    family = load_format(settings["chat_format"])
    chat = bind(family, padded(TOKENIZERS[path.parent.name], family.pad))
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
    from scalequest.pipeline.runner import load, plan

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
